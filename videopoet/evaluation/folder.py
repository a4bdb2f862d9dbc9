"""Any folder of videos, pictures or sounds; with a table of prompts where there is one."""

from dataclasses import dataclass
from pathlib import Path

from videopoet.data.importers import Files, read_table, sha256
from videopoet.evaluation.protocol import Contents, Dataset, Entry


@dataclass(frozen=True, kw_only=True)
class VideoFolder(Dataset):
    """Every media file under --data, in the order of names; the key is the path. `videos`: how many are expected."""

    videos: int | None = None

    def read(self, folder: Path) -> Contents:
        files = Files(folder)
        entries = tuple(Entry(key=path, path=folder / path) for path in files)
        wrong = self.videos is not None and len(entries) != self.videos
        complaints = (f"{len(entries)} files instead of {self.videos}",) if wrong else ()
        return Contents(entries=entries, facts={"videos": len(entries)}, complaints=complaints)


@dataclass(frozen=True, kw_only=True)
class PromptedVideos(Dataset):
    """Videos with prompts of one's own: `table`, a CSV with the columns video and prompt, several rows a video or one.

    VideoPoet's stylization study is of 20 videos of DAVIS 2016 with 2 prompts each.
    """

    table: str = "prompts.csv"
    videos: int | None = None

    def read(self, folder: Path) -> Contents:
        path, files = folder / self.table, Files(folder)
        prompts: dict[str, list[str]] = {}
        for row in read_table(path, ("video", "prompt")):
            prompts.setdefault(row["video"], []).append(row["prompt"])
        found = {name: files.find([name]) for name in prompts}
        missing = tuple(name for name, place in found.items() if place is None)
        entries = tuple(Entry(key=name, path=folder / place, captions=tuple(prompts[name]))
                        for name, place in found.items() if place is not None)  # fmt: skip
        complaints = [f"{len(missing)} of {len(found)} videos are missing, first {missing[0]}"] if missing else []
        if self.videos is not None and len(found) != self.videos:
            complaints.append(f"{path.name} names {len(found)} videos instead of {self.videos}")
        return Contents(entries=entries, missing=missing, sources={path.name: sha256(path)},
                        facts={"videos": len(entries), "captions": sum(map(len, prompts.values()))},
                        complaints=tuple(complaints))  # fmt: skip

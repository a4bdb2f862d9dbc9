"""What the importers of public datasets (`tools/prepare_*.py`) share.

An importer reads annotations as they are published and writes listings: one `.jsonl` a split, which `videopoet shards
build VIDEOS --listing` takes. No video is copied, cut or encoded again; what is not on disk is counted and named.
"""

import csv
import hashlib
import json
import os
import re
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any, TextIO

from videopoet.data.cutters import IMAGE_SUFFIXES, MEDIA_SUFFIXES
from videopoet.data.files import whole_or_nothing

REPORT = "import.json"
MISSING = "missing.txt"


@dataclass(frozen=True, kw_only=True)
class Item:
    """One sample of a dataset, before it is known which file holds it.

    names: file names to look for, best first, with or without folder and suffix. uncut: the same for longer videos of
    which the sample is the span from `start` to `end` seconds.
    """

    split: str
    names: tuple[str, ...]
    captions: tuple[str, ...] = ()
    uncut: tuple[str, ...] = ()
    start: float | None = None
    end: float | None = None
    extra: dict[str, Any] = field(default_factory=dict)

    def line(self, file: str, whole: bool) -> dict[str, Any]:
        """What a listing says of it."""
        span = {} if whole else {"start": self.start, "end": self.end}
        span = {name: second for name, second in span.items() if second is not None}
        return {"file": file} | span | {"captions": list(dict.fromkeys(self.captions))} | self.extra


class Files:
    """The media files under a folder, found by name, with or without suffix; iterates over their paths."""

    def __init__(
        self,
        folder: str | os.PathLike,
        suffixes: tuple[str, ...] = MEDIA_SUFFIXES + IMAGE_SUFFIXES,
        ignore_case: bool = False,
    ):
        self.folder, self._suffixes, self._ignore_case = Path(folder), suffixes, ignore_case
        self._by_stem: dict[str, list[str]] = {}
        if not self.folder.is_dir():
            raise ValueError(f"{folder}: no such folder of videos")
        for parent, folders, names in os.walk(folder, followlinks=True):
            folders[:] = sorted(name for name in folders if not name.startswith("."))
            relative = PurePosixPath(Path(parent).relative_to(folder).as_posix())
            for name in sorted(names):
                if name.lower().endswith(suffixes) and not name.startswith("."):
                    path = relative / name
                    self._by_stem.setdefault(self._cased(path.stem), []).append(path.as_posix())
        if not self._by_stem:
            raise ValueError(f"{folder}: holds no file named like {' '.join(suffixes)}")

    def __iter__(self) -> Iterator[str]:
        return iter(sorted(path for paths in self._by_stem.values() for path in paths))

    def find(self, names: Iterable[str]) -> str | None:
        """Path, relative to the folder, of the first name that is there; the first such file if several are.

        `a/b` is found as a/b.mp4 and x/a/b.mp4, not as c/b.mp4; `b` in any folder.
        """
        for name in names:
            wanted = PurePosixPath(name.replace("\\", "/"))
            stem = wanted.stem if wanted.suffix.lower() in self._suffixes else wanted.name
            end = self._cased("/" + (wanted.parent / stem).as_posix())
            for path in self._by_stem.get(self._cased(stem), ()):
                if ("/" + self._cased(path.rpartition(".")[0])).endswith(end):
                    return path
        return None

    def _cased(self, name: str) -> str:
        return name.casefold() if self._ignore_case else name


@dataclass
class Split:
    """What an importer found of one split."""

    clips: int = 0
    captions: int = 0
    missing: int = 0


def write_listings(
    items: Iterable[Item], files: Files, out: Path, annotations: Iterable[Path] = ()
) -> dict[str, Split]:
    """One listing a split, `missing.txt`, and `import.json` with counts and checksums of the annotations; whole or not.

    Raises ValueError where there is no item, or none of them has its file.
    """
    splits: dict[str, Split] = {}
    out.mkdir(parents=True, exist_ok=True)
    with ExitStack() as stack:
        opened: dict[str, TextIO] = {}

        def file(name: str) -> TextIO:
            if name not in opened:
                temporary = stack.enter_context(whole_or_nothing(out / name))
                opened[name] = stack.enter_context(temporary.open("w", encoding="utf-8"))
            return opened[name]

        for item in items:
            split = splits.setdefault(item.split, Split())
            path = files.find(item.names)
            whole = path is not None
            path = path if whole else files.find(item.uncut)
            if path is None:
                split.missing += 1
                file(MISSING).write(f"{item.split}\t{next(iter(item.names + item.uncut), '')}\n")
                continue
            line = item.line(path, whole)
            split.clips, split.captions = split.clips + 1, split.captions + len(line["captions"])
            file(f"{item.split}.jsonl").write(json.dumps(line, ensure_ascii=False) + "\n")
        if not any(split.clips for split in splits.values()):
            missing = sum(split.missing for split in splits.values())
            raise ValueError(f"{files.folder}: holds none of the {missing} videos that the annotations name")
        said = {"annotations": {path.name: sha256(path) for path in annotations},
                "splits": {name: vars(split) for name, split in sorted(splits.items())}}  # fmt: skip
        file(REPORT).write(json.dumps(said, indent=2, ensure_ascii=False) + "\n")
    if MISSING not in opened:
        (out / MISSING).unlink(missing_ok=True)  # of an earlier import
    return splits


def summary(splits: dict[str, Split], files: Files, out: Path, options: str = "") -> str:
    """A table of the splits, and what to do next."""
    lines = ["| split | clips | captions | missing |", "|---|---:|---:|---:|"]
    lines += [
        f"| {name} | {split.clips} | {split.captions} | {split.missing} |" for name, split in sorted(splits.items())
    ]
    if any(split.missing for split in splits.values()):
        lines.append(f"missing videos are named in {out / MISSING}")
    first = next(name for name, split in sorted(splits.items()) if split.clips)
    lines.append(f"next: videopoet shards build {files.folder} --listing {out / first}.jsonl --out DIR{options}")
    return "\n".join(lines)


def read_table(path: Path, needed: Iterable[str] = (), delimiter: str | None = None) -> Iterator[dict[str, str]]:
    """Rows of a CSV or TSV file with a heading, by its names in lower case; a byte order mark and empty lines are nothing.

    needed: columns that must be there. Raises ValueError with the line of a row that is longer than the heading.
    """
    csv.field_size_limit(1 << 30)  # a row of Panda-70M holds all clips of a video
    delimiter = delimiter or ("\t" if path.suffix.lower() == ".tsv" else ",")
    with _open(path) as file:
        reader = csv.reader(file, delimiter=delimiter)
        try:
            names = [name.strip().lower() for name in next(reader, [])]
            lacking = [name for name in needed if name not in names]
            if lacking:
                raise ValueError(f"{path}: has no column {lacking[0]!r} among {', '.join(names) or 'none'}")
            for row in reader:
                if len(row) > len(names):
                    raise ValueError(f"{path}, line {reader.line_num}: {len(row)} fields, the heading has {len(names)}")
                if any(cell.strip() for cell in row):
                    yield dict(zip(names, (cell.strip() for cell in row)))
        except (csv.Error, UnicodeDecodeError) as error:
            raise ValueError(f"{path}, line {reader.line_num}: {error}") from error


def read_lines(path: Path) -> Iterator[str]:
    """Lines that hold anything, without the blanks around them."""
    with _open(path) as file:
        yield from (text for line in file if (text := line.strip()))


def read_json(path: Path) -> Any:
    """Content of a JSON file; ValueError if it is none."""
    with _open(path) as file:
        try:
            return json.load(file)
        except ValueError as error:
            raise ValueError(f"{path}: not JSON ({error})") from error


def _open(path: Path) -> TextIO:
    if not path.is_file():
        raise ValueError(f"{path}: no such file")
    return path.open(encoding="utf-8-sig", newline="")


def seconds(text: str | float) -> float:
    """`12`, `"12.5"`, `"0:00:02.085"`, `"01:05"` or `"PT00H00M18S"` -> seconds; ValueError for anything else."""
    if isinstance(text, int | float):
        return float(text)
    iso = re.fullmatch(r"PT(?=\d)(?:(\d+)H)?(?:(\d+)M)?(?:([\d.]+)S)?", text.strip())
    parts = [part or "0" for part in iso.groups()] if iso else text.strip().split(":")
    try:
        if not 1 <= len(parts) <= 3:
            raise ValueError
        total = 0.0
        for part in parts:
            total = 60 * total + float(part)
        return round(total, 6)
    except ValueError:
        raise ValueError(f"{text!r} is no time: seconds or hours:minutes:seconds are") from None


def one_line(text: str) -> str:
    """A caption without line breaks and double blanks."""
    return " ".join(text.split())


def sha256(path: Path) -> str:
    """Of a whole file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()

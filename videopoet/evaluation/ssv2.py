"""Something-Something v2 by its label files."""

from dataclasses import dataclass
from pathlib import Path

from videopoet.data.annotations import ssv2_items
from videopoet.data.importers import Files
from videopoet.evaluation.listed import annotations_in, contents
from videopoet.evaluation.protocol import Contents, Dataset

FILES = ("something-something-v2-validation.json", "validation.json")


@dataclass(frozen=True, kw_only=True)
class SSv2(Dataset):
    """The validation set (24,777 videos); the caption is the sentence with its objects, the label the template."""

    annotations: str | None = None
    videos: int | None = 24777

    def read(self, folder: Path) -> Contents:
        path = annotations_in(folder, [self.annotations] if self.annotations else FILES, "Something-Something v2")
        return contents(ssv2_items(path, {}), Files(folder), [path],
                        label=lambda item: item.extra.get("label", ""), expected=self.videos)  # fmt: skip

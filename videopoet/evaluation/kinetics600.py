"""Kinetics-600 by its lists of clips."""

from dataclasses import dataclass
from pathlib import Path

from videopoet.data.annotations import kinetics_items
from videopoet.data.importers import Files
from videopoet.evaluation.listed import annotations_in, contents
from videopoet.evaluation.protocol import Contents, Dataset

FILES = ("validate.csv", "val.csv", "kinetics600_val.csv", "kinetics_600_val.csv", "validate.json", "val.json")


@dataclass(frozen=True, kw_only=True)
class Kinetics600(Dataset):
    """Clips named ID_000012_000022.mp4 in any folder; the key is that name, the label the class.

    The published set loses videos every year: what is missing is named in the report, and scores of other sets of videos
    are other scores.
    """

    annotations: str | None = None
    videos: int | None = None

    def read(self, folder: Path) -> Contents:
        path = annotations_in(folder, [self.annotations] if self.annotations else FILES, "Kinetics-600")
        return contents(kinetics_items(path), Files(folder), [path], label=lambda item: item.extra["label"],
                        expected=self.videos)  # fmt: skip

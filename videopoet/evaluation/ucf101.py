"""UCF-101: folders of classes and the lists of its splits."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from videopoet.data.annotations import ucf101_classes, ucf101_items
from videopoet.data.importers import Files
from videopoet.evaluation.listed import annotations_in, contents
from videopoet.evaluation.protocol import Contents, Dataset


@dataclass(frozen=True, kw_only=True)
class UCF101(Dataset):
    """`split`: "train" (9,537 clips in the first of three), "test" (3,783) or "all" (13,320).

    The label of a clip is its class as classInd.txt has it. Letters' case differs between lists and archive
    ("HandStandPushups"): files are found whatever it is.
    """

    split: Literal["train", "test", "all"] = "train"
    number: Literal[1, 2, 3] = 1
    videos: int | None = None

    def read(self, folder: Path) -> Contents:
        index = annotations_in(folder, ["classInd.txt"], "UCF-101")
        splits = ("train", "test") if self.split == "all" else (self.split,)
        lists = [index.with_name(f"{split}list{self.number:02d}.txt") for split in splits]
        numbers = ucf101_classes(index)
        items = (item for path, split in zip(lists, splits) for item in ucf101_items(path, split, numbers))
        files = Files(folder, ignore_case=True)
        return contents(items, files, [index, *lists], label=lambda item: item.extra["label"], expected=self.videos)

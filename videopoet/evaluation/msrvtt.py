"""MSR-VTT as its annotation files have it."""

from dataclasses import dataclass
from pathlib import Path

from videopoet.data.annotations import msrvtt_items
from videopoet.data.importers import Files
from videopoet.evaluation.listed import annotations_in, contents
from videopoet.evaluation.protocol import Contents, Dataset

FILES = ("test_videodatainfo.json", "videodatainfo_2017.json", "MSRVTT_data.json", "train_val_videodatainfo.json")


@dataclass(frozen=True, kw_only=True)
class MSRVTT(Dataset):
    """One split, with all its captions in the order of `sen_id`; equal captions of a video stay as they are.

    annotations: a file of --data; None takes the first there is of the published ones. A file that holds the test set
    alone (test_videodatainfo.json) gives every video, whatever its entry says; in others the split is what the entry says,
    else what the number says (test from video7010 on). videos: how many the split has as published (2,990).
    """

    split: str = "test"
    annotations: str | None = None
    videos: int | None = 2990

    def read(self, folder: Path) -> Contents:
        path = annotations_in(folder, [self.annotations] if self.annotations else FILES, "MSR-VTT")
        alone = path.name == "test_videodatainfo.json" and self.split == "test"
        items = (item for item in msrvtt_items(path) if alone or item.split == self.split)
        return contents(items, Files(folder), [path], expected=self.videos)

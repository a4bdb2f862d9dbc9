"""ImageNet by the names of its classes alone: real pictures come as reference statistics."""

import json
from dataclasses import dataclass
from pathlib import Path

from videopoet.data.importers import read_lines, sha256
from videopoet.evaluation.listed import annotations_in
from videopoet.evaluation.protocol import Contents, Dataset, Entry


@dataclass(frozen=True, kw_only=True)
class ImageNetClasses(Dataset):
    """1,000 classes, of LOC_synset_mapping.txt ("n01440764 tench, Tinca tinca" a line) or a JSON list of names."""

    names: str | None = None

    def read(self, folder: Path) -> Contents:
        wanted = [self.names] if self.names else ["LOC_synset_mapping.txt", "imagenet_labels.json"]
        path = annotations_in(folder, wanted, "ImageNet")
        if path.suffix == ".json":
            said = json.loads(path.read_text(encoding="utf-8"))
            said = [said[str(i)] for i in range(len(said))] if isinstance(said, dict) and "0" in said else list(said)
        else:
            said = [line.partition(" ")[2] for line in read_lines(path)]
        entries = tuple(Entry(key=f"{i:04d}", path=None, label=name.split(",")[0]) for i, name in enumerate(said))
        complaints = () if len(entries) == 1000 else (f"{path.name} names {len(entries)} classes instead of 1000",)
        return Contents(entries=entries, sources={path.name: sha256(path)}, facts={"classes": len(entries)},
                        complaints=complaints)  # fmt: skip

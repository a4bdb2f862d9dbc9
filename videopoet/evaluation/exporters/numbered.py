"""Benchmarks whose videos are numbered by the lines of the prompt file: EvalCrafter, FETV, T2V-CompBench."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from videopoet.evaluation.exporters.benchmark import (
    Benchmark,
    Entry,
    Sample,
    read_json,
    read_lines,
    read_text,
    text_field,
)
from videopoet.evaluation.exporters.names import check_folder


@dataclass(frozen=True, kw_only=True)
class EvalCrafter(Benchmark):
    """`0000.mp4` ... `0699.mp4`, by the lines of `prompt700.txt` (Liu et al. 2024).

    The scorer pairs them with its own `prompts/NNNN.txt`, 100 of which differ from the lines a little.
    """

    name: ClassVar[str] = "evalcrafter"
    reads: ClassVar[str] = "prompt700.txt"
    wanted: ClassVar[dict[str, int]] = {"entries": 700}
    notes: ClassVar[tuple[str, ...]] = (
        "100 of the benchmark's prompts/NNNN.txt differ from prompt700.txt: leave them as they are",
    )

    def read(self, path: Path) -> list[Entry]:
        return [Entry(prompt=line) for line in read_lines(path)]

    def samples(self, entries: Sequence[Entry]) -> list[Sample]:
        return [Sample(prompt=e.prompt, index=0, paths=(f"{number:04d}.mp4",)) for number, e in enumerate(entries)]


@dataclass(frozen=True, kw_only=True)
class FETV(Benchmark):
    """`{model}/0.mp4` ... `{model}/618.mp4`, by the lines of `fetv_data.json`, one object a line (Liu et al. 2023)."""

    name: ClassVar[str] = "fetv"
    reads: ClassVar[str] = "fetv_data.json"
    wanted: ClassVar[dict[str, int]] = {"entries": 619}

    model: str = "videopoet"

    def __post_init__(self):
        super().__post_init__()
        check_folder(self.model)

    def read(self, path: Path) -> list[Entry]:
        entries = []
        lines = read_text(path).replace("\r\n", "\n").split("\n")
        for number, line in enumerate(lines[: -1 if not lines[-1].strip() else None], 1):
            where = f"{path}, line {number}"
            try:
                item = json.loads(line)
            except json.JSONDecodeError as error:
                raise ValueError(f"{where}: not a JSON object ({error})") from None
            entries.append(Entry(prompt=text_field(item, "prompt", where)))
        return entries

    def samples(self, entries: Sequence[Entry]) -> list[Sample]:
        return [
            Sample(prompt=e.prompt, index=0, paths=(f"{self.model}/{number}.mp4",)) for number, e in enumerate(entries)
        ]


#: Category, as its folder of videos is called -> the names its prompt file has, as text and as JSON.
CATEGORIES = {
    "consistent_attr": ("1_consistent_attr.txt", "consistent_attribute_binding.json"),
    "dynamic_attr": ("2_dynamic_attr.txt", "dynamic_attribute_binding.json"),
    "spatial_relationships": ("3_spatial_relationship.txt", "spatial_relationships.json"),
    "motion_binding": ("4_motion_binding.txt", "motion_binding.json"),
    "action_binding": ("5_action_binding.txt", "action_binding.json"),
    "interaction": ("6_interaction.txt", "object_interactions.json"),
    "generative_numeracy": ("7_numeracy.txt", "generative_numeracy.json"),
}


@dataclass(frozen=True, kw_only=True)
class T2VCompBench(Benchmark):
    """`{category}/0001.mp4` ... `{category}/0100.mp4`, by the lines of each category's file (Sun et al. 2024).

    Numbers are padded with zeros because part of its code sorts names as text and part as numbers.
    per_category: prompts of each of the 7 categories: 100 in the first edition, 200 in the second.
    """

    name: ClassVar[str] = "t2v-compbench"
    reads: ClassVar[str] = "the folder prompts/ (1_consistent_attr.txt, ...) or meta_data/, or one file of it"
    wanted: ClassVar[dict[str, int]] = {"entries": 700, "categories": 7, "fewest of a category": 100}
    known_dimensions: ClassVar[tuple[str, ...]] = tuple(CATEGORIES)

    per_category: int = 100

    def published(self) -> dict[str, int]:
        return {"entries": 7 * self.per_category, "categories": 7, "fewest of a category": self.per_category}

    def read(self, path: Path) -> list[Entry]:
        files = {name: category for category, names in CATEGORIES.items() for name in names}
        if path.is_file():
            if path.name not in files:
                raise ValueError(f"{path}: no category is called so, they are {', '.join(files)}")
            found = {files[path.name]: path}
        else:
            if not path.is_dir():
                raise ValueError(f"{path}: no such folder or file")
            found = {}
            for name, category in files.items():
                if (path / name).is_file():
                    if category in found:
                        raise ValueError(f"{path}: both {found[category].name} and {name} are there: keep one of them")
                    found[category] = path / name
            if not found:
                raise ValueError(f"{path}: none of {', '.join(files)} is there")
        return [Entry(prompt=p, dimensions=(c,)) for c, file in found.items() for p in self._prompts(file)]

    def _prompts(self, file: Path) -> list[str]:
        if file.suffix == ".txt":
            return read_lines(file)
        items = read_json(file)
        if not isinstance(items, list):
            raise ValueError(f"{file}: needs a list of entries, not {type(items).__name__}")
        return [text_field(item, "prompt", f"{file}, entry {number}") for number, item in enumerate(items)]

    def counts(self, entries: Sequence[Entry]) -> dict[str, int]:
        categories = [entry.dimensions[0] for entry in entries]
        fewest = min(map(categories.count, set(categories)))
        return {"entries": len(entries), "categories": len(set(categories)), "fewest of a category": fewest}

    def samples(self, entries: Sequence[Entry]) -> list[Sample]:
        samples = []
        for category in CATEGORIES:
            prompts = [entry.prompt for entry in entries if category in entry.dimensions]
            samples += [Sample(prompt=p, index=0, paths=(f"{category}/{n:04d}.mp4",)) for n, p in enumerate(prompts, 1)]
        return samples

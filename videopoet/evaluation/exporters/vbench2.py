"""VBench-2.0: a folder for each dimension, names cut to 180 characters (Zheng et al. 2025)."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from videopoet.evaluation.exporters.benchmark import Benchmark, Entry, Sample, merged, read_full_info
from videopoet.evaluation.exporters.names import check_name
from videopoet.evaluation.exporters.vbench import STRAY

DIVERSITY = "Diversity"


@dataclass(frozen=True, kw_only=True)
class VBench2(Benchmark):
    """`{dimension}/{prompt[:180]}-{i}.mp4`, i = 0..2, of Diversity i = 0..19; 1,230 entries, 3,860 files.

    A prompt of several dimensions is sampled once and its videos shared: 1,013 prompts. One video less and the
    evaluation stops. The cut counts characters, not bytes, as the benchmark's `prompt[:180]` does.
    """

    name: ClassVar[str] = "vbench-2"
    reads: ClassVar[str] = "VBench2_full_info.json"
    wanted: ClassVar[dict[str, int]] = {"entries": 1230, "prompts": 1013}
    known_dimensions: ClassVar[tuple[str, ...]] = (
        "Human_Anatomy", "Human_Identity", "Human_Clothes", DIVERSITY, "Composition", "Dynamic_Spatial_Relationship",
        "Dynamic_Attribute", "Motion_Order_Understanding", "Human_Interaction", "Complex_Landscape", "Complex_Plot",
        "Camera_Motion", "Motion_Rationality", "Instance_Preservation", "Mechanics", "Thermotics", "Material",
        "Multi-View_Consistency",
    )  # fmt: skip
    notes: ClassVar[tuple[str, ...]] = (STRAY, "a missing video stops the evaluation")

    def read(self, path: Path) -> list[Entry]:
        return read_full_info(path, self.known_dimensions)

    def samples(self, entries: Sequence[Entry]) -> list[Sample]:
        return [
            Sample(prompt=entry.prompt, index=i, paths=tuple(f"{d}/{name}" for d in dimensions))
            for entry in merged(entries)
            for i in range(20 if DIVERSITY in entry.dimensions else 3)
            if (dimensions := [d for d in entry.dimensions if i < 3 or d == DIVERSITY])
            and (name := check_name(f"{entry.prompt[:180]}-{i}.mp4"))
        ]

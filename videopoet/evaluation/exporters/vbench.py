"""VBench and VBench-I2V: videos named by their prompts, five of each (Huang et al. 2024; VBench++ 2024)."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from videopoet.evaluation.exporters.benchmark import Benchmark, Entry, Sample, merged, read_full_info
from videopoet.evaluation.exporters.names import check_name

#: Dimension -> the folder its evaluation reads. Those that share one need no videos of their own.
FOLDERS = {
    "subject_consistency": "subject_consistency",
    "background_consistency": "scene",
    "aesthetic_quality": "overall_consistency",
    "imaging_quality": "overall_consistency",
    "object_class": "object_class",
    "multiple_objects": "multiple_objects",
    "color": "color",
    "spatial_relationship": "spatial_relationship",
    "scene": "scene",
    "temporal_style": "temporal_style",
    "overall_consistency": "overall_consistency",
    "human_action": "human_action",
    "temporal_flickering": "temporal_flickering",
    "motion_smoothness": "subject_consistency",
    "dynamic_degree": "subject_consistency",
    "appearance_style": "appearance_style",
}
FLICKERING = "temporal_flickering"
STRAY = "the evaluation takes the suffix of the first file it finds: keep every other file out of the folder"
LONG = "clips of 5 seconds and more belong to VBench-Long"


@dataclass(frozen=True, kw_only=True)
class VBench(Benchmark):
    """`{prompt}-{i}.mp4`, i = 0..4; 946 entries, 944 prompts, 4,720 videos.

    per_dimension: a folder for each of the 11 folders the evaluation script reads, instead of one for all.
    num_flickering: videos per prompt of temporal flickering; the benchmark asks for 25, of which its `static_filter.py`
    keeps the still ones, while its published list and its evaluation have 5.
    """

    name: ClassVar[str] = "vbench"
    reads: ClassVar[str] = "VBench_full_info.json"
    wanted: ClassVar[dict[str, int]] = {"entries": 946, "prompts": 944}
    known_dimensions: ClassVar[tuple[str, ...]] = tuple(FOLDERS)
    notes: ClassVar[tuple[str, ...]] = (
        STRAY,
        LONG,
        "temporal_flickering is filtered by the benchmark's static_filter.py before it is evaluated",
    )

    per_dimension: bool = False
    num_flickering: int = 5

    def __post_init__(self):
        super().__post_init__()
        if self.num_flickering not in (5, 25):
            raise ValueError(f"{self.num_flickering} videos per flickering prompt: the benchmark knows 5 and 25")

    def read(self, path: Path) -> list[Entry]:
        return read_full_info(path, self.known_dimensions)

    def samples(self, entries: Sequence[Entry]) -> list[Sample]:
        return [
            Sample(prompt=entry.prompt, index=i, paths=tuple(f"{folder}{entry.prompt}-{i}.mp4" for folder in folders))
            for entry in merged(entries)
            for i in range(max(self._number(d) for d in entry.dimensions))
            if (folders := self._folders(entry, i)) and check_name(f"{entry.prompt}-{i}.mp4")
        ]

    def _number(self, dimension: str) -> int:
        return self.num_flickering if dimension == FLICKERING else 5

    def _folders(self, entry: Entry, index: int) -> list[str]:
        """With a slash each; the empty one where all lie together."""
        if not self.per_dimension:
            return [""]
        return list(dict.fromkeys(f"{FOLDERS[d]}/" for d in entry.dimensions if index < self._number(d)))


@dataclass(frozen=True, kw_only=True)
class VBenchI2V(Benchmark):
    """`{prompt}-{i}.mp4`, i = 0..4, from the image of each entry; 1,118 entries, 5,590 videos.

    The images are the benchmark's crops in the aspect ratio of the model: 1-1, 8-5, 7-4 or 16-9.
    """

    name: ClassVar[str] = "vbench-i2v"
    reads: ClassVar[str] = "vbench2_i2v_full_info.json"
    wanted: ClassVar[dict[str, int]] = {"entries": 1118, "prompts": 1118}
    task: ClassVar[str] = "image-to-video"
    known_dimensions: ClassVar[tuple[str, ...]] = ("i2v_subject", "i2v_background", "camera_motion", *FOLDERS)
    notes: ClassVar[tuple[str, ...]] = (STRAY, LONG)

    def read(self, path: Path) -> list[Entry]:
        entries = read_full_info(path, self.known_dimensions)
        for number, entry in enumerate(entries):
            if not entry.image:
                raise ValueError(f'{path}, entry {number}: has no "image_name", each video is made from an image')
            try:
                check_name(entry.image)
            except ValueError as error:
                raise ValueError(f"{path}, entry {number}: image {error}") from None
        return entries

    def samples(self, entries: Sequence[Entry]) -> list[Sample]:
        return [
            Sample(prompt=e.prompt, index=i, image=e.image, paths=(check_name(f"{e.prompt}-{i}.mp4"),))
            for e in merged(entries)
            for i in range(5)
        ]

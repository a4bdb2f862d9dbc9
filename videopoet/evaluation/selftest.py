"""Published values that need no data: what a network answers if its weights and its preprocessing are as published."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from rich.table import Table

from videopoet.evaluation.detectors.base import VideoDetector
from videopoet.evaluation.detectors.i3d import I3D
from videopoet.evaluation.frechet import frechet_distance


@dataclass(frozen=True, kw_only=True)
class Golden:
    """value: as published, by `source`, right within the share `tolerance` (versions of torch differ by so much)."""

    title: str
    source: str
    value: float
    tolerance: float
    measure: Callable[[VideoDetector], float]


def black_against_white(frames: int, pixels: int) -> Callable[[VideoDetector], float]:
    """FVD of black against white clips. All clips of a side are one clip, so two have the statistics of any number."""

    def measure(detector: VideoDetector) -> float:
        clip = np.zeros((1, frames, pixels, pixels, 3), np.uint8)
        black, white = (detector(value + clip).repeat(2, 1) for value in (np.uint8(0), np.uint8(255)))
        return frechet_distance(black, white).value

    return measure


GOLDENS = (
    Golden(
        title="FVD of black against white clips of 30 frames, 64 x 64",
        source="common_metrics_on_video_quality: 151.256 (TorchScript), 151.392 (TensorFlow 1.15)",
        value=151.26,
        tolerance=0.01,
        measure=black_against_white(30, 64),
    ),
    Golden(
        title="FVD of black against white clips of 15 frames, 64 x 64",
        source="google-research/frechet_video_distance: around 131",
        value=131.0,
        tolerance=0.02,
        measure=black_against_white(15, 64),
    ),
)


def selftest(weights: str | None) -> tuple[Table, bool]:
    """Measure I3D's published values; the table, and whether all are right. Raises ValueError where there are no weights."""
    detector, right = I3D(weights), True
    view = Table(title=f"{detector.identity().label}, {', '.join(detector.weights.values())}")
    for name in ("measured", "published", "off by", "what", "source"):
        view.add_column(name, justify="left" if name in ("what", "source") else "right", overflow="fold")
    for golden in GOLDENS:
        value = golden.measure(detector)
        off = value / golden.value - 1
        right &= abs(off) <= golden.tolerance
        view.add_row(f"{value:.3f}", f"{golden.value:g}", f"{100 * off:+.2f} %", golden.title, golden.source)
    return view, right

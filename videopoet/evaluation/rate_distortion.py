"""Rate and distortion: points, curves, how two curves compare, and how they look.

A codec at one quality on one clip is a `Point`. A curve is a codec's points averaged over the same clips, quality by
quality. Rates are bits per pixel of the video that went in (frames x height x width, before any padding); of sound, bits
per sample.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from videopoet.evaluation.codecs import Coded
from videopoet.evaluation.reconstruction import Score, mean_score, to_json


@dataclass(frozen=True, kw_only=True)
class Point:
    """What one codec made of one clip (`clip` is its name), or of several on average (`clip` is empty)."""

    codec: str
    quality: str  # the codec's own setting, for example "crf 32"
    clip: str
    bpp: float  # bits per pixel; of sound, per sample
    file_bpp: float | None  # the whole file; None where there is none
    encode_seconds: float  # of CPU time, for a clip
    decode_seconds: float
    scores: dict[str, Score]

    def to_json(self) -> dict[str, Any]:
        """Plain values, with the scores frame by frame."""
        return asdict(self) | {"scores": {name: to_json(score) for name, score in self.scores.items()}}

    @classmethod
    def from_json(cls, content: dict[str, Any]) -> "Point":
        """Inverse of `to_json`."""
        return cls(**content | {"scores": {name: _score(score) for name, score in content["scores"].items()}})


def _score(content: dict[str, Any]) -> Score:
    by_frame = tuple(float(value) for value in content["by_frame"])
    return Score(**content | {"by_frame": by_frame, "overall": float(content["overall"])})


def point(codec: str, quality: str, clip: str, video: np.ndarray, coded: Coded, scores: dict[str, Score]) -> Point:
    """The point of a clip uint8 t h w 3 that was coded."""
    pixels = math.prod(video.shape[:3])
    return Point(
        codec=codec,
        quality=quality,
        clip=clip,
        bpp=coded.bits / pixels,
        file_bpp=None if coded.file_bits is None else coded.file_bits / pixels,
        encode_seconds=coded.encode_seconds,
        decode_seconds=coded.decode_seconds,
        scores=scores,
    )


def curves(points: Iterable[Point], clips: Sequence[str]) -> dict[str, list[Point]]:
    """Codec -> its points averaged over `clips`, by rising rate. Each clip counts once.

    A quality that failed on some clip is left out: a mean over other clips is no point of the same curve. So is a score
    that some clip does not have.
    """
    groups: dict[tuple[str, str], dict[str, Point]] = {}
    for p in points:
        groups.setdefault((p.codec, p.quality), {})[p.clip] = p
    found: dict[str, list[Point]] = {}
    for (codec, quality), by_clip in groups.items():
        if clips and set(clips) <= set(by_clip):
            found.setdefault(codec, []).append(_mean(codec, quality, [by_clip[clip] for clip in clips]))
    return {codec: sorted(line, key=lambda p: p.bpp) for codec, line in found.items()}


def _mean(codec: str, quality: str, points: list[Point]) -> Point:
    def mean(values: list[float]) -> float:
        return math.fsum(values) / len(values)

    shared = [name for name in points[0].scores if all(name in p.scores for p in points)]
    files = [p.file_bpp for p in points]
    return Point(
        codec=codec,
        quality=quality,
        clip="",
        bpp=mean([p.bpp for p in points]),
        file_bpp=None if None in files else mean(files),
        encode_seconds=mean([p.encode_seconds for p in points]),
        decode_seconds=mean([p.decode_seconds for p in points]),
        scores={name: mean_score([p.scores[name] for p in points]) for name in shared},
    )


def at_rate(curve: Sequence[Point], metric: str, bpp: float) -> float | None:
    """The metric of a curve at a rate, on the straight line in log(bpp) between its neighbours.

    None outside the rates of the curve: a codec is not extrapolated.
    """
    line = sorted((p.bpp, p.scores[metric].overall) for p in curve if metric in p.scores)
    if not line or not line[0][0] <= bpp <= line[-1][0]:
        return None
    rates, values = zip(*line)
    return float(np.interp(math.log(bpp), np.log(rates), values))


def bd_rate(anchor: Sequence[Point], other: Sequence[Point], metric: str = "psnr_luma") -> float | None:
    """Bits that `other` saves (negative) or costs at equal quality, in percent of the anchor (Bjontegaard 2001).

    Cubic fits of log-rate over the metric, integrated over the range that both curves have. Half the bits everywhere is
    -50. None with fewer than 4 points of different quality on either side, where the curves share no quality, or where
    the share is below a fifth of the anchor's range and the number would hang on one point.
    """
    lines = [_quality_and_rate(curve, metric) for curve in (anchor, other)]
    if any(len(quality) < 4 for quality, _ in lines):
        return None
    low = max(quality.min() for quality, _ in lines)
    high = min(quality.max() for quality, _ in lines)
    if high - low < 0.2 * np.ptp(lines[0][0]):
        return None
    areas = []
    for quality, rate in lines:
        centre = (low + high) / 2  # centred, so that the fit is well conditioned
        integral = np.polyint(np.polyfit(quality - centre, rate, 3))
        areas.append(np.polyval(integral, high - centre) - np.polyval(integral, low - centre))
    return 100 * float(np.expm1((areas[1] - areas[0]) / (high - low)))


def _quality_and_rate(curve: Sequence[Point], metric: str) -> tuple[np.ndarray, np.ndarray]:
    found = {p.scores[metric].overall: math.log(p.bpp) for p in curve if metric in p.scores and p.bpp > 0}
    finite = sorted((quality, rate) for quality, rate in found.items() if math.isfinite(quality))
    return np.array([quality for quality, _ in finite]), np.array([rate for _, rate in finite])


def plot(
    found: dict[str, list[Point]],
    path: str | Path,
    *,
    title: str = "",
    ceiling: dict[str, float] | None = None,
    unit: str = "bits per pixel",
    scale: float = 1.0,
) -> bool:
    """Every metric over the rate, one line per codec, as a PNG; False where matplotlib is not installed.

    ceiling: metric -> what the colour conversion alone allows, drawn as a dashed line.
    unit, scale: of the rate axis, bpp times scale; samples per second / 1000 gives kbit/s of sound.
    """
    try:
        import matplotlib
    except ImportError:
        return False
    matplotlib.use("Agg")
    from matplotlib import pyplot, ticker

    names = list(dict.fromkeys(name for line in found.values() for p in line for name in p.scores))
    figure, axes = pyplot.subplots(1, len(names), figsize=(4.2 * len(names), 4), squeeze=False, layout="constrained")
    for axis, name in zip(axes[0], names):
        for codec, line in found.items():
            pairs = [(p.bpp * scale, p.scores[name].overall) for p in line if name in p.scores]
            style = {"marker": "*", "markersize": 13} if len(pairs) == 1 else {"marker": "o", "markersize": 4}
            axis.plot(*zip(*pairs), label=codec, **style)
        if ceiling and math.isfinite(ceiling.get(name, math.inf)):
            axis.axhline(ceiling[name], color="grey", linestyle="--", linewidth=1, label="colour conversion alone")
        units = {p.scores[name].unit for line in found.values() for p in line if name in p.scores}
        axis.set(xscale="log", xlabel=unit, title=f"{name} ({', '.join(units)})".replace(" (1)", ""))
        axis.xaxis.set_major_locator(ticker.LogLocator(subs=(1, 2, 5)))
        axis.xaxis.set_major_formatter("{x:g}")
        axis.xaxis.set_minor_locator(ticker.NullLocator())
        axis.grid(alpha=0.3)
    figure.legend(*axes[0][0].get_legend_handles_labels(), loc="outside lower center", ncols=4, fontsize=8)
    figure.suptitle(title)
    figure.savefig(path, dpi=120)
    pyplot.close(figure)
    return True

"""How close a reconstruction is to its original: PSNR, SSIM, MS-SSIM and learned distances, frame by frame.

Everything is measured on 8-bit pictures, because that is what a file or a screen shows: round a decoded tensor with
`data.transforms.video_to_uint8` first. Inputs are uint8 `t h w 3` RGB, arithmetic is float64, and every number is a
`Score` that says its unit and how frames were pooled. The conventions differ between papers and none is the default of
all (evaluate twice, or say which): PSNR here is the mean over frames of the frame's dB unless `pool="clip"`; SSIM and
MS-SSIM are of the luma unless `plane="rgb"`.
"""

import math
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from typing import Literal, Protocol

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from videopoet.tokenizers.visual.perceptual import Perceptual

Plane = Literal["rgb", "luma"]
LUMA = (0.299, 0.587, 0.114)  # BT.601 weights on R'G'B' in full range
PEAK = 255.0
MS_SSIM_WEIGHTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)  # finest scale first (Wang et al. 2003)
BLOCK = 8  # frames in float64 at a time


@dataclass(frozen=True, kw_only=True)
class Score:
    """One metric of one clip, or its mean over clips.

    `by_frame[i]` is of frame i (the first frame of a causal tokenizer is coded differently from the others, and clips
    drift: look at it). `overall` is the mean of `by_frame`, except for PSNR with `pool="clip"`.
    """

    metric: str
    unit: str
    higher_is_better: bool
    by_frame: tuple[float, ...]
    overall: float


class Metric(Protocol):
    """Compares two clips, uint8 `t h w 3` of equal shape."""

    def __call__(self, original: np.ndarray, other: np.ndarray) -> Score: ...


@dataclass(frozen=True, kw_only=True)
class PSNR:
    """10 log10(255^2 / mean squared error) in dB; inf for equal pictures.

    pool: "frame" averages the frames' dB (VidTok), "clip" takes the dB of the error over the whole clip (LARP,
    BSQ-ViT). The two differ where frames differ in quality: errors of 0 and 1 give inf and 51.14 dB.
    """

    plane: Plane = "rgb"
    pool: Literal["frame", "clip"] = "frame"

    def __call__(self, original: np.ndarray, other: np.ndarray) -> Score:
        error = torch.cat([(a - b).square().mean((1, 2, 3)) for a, b in _blocks(original, other, self.plane)])
        by_frame = _decibel(error)
        overall = _decibel(error.mean()) if self.pool == "clip" else by_frame.mean()
        name = f"psnr_{self.plane}" + ("_clip" if self.pool == "clip" else "")
        return _score(name, "dB", by_frame, overall)


@dataclass(frozen=True, kw_only=True)
class SSIM:
    """Structural similarity, 1 for equal pictures (Wang et al. 2004).

    Gaussian window of 11 pixels, sigma 1.5; only windows that lie inside the picture count; K1 0.01, K2 0.03; population
    covariance: scikit-image's values with `gaussian_weights`, not those of torchmetrics 1.9, which also counts windows
    that hang over the border. On "rgb" it is the mean of the three channels. ValueError below 11 pixels.
    """

    plane: Plane = "luma"

    def __call__(self, original: np.ndarray, other: np.ndarray) -> Score:
        _check_side(original, 11, "SSIM", "measure PSNR only, or larger pictures")
        by_frame = torch.cat([_ssim(a, b)[0].mean(1) for a, b in _blocks(original, other, self.plane)])
        return _score(f"ssim_{self.plane}", "1", by_frame, by_frame.mean())


@dataclass(frozen=True, kw_only=True)
class MSSSIM:
    """Multi-scale SSIM, 1 for equal pictures (Wang et al. 2003): 5 scales, each half the one before by 2 x 2 means.

    The standard needs 176 pixels on the shorter side (11 after four halvings). `scales=k` takes the k finest with their
    weights scaled to sum 1; it is another metric, called `ms_ssim_luma_3scales`, and not comparable with published
    numbers. Negative contrast terms count as 0. ValueError where the picture is too small.
    """

    plane: Plane = "luma"
    scales: int = 5

    def __post_init__(self) -> None:
        if not 1 <= self.scales <= len(MS_SSIM_WEIGHTS):
            raise ValueError(f"scales is {self.scales}: MS-SSIM has 1 to {len(MS_SSIM_WEIGHTS)}")

    def __call__(self, original: np.ndarray, other: np.ndarray) -> Score:
        possible = ms_ssim_scales(*original.shape[1:3])
        _check_side(original, 11 * 2 ** (self.scales - 1), f"MS-SSIM of {self.scales} scales",
                    f"take scales={possible}, which is another metric" if possible else "measure PSNR only")  # fmt: skip
        by_frame = torch.cat([self._frames(a, b) for a, b in _blocks(original, other, self.plane)])
        name = f"ms_ssim_{self.plane}" + ("" if self.scales == len(MS_SSIM_WEIGHTS) else f"_{self.scales}scales")
        return _score(name, "1", by_frame, by_frame.mean())

    def _frames(self, a: Tensor, b: Tensor) -> Tensor:
        weights = torch.tensor(MS_SSIM_WEIGHTS[: self.scales], dtype=torch.float64)
        if self.scales < len(MS_SSIM_WEIGHTS):  # the published five sum to 1.0001 and stay as they are
            weights = weights / weights.sum()
        product = torch.ones(a.shape[:2], dtype=torch.float64)
        for scale, weight in enumerate(weights):
            similarity, contrast = _ssim(a, b)
            term = similarity if scale == self.scales - 1 else contrast
            product = product * term.clamp_min(0) ** weight
            a, b = F.avg_pool2d(a, 2), F.avg_pool2d(b, 2)
        return product.mean(1)


@dataclass(frozen=True, kw_only=True)
class LearnedDistance:
    """A network's distance of pictures, 0 for equal ones, by frame: LPIPS and its kin, wherever the weights are.

    `distance` takes two float tensors (n, 3, h, w) in [-1, 1] and gives (n,); `name` says network and weights, for
    example "lpips_alex". Nothing is downloaded: without weights there is no such number.
    """

    name: str
    distance: Callable[[Tensor, Tensor], Tensor]

    @torch.no_grad()
    def __call__(self, original: np.ndarray, other: np.ndarray) -> Score:
        _check(original, other)
        pairs = zip(_signed(original).split(BLOCK), _signed(other).split(BLOCK))
        by_frame = torch.cat([self.distance(a, b).reshape(-1).double().cpu() for a, b in pairs])
        if len(by_frame) != len(original):
            raise ValueError(
                f"{self.name} gave {len(by_frame)} distances for {len(original)} frames: it must give (n,)"
            )
        return _score(self.name, "1", by_frame, by_frame.mean(), higher_is_better=False)


def learned_distance(perceptual: Perceptual) -> LearnedDistance:
    """A perceptual loss of the tokenizers as a metric, unweighted, called after its class and its network's."""
    if not perceptual.weight > 0:
        raise ValueError(f"a distance of weight {perceptual.weight} is no distance: give it weight 1")

    def distance(original: Tensor, other: Tensor) -> Tensor:
        # One frame at a time: the losses average over the frames they are given.
        pairs = zip(original[:, None, :, None], other[:, None, :, None])
        return torch.stack([perceptual(b, a) / perceptual.weight for a, b in pairs])

    name = f"{type(perceptual).__name__}_{type(perceptual.network).__name__}".lower()
    return LearnedDistance(name=name, distance=distance)


def standard_metrics(height: int, width: int) -> tuple[Metric, ...]:
    """PSNR of RGB and luma, SSIM and MS-SSIM, as far as pictures of this size have them."""
    scales = ms_ssim_scales(height, width)
    structural = (SSIM(), MSSSIM(scales=scales)) if scales else ()
    return PSNR(), PSNR(plane="luma"), *structural


def ms_ssim_scales(height: int, width: int) -> int:
    """The most scales (up to 5) that MS-SSIM has at this size: 5 from 176 pixels, 3 from 44, 1 from 11, else 0."""
    side, scales = min(height, width), 0
    while scales < len(MS_SSIM_WEIGHTS) and side >= 11:
        side, scales = side // 2, scales + 1
    return scales


def compare(original: np.ndarray, other: np.ndarray, metrics: Iterable[Metric] | None = None) -> dict[str, Score]:
    """Scores of one clip by metric name; `metrics` default to all that its size has.

    Raises ValueError unless both are uint8 `t h w 3` of the same shape.
    """
    _check(original, other)
    found = [
        metric(original, other) for metric in (standard_metrics(*original.shape[1:3]) if metrics is None else metrics)
    ]
    return {score.metric: score for score in found}


def mean_score(scores: Iterable[Score]) -> Score:
    """Mean over clips, each counting once however long; frame i over the clips that have a frame i.

    ValueError for no scores or for scores of different metrics.
    """
    scores = list(scores)
    names = sorted({score.metric for score in scores})
    if len(names) != 1:
        raise ValueError(f"a mean is of scores of one metric, got {', '.join(names) or 'none'}")
    longest = max(len(score.by_frame) for score in scores)
    columns = ([score.by_frame[i] for score in scores if i < len(score.by_frame)] for i in range(longest))
    first = scores[0]
    return Score(
        metric=first.metric,
        unit=first.unit,
        higher_is_better=first.higher_is_better,
        by_frame=tuple(math.fsum(column) / len(column) for column in columns),
        overall=math.fsum(score.overall for score in scores) / len(scores),
    )


def to_json(score: Score) -> dict:
    """Plain JSON values; JSON has no infinity, so equal pictures have a PSNR of the text "inf"."""
    content = asdict(score)
    content["by_frame"] = [_finite(value) for value in score.by_frame]
    content["overall"] = _finite(score.overall)
    return content


def _finite(value: float) -> float | str:
    return value if math.isfinite(value) else str(value)


def _score(name: str, unit: str, by_frame: Tensor, overall: Tensor, higher_is_better: bool = True) -> Score:
    return Score(
        metric=name,
        unit=unit,
        higher_is_better=higher_is_better,
        by_frame=tuple(by_frame.tolist()),
        overall=float(overall),
    )


def _check(original: np.ndarray, other: np.ndarray) -> None:
    for video in (original, other):
        if video.dtype != np.uint8 or video.ndim != 4 or video.shape[3] != 3 or 0 in video.shape:
            raise ValueError(f"a clip to compare is uint8 (t, h, w, 3), got {video.dtype} {video.shape}")
    if original.shape != other.shape:
        raise ValueError(f"the original is {original.shape}, the other {other.shape}: trim padding, keep every frame")


def _check_side(video: np.ndarray, least: int, what: str, remedy: str) -> None:
    side = min(video.shape[1:3])
    if side < least:
        raise ValueError(f"{what} needs {least} pixels on the shorter side, the clip has {side}: {remedy}")


def _blocks(original: np.ndarray, other: np.ndarray, plane: Plane) -> Iterable[tuple[Tensor, Tensor]]:
    """Pairs of float64 (n, c, h, w) in [0, 255], a few frames at a time."""
    _check(original, other)
    for start in range(0, len(original), BLOCK):
        yield tuple(_plane(video[start : start + BLOCK], plane) for video in (original, other))


def _plane(video: np.ndarray, plane: Plane) -> Tensor:
    pictures = torch.from_numpy(np.ascontiguousarray(video)).double().movedim(-1, 1)
    if plane == "rgb":
        return pictures
    if plane != "luma":
        raise ValueError(f"plane {plane!r} is neither 'rgb' nor 'luma'")
    return (pictures * torch.tensor(LUMA, dtype=torch.float64)[:, None, None]).sum(1, keepdim=True)


def _signed(video: np.ndarray) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(video)).float().movedim(-1, 1) / 127.5 - 1


def _decibel(error: Tensor) -> Tensor:
    return 10 * (PEAK**2 / error).log10()  # an error of 0 gives inf


def _ssim(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """(n, c, h, w) twice -> mean similarity and mean contrast-structure term, (n, c) each."""
    distance = torch.arange(-5, 6, dtype=torch.float64)
    window = (-(distance**2) / (2 * 1.5**2)).exp()
    window = window / window.sum()
    n, c, h, w = a.shape

    def smooth(pictures: Tensor) -> Tensor:
        rows = F.conv2d(pictures.reshape(-1, 1, h, w), window.view(1, 1, 1, -1))
        return F.conv2d(rows, window.view(1, 1, -1, 1))

    mean_a, mean_b, aa, bb, ab = smooth(torch.cat([a, b, a * a, b * b, a * b])).chunk(5)
    small_mean, small_contrast = (0.01 * PEAK) ** 2, (0.03 * PEAK) ** 2
    variances, covariance = aa - mean_a**2 + bb - mean_b**2, ab - mean_a * mean_b
    contrast = (2 * covariance + small_contrast) / (variances + small_contrast)
    luminance = (2 * mean_a * mean_b + small_mean) / (mean_a**2 + mean_b**2 + small_mean)
    return tuple(term.reshape(n, c, -1).mean(2) for term in (luminance * contrast, contrast))

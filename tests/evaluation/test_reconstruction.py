"""Reconstruction metrics against exact values, their definitions, and scikit-image where it is installed."""

import json
import math

import numpy as np
import pytest
import torch

from videopoet.evaluation.reconstruction import (
    MSSSIM,
    PSNR,
    SSIM,
    LearnedDistance,
    Score,
    compare,
    mean_score,
    ms_ssim_scales,
    standard_metrics,
    to_json,
)


def clip(frames=3, height=44, width=52, seed=0) -> np.ndarray:
    """Smooth pictures with some noise, well inside 0..255."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width] / 7.0
    waves = np.sin(x[..., None] + np.arange(3)) + np.cos(y[..., None] * 1.3)
    pictures = 120 + 40 * waves[None] + rng.normal(0, 6, (frames, height, width, 3))
    return pictures.clip(20, 220).astype(np.uint8)


def luma(video: np.ndarray) -> np.ndarray:
    return video @ np.array([0.299, 0.587, 0.114])


def windows(a: np.ndarray, b: np.ndarray) -> tuple[float, float]:
    """Mean similarity and contrast-structure of two pictures (h, w), from every 11 x 11 window by itself."""
    bell = np.exp(-(np.arange(-5, 6) ** 2) / 4.5)
    weight = np.outer(bell, bell) / bell.sum() ** 2
    x, y = (np.lib.stride_tricks.sliding_window_view(picture, (11, 11)) for picture in (a, b))
    mx, my = ((weight * u).sum((2, 3), keepdims=True) for u in (x, y))
    vx, vy, vxy = ((weight * u * v).sum((2, 3)) for u, v in ((x - mx, x - mx), (y - my, y - my), (x - mx, y - my)))
    mx, my = mx[..., 0, 0], my[..., 0, 0]
    contrast = (2 * vxy + 7.65**2) / (vx + vy + 7.65**2)
    return ((2 * mx * my + 2.55**2) / (mx**2 + my**2 + 2.55**2) * contrast).mean(), contrast.mean()


def test_equal_clips_are_perfect_in_every_metric_and_frame():
    video = clip()
    scores = compare(video, video)
    assert set(scores) == {"psnr_rgb", "psnr_luma", "ssim_luma", "ms_ssim_luma_3scales"}
    for name, score in scores.items():
        perfect = math.inf if name.startswith("psnr") else 1.0
        assert score.overall == pytest.approx(perfect, abs=1e-12)
        assert len(score.by_frame) == 3 and score.by_frame == pytest.approx([perfect] * 3, abs=1e-12)


@pytest.mark.parametrize("offset", [1, 7, 30])
@pytest.mark.parametrize("plane", ["rgb", "luma"])
def test_constant_offset_has_the_closed_form_psnr(offset, plane):
    video = clip()
    score = PSNR(plane=plane)(video, video + np.uint8(offset))
    assert score.unit == "dB"
    assert score.by_frame == pytest.approx([20 * math.log10(255 / offset)] * 3, abs=1e-9)


def test_constant_pictures_have_the_closed_form_ssim():
    """Without variance only the luminance term is left: (2 a b + c) / (a^2 + b^2 + c)."""
    a, b, c = 100, 130, (0.01 * 255) ** 2
    x, y = np.full((1, 176, 176, 3), a, np.uint8), np.full((1, 176, 176, 3), b, np.uint8)
    luminance = (2 * a * b + c) / (a * a + b * b + c)
    assert SSIM()(x, y).overall == pytest.approx(luminance, rel=1e-9)
    assert MSSSIM()(x, y).overall == pytest.approx(luminance**0.1333, rel=1e-9)


def test_psnr_pools_by_frame_or_by_clip():
    video, other = clip(frames=2), clip(frames=2)
    other[0] += 1
    other[1] += 10
    by_frame, by_clip = PSNR()(video, other), PSNR(pool="clip")(video, other)
    assert by_frame.by_frame == by_clip.by_frame
    assert by_frame.overall == pytest.approx(20 * math.log10(255) - 10 * (0 + 2) / 2)
    assert by_clip.overall == pytest.approx(10 * math.log10(255**2 / 50.5))
    assert (by_frame.metric, by_clip.metric) == ("psnr_rgb", "psnr_rgb_clip")


@pytest.mark.parametrize("plane", ["rgb", "luma"])
def test_ssim_equals_its_definition_window_by_window(plane):
    a, b = clip(2, 14, 17, seed=0), clip(2, 14, 17, seed=1)
    planes = [[v[..., i] for i in range(3)] if plane == "rgb" else [luma(v)] for v in (a, b)]
    expected = [np.mean([windows(x[i], y[i])[0] for x, y in zip(*planes)]) for i in range(2)]
    assert SSIM(plane=plane)(a, b).by_frame == pytest.approx(expected, abs=1e-10)


@pytest.mark.parametrize(("scales", "side"), [(2, 22), (5, 180)])
def test_ms_ssim_equals_its_definition_window_by_window(scales, side):
    a, b = (clip(1, side, side + 4, seed=seed) for seed in (0, 1))
    weights = np.array([0.0448, 0.2856, 0.3001, 0.2363, 0.1333])[:scales]
    weights = weights if scales == 5 else weights / weights.sum()
    pair, expected = [luma(a)[0], luma(b)[0]], 1.0
    for scale, weight in enumerate(weights):
        expected *= windows(*pair)[0 if scale == scales - 1 else 1] ** weight
        h, w = (length // 2 for length in pair[0].shape)
        pair = [picture[: 2 * h, : 2 * w].reshape(h, 2, w, 2).mean((1, 3)) for picture in pair]
    score = MSSSIM(scales=scales)(a, b)
    assert score.metric == "ms_ssim_luma" + ("" if scales == 5 else "_2scales")
    assert score.overall == pytest.approx(expected, abs=1e-10) and score.overall < 0.99


def test_ssim_equals_scikit_image():
    metrics = pytest.importorskip("skimage.metrics")
    a, b = clip(1, seed=0), clip(1, seed=1)
    expected = metrics.structural_similarity(
        luma(a)[0], luma(b)[0], data_range=255, gaussian_weights=True, sigma=1.5,
        use_sample_covariance=False,
    )  # fmt: skip
    assert SSIM()(a, b).overall == pytest.approx(expected, abs=1e-9)


def test_more_noise_is_worse_in_every_metric():
    video, rng = clip(1, 176, 176), np.random.default_rng(3)
    noise = rng.normal(0, 1, video.shape)
    noisy = [(video + level * noise).clip(0, 255).astype(np.uint8) for level in (3, 10, 30)]
    for metric in standard_metrics(176, 176):
        values = [metric(video, other).overall for other in noisy]
        assert values == sorted(values, reverse=True) and len(set(values)) == 3


@pytest.mark.parametrize(
    ("side", "scales"), [(10, 0), (11, 1), (43, 2), (44, 3), (128, 4), (175, 4), (176, 5), (1080, 5)]
)
def test_scales_by_size(side, scales):
    assert ms_ssim_scales(side, side + 4) == ms_ssim_scales(side + 4, side) == scales
    names = [metric.scales for metric in standard_metrics(side, side) if isinstance(metric, MSSSIM)]
    assert names == ([scales] if scales else [])


def test_too_small_for_ms_ssim_says_what_is_possible():
    with pytest.raises(ValueError, match=r"176 pixels.*has 44.*scales=3"):
        MSSSIM()(clip(), clip())
    with pytest.raises(ValueError, match="11 pixels"):
        SSIM()(clip(1, 10, 40), clip(1, 10, 40))


def test_learned_distance_sees_signed_pictures_in_frame_order():
    def distance(a, b):
        assert a.min() >= -1 and a.max() <= 1 and a.shape[1] == 3
        return (a - b).abs().flatten(1).mean(1)

    video = clip(11).clip(0, 200)
    other = video.copy()
    other[4] += 51
    score = LearnedDistance(name="mean_abs", distance=distance)(video, other)
    assert score.by_frame[4] == pytest.approx(0.4) and sum(score.by_frame) == pytest.approx(0.4)
    assert not score.higher_is_better
    with pytest.raises(ValueError, match="1 distances for 11 frames"):
        LearnedDistance(name="one", distance=lambda a, b: torch.zeros(1) if len(a) == 8 else torch.zeros(0))(
            video, other
        )


@pytest.mark.parametrize(
    ("a", "b"),
    [
        (clip(3), clip(2)),
        (clip(), clip().astype(np.float32)),
        (clip()[..., :1], clip()[..., :1]),
        (clip()[:0], clip()[:0]),
    ],
)
def test_what_cannot_be_compared_is_refused(a, b):
    with pytest.raises(ValueError):
        compare(a, b)


def test_mean_over_clips_counts_each_once_and_frames_where_they_are():
    def score(*values):
        return Score(
            metric="psnr_rgb", unit="dB", higher_is_better=True, by_frame=values, overall=sum(values) / len(values)
        )

    mean = mean_score([score(10.0, 20.0, 30.0), score(40.0)])
    assert mean.by_frame == (25.0, 20.0, 30.0) and mean.overall == 30.0
    with pytest.raises(ValueError, match="none"):
        mean_score([])
    with pytest.raises(ValueError, match="ssim_luma"):
        mean_score([score(1.0), SSIM()(clip(), clip())])


def test_json_is_json_even_for_infinity():
    content = to_json(PSNR()(clip(), clip()))
    assert json.loads(json.dumps(content, allow_nan=False))["overall"] == "inf"

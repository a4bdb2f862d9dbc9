"""Measures of sound have the values their formulas say, also on silence, and codecs' delays do not count."""

import math

import pytest
import torch

from videopoet.evaluation.audio import (
    SISDR,
    MelDistance,
    SpectralConvergence,
    align,
    compare_audio,
    measured_entropy,
    standard_audio_metrics,
)
from videopoet.evaluation.reconstruction import mean_score, to_json

SILENT = torch.zeros(16_000)


def noise(samples: int = 16_000, seed: int = 0) -> torch.Tensor:
    return 0.1 * torch.randn(samples, generator=torch.Generator().manual_seed(seed))


def band_limited(samples: int, shift: float = 0.0) -> torch.Tensor:
    """A sum of sines under a smooth envelope, `shift` samples late."""
    t = torch.arange(samples, dtype=torch.float64) - shift
    envelope = torch.exp(-(((t - samples / 2) / (samples / 8)) ** 2))
    return (envelope * sum(torch.sin(2 * math.pi * f * t) for f in (0.013, 0.051, 0.117, 0.229))).float() / 4


@pytest.mark.parametrize("snr", [-5.0, 0.0, 20.0, 40.0])
@pytest.mark.parametrize("scale", [1.0, 0.25, -1.0])
def test_si_sdr_of_orthogonal_noise_is_its_snr_at_any_loudness_and_sign(snr, scale):
    x, other = noise().double(), noise(seed=1).double()
    x, other = x - x.mean(), other - other.mean()
    other = other - (other @ x) / (x @ x) * x  # orthogonal, so that the projection takes none of it
    other = other * (x.norm() / other.norm()) * 10 ** (-snr / 20)
    assert SISDR()(x, scale * (x + other)).overall == pytest.approx(snr, abs=1e-6)


def test_mel_distance_of_another_loudness_is_its_decibels():
    x = 0.5 * torch.randn(48_000, generator=torch.Generator().manual_seed(0))  # white: no band near the floor
    low = MelDistance(floor_db=-200)(x, x * 10 ** (-6 / 20))
    assert low.overall == pytest.approx(6.0, abs=1e-3) and low.unit == "dB" and not low.higher_is_better
    assert MelDistance()(x, x).overall == 0.0


def test_mel_distance_counts_what_is_below_the_floor_as_the_floor():
    quiet = 1e-6 * torch.randn(16_000, generator=torch.Generator().manual_seed(0))
    assert MelDistance()(SILENT, quiet).overall < 0.1 < 5 < MelDistance(floor_db=-140)(SILENT, quiet).overall


@pytest.mark.parametrize("gain", [0.0, 0.5, 1.0, 3.0])
def test_spectral_convergence_of_another_loudness_is_the_difference(gain):
    assert SpectralConvergence()(noise(), gain * noise()).overall == pytest.approx(abs(gain - 1), abs=1e-6)


def test_spectral_convergence_of_noise_for_silence_is_its_amplitude_over_minus_80_db():
    white = 1e-3 * torch.randn(160_000, generator=torch.Generator().manual_seed(0))
    assert SpectralConvergence()(torch.zeros(160_000), white).overall == pytest.approx(10, rel=0.02)


@pytest.mark.parametrize("samples", [1, 100, 1600, 16_000])
def test_every_measure_is_defined_or_left_out_on_silence_of_any_length(samples):
    silent, sound = torch.zeros(samples), noise(samples)
    metrics = standard_audio_metrics(16_000)
    both = compare_audio(silent, silent, metrics)
    assert {name: score.overall for name, score in both.items()} == {"mel_distance": 0.0, "spectral_convergence": 0.0}
    assert "si_sdr" not in compare_audio(silent, sound, metrics)
    for score in compare_audio(silent, sound, metrics).values():
        assert math.isfinite(score.overall) and score.overall > 0
    if samples > 1:  # one sample has no variance: silence by definition
        lost = compare_audio(sound, silent, metrics)
        assert lost["si_sdr"].overall == -100.0 and lost["spectral_convergence"].overall == pytest.approx(1.0)


def test_equal_sounds_are_the_best_and_finite():
    same = compare_audio(noise(), noise(), standard_audio_metrics(16_000))
    assert {name: score.overall for name, score in same.items()} == {
        "si_sdr": 100.0, "mel_distance": 0.0, "spectral_convergence": 0.0}  # fmt: skip


def test_scores_pool_and_travel_like_those_of_pictures():
    scores = [SISDR()(noise(), noise() + level * noise(seed=1)) for level in (0.1, 0.01)]
    mean = mean_score(scores)
    assert mean.overall == pytest.approx(sum(score.overall for score in scores) / 2)
    assert to_json(mean)["by_frame"] == [] and to_json(mean)["unit"] == "dB"


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (noise(15_999), "16000 samples, the other 15999: align"),
        (torch.full((16_000,), float("nan")), "16000 samples NaN"),
        (torch.zeros(1, 16_000), "mono float"),
        (torch.zeros(16_000, dtype=torch.int16), "int16"),
        (torch.zeros(0), "mono float"),
    ],
)
def test_what_cannot_be_compared_is_refused_with_the_numbers(other, message):
    with pytest.raises(ValueError, match=message):
        compare_audio(noise(), other, standard_audio_metrics(16_000))


@pytest.mark.parametrize("late", [0, 1, 37, 400, -1, -37])
def test_a_whole_delay_is_found_and_undone_exactly(late):
    x = noise()
    delayed = torch.cat([torch.zeros(late), x]) if late >= 0 else x[-late:]
    moved, delay = align(delayed, x, max_shift=800)
    assert delay == late and moved.shape == x.shape
    start = max(0, -late)
    assert torch.equal(moved[start:], x[start:]) and not moved[:start].any()


@pytest.mark.parametrize("late", [0.5, 2.375, 103.75, -1.25])
def test_a_delay_between_samples_is_found_to_an_eighth_and_undone(late):
    x, delayed = band_limited(4000), band_limited(4000, shift=late)
    moved, delay = align(delayed, x, max_shift=200)
    assert delay == pytest.approx(late, abs=1e-9)
    assert SISDR()(x, delayed).overall < 20 < 60 < SISDR()(x, moved).overall


def test_nothing_to_align_stays_where_it_is_and_no_shift_is_larger_than_allowed():
    assert align(SILENT, noise(), 800)[1] == align(noise(), SILENT, 800)[1] == 0.0
    assert align(noise(3), noise(3), 800)[1] == 0.0  # a shift may be longer than the sound
    far = torch.cat([torch.zeros(900), noise()])
    assert abs(align(far, noise(), 800)[1]) <= 800


def test_entropy_is_the_bitrate_for_even_codes_and_nothing_for_one_code():
    even = torch.arange(1024).repeat(2)[:, None]
    half = torch.arange(1024)[:, None].repeat(2, 1) % 32
    codes = torch.cat([even, torch.full_like(even, 7), half], dim=1)
    parts = [codes[:700], codes[700:]]  # pooled, not averaged
    assert measured_entropy(parts, 1024, 50.0) == pytest.approx([0.5, 0.0, 0.25])

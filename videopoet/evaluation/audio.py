"""How close a sound is to its original: SI-SDR, mel distance, spectral convergence; and what its codes cost.

Inputs are mono float samples `s` of equal length and rate, in [-1, 1]; arithmetic is float64 where it matters. A sound
that a codec delays is put back in place first (`align`): a shift of a few samples, which nobody hears, costs SI-SDR
everything. Where a metric is not defined (SI-SDR of a silent original) it gives no `Score`, so no mean can hide it.

The three say different things: SI-SDR asks for the waveform, phase included, and is low for codecs that only sound
alike; the mel distance asks for loudness over time and pitch as heard, in dB, quiet parts counting like loud ones;
spectral convergence asks for the loud parts of the spectrum.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from videopoet.evaluation.reconstruction import Score
from videopoet.tokenizers.audio.losses import MultiScaleMel, mel_distance, si_sdr
from videopoet.tokenizers.quantizers.usage import code_perplexity

SILENCE = 1e-4  # amplitude, -80 dB of full scale: what is quieter counts as silence
LIMIT = 100.0  # dB: SI-SDR of equal sounds, and minus that of a silent reconstruction
WINDOWS = (64, 128, 256, 512, 1024, 2048)  # samples: SoundStream's 2^6..2^11


class AudioMetric(Protocol):
    """Compares two sounds `s` of equal length; None where it is not defined."""

    def __call__(self, original: Tensor, other: Tensor) -> Score | None: ...


@dataclass(frozen=True, kw_only=True)
class SISDR:
    """Scale-invariant signal-to-distortion ratio in dB (Le Roux et al. 2019), means removed, within +-100 dB.

    10 log10(|a x|^2 / |a x - y|^2), x the original, y the other, a = <x, y> / <x, x>. Noise that is orthogonal to x and
    20 dB below it gives 20. Not defined for a silent original (root mean square below -80 dB); a silent reconstruction
    of a sound has -100.
    """

    def __call__(self, original: Tensor, other: Tensor) -> Score | None:
        if is_silent(original):
            return None
        value = float(si_sdr(other.double()[None, None], original.double()[None, None]))
        return _score("si_sdr", "dB", max(-LIMIT, min(LIMIT, value)), higher_is_better=True)


@dataclass(frozen=True, kw_only=True)
class MelDistance:
    """Mean absolute difference of log-mel spectrograms in dB, averaged over window lengths; 0 for equal sounds.

    Window w has hop w / 4, w / 16 bands (at most 80), amplitudes of a full-scale sine near 1, and counts what is quieter
    than `floor_db` as that: silence against silence is 0, and against full-scale sound at most -floor_db. It is the
    number that training logs with the same windows, and is not comparable with other windows, bands, floors or
    logarithms, which published ones have. Bands that a codec does not code at all (Opus below 9 kbit/s or so above
    4 kHz) cost up to their distance from the floor and dominate it. Both sounds are padded with silence to the longest
    window.
    """

    sample_rate: int = 16_000  # Hz
    windows: tuple[int, ...] = WINDOWS
    floor_db: float = -80.0

    def __call__(self, original: Tensor, other: Tensor) -> Score:
        pair = [_padded(audio, max(self.windows))[None, None].float() for audio in (other, original)]
        value = mel_distance(*pair, _mel(self.sample_rate, self.windows, self.floor_db))
        return _score("mel_distance", "dB", float(value), higher_is_better=False)


@dataclass(frozen=True, kw_only=True)
class SpectralConvergence:
    """|| |S(x)| - |S(y)| || / || |S(x)| ||, Frobenius norms of magnitude spectrograms, averaged over window lengths.

    0 for equal sounds, 1 for a silent reconstruction (Arik et al. 2018; Hann windows, hop w / 4). The denominator is at
    least the norm of white noise at -80 dB, so that silence against silence is 0 and noise for silence is large, not
    infinite.
    """

    windows: tuple[int, ...] = (512, 1024, 2048)

    def __call__(self, original: Tensor, other: Tensor) -> Score:
        values = []
        for window in self.windows:
            taper = torch.hann_window(window, dtype=torch.float64)
            ours, theirs = (
                torch.stft(
                    _padded(audio, window).double(), window, window // 4, window=taper, return_complex=True
                ).abs()
                for audio in (original, other)
            )
            least = SILENCE * float(taper.square().sum() * ours.numel()) ** 0.5
            values.append(float((ours - theirs).norm()) / max(float(ours.norm()), least))
        return _score("spectral_convergence", "1", sum(values) / len(values), higher_is_better=False)


def standard_audio_metrics(sample_rate: int) -> tuple[AudioMetric, ...]:
    """SI-SDR, mel distance and spectral convergence at a sample rate in Hz."""
    return SISDR(), MelDistance(sample_rate=sample_rate), SpectralConvergence()


def compare_audio(original: Tensor, other: Tensor, metrics: Iterable[AudioMetric]) -> dict[str, Score]:
    """Scores of one sound by metric name, less those that are not defined for it.

    Raises ValueError unless both are finite float `s` of the same length.
    """
    for audio in (original, other):
        if audio.dim() != 1 or not audio.is_floating_point() or not len(audio):
            raise ValueError(f"a sound to compare is mono float (s,), got {audio.dtype} {tuple(audio.shape)}")
        if not torch.isfinite(audio).all():
            raise ValueError(f"a sound to compare has {int((~torch.isfinite(audio)).sum())} samples NaN or infinite")
    if original.shape != other.shape:
        raise ValueError(f"the original has {len(original)} samples, the other {len(other)}: align or trim it first")
    found = [metric(original, other) for metric in metrics]
    return {score.metric: score for score in found if score is not None}


def is_silent(audio: Tensor) -> bool:
    """Whether the root mean square, mean removed, is below -80 dB of full scale."""
    return float((audio.double() - audio.double().mean()).square().mean()) < SILENCE**2


def align(other: Tensor, original: Tensor, max_shift: int) -> tuple[Tensor, float]:
    """`other` moved to where it fits `original` best and cut to its length, and how late it was, in samples.

    The delay is the place of the largest cross-correlation within +-max_shift samples, found to an eighth of a sample
    (a codec's resampler delays by fractions), and 0 where nothing correlates, as with silence. Silence fills what is
    missing. Moving by a fraction is exact for band-limited sound.
    """
    delay = _delay(other.double(), original.double(), max_shift)
    whole, part = math.floor(delay), delay - math.floor(delay)
    moved = other.double()
    if part:
        size = len(moved) + 2 * 64  # the moved sound rings a little past its ends
        padded = F.pad(moved, (64, 64))
        ramp = torch.exp(2j * math.pi * part * torch.fft.rfftfreq(size, dtype=torch.float64))
        moved = torch.fft.irfft(torch.fft.rfft(padded) * ramp, size)[64:-64]
    moved = moved[whole:] if whole >= 0 else F.pad(moved, (-whole, 0))
    moved = F.pad(moved, (0, max(0, len(original) - len(moved))))[: len(original)]
    return moved.to(other.dtype), delay


def _delay(other: Tensor, original: Tensor, max_shift: int) -> float:
    size = 1 << (len(other) + len(original) + 2 * max_shift).bit_length()  # no lag wraps round
    cross = torch.fft.rfft(other, size) * torch.fft.rfft(original, size).conj()
    correlation = torch.fft.irfft(cross, size)
    lags = torch.arange(-max_shift, max_shift + 1)
    best = int(lags[correlation[lags].argmax()])
    if not float(correlation[best]) > 1e-12 * float(other.norm() * original.norm()):
        return 0.0
    fractions = best + torch.arange(-8, 9, dtype=torch.float64) / 8
    turns = torch.fft.rfftfreq(size, dtype=torch.float64)
    peaks = torch.stack([(cross * torch.exp(2j * math.pi * turns * lag)).real.sum() for lag in fractions])
    return float(fractions[peaks.argmax()].clamp(-max_shift, max_shift))


def measured_entropy(codes: Sequence[Tensor], codebook_size: int, frame_rate: float) -> list[float]:
    """kbit/s that the levels' codes hold, level by level, when each code is coded by its frequency alone.

    codes: int64 (t, k) each, pooled. The entropy of the histogram, sum -p log2 p, times the frame rate; equal to the
    level's bitrate if all codes are used evenly. It is what was seen, so it reads low for few frames, by about
    (codes used - 1) / (2 ln 2 * frames) bits a code (Miller 1955).
    """
    pooled = torch.cat(list(codes))
    counts = [torch.bincount(level, minlength=codebook_size) for level in pooled.unbind(1)]
    return [math.log2(float(code_perplexity(count.double()))) * frame_rate / 1000 for count in counts]


@lru_cache(maxsize=8)
def _mel(sample_rate: int, windows: tuple[int, ...], floor_db: float) -> MultiScaleMel:
    return MultiScaleMel(sample_rate, windows, floor_db)


def _padded(audio: Tensor, least: int) -> Tensor:
    return F.pad(audio, (0, max(0, least - len(audio))))


def _score(metric: str, unit: str, value: float, higher_is_better: bool) -> Score:
    return Score(metric=metric, unit=unit, higher_is_better=higher_is_better, by_frame=(), overall=value)

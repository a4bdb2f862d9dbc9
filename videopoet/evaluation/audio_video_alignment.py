"""AV-Align (Yariv et al. 2023, TempoTokens): whether onsets of sound and peaks of motion fall together.

    score = matches / (onsets + peaks - matches)

Onsets are those of librosa's `onset_detect` at its defaults (22,050 Hz), written out here; peaks are local maxima of the
mean magnitude of Farnebäck's flow. The published script differed, and numbers made with it do not compare:

- a motion peak could answer several onsets, so that scores above 1 came out (TempoTokens issue 11, mended in 2025-02);
  here onsets and peaks are paired off, each at most once, as many as possible;
- a clip with neither onset nor peak divided by zero; here it has no score, and the report counts such clips;
- it read a .wav file beside each video, and its file pattern lacked a separator; here sound is the clip's own.
"""

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch

from videopoet.conditions.flow import Flow
from videopoet.conditions.shot import Shot
from videopoet.data.media import Media
from videopoet.evaluation.detectors.surrogates import slaney_bands
from videopoet.evaluation.readings import resampled

VERSION = "2: one to one"
RATE, HOP, WINDOW = 22050, 512, 2048  # Hz, samples, samples: librosa's defaults


@dataclass(frozen=True, kw_only=True)
class Alignment:
    """Times in seconds; `score` is None where there is neither onset nor peak."""

    onsets: tuple[float, ...]
    peaks: tuple[float, ...]
    matches: int

    @property
    def score(self) -> float | None:
        either = len(self.onsets) + len(self.peaks) - self.matches
        return self.matches / either if either else None


def align(media: Media, *, flow: Flow, threshold: float = 0.1) -> Alignment:
    """The alignment of a clip with sound. threshold: the least mean flow of a peak, pixels per frame."""
    if media.video is None or media.audio is None:
        raise ValueError("AV-Align compares pictures and sound: the clip lacks one")
    onsets = onset_times(np.asarray(media.audio, np.float32).mean(0), media.sample_rate)
    peaks = motion_peaks(media.video, media.fps, flow, threshold)
    return Alignment(onsets=tuple(onsets), peaks=tuple(peaks), matches=paired(onsets, peaks, 1 / media.fps))


def paired(onsets: list[float], peaks: list[float], tolerance: float) -> int:
    """The most pairs, each onset and each peak in at most one, less than `tolerance` seconds apart."""
    i = j = found = 0
    while i < len(onsets) and j < len(peaks):
        if abs(onsets[i] - peaks[j]) < tolerance:
            found, i, j = found + 1, i + 1, j + 1
        elif onsets[i] < peaks[j]:
            i += 1
        else:
            j += 1
    return found


def onset_times(sound: np.ndarray, rate: int) -> list[float]:
    """Onsets of mono sound (s,) in seconds: peaks of the rise of its log-mel spectrum."""
    strength = onset_strength(resampled(torch.from_numpy(np.ascontiguousarray(sound)), rate, RATE))
    strength = strength - strength.min()
    if not strength.max() > 0:
        return []
    return [frame * HOP / RATE for frame in picked(strength / strength.max())]


def onset_strength(sound: torch.Tensor) -> np.ndarray:
    """Mean over 128 mel bands of the rise in dB from frame to frame, falls counting as 0."""
    window = torch.hann_window(WINDOW)
    spectrum = torch.stft(sound, WINDOW, HOP, window=window, pad_mode="constant", return_complex=True).abs().square()
    mel = (spectrum.T @ slaney_bands(WINDOW, RATE, 128)).double()
    decibel = 10 * mel.clamp_min(1e-10).log10()
    decibel = decibel.clamp_min(float(decibel.max()) - 80)
    rise = decibel.diff(dim=0).clamp_min(0).mean(1)
    lead = torch.zeros(1 + WINDOW // (2 * HOP), dtype=rise.dtype)
    return torch.cat([lead, rise])[: len(decibel)].numpy()


def picked(strength: np.ndarray) -> list[int]:
    """librosa's peaks: largest of its neighbours, 0.07 above the mean around it, more than one frame after the last."""
    before, after, mean_before, mean_after, delta, wait = 1, 1, 4, 5, 0.07, 1
    found: list[int] = []
    for n, value in enumerate(strength):
        largest = strength[max(0, n - before) : n + after].max()
        mean = strength[max(0, n - mean_before) : n + mean_after].mean()
        if value == largest and value >= mean + delta and (not found or n - found[-1] > wait):
            found.append(n)
    return found


@dataclass(frozen=True, kw_only=True)
class Farneback(Flow):
    """OpenCV's dense flow with the published parameters. Raises ValueError where OpenCV is not installed."""

    def __call__(self, shot: Shot) -> np.ndarray:
        try:
            import cv2
        except ImportError:
            raise ValueError("AV-Align's flow needs OpenCV: pip install 'videopoet-open[flow]'") from None
        grey = [cv2.cvtColor(np.ascontiguousarray(frame), cv2.COLOR_RGB2GRAY) for frame in shot.video]
        return np.stack(
            [cv2.calcOpticalFlowFarneback(*pair, None, 0.5, 3, 15, 3, 5, 1.2, 0) for pair in pairwise(grey)]
        )


PUBLISHED = Farneback()


def motion_peaks(video: np.ndarray, fps: float, flow: Flow, threshold: float) -> list[float]:
    """Times of local maxima of the mean flow of a uint8 (t, h, w, 3) clip; flow i is from frame i to i + 1."""
    if len(video) < 2:
        return []
    speed = np.linalg.norm(flow(Shot(video=video, fps=fps)), axis=-1).mean((1, 2))
    return [
        i / fps for i in range(1, len(speed) - 1) if speed[i - 1] < speed[i] > speed[i + 1] and speed[i] >= threshold
    ]

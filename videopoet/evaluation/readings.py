"""What detectors and comparisons compute of samples and of real clips; each is one `Reading` of a `Study`."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from videopoet.evaluation.detectors.base import ImageDetector, ReadsText, SoundDetector, VideoDetector
from videopoet.evaluation.makers import Sample
from videopoet.evaluation.protocol import digest
from videopoet.evaluation.reconstruction import Metric, compare
from videopoet.evaluation.views import View


@dataclass(frozen=True, kw_only=True)
class Seen:
    """Features of clips: one row for a clip, of a network of pictures one row for each frame."""

    detector: VideoDetector
    view: View = View()
    alone = False

    @property
    def identity(self) -> str:
        return digest([self.detector.identity().key, self.view])

    def prepare(self, loaded: Sample, key: str) -> np.ndarray:
        if loaded.media.video is None:
            raise ValueError(f"{key} has no pictures")
        video = self.view(loaded.media, key)
        if isinstance(self.detector, ImageDetector):
            return video[:, None]
        if len(video) < self.detector.least_frames:
            raise ValueError(f"{key} has {len(video)} frames, {self.detector.name} needs {self.detector.least_frames}")
        return video[None]

    def compute(self, units: np.ndarray) -> Tensor:
        return self.detector(units)


@dataclass(frozen=True, kw_only=True)
class Read:
    """Features of captions, one row each."""

    detector: ReadsText
    alone = True

    @property
    def identity(self) -> str:
        return digest([self.detector.identity().key, "captions"])

    def prepare(self, loaded: str, key: str) -> list[str]:
        return [loaded]

    def compute(self, units: list[str]) -> Tensor:
        return self.detector.text_features(units)


@dataclass(frozen=True, kw_only=True)
class Heard:
    """Features of sound, a row for each window. Sound shorter than `least_seconds` is repeated until it is as long."""

    detector: SoundDetector
    least_seconds: float = 0.0
    alone = True

    @property
    def identity(self) -> str:
        return digest([self.detector.identity().key, self.least_seconds])

    def prepare(self, loaded: Sample, key: str) -> Tensor:
        media = loaded.media
        if media.audio is None:
            raise ValueError(f"{key} has no sound")
        sound = resampled(torch.as_tensor(media.audio, dtype=torch.float32).mean(0), media.sample_rate,
                          self.detector.sample_rate)  # fmt: skip
        least = round(self.least_seconds * self.detector.sample_rate)
        return sound.repeat(max(1, -(-least // len(sound))))[: max(least, len(sound))][None]

    def compute(self, units: Tensor) -> Tensor:
        return self.detector(units, self.detector.sample_rate)


def resampled(sound: Tensor, rate: int, wanted: int) -> Tensor:
    """Windowed-sinc resampling of (s,)."""
    if rate == wanted:
        return sound
    from torchaudio.functional import resample

    return resample(sound, rate, wanted)


@dataclass(frozen=True, kw_only=True)
class Compared:
    """Scores of a sample against its real clip: a row for each frame, a column for each metric; `view` of both.

    name: what tells these metrics from others in the cache.
    """

    metrics: tuple[Metric, ...]
    name: str
    view: View = View()
    alone = True

    @property
    def identity(self) -> str:
        return digest([self.name, self.view])

    def prepare(self, loaded: tuple[Sample, Sample], key: str) -> tuple[np.ndarray, np.ndarray]:
        real, made = (np.asarray(self.view(s.media, key)) for s in loaded)
        return tuple(np.clip(np.rint(video), 0, 255).astype(np.uint8) for video in (real, made))

    def compute(self, units: tuple[np.ndarray, np.ndarray]) -> Tensor:
        scores = compare(*units, self.metrics).values()
        if len({len(score.by_frame) for score in scores}) != 1:
            raise ValueError("metrics without frames do not compare frame by frame")
        return torch.tensor([score.by_frame for score in scores], dtype=torch.float64).T.float()


def mean_rows(rows: Sequence[Tensor]) -> Tensor:
    """(rows, d) each -> (n, d), the mean of each."""
    return torch.stack([r.double().mean(0) for r in rows])

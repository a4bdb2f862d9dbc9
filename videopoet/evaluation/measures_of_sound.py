"""Measures of sound, and of sound beside pictures."""

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from videopoet.conditions.flow import Flow
from videopoet.conditions.shot import Shot
from videopoet.evaluation.audio_video_alignment import PUBLISHED, VERSION, align
from videopoet.evaluation.detectors.base import ReadsText
from videopoet.evaluation.frechet import frechet_distance
from videopoet.evaluation.makers import Sample
from videopoet.evaluation.measures import ClipsOfSamples, Measure, Measured, Reals, said
from videopoet.evaluation.readings import Heard, Read
from videopoet.evaluation.study import Item, Study


@dataclass(frozen=True, kw_only=True)
class SoundDistance(Measure):
    """FAD: the Fréchet distance of windows of sound, pooled over files. Sound too short for a window is repeated."""

    network: str = "vggish"
    metric: str = "FAD"
    reals: Reals = ClipsOfSamples()
    least_seconds: float = 0.0
    comparable_to: tuple[str, ...] = ()

    @property
    def roles(self) -> tuple[str, ...]:
        return (self.network,)

    def _heard(self, study: Study) -> Heard:
        return Heard(detector=study.detectors[self.network], least_seconds=self.least_seconds)

    def extract(self, study: Study) -> None:
        study.extract(self._heard(study), [study.sample(w) for w in study.wishes], f"{self.metric}: samples")
        study.extract_reals(self._heard(study), self.reals, f"{self.metric}: real sounds")

    def measure(self, study: Study) -> list[Measured]:
        fake = study.rows(self._heard(study), [study.sample(w) for w in study.wishes])
        real = study.rows(self._heard(study), self.reals(study, study.unusable))
        if not fake or not real:
            raise study.nothing(f"{self.metric}: no sound of {'the samples' if not fake else 'the real clips'}")
        found = frechet_distance(torch.cat(fake), torch.cat(real))
        detector = study.detectors[self.network]
        n = {"samples": len(fake), "windows": found.n[0], "real": len(real), "real windows": found.n[1]}
        return [Measured(metric=detector.identity().metric(self.metric), value=found.value, bias=found.bias, n=n,
                         higher_is_better=False, detector=said(detector), comparable_to=self.comparable_to)]  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class SoundSimilarity(Measure):
    """CLAP score: the mean cosine of a sound with its prompt, neither clipped nor scaled."""

    network: str = "clap"
    metric: str = "CLAP"
    comparable_to: tuple[str, ...] = ()

    @property
    def roles(self) -> tuple[str, ...]:
        return (self.network,)

    def _parts(self, study: Study) -> tuple[Heard, Read, list[Item], list[Item]]:
        detector = study.detectors[self.network]
        if not isinstance(detector, ReadsText):
            raise ValueError(f"{self.metric} compares sounds with captions, {detector.name} reads none")
        texts = [Item(key="", content=w.prompt, load=lambda t=w.prompt: t) for w in study.wishes]
        return Heard(detector=detector), Read(detector=detector), [study.sample(w) for w in study.wishes], texts

    def extract(self, study: Study) -> None:
        heard, read, sounds, texts = self._parts(study)
        study.extract(heard, sounds, f"{self.metric}: samples")
        study.extract(read, list(dict.fromkeys(texts)), f"{self.metric}: captions")

    def measure(self, study: Study) -> list[Measured]:
        heard, read, sounds, texts = self._parts(study)
        kept = [(s, t) for s, t in zip(sounds, texts) if s.key not in study.unusable]
        heard_rows, read_rows = study.rows(heard, [s for s, _ in kept]), study.rows(read, [t for _, t in kept])
        if not kept:
            raise study.nothing(f"{self.metric}: no sound of the samples")
        scores = torch.tensor([_cosine(a, b) for a, b in zip(heard_rows, read_rows)], dtype=torch.float64)
        detector = study.detectors[self.network]
        return [Measured(metric=detector.identity().metric(self.metric), value=float(scores.mean()),
                         n={"samples": len(scores)}, detector=said(detector), comparable_to=self.comparable_to)]  # fmt: skip


def _cosine(windows: Tensor, caption: Tensor) -> float:
    return float((F.normalize(windows.double(), dim=1) @ F.normalize(caption.double(), dim=1)[0]).mean())


@dataclass(frozen=True, kw_only=True)
class Aligned:
    """A clip's onsets, peaks and matches, one row."""

    flow: Flow
    threshold: float
    alone = True

    @property
    def identity(self) -> str:
        return f"AV-Align {VERSION}, {self.flow}, threshold {self.threshold}"

    def prepare(self, loaded: Sample, key: str) -> Sample:
        return loaded

    def compute(self, units: Sample) -> Tensor:
        found = align(units.media, flow=self.flow, threshold=self.threshold)
        return torch.tensor([[len(found.onsets), len(found.peaks), found.matches]])


@dataclass(frozen=True, kw_only=True)
class AudioVideoAlignment(Measure):
    """AV-Align of the samples, its published bugs mended; of: "samples" or "real" (the clips they were made from).

    flow: the published one is Farnebäck's; with another the metric is named after it.
    """

    flow: Flow = PUBLISHED
    threshold: float = 0.1
    of: str = "samples"
    comparable_to: tuple[str, ...] = ()

    def _items(self, study: Study) -> list[Item]:
        return ClipsOfSamples()(study, study.known) if self.of == "real" else [study.sample(w) for w in study.wishes]

    def extract(self, study: Study) -> None:
        self.flow(Shot(video=np.zeros((2, 32, 32, 3), np.uint8), fps=8.0))  # lacking OpenCV is no fault of a clip
        study.extract(Aligned(flow=self.flow, threshold=self.threshold), self._items(study), f"AV-Align: {self.of}")

    def measure(self, study: Study) -> list[Measured]:
        rows = study.rows(Aligned(flow=self.flow, threshold=self.threshold), self._items(study))
        counts = torch.cat(rows).double() if rows else torch.zeros(0, 3)
        either = counts[:, 0] + counts[:, 1] - counts[:, 2]
        scores = counts[either > 0, 2] / either[either > 0]
        if not len(scores):
            raise ValueError(f"AV-Align: none of {len(rows)} clips has an onset or a peak of motion")
        details = {"version": VERSION, "without onset and peak": int((either == 0).sum()),
                   "onsets": float(counts[:, 0].mean()), "peaks": float(counts[:, 1].mean())}  # fmt: skip
        name = "AV-Align" if self.flow == PUBLISHED else f"AV-Align({type(self.flow).__name__})"
        return [Measured(metric=name + (" of real clips" if self.of == "real" else ""), value=float(scores.mean()),
                         n={self.of: len(scores)}, details=details, comparable_to=self.comparable_to)]  # fmt: skip

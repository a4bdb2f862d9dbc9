"""What a protocol measures of samples, each a frozen value with all its knobs; and the record that stands in a report."""

from abc import ABC, abstractmethod
from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, Protocol

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from videopoet.evaluation.detectors.base import Detector, ReadsText
from videopoet.evaluation.frechet import frechet_distance, fvd_infinity
from videopoet.evaluation.inception_score import inception_score
from videopoet.evaluation.jedi import jedi
from videopoet.evaluation.kernel import KID, Polynomial, Subsets, kernel_distance
from videopoet.evaluation.readings import Read, Seen, mean_rows
from videopoet.evaluation.statistics import GaussianStatistics
from videopoet.evaluation.study import Item, Study
from videopoet.evaluation.views import View

Unit = Literal["clip", "frame"]


@dataclass(frozen=True, kw_only=True)
class Measured:
    """One number with what is needed to judge it.

    n: sizes by name. bias: what `value` would be if nothing differed. spread: over `parts` (repeats, splits).
    ceiling: the most that this N allows. shortfalls: why it is comparable with no published number.
    """

    metric: str
    value: float
    unit: str = "1"
    higher_is_better: bool = True
    n: dict[str, int] = field(default_factory=dict)
    spread: float | None = None
    bias: float | None = None
    ceiling: float | None = None
    parts: tuple[float, ...] = ()
    detector: dict[str, Any] | None = None
    details: dict[str, Any] = field(default_factory=dict)
    comparable_to: tuple[str, ...] = ()
    shortfalls: tuple[str, ...] = ()


class Measure(ABC):
    """`extract` computes features, on every rank its share; `measure` runs on rank 0 alone, on features alone."""

    roles: tuple[str, ...] = ()
    comparable_to: tuple[str, ...] = ()
    of_codes = False  # needs the codes of samples, which samples of another model have not

    @abstractmethod
    def extract(self, study: Study) -> None: ...

    @abstractmethod
    def measure(self, study: Study) -> list[Measured]: ...


def said(detector: Detector) -> dict[str, Any]:
    """A detector's identity, for a report."""
    identity = detector.identity()
    return asdict(identity) | {"label": identity.label, "key": identity.key}


class Reals(Protocol):
    """Which clips stand for reality, when those of `unusable` do not."""

    def __call__(self, study: Study, unusable: Collection[str]) -> list[Item]: ...


@dataclass(frozen=True, kw_only=True)
class ClipsOfDataset:
    """One clip of each of `count` videos (None: all), the first, or drawn by `seed`. Unreadable ones are replaced."""

    count: int | None = None
    seed: int | None = None

    def __call__(self, study: Study, unusable: Collection[str]) -> list[Item]:
        entries = [e for e in study.contents.entries if e.path is not None]
        if self.seed is not None:
            entries = [entries[i] for i in np.random.default_rng(self.seed).permutation(len(entries))]
        usable = [e for e in entries if e.key not in unusable]
        count = min(c for c in (self.count, study.run.limit, len(usable)) if c is not None)
        return [study.real(e) for e in usable[:count]]


@dataclass(frozen=True, kw_only=True)
class ClipsOfSamples:
    """The clip that each sample was made from: reconstructions, predictions, hidden regions."""

    count: int | None = None

    def __call__(self, study: Study, unusable: Collection[str]) -> list[Item]:
        wishes = study.wishes if self.count is None else study.wishes[: self.count]
        return [study.real(w.entry, w.source_key) for w in wishes if w.source_key not in unusable]


@dataclass(frozen=True, kw_only=True)
class Similarity(Measure):
    """CLIPSIM: the cosine of each frame with its caption, averaged over frames, then over samples (Wu et al. 2021).

    average: "cosines" as published, or "embeddings", the cosine of the mean of the frames' unit vectors. scale: 1, 100, or
    2.5 with max(cos, 0) for Hessel's CLIPScore. of: "samples", or "real", the real videos with their own captions (the
    first of each), for a sense of scale. captions: "as written" or "plain" (lower case without punctuation, as FETV).
    """

    network: str = "clip"
    metric: str = "CLIPSIM"
    view: View = View()
    average: Literal["cosines", "embeddings"] = "cosines"
    scale: float = 1.0
    of: Literal["samples", "real"] = "samples"
    captions: Literal["as written", "plain"] = "as written"
    comparable_to: tuple[str, ...] = ()

    @property
    def roles(self) -> tuple[str, ...]:
        return (self.network,)

    def _parts(self, study: Study) -> tuple[Seen, list[Item], Read, list[Item]]:
        detector = study.detectors[self.network]
        if not isinstance(detector, ReadsText):
            raise ValueError(f"{self.metric} compares pictures with captions, {detector.name} reads none")
        seen, read = Seen(detector=detector, view=self.view), Read(detector=detector)
        if self.of == "real":
            entries = [e for e in study.contents.entries if e.path is not None and e.captions]
            pairs = [(study.real(e), e.captions[0]) for e in entries[: study.run.limit]]
        else:
            pairs = [(study.sample(w), w.prompt) for w in study.wishes]
        texts = [plain_caption(text) if self.captions == "plain" else text for _, text in pairs]
        return seen, [item for item, _ in pairs], read, [Item(key="", content=t, load=lambda t=t: t) for t in texts]

    def extract(self, study: Study) -> None:
        seen, items, read, texts = self._parts(study)
        study.extract(seen, items, f"{self.metric}: {self.of}")
        study.extract(read, list(dict.fromkeys(texts)), f"{self.metric}: captions")

    def measure(self, study: Study) -> list[Measured]:
        seen, items, read, texts = self._parts(study)
        kept = [(item, text) for item, text in zip(items, texts) if item.key not in study.unusable]
        if not kept:
            raise study.nothing(f"{self.metric}: none of {self.of}")
        frames = study.rows(seen, [item for item, _ in kept])
        captions = study.rows(read, [text for _, text in kept])
        scores = torch.stack([self._score(f, c) for f, c in zip(frames, captions)])
        identity = study.detectors[self.network].identity()
        name = identity.metric(self.metric) + (" of real videos" if self.of == "real" else "")
        error = float(scores.std(correction=1) / len(scores) ** 0.5) if len(scores) > 1 else None
        return [Measured(metric=name, value=float(scores.mean()), n={self.of: len(scores)}, parts=(), spread=None,
                         detector=said(study.detectors[self.network]), comparable_to=self.comparable_to,
                         details={"standard_error": error, "frames": sorted({len(f) for f in frames}),
                                  "captions": len(set(texts))})]  # fmt: skip

    def _score(self, frames: Tensor, caption: Tensor) -> Tensor:
        pictures, text = F.normalize(frames.double(), dim=1), F.normalize(caption.double(), dim=1)[0]
        if self.average == "embeddings":
            cosine = F.normalize(pictures.mean(0), dim=0) @ text
        else:
            cosine = (pictures @ text).mean()
        return self.scale * (cosine.clamp_min(0) if self.scale == 2.5 else cosine)


def plain_caption(text: str) -> str:
    """Lower case, letters and digits only, single spaces."""
    return " ".join("".join(c if c.isalnum() else " " for c in text.lower()).split())


@dataclass(frozen=True, kw_only=True)
class OfSets(Measure):
    """Compares the samples as a set, by features of `network`.

    fakes: how many samples one number is of (None: all); repeats: numbers, each of samples of its own, one after the
    other, against the same real clips. unit: "clip" (frames' features are averaged) or "frame" (each counts).
    """

    network: str = "i3d"
    metric: str = "FVD"
    fake: View = View()
    real: View = View()
    reals: Reals = ClipsOfDataset()
    fakes: int | None = None
    repeats: int = 1
    unit: Unit = "clip"
    comparable_to: tuple[str, ...] = ()
    needs_reals = True

    @property
    def roles(self) -> tuple[str, ...]:
        return (self.network,)

    def extract(self, study: Study) -> None:
        detector = study.detectors[self.network]
        study.extract(Seen(detector=detector, view=self.fake), self._samples(study), f"{self.metric}: samples")
        if self.needs_reals:
            study.extract_reals(Seen(detector=detector, view=self.real), self.reals, f"{self.metric}: real clips")

    def _samples(self, study: Study) -> list[Item]:
        """Those of all repeats; a plan may make more, for other measures."""
        needed = None if self.fakes is None else self.fakes * self.repeats
        return [study.sample(wish) for wish in study.wishes[:needed]]

    def fake_sets(self, study: Study) -> list[Tensor]:
        """Features of each repeat's samples, (n, d)."""
        seen = Seen(detector=study.detectors[self.network], view=self.fake)
        rows = study.rows(seen, self._samples(study))
        size = len(rows) if self.fakes is None else min(self.fakes, len(rows))
        if not size:
            raise study.nothing(f"{self.metric}: no sample")
        count = min(self.repeats, len(rows) // size)
        return [self._set(rows[r * size : (r + 1) * size]) for r in range(count)]

    def real_set(self, study: Study) -> Tensor:
        reals = self.reals(study, study.unusable)
        rows = study.rows(Seen(detector=study.detectors[self.network], view=self.real), reals)
        if not rows:
            raise study.nothing(f"{self.metric}: no real clip")
        return self._set(rows)

    def _set(self, rows: Sequence[Tensor]) -> Tensor:
        return torch.cat([r.double() for r in rows]) if self.unit == "frame" else mean_rows(rows)

    def shortfalls(self, sets: list[Tensor]) -> tuple[str, ...]:
        short = []
        if self.fakes is not None and self.unit == "clip" and len(sets[0]) < self.fakes:
            short.append(f"{len(sets[0])} samples instead of {self.fakes}")
        if len(sets) < self.repeats:
            short.append(f"{len(sets)} repeats instead of {self.repeats}")
        return tuple(short)

    def result(self, study: Study, sets: list[Tensor], values: list[float], **more) -> Measured:
        detector = study.detectors[self.network]
        n = {"samples": len(sets[0]), "repeats": len(sets)} | more.pop("n", {})
        more.setdefault("shortfalls", self.shortfalls(sets))
        spread = more.pop("spread", None)
        return Measured(metric=detector.identity().metric(self.metric), value=float(np.mean(values)), n=n,
                        spread=float(np.std(values)) if len(values) > 1 else spread,
                        parts=tuple(values), detector=said(detector), comparable_to=self.comparable_to,
                        **more)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class FrechetDistance(OfSets):
    """FID, FVD. ddof: 1 as numpy and TF-GAN, 0 as StyleGAN-V and cd-fvd. extrapolate: FVD at infinitely many samples too.

    reference: an .npz in --data with the mean and covariance of `reference_n` pictures, under `reference_keys`, in place of
    real clips (ADM's batches).
    """

    ddof: int = 1
    extrapolate: bool = False
    reference: str | None = None
    reference_n: int = 50_000
    reference_keys: tuple[str, str] = ("mu", "sigma")

    @property
    def needs_reals(self) -> bool:
        return self.reference is None

    def measure(self, study: Study) -> list[Measured]:
        sets = self.fake_sets(study)
        if self.reference is not None:
            mean, covariance = self.reference_keys
            real = GaussianStatistics.load_npz(study.run.data / self.reference, n=self.reference_n, mean=mean,
                                               covariance=covariance)  # fmt: skip
        else:
            real = self.real_set(study)
        found = [frechet_distance(fake, real, ddof=self.ddof) for fake in sets]
        details: dict[str, Any] = {"ddof": self.ddof, "route": sorted({f.route for f in found}),
                                   "mean_term": float(np.mean([f.mean_term for f in found]))}  # fmt: skip
        if self.extrapolate and len(sets[0]) >= 8:
            line = fvd_infinity(sets[0], real, seed=study.run.seed)
            details["at_infinity"] = {"value": line.value, "slope": line.slope, "r2": line.r2}
        return [self.result(study, sets, [f.value for f in found], n={"real": found[0].n[1]}, bias=found[0].bias,
                            higher_is_better=False, details=details)]  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class KernelDistance(OfSets):
    """KID, KVD: without the bias of small samples."""

    metric: str = "KVD"
    kernel: Polynomial = KID
    unbiased: bool = True
    subsets: Subsets | None = Subsets()

    def measure(self, study: Study) -> list[Measured]:
        sets, real = self.fake_sets(study), self.real_set(study)
        found = [
            kernel_distance(f, real, kernel=self.kernel, unbiased=self.unbiased, subsets=self.subsets) for f in sets
        ]
        return [self.result(study, sets, [f.value for f in found], n={"real": len(real)}, spread=found[0].spread,
                            bias=0.0 if self.unbiased else None, higher_is_better=False)]  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class JEDi(OfSets):
    """JEDi's formula; of features other than V-JEPA 1's it is another metric, and named so."""

    network: str = "vjepa"
    metric: str = "JEDi"

    def measure(self, study: Study) -> list[Measured]:
        sets, real = self.fake_sets(study), self.real_set(study)
        return [self.result(study, sets, [jedi(f, real).value for f in sets], n={"real": len(real)},
                            higher_is_better=False)]  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class ClassScore(OfSets):
    """Inception score of the network's logits, with the most that this N and these splits allow."""

    network: str = "c3d"
    metric: str = "IS"
    splits: int = 10
    shuffle_seed: int | None = None
    needs_reals = False

    def measure(self, study: Study) -> list[Measured]:
        sets = self.fake_sets(study)
        splits = [min(self.splits, len(fake)) for fake in sets]
        found = [inception_score(f, splits=s, shuffle_seed=self.shuffle_seed) for f, s in zip(sets, splits)]
        short = self.shortfalls(sets)
        if splits[0] < self.splits:
            short += (f"{splits[0]} splits instead of {self.splits}",)
        return [self.result(study, sets, [f.value for f in found], spread=found[0].spread, ceiling=found[0].ceiling,
                            shortfalls=short, details={"splits": splits[0], "classes": found[0].classes})]  # fmt: skip

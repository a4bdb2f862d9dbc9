"""Measures of what was reconstructed against its original, and of the codes between them."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from videopoet import component
from videopoet.evaluation.detectors.weights import sha256_of
from videopoet.evaluation.measures import Measure, Measured
from videopoet.evaluation.readings import Compared
from videopoet.evaluation.reconstruction import LearnedDistance, Metric, learned_distance, standard_metrics
from videopoet.evaluation.study import Study
from videopoet.evaluation.views import View
from videopoet.tokenizers.quantizers.usage import code_perplexity
from videopoet.tokenizers.token_file.bits import bits_needed


@dataclass(frozen=True, kw_only=True)
class Perceptual:
    """LPIPS and its kin as a metric: a class of `videopoet.tokenizers.visual.perceptual` with the weights it names."""

    spec: dict[str, Any] = field(default_factory=dict)

    def build(self) -> LearnedDistance:
        return learned_distance(component.instantiate(self.spec))


@dataclass(frozen=True, kw_only=True)
class Reconstruction(Measure):
    """PSNR, SSIM, MS-SSIM and learned distances, by frame: the mean over clips of each clip's mean over frames.

    metrics: None for PSNR of RGB and luma, SSIM, and MS-SSIM with as many scales as the size has (fewer than 5 are
    another metric, and named so).
    """

    metrics: tuple[Metric, ...] | None = None
    view: View = View()
    comparable_to: tuple[str, ...] = ()

    def _reading(self, study: Study) -> Compared:
        metrics = self.metrics
        if metrics is None:
            clip = study.pair(study.wishes[0]).load()[0].media.video
            metrics = standard_metrics(*self.view(study.pair(study.wishes[0]).load()[0].media, "").shape[1:3]) if (
                clip is not None) else ()  # fmt: skip
        return Compared(metrics=tuple(metrics), view=self.view)

    def extract(self, study: Study) -> None:
        study.extract(self._reading(study), [study.pair(w) for w in study.wishes], "reconstruction")

    def measure(self, study: Study) -> list[Measured]:
        reading = self._reading(study)
        rows = study.rows(reading, [study.pair(w) for w in study.wishes])
        if not rows:
            raise ValueError("no clip and its reconstruction could be read")
        example = [metric(*[np.zeros((1, *_size(study, self.view), 3), np.uint8)] * 2) for metric in reading.metrics]
        found = []
        for column, score in enumerate(example):
            clips = [r[:, column].double() for r in rows]
            by_frame = [float(torch.stack([c[i] for c in clips if i < len(c)]).mean()) for i in range(max(map(len, clips)))]
            details = {"by_frame": [v if np.isfinite(v) else str(v) for v in by_frame]}
            mean = float(torch.stack([c.mean() for c in clips]).mean())
            found.append(Measured(metric=score.metric, value=mean, unit=score.unit, higher_is_better=score.higher_is_better,
                                  n={"clips": len(clips)}, details=details, comparable_to=self.comparable_to))  # fmt: skip
        return found


def _size(study: Study, view: View) -> tuple[int, int]:
    return view(study.pair(study.wishes[0]).load()[0].media, "").shape[1:3]


@dataclass(frozen=True, kw_only=True)
class LearnedReconstruction(Measure):
    """A learned distance by frame, of the network that `--weights ROLE=file.yaml` describes (a class of
    `videopoet.tokenizers.visual.perceptual` by class_path, with its own weights)."""

    network: str = "lpips"
    view: View = View()
    comparable_to: tuple[str, ...] = ()

    @property
    def roles(self) -> tuple[str, ...]:
        return (self.network,)

    def _reading(self, study: Study) -> Compared:
        return Compared(metrics=(study.detectors[self.network],), view=self.view)

    def extract(self, study: Study) -> None:
        study.extract(self._reading(study), [study.pair(w) for w in study.wishes], self.network)

    def measure(self, study: Study) -> list[Measured]:
        rows = study.rows(self._reading(study), [study.pair(w) for w in study.wishes])
        longest = max(map(len, rows))
        by_frame = [float(torch.stack([r[i, 0].double() for r in rows if i < len(r)]).mean()) for i in range(longest)]
        return [Measured(metric=study.detectors[self.network].name, value=float(torch.stack([r.double().mean() for r in rows])
                                                                                .mean()),
                         higher_is_better=False, n={"clips": len(rows)}, details={"by_frame": by_frame},
                         comparable_to=self.comparable_to)]  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class CodeUsage(Measure):
    """How much of the codebook the samples' codes use, by latent frame too; and what the codes cost.

    usage: share of codes seen at least once; perplexity; p10 and p90 of a code's count over the mean count (MAGVIT's
    report). bits per pixel: every code at log2(codebook) bits over frames x height x width.
    """

    comparable_to: tuple[str, ...] = ()

    def extract(self, study: Study) -> None: ...

    def measure(self, study: Study) -> list[Measured]:
        size = study.samples_facts["codebook_size"]
        counts: list[Tensor] = []
        bits = pixels = tokens = 0
        for wish in study.wishes:
            sample = study.samples.read(wish)
            if sample.codes is None:
                raise ValueError("the samples hold no codes: usage is measured of tokenizers (task: reconstruct)")
            codes = sample.codes
            for i, frame in enumerate(codes):
                if i == len(counts):
                    counts.append(torch.zeros(size, dtype=torch.int64))
                counts[i] += torch.bincount(frame.flatten().long(), minlength=size)
            tokens += codes.numel()
            bits += codes.numel() * bits_needed(size)
            pixels += int(np.prod(sample.media.video.shape[:3]))
        return self._measured(counts, size, tokens, bits / pixels, len(study.wishes))

    def _measured(self, counts: Sequence[Tensor], size: int, tokens: int, bpp: float, clips: int) -> list[Measured]:
        total = torch.stack(list(counts)).sum(0)
        relative = total.double() / total.double().mean()
        details = {"by_latent_frame": [float((c > 0).double().mean()) for c in counts],
                   "p10": float(relative.quantile(0.1)), "p90": float(relative.quantile(0.9)), "tokens": tokens}  # fmt: skip
        n = {"clips": clips, "tokens": tokens}
        return [
            Measured(metric="codebook usage", value=float((total > 0).double().mean()), n=n, details=details,
                     ceiling=min(1.0, tokens / size), comparable_to=self.comparable_to),
            Measured(metric="codebook perplexity", value=float(code_perplexity(total.double())), unit="codes", n=n,
                     ceiling=float(min(tokens, size))),
            Measured(metric="bits per pixel", value=bpp, unit="bit", higher_is_better=False, n=n),
        ]  # fmt: skip


__all__ = ["CodeUsage", "LearnedReconstruction", "Reconstruction", "sha256_of"]

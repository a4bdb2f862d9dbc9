"""Measures of what was reconstructed against its original, and of the codes between them."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from videopoet.evaluation.measures import Measure, Measured, said
from videopoet.evaluation.readings import Compared
from videopoet.evaluation.reconstruction import Metric, compare, standard_metrics
from videopoet.evaluation.study import Item, Study
from videopoet.evaluation.views import View
from videopoet.tokenizers.quantizers.usage import code_perplexity
from videopoet.tokenizers.token_file.bits import bits_needed

MOST_DB = 100.0


@dataclass(frozen=True, kw_only=True)
class Reconstruction(Measure):
    """PSNR, SSIM, MS-SSIM by frame: the mean over clips of each clip's mean over frames, and of each frame's number.

    metrics: None for PSNR of RGB and luma, SSIM, and MS-SSIM with as many scales as the first clip's size has (fewer than
    5 are another metric, and named so). An equal picture has no finite PSNR: it counts as 100 dB.
    """

    metrics: tuple[Metric, ...] | None = None
    view: View = View()
    comparable_to: tuple[str, ...] = ()

    def extract(self, study: Study) -> None:
        study.extract(self._reading(study), _pairs(study), "reconstruction")

    def measure(self, study: Study) -> list[Measured]:
        reading = self._reading(study)
        blank = np.zeros((1, *self._size(study), 3), np.uint8)
        scores = list(compare(blank, blank, reading.metrics).values())
        rows = [r.clamp_max(MOST_DB) for r in _scored(study, reading, "PSNR and SSIM")]
        return [_by_frame(score.metric, score.unit, score.higher_is_better, [r[:, i] for r in rows], self.comparable_to)
                for i, score in enumerate(scores)]  # fmt: skip

    def _reading(self, study: Study) -> Compared:
        metrics = standard_metrics(*self._size(study)) if self.metrics is None else tuple(self.metrics)
        return Compared(metrics=metrics, name=repr(metrics), view=self.view)

    def _size(self, study: Study) -> tuple[int, int]:
        for item in _pairs(study):
            return self.view(item.load()[0].media, item.key).shape[1:3]
        raise ValueError("no clip could be read: there is nothing to compare")


@dataclass(frozen=True, kw_only=True)
class LearnedReconstruction(Measure):
    """LPIPS or another learned distance by frame: `network` is a `PerceptualNetwork`."""

    network: str = "lpips"
    view: View = View()
    comparable_to: tuple[str, ...] = ()

    @property
    def roles(self) -> tuple[str, ...]:
        return (self.network,)

    def _reading(self, study: Study) -> Compared:
        detector = study.detectors[self.network]
        return Compared(metrics=(detector.distance,), name=detector.identity().key, view=self.view)

    def extract(self, study: Study) -> None:
        study.extract(self._reading(study), _pairs(study), self.network)

    def measure(self, study: Study) -> list[Measured]:
        detector = study.detectors[self.network]
        rows = _scored(study, self._reading(study), detector.name)
        found = _by_frame(detector.name, "1", False, [r[:, 0] for r in rows], self.comparable_to)
        return [replace(found, detector=said(detector))]


def _scored(study: Study, reading: Compared, what: str) -> list[Tensor]:
    """Scores of every pair, (frames, metrics) each; ValueError with the first reason where there is none."""
    rows = study.rows(reading, _pairs(study))
    if not rows:
        raise study.nothing(f"{what}: no clip and its reconstruction")
    return rows


def _pairs(study: Study) -> list[Item]:
    return [study.pair(wish) for wish in study.wishes]


def _by_frame(
    metric: str, unit: str, higher: bool, clips: Sequence[Tensor], comparable_to: tuple[str, ...]
) -> Measured:
    longest = max(map(len, clips))
    by_frame = [float(torch.stack([c[i].double() for c in clips if i < len(c)]).mean()) for i in range(longest)]
    means = torch.stack([c.double().mean() for c in clips])
    error = float(means.std(correction=1) / len(means) ** 0.5) if len(means) > 1 else None
    return Measured(metric=metric, value=float(means.mean()), unit=unit, higher_is_better=higher, n={"clips": len(clips)},
                    details={"by_frame": by_frame, "standard_error": error}, comparable_to=comparable_to)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class CodeUsage(Measure):
    """How much of the codebook the samples' codes use, by latent frame too; and what the codes cost.

    usage: share of codes seen at least once; perplexity; p10 and p90 of a code's count over the mean count (MAGVIT's
    report). bits per pixel: every code at log2(codebook) bits over frames x height x width.
    """

    comparable_to: tuple[str, ...] = ()
    of_codes = True

    def extract(self, study: Study) -> None: ...

    def measure(self, study: Study) -> list[Measured]:
        size = study.maker_facts.get("codebook_size")
        if size is None:
            raise ValueError("usage is measured of a tokenizer's own samples (task: reconstruct), not of given ones")
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

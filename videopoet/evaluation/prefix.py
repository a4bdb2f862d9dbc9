"""Text-to-image is a prefix of text-to-video: the check that anyone can run on any model."""

from dataclasses import dataclass, field

import torch
from torch import Tensor

from videopoet.sampling.request import Request
from videopoet.sampling.rules import Draw, Place


@dataclass(frozen=True, kw_only=True)
class Recorder(Draw):
    """A `Draw` that keeps the logits it was given and the indices it drew."""

    logits: list[Tensor] = field(default_factory=list)
    drawn: list[Tensor] = field(default_factory=list)

    def __call__(self, logits: Tensor, place: Place) -> Tensor:
        indices = super().__call__(logits, place)
        self.logits.append(logits.float().cpu())
        self.drawn.append(indices.cpu())
        return indices


@dataclass(frozen=True, kw_only=True)
class PrefixReport:
    """What text-to-image and the head of text-to-video have in common, under one prompt and seed.

    draws: how many draws make the image (two per token with factorised tokens); equal_draws: how many of them are the
    same in the video; logits_difference: the largest absolute difference of their logits; pixels_difference: of the
    image and the video's first frame, 0 to 255.
    """

    draws: int
    equal_draws: int
    logits_difference: float
    pixels_difference: int

    @property
    def holds(self) -> bool:
        """Same tokens, and logits that differ by no more than rounding."""
        return self.equal_draws == self.draws and self.logits_difference < 1e-3 and self.pixels_difference == 0


def compare(poet, prompt: str, *, seed: int = 0, draw: Draw) -> PrefixReport:
    """Sample both tasks with a `VideoPoet` and compare what each of them saw and drew."""
    image, video = (Recorder(filters=draw.filters, guidance=draw.guidance) for _ in range(2))
    picture = poet.generate("text-to-image", [Request(prompt=prompt)], draw=image, seed=seed)[0].video[0]
    first = poet.generate("text-to-video", [Request(prompt=prompt)], draw=video, seed=seed)[0].video[0]
    pairs = list(zip(image.logits, video.logits))
    return PrefixReport(
        draws=len(image.drawn),
        equal_draws=sum(torch.equal(a, b) for a, b in zip(image.drawn, video.drawn)),
        logits_difference=max(float((a - b).abs().max()) for a, b in pairs),
        pixels_difference=int(abs(picture.astype(int) - first.astype(int)).max()),
    )

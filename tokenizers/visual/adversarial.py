"""Adversarial training of a video tokenizer, apart from any trainer: regularisers, weights and what either side pays."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from videopoet.tokenizers.adversarial import (
    AdversarialLoss,
    Adversary,
    Alternating,
    Cost,
    Hinge,
    NonSaturating,
    Simultaneous,
    Updates,
)
from videopoet.tokenizers.ranks import mean_over_ranks

__all__ = [  # with the parts every tokenizer shares, so that a YAML of a video tokenizer finds all here
    "R1",
    "AdaptiveWeight",
    "Adversarial",
    "Alternating",
    "Hinge",
    "LeCAM",
    "NonSaturating",
    "Simultaneous",
]


@dataclass(frozen=True, kw_only=True)
class R1:
    """`weight * mean over the batch of |dD/dx|^2` at real x, without a factor 1/2 (Mescheder et al. 2018, Eq. 9).

    With `every` > 1 it is taken at every so many steps, that many times stronger (lazy, Karras et al. 2020).
    """

    weight: float = 10.0
    every: int = 1

    def __post_init__(self):
        if self.every < 1:
            raise ValueError(f"R1's `every` is {self.every}: 1 is each step, 16 each sixteenth")

    def due(self, step: int) -> bool:
        """Whether this step takes the penalty."""
        return step % self.every == 0

    def squared_slope(self, logits: Tensor, video: Tensor) -> Tensor:
        """Logits (b,) of a video that requires gradients -> scalar, itself with gradients."""
        (slope,) = torch.autograd.grad(logits.sum(), video, create_graph=True)
        return slope.float().square().sum(dim=(1, 2, 3, 4)).mean()


class LeCAM(nn.Module):
    """`weight * (relu(mean D(real) - a_fake)^2 + relu(a_real - mean D(fake))^2)` (Tseng et al. 2021, as MAGVIT has it).

    a_real and a_fake are running means of the batch means, over all ranks, before this step; the first step has none
    and no penalty. `decay` holds once 1 / (1 - decay) steps have passed; until then each step counts the same.
    """

    def __init__(self, weight: float = 0.001, decay: float = 0.999):
        super().__init__()
        self.weight, self.decay = weight, decay
        self.register_buffer("real", torch.zeros(()))
        self.register_buffer("fake", torch.zeros(()))
        self.register_buffer("steps", torch.zeros((), dtype=torch.int64))

    def forward(self, real: Tensor, fake: Tensor) -> Tensor:
        """Logits (b,) of both -> the penalty without its weight, scalar; then moves the running means."""
        real, fake = mean_over_ranks(real.mean()), mean_over_ranks(fake.mean())
        penalty = F.relu(real - self.fake).square() + F.relu(self.real - fake).square()
        penalty = penalty * (self.steps > 0)
        keep = (self.steps / (self.steps + 1)).clamp(max=self.decay)
        self.real.copy_(torch.lerp(real.detach(), self.real, keep))
        self.fake.copy_(torch.lerp(fake.detach(), self.fake, keep))
        self.steps += 1
        return penalty


@dataclass(frozen=True, kw_only=True)
class AdaptiveWeight:
    """A factor that makes the adversarial gradient at one layer as long as the reconstruction's (VQGAN, Eq. 7).

    layer: the tokenizer's parameter where both are measured, its last.
    maximum: of the factor.
    """

    layer: str = "decoder.conv_out.weight"
    maximum: float = 1e4

    def factor(self, tokenizer: nn.Module, distance: Tensor, adversarial: Tensor) -> Tensor:
        """Two losses of one graph -> scalar without gradient. Raises ValueError where there is no such layer."""
        try:
            parameter = tokenizer.get_parameter(self.layer)
        except AttributeError:
            last = [name for name, _ in tokenizer.named_parameters()][-1]
            raise ValueError(f"the tokenizer has no parameter {self.layer!r}: its last one is {last!r}") from None
        lengths = (
            torch.autograd.grad(loss, parameter, retain_graph=True)[0].norm() for loss in (distance, adversarial)
        )
        of_distance, of_adversarial = lengths
        return (of_distance / (of_adversarial + 1e-4)).clamp(max=self.maximum)


class Adversarial(Adversary):
    """A discriminator and how it is trained against the tokenizer. The defaults are MAGVIT-v2's (App. A.2).

    weight: of the generator's adversarial loss.
    The rest is as for every `Adversary`.
    """

    def __init__(
        self,
        discriminator: nn.Module,
        loss: AdversarialLoss = NonSaturating(),
        weight: float = 0.1,
        r1: R1 | None = R1(),
        lecam: LeCAM | None = None,
        updates: Updates = Simultaneous(),
        adaptive_weight: AdaptiveWeight | None = None,
        start_step: int = 0,
        learning_rate: float = 1e-4,
        betas: tuple[float, float] = (0.0, 0.99),
    ):
        super().__init__(discriminator, loss, updates, start_step, learning_rate, betas)
        self.weight, self.r1, self.lecam, self.adaptive_weight = weight, r1, lecam, adaptive_weight

    def generator_cost(self, fake: Tensor, distance: Tensor, tokenizer: nn.Module) -> Cost:
        """What a reconstruction float (b, 3, t, h, w) costs its tokenizer, beside its `distance` from the video."""
        with self.judging() as discriminator:
            loss = self.loss.generator(discriminator(fake))
        metrics = {"adversarial": loss.detach()}
        if self.adaptive_weight is not None:
            factor = self.adaptive_weight.factor(tokenizer, distance, loss)
            loss, metrics["adaptive_weight"] = factor * loss, factor
        return Cost(self.weight * loss, metrics)

    def discriminator_cost(self, fake: Tensor, video: Tensor, step: int) -> Cost:
        """What reconstructions and videos, float (b, 3, t, h, w), cost the discriminator.

        Logged without weights: r1, lecam. accuracy: the share of both that the sign of the logit gets right.
        """
        due = self.r1 is not None and self.r1.due(step)
        video = video.detach().requires_grad_(due)
        real, fake = self.discriminator(video), self.discriminator(fake.detach())
        loss = self.loss.discriminator(real, fake)
        right = torch.cat([real > 0, fake < 0]).float().mean()
        metrics = {"discriminator": loss, "logits_real": real.mean(), "logits_fake": fake.mean(), "accuracy": right}
        if due:
            metrics["r1"] = self.r1.squared_slope(real, video)
            loss = loss + self.r1.weight * self.r1.every * metrics["r1"]
        if self.lecam is not None:
            metrics["lecam"] = self.lecam(real, fake)
            loss = loss + self.lecam.weight * metrics["lecam"]
        return Cost(loss, {name: value.detach() for name, value in metrics.items()})

"""Adversarial training of a tokenizer, apart from any trainer: losses, regularisers and who moves first."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from videopoet.tokenizers.ranks import mean_over_ranks

Turn = Callable[[], None]


class AdversarialLoss(ABC):
    """What logits (b,), positive for real, cost either side."""

    @abstractmethod
    def generator(self, fake: Tensor) -> Tensor:
        """Scalar that falls as fakes pass for real."""

    @abstractmethod
    def discriminator(self, real: Tensor, fake: Tensor) -> Tensor:
        """Scalar that falls as the two are told apart."""


@dataclass(frozen=True, kw_only=True)
class NonSaturating(AdversarialLoss):
    """-log sigmoid(D(fake)) against -log sigmoid(D(real)) - log(1 - sigmoid(D(fake))) (Goodfellow et al. 2014)."""

    def generator(self, fake: Tensor) -> Tensor:
        return F.softplus(-fake).mean()

    def discriminator(self, real: Tensor, fake: Tensor) -> Tensor:
        return F.softplus(-real).mean() + F.softplus(fake).mean()


@dataclass(frozen=True, kw_only=True)
class Hinge(AdversarialLoss):
    """-D(fake) against relu(1 - D(real)) + relu(1 + D(fake)) (Lim & Ye 2017); without the factor 1/2 of VQGAN."""

    def generator(self, fake: Tensor) -> Tensor:
        return -fake.mean()

    def discriminator(self, real: Tensor, fake: Tensor) -> Tensor:
        return F.relu(1 - real).mean() + F.relu(1 + fake).mean()


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


class Updates(ABC):
    """Who moves first within a step."""

    @abstractmethod
    def order(self, generator: Turn, discriminator: Turn) -> tuple[Turn, Turn]:
        """The two turns in the order they are taken."""


@dataclass(frozen=True, kw_only=True)
class Simultaneous(Updates):
    """Both gradients are taken at the networks as the step found them (MAGVIT's code).

    The generator goes first; the discriminator then learns from the fakes that were made before it moved.
    """

    def order(self, generator: Turn, discriminator: Turn) -> tuple[Turn, Turn]:
        return generator, discriminator


@dataclass(frozen=True, kw_only=True)
class Alternating(Updates):
    """The discriminator moves first; the generator then answers to the new one, with the same fakes."""

    def order(self, generator: Turn, discriminator: Turn) -> tuple[Turn, Turn]:
        return discriminator, generator


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


class Cost(NamedTuple):
    """A loss, and what to log of it."""

    loss: Tensor
    metrics: dict[str, Tensor]


class Adversarial(nn.Module):
    """A discriminator and how it is trained against the tokenizer. The defaults are MAGVIT-v2's (App. A.2).

    weight: of the generator's adversarial loss.
    start_step: steps of the generator before it is judged and the discriminator trained.
    learning_rate, betas: of the discriminator's Adam; its schedule is the generator's, begun at `start_step`.
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
        super().__init__()
        self.discriminator, self.loss, self.weight = discriminator, loss, weight
        self.r1, self.lecam, self.updates, self.adaptive_weight = r1, lecam, updates, adaptive_weight
        self.start_step, self.learning_rate, self.betas = start_step, learning_rate, betas

    def generator_cost(self, fake: Tensor, distance: Tensor, tokenizer: nn.Module) -> Cost:
        """What a reconstruction float (b, 3, t, h, w) costs its tokenizer, beside its `distance` from the video."""
        self.discriminator.requires_grad_(False)  # the gradient passes through, and leaves nothing behind
        loss = self.loss.generator(self.discriminator(fake))
        self.discriminator.requires_grad_(True)
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

"""Adversarial training of a tokenizer, whatever it tokenizes and apart from any trainer: losses and who moves first."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import NamedTuple

import torch.nn.functional as F
from torch import Tensor, nn

Turn = Callable[[], None]


class AdversarialLoss(ABC):
    """What logits of any shape, positive for real, cost either side."""

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
class ClampedHinge(Hinge):
    """`Hinge` with relu(1 - D(fake)) for the generator, who gains nothing past the margin (SoundStream; EnCodec)."""

    def generator(self, fake: Tensor) -> Tensor:
        return F.relu(1 - fake).mean()


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


class Cost(NamedTuple):
    """A loss, and what to log of it."""

    loss: Tensor
    metrics: dict[str, Tensor]


class Adversary(nn.Module):
    """A discriminator, and when and how it is trained against a tokenizer.

    start_step: steps of the tokenizer before it is judged and the discriminator trained.
    learning_rate, betas: of the discriminator's Adam; its schedule is the tokenizer's, begun at `start_step`.
    """

    def __init__(
        self,
        discriminator: nn.Module,
        loss: AdversarialLoss,
        updates: Updates,
        start_step: int,
        learning_rate: float,
        betas: tuple[float, float],
    ):
        super().__init__()
        self.discriminator, self.loss, self.updates = discriminator, loss, updates
        self.start_step, self.learning_rate, self.betas = start_step, learning_rate, betas

    @contextmanager
    def judging(self) -> Iterator[nn.Module]:
        """The discriminator in the tokenizer's turn: gradients pass through it and leave nothing behind."""
        self.discriminator.requires_grad_(False)
        yield self.discriminator
        self.discriminator.requires_grad_(True)

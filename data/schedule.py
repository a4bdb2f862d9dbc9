"""Which task comes when: shares of a mixture, dealt out as a pure function of the place."""

import math
import random
from abc import ABC, abstractmethod
from collections import Counter
from dataclasses import dataclass, field

from videopoet.data.labels import Label
from videopoet.tasks.base import Task

GUIDED_BY = ("audio", "visual")  # as a task of a mixture may say
CYCLE = 100  # places in which every task stands exactly by its weight


@dataclass(frozen=True, kw_only=True)
class Share:
    """A task and its weight among the others. 0 switches it off.

    first_weight: its weight in the first stage of training, where that is another one (VideoPoet's first stage is
    mostly images; see `configs/demo/lm.yaml`).
    only: learn the task from those samples alone of which this says a class: sound, say, from clips that are not silent.
    guidance: scales by condition (audio, visual; the prompt has its own, `DEFAULT_DRAW`'s) that whoever samples the task gets
        unless they say otherwise; they travel with the model. Training must drop such a condition now and then.
    """

    task: Task
    weight: float = 1.0
    first_weight: float | None = None
    only: Label | None = None
    guidance: dict[str, float] = field(default_factory=dict)

    def __post_init__(self):
        if wrong := [name for name in self.guidance if name not in GUIDED_BY]:
            raise ValueError(f"guidance by {', '.join(wrong)}: take {', '.join(GUIDED_BY)}")
        for name, scale in self.guidance.items():
            if not 0 <= scale < math.inf:
                raise ValueError(f"{name} guidance is {scale}, it must be at least 0 (1 is none)")


class Weighing(ABC):
    """What a weight is a share of."""

    @abstractmethod
    def __call__(self, weight: float, samples: float, tokens: float) -> float:
        """Places per unit, of a task whose places hold so many samples and tokens."""


@dataclass(frozen=True, kw_only=True)
class ByTokens(Weighing):
    """Weights are shares of the tokens that the network reads."""

    def __call__(self, weight: float, samples: float, tokens: float) -> float:
        return weight / tokens


@dataclass(frozen=True, kw_only=True)
class BySamples(Weighing):
    """Weights are shares of the samples: one image counts as much as one video."""

    def __call__(self, weight: float, samples: float, tokens: float) -> float:
        return weight / samples


class Schedule:
    """Place -> (name of the task, how many places that task had before), alternating one task per place.

    A place is a step where a batch holds one task, and a sample where rows are packed. Each cycle of 100 places holds
    every task as often as its weight says, in an order shuffled by (seed, cycle). A function of its arguments alone:
    the same on every rank, and resuming needs the step and nothing else. The first `first_places`, a multiple of 100,
    go by the first weights, if any of these is positive.

    sizes: samples and tokens of one place of each task; without them weights are shares of the places.
    """

    def __init__(
        self,
        shares: dict[str, Share],
        seed: int,
        first_places: int = 0,
        weigh: Weighing | None = None,
        sizes: dict[str, tuple[float, float]] | None = None,
    ):
        if first_places < 0 or first_places % CYCLE:
            raise ValueError(f"first_steps is {first_places}: the first stage is a multiple of {CYCLE} steps")

        def counts(weights: dict[str, float]) -> dict[str, int]:
            if weigh is None or sizes is None:
                return _places_per_cycle(weights)
            return _places_per_cycle({name: weigh(weight, *sizes[name]) for name, weight in weights.items()})

        self.seed, self.counts = seed, counts({name: share.weight for name, share in shares.items()})
        self.first_cycles, self.first_counts = first_places // CYCLE, self.counts
        if first_places:
            firsts = {n: s.weight if s.first_weight is None else s.first_weight for n, s in shares.items()}
            self.first_counts = counts(firsts) if any(firsts.values()) else self.counts

    def __call__(self, place: int) -> tuple[str, int]:
        order, within = self._order(place)
        name = order[within]
        return name, self.before(place)[name]

    def before(self, place: int) -> dict[str, int]:
        """How many places each task had before this one."""
        (order, within), cycle = self._order(place), place // CYCLE
        first, later = min(cycle, self.first_cycles), max(0, cycle - self.first_cycles)
        begun = Counter(order[:within])
        return {name: first * self.first_counts[name] + later * self.counts[name] + begun[name] for name in self.counts}

    def _order(self, place: int) -> tuple[list[str], int]:
        """The tasks of the cycle of a place in their order, and where in it the place is."""
        cycle, within = divmod(place, CYCLE)
        counts = self.counts if cycle >= self.first_cycles else self.first_counts
        order = [name for name, count in counts.items() for _ in range(count)]
        random.Random(self.seed * 1_000_003 + cycle).shuffle(order)
        return order, within


def _places_per_cycle(weights: dict[str, float]) -> dict[str, int]:
    """Shares of `CYCLE` places, rounded by largest remainders. Raises ValueError where a task would get none."""
    total = sum(weights.values())
    if total <= 0 or min(weights.values()) < 0:
        raise ValueError("the mixture needs at least one task of positive weight, and no negative weights")
    exact = {name: CYCLE * weight / total for name, weight in weights.items()}
    counts = {name: int(value) for name, value in exact.items()}
    for name in sorted(exact, key=lambda n: counts[n] - exact[n])[: CYCLE - sum(counts.values())]:
        counts[name] += 1
    lost = [name for name in weights if weights[name] > 0 and not counts[name]]
    if lost:
        raise ValueError(
            f"{', '.join(lost)} would never be trained: {exact[lost[0]]:.2f} of {CYCLE} places; give 0 or a larger weight"
        )
    return counts

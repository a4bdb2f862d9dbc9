"""How samples of a mixture become the batch of a step: one task and one length, or documents packed into rows."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING

from videopoet.data.packing import fill, trim
from videopoet.data.schedule import CYCLE
from videopoet.sequence import Batch

if TYPE_CHECKING:
    from videopoet.data.mixture import Mixture


class Batching(ABC):
    """What a place of the schedule is, and what the places of a step are made into."""

    @abstractmethod
    def sizes(self, lengths: dict[str, int], tokens_per_batch: int) -> dict[str, tuple[float, float]]:
        """Samples and tokens of one place of each task, from the lengths of their sequences."""

    @abstractmethod
    def first_places(self, first_steps: int, mixture: "Mixture") -> int:
        """Places of the first stage."""

    @abstractmethod
    def batch(self, mixture: "Mixture", step: int) -> Batch:
        """The batch of a step on the mixture's rank."""


@dataclass(frozen=True, kw_only=True)
class OneLength(Batching):
    """Alternating gradient descent: one task per step, the same on every rank, so that one length fills a batch.

    `tokens_per_batch` is the same for every task, to within one sequence: short ones come in larger batches (VideoPoet,
    §3.3; IMP, 2305.06324). Nothing is padded but text slots, up to the longest caption of the batch. A place of the
    schedule is a step.
    """

    def sizes(self, lengths: dict[str, int], tokens_per_batch: int) -> dict[str, tuple[float, float]]:
        return {name: (max(1, tokens_per_batch // n), tokens_per_batch) for name, n in lengths.items()}

    def first_places(self, first_steps: int, mixture: "Mixture") -> int:
        return first_steps

    def batch(self, mixture: "Mixture", step: int) -> Batch:
        name, visit = mixture.schedule(step)
        size = mixture.batch_sizes[name]
        start = (visit * mixture.world_size + mixture.rank) * size
        return Batch.of(trim([mixture.sequence(name, p) for p in range(start, start + size)]), task=name, step=step)


@dataclass(frozen=True, kw_only=True)
class Packed(Batching):
    """Samples of any task side by side in rows of `length`, each seeing itself alone; for tasks of ragged lengths.

    A place of the schedule is a sample. A step offers a few samples more than its rows hold, the longest are placed
    first, and those that find no room are left for the next epoch's order. Empty text slots take no room.
    """

    length: int

    def sizes(self, lengths: dict[str, int], tokens_per_batch: int) -> dict[str, tuple[float, float]]:
        longest = max(lengths, key=lengths.__getitem__)
        if lengths[longest] > self.length:
            raise ValueError(f"rows hold {self.length} tokens, {longest} has {lengths[longest]}: take longer rows")
        return {name: (1, n) for name, n in lengths.items()}

    def first_places(self, first_steps: int, mixture: "Mixture") -> int:
        samples = first_steps * mixture.world_size * self._offered(mixture)
        return CYCLE * round(samples / CYCLE)

    def batch(self, mixture: "Mixture", step: int) -> Batch:
        offered = self._offered(mixture)
        start = (step * mixture.world_size + mixture.rank) * offered
        sequences = [mixture.sequence(*mixture.schedule(place)) for place in range(start, start + offered)]
        rows = fill([int(s.shown.sum()) for s in sequences], self.length, self._rows(mixture))
        return Batch.pack([[sequences[i] for i in row] for row in rows], self.length, task="packed", step=step)

    def _rows(self, mixture: "Mixture") -> int:
        return max(1, mixture.tokens_per_batch // self.length)

    def _offered(self, mixture: "Mixture") -> int:
        """Samples that fill the rows if every task has as many tokens, and one more per row to choose from."""
        rows = self._rows(mixture)
        mean = len(mixture.lengths) / sum(1 / length for length in mixture.lengths.values())
        return rows + round(rows * self.length / mean)

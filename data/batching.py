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
    """What a place of the schedule is, and what the places of a step are made into.

    A step is made of the mixture's parts, each a function of the step and its own number alone, and a batch of some of
    these parts: so ranks and accumulation change who trains on what, never what is trained on.
    """

    @abstractmethod
    def sizes(self, lengths: dict[str, int], tokens_per_step: int, parts: int) -> dict[str, tuple[int, float]]:
        """Samples and tokens of one place of each task, from the lengths of their sequences."""

    @abstractmethod
    def first_places(self, first_steps: int, mixture: "Mixture") -> int:
        """Places of the first stage."""

    @abstractmethod
    def positions(self, mixture: "Mixture", step: int) -> dict[str, int]:
        """How far each order is before `step`: what a resumed run needs to know."""

    @abstractmethod
    def samples_of(self, mixture: "Mixture", step: int) -> int:
        """Samples of a step on all ranks."""

    @abstractmethod
    def batch(self, mixture: "Mixture", turn: int) -> Batch:
        """The batch of a turn of the mixture's rank."""


@dataclass(frozen=True, kw_only=True)
class OneLength(Batching):
    """Alternating gradient descent: one task per step, the same on every rank, so that one length fills a batch.

    `tokens_per_step` is the same for every task, to within one sequence a part: short ones come in larger batches
    (VideoPoet, §3.3; IMP, 2305.06324). Nothing is padded but text slots, up to the longest caption of the batch. A place
    of the schedule is a step.
    """

    def sizes(self, lengths: dict[str, int], tokens_per_step: int, parts: int) -> dict[str, tuple[int, float]]:
        return {name: (parts * max(1, tokens_per_step // (parts * n)), tokens_per_step) for name, n in lengths.items()}

    def first_places(self, first_steps: int, mixture: "Mixture") -> int:
        return first_steps

    def positions(self, mixture: "Mixture", step: int) -> dict[str, int]:
        kept = mixture.origin.positions or {}  # of tasks that this mixture lacks too: they may come back
        return kept | {name: self._position(mixture, name, n) for name, n in mixture.schedule.before(step).items()}

    def samples_of(self, mixture: "Mixture", step: int) -> int:
        return mixture.batch_sizes[mixture.schedule(step)[0]]

    def batch(self, mixture: "Mixture", turn: int) -> Batch:
        step, parts = mixture.deal(turn)
        name, visit = mixture.schedule(step)
        first, size = self._position(mixture, name, visit), mixture.batch_sizes[name] // mixture.deal.parts
        places = range(first + parts.start * size, first + parts.stop * size)
        mixture.expect(name, places)
        return Batch.of(trim([mixture.sequence(name, place) for place in places]), task=name, step=step)

    def _position(self, mixture: "Mixture", name: str, visits: int) -> int:
        before = mixture.visits_at_origin[name]
        return mixture.origin.position(name, visits, before, mixture.batch_sizes[name])


@dataclass(frozen=True, kw_only=True)
class Packed(Batching):
    """Samples of any task side by side in rows of `length`, each seeing itself alone; for tasks of ragged lengths.

    A place of the schedule is a sample. A part offers a few samples more than its rows hold, the longest are placed
    first, and those that find no room are left for the next epoch's order. Empty text slots take no room.
    """

    length: int

    def sizes(self, lengths: dict[str, int], tokens_per_step: int, parts: int) -> dict[str, tuple[int, float]]:
        longest = max(lengths, key=lengths.__getitem__)
        if lengths[longest] > self.length:
            raise ValueError(f"rows hold {self.length} tokens, {longest} has {lengths[longest]}: take longer rows")
        return {name: (1, n) for name, n in lengths.items()}

    def first_places(self, first_steps: int, mixture: "Mixture") -> int:
        return CYCLE * round(first_steps * self.samples_of(mixture, 0) / CYCLE)

    def positions(self, mixture: "Mixture", step: int) -> dict[str, int]:
        origin, size = mixture.origin, self.samples_of(mixture, step)
        return {"packed": origin.position("packed", step, origin.step, size)}

    def samples_of(self, mixture: "Mixture", step: int) -> int:
        return mixture.deal.parts * self._offered(mixture)

    def batch(self, mixture: "Mixture", turn: int) -> Batch:
        (step, parts), offered = mixture.deal(turn), self._offered(mixture)
        first, rows = self.positions(mixture, step)["packed"], []
        for part in parts:
            places = range(first + part * offered, first + (part + 1) * offered)
            sequences = [mixture.sequence(*mixture.schedule(place)) for place in places]
            filled = fill([int(s.shown.sum()) for s in sequences], self.length, self._rows(mixture))
            rows += [[sequences[i] for i in row] for row in filled]
        return Batch.pack(rows, self.length, task="packed", step=step)

    def _rows(self, mixture: "Mixture") -> int:
        """Rows of a part."""
        return max(1, mixture.tokens_per_step // (self.length * mixture.deal.parts))

    def _offered(self, mixture: "Mixture") -> int:
        """Samples that fill a part's rows if every task has as many tokens, and one more per row to choose from."""
        rows = self._rows(mixture)
        mean = len(mixture.lengths) / sum(1 / length for length in mixture.lengths.values())
        return rows + round(rows * self.length / mean)

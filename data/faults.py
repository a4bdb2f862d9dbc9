"""What is done about samples that cannot be read: others in their place, counted, up to a budget."""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

import numpy as np

Read = TypeVar("Read")
REASONS = (
    "truncated",  # a shard or a member ends too soon
    "damaged",  # bytes differ from their checksum, or are no tar, array or JSON
    "missing member",  # a sample lacks what all samples have
    "unlike the manifest",  # wrong type or shape
    "empty shard",
    "vanished",  # a shard that is not there, or no longer
    "storage",  # the file system or object store fails, or does not answer in time
)


class ShardFault(ValueError):
    """A sample that cannot be read; the message names the shard and the remedy."""

    def __init__(self, message: str, *, shard: str, reason: str):
        assert reason in REASONS, reason
        super().__init__(message)
        self.shard, self.reason = shard, reason

    def __reduce__(self):  # keywords are lost otherwise on the way from a worker process
        return _rebuild, (str(self), self.shard, self.reason)


def _rebuild(message: str, shard: str, reason: str) -> ShardFault:
    return ShardFault(message, shard=shard, reason=reason)


@dataclass(frozen=True, kw_only=True)
class Fault:
    """One sample that was left out, as it travels with the batch it was to be in."""

    reason: str
    shard: str
    message: str


@dataclass(frozen=True, kw_only=True)
class FailureBudget:
    """How many samples may be left out before a run ends with an error that names the shard.

    Up to `max_samples` are left out whatever their share, beyond that up to `max_share` of all samples drawn by all
    ranks. `attempts`: substitutes tried for one sample. `FailureBudget(max_samples=0, max_share=0)` ends at the first.
    """

    max_samples: int = 64
    max_share: float = 0.001
    attempts: int = 8

    def __post_init__(self) -> None:
        if self.max_samples < 0 or not 0 <= self.max_share <= 1 or self.attempts < 1:
            raise ValueError(
                f"a budget of {self.max_samples} samples, a share of {self.max_share} and {self.attempts} attempts: "
                "samples must be 0 or more, the share in [0, 1], attempts 1 or more"
            )

    def spent(self, left_out: int, drawn: int) -> bool:
        """Whether so many are too many."""
        return left_out > max(self.max_samples, self.max_share * drawn)


@dataclass(frozen=True, kw_only=True)
class Broken:
    """Stands in for a batch that could not be built, so that all ranks learn of it at the same step."""

    step: int
    faults: tuple[Fault, ...]

    def to(self, device: Any, non_blocking: bool = False) -> "Broken":
        """Itself: there is nothing to move."""
        return self


class Exhausted(Exception):
    """None of the substitutes of a sample could be read."""


def substitute(num_samples: int, seed: int, place: int, attempt: int) -> int:
    """Who stands in for the sample at a place: the same on every rank and after every resume."""
    return int(np.random.default_rng((seed, place, attempt, 0x5AB)).integers(num_samples))


@dataclass
class Substitution:
    """Reads samples, and where one cannot be read another in its place; keeps what it left out until `taken`.

    Without a budget the first fault is raised.
    """

    budget: FailureBudget | None
    seed: int
    found: list[Fault] = field(default_factory=list)

    def read(self, read: Callable[[int], Read], samples: Sequence[int], chosen: int, place: int) -> Read:
        """`read(samples[chosen])`, or of a substitute among `samples`, which is a function of seed, place and attempt."""
        for attempt in range(1 if self.budget is None else self.budget.attempts):
            try:
                return read(samples[chosen])
            except ShardFault as fault:
                if self.budget is None:
                    raise
                self.found.append(Fault(reason=fault.reason, shard=fault.shard, message=str(fault)))
                chosen = substitute(len(samples), self.seed, place, attempt)
        raise Exhausted

    def batch(self, build: Callable[[], Any], step: int) -> Any:
        """What `build` returns, or `Broken`."""
        self.found.clear()
        try:
            return build()
        except Exhausted:
            return Broken(step=step, faults=self.taken())

    def taken(self) -> tuple[Fault, ...]:
        """What was left out since the last time."""
        faults = tuple(self.found)
        self.found.clear()
        return faults


class Ledger:
    """Counts what was drawn and left out, of all ranks, and says when the budget is spent."""

    def __init__(self, budget: FailureBudget):
        self.budget, self.drawn, self.left_out = budget, 0, Counter[str]()

    def enter(self, drawn: int, counts: Sequence[int]) -> bool:
        """Add samples drawn and, in the order of REASONS, left out. Returns whether the budget is spent."""
        self.drawn += drawn
        self.left_out.update({reason: n for reason, n in zip(REASONS, counts, strict=True) if n})
        return bool(sum(counts)) and self.budget.spent(self.left_out.total(), self.drawn)

    def said(self) -> str:
        """The counts in words."""
        reasons = ", ".join(f"{n} {reason}" for reason, n in self.left_out.most_common())
        return f"{self.left_out.total()} of {self.drawn} samples left out ({reasons})"

    def state_dict(self) -> dict[str, Any]:
        return {"drawn": self.drawn, "left_out": dict(self.left_out)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.drawn, self.left_out = state["drawn"], Counter(state["left_out"])

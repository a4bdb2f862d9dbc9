"""Which sample stands where, and who takes it: an endless, seeded order over a fixed set, dealt out without state."""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np

TABLE = 1 << 18  # samples up to which an epoch's order is kept as a table (1 MiB); beyond, each place is computed
ROUNDS = 8
MASK = (1 << 64) - 1


def sample_indices(num_samples: int, seed: int, start: int, count: int, stream: int = 0) -> list[int]:
    """Samples at the global positions start .. start + count - 1.

    Position p is place p % num_samples of epoch p // num_samples; every epoch is a permutation of its own, drawn from
    (seed, stream, epoch) alone. So any position is known without walking there, on every rank and after every resume,
    in memory that does not grow with the set. `stream` gives independent orders under one seed.
    """
    if num_samples < 1 or start < 0 or count < 0:
        raise ValueError(f"no order over {num_samples} samples from position {start}, {count} long")
    indices: list[int] = []
    while len(indices) < count:
        epoch, place = divmod(start + len(indices), num_samples)
        stop = min(num_samples, place + count - len(indices))
        if num_samples <= TABLE:
            indices += _permutation(num_samples, seed, stream, epoch)[place:stop].tolist()
        else:
            keys = _round_keys(seed, stream, epoch)
            indices += [_feistel(num_samples, keys, each) for each in range(place, stop)]
    return indices


@lru_cache(maxsize=32)  # tasks of a mixture stand in epochs of their own
def _permutation(num_samples: int, seed: int, stream: int, epoch: int) -> np.ndarray:
    return np.random.default_rng((seed, stream, epoch)).permutation(num_samples).astype(np.uint32)


@lru_cache(maxsize=32)
def _round_keys(seed: int, stream: int, epoch: int) -> tuple[int, ...]:
    return tuple(np.random.default_rng((seed, stream, epoch)).integers(2**63, size=ROUNDS).tolist())


def _feistel(num_samples: int, keys: tuple[int, ...], place: int) -> int:
    """A permutation of range(num_samples) without a table: a Feistel network over the next power of two, applied until
    the result is a sample (fewer than two times on average), which keeps it one to one."""
    bits = (num_samples - 1).bit_length()
    low = bits // 2
    high, value = bits - low, place
    while True:
        left, right, left_bits, right_bits = value >> low, value & ((1 << low) - 1), high, low
        for key in keys:
            mixed = left ^ (_mix(right ^ key) & ((1 << left_bits) - 1))
            left, right, left_bits, right_bits = right, mixed, right_bits, left_bits
        value = left << right_bits | right
        if value < num_samples:
            return value


def _mix(x: int) -> int:
    """The finaliser of SplitMix64 (Steele, Lea and Flood, 2014): every output bit depends on every input bit."""
    x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9 & MASK
    x = (x ^ (x >> 27)) * 0x94D049BB133111EB & MASK
    return x ^ (x >> 31)


@dataclass(frozen=True, kw_only=True)
class Deal:
    """How the samples of a step are dealt out: `parts` equal parts, the same for any number of ranks.

    A turn is one batch of one rank; `accumulation` turns make a step. Turn t of rank r belongs to step t // accumulation
    and takes the run of parts / (ranks * accumulation) parts whose number is (t % accumulation) * ranks + r. So what a
    step trains on does not depend on how many share it.

    Example: 8 parts, 2 ranks, accumulation 2: turn 5 of rank 1 is of step 2 and takes its parts 6 and 7.

    Raises ValueError where ranks x accumulation do not divide the parts.
    """

    parts: int = 1
    world_size: int = 1
    rank: int = 0
    accumulation: int = 1

    def __post_init__(self) -> None:
        if self.parts < 1 or self.parts % self.shares:
            possible = [n for n in range(1, self.parts + 1) if self.parts % n == 0]
            raise ValueError(
                f"{self.world_size} ranks x {self.accumulation} turns of accumulation cannot share out the {self.parts} "
                f"parts of a step: make their product one of {', '.join(map(str, possible))} "
                "(trainer.accumulate_grad_batches, devices), or set another number of parts"
            )

    @property
    def shares(self) -> int:
        """Batches, of all ranks, that a step is made of."""
        return self.world_size * self.accumulation

    def __call__(self, turn: int) -> tuple[int, range]:
        """Turn of this rank -> step, and which of its parts."""
        step, within = divmod(turn, self.accumulation)
        each = self.parts // self.shares
        start = (within * self.world_size + self.rank) * each
        return step, range(start, start + each)


@dataclass(frozen=True, kw_only=True)
class Origin:
    """Where orders are counted from: at step `step`, the order of each kind of sample stands at its position.

    A run starts at step 0 with nothing taken. One that resumes takes both from its checkpoint, so that each order goes
    on where it stopped, also with another size of batch or other weights; a kind that is new starts at 0.
    """

    step: int = 0
    positions: dict[str, int] | None = None

    def position(self, name: str, visits: int, visits_before: int, size: int) -> int:
        """Of the first sample of a visit to `name`, each of which takes `size`; `visits_before` of them before `step`."""
        if self.positions is None:
            return visits * size
        return self.positions.get(name, 0) + (visits - visits_before) * size

"""Which sample stands where: an endless, seeded order over a fixed set, without state."""

from functools import lru_cache

import numpy as np


def sample_indices(num_samples: int, seed: int, start: int, count: int, stream: int = 0) -> list[int]:
    """Samples at the global positions start .. start + count - 1.

    Position p is place p % num_samples of epoch p // num_samples; every epoch is a permutation of its own, drawn from
    (seed, stream, epoch) alone. So any position is known without walking there, on every rank and after every resume.
    `stream` gives independent orders under one seed.
    """
    if num_samples < 1 or start < 0 or count < 0:
        raise ValueError(f"no order over {num_samples} samples from position {start}, {count} long")
    indices: list[int] = []
    while len(indices) < count:
        epoch, place = divmod(start + len(indices), num_samples)
        order = _permutation(num_samples, seed, stream, epoch)
        indices += order[place : place + count - len(indices)].tolist()
    return indices


@lru_cache(maxsize=4)
def _permutation(num_samples: int, seed: int, stream: int, epoch: int) -> np.ndarray:
    return np.random.default_rng((seed, stream, epoch)).permutation(num_samples)

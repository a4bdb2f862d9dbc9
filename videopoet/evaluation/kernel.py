"""Kernel distances of two sets of features: KID and KVD, which small samples do not bias."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class Polynomial:
    """k(x, y) = (gamma x·y + constant)^degree; gamma None is 1 / d. The default is KID's (Bińkowski et al. 2018)."""

    degree: int = 3
    constant: float = 1.0
    gamma: float | None = None

    def __call__(self, x: Tensor, y: Tensor) -> Tensor:
        """(n, d), (m, d) -> (n, m)."""
        return ((self.gamma or 1 / x.shape[1]) * (x @ y.T) + self.constant) ** self.degree


@dataclass(frozen=True, kw_only=True)
class Subsets:
    """The mean over `count` random pairs of subsets of `size` features each (or all of the smaller set, if fewer)."""

    count: int = 100
    size: int = 1000
    seed: int = 0


@dataclass(frozen=True, kw_only=True)
class KernelResult:
    """Squared maximum mean discrepancy. Unbiased ones are below zero about half of the time where nothing differs.

    `spread` is the standard deviation over subsets (not the error of the mean: subsets overlap); 0 without subsets.
    """

    value: float
    spread: float
    n: tuple[int, int]
    dim: int
    unbiased: bool
    kernel: Polynomial
    subsets: Subsets | None


KID = Polynomial()
OF_100 = Subsets()


def kernel_distance(
    a: Tensor | np.ndarray,
    b: Tensor | np.ndarray,
    *,
    kernel: Polynomial = KID,
    unbiased: bool = True,
    subsets: Subsets | None = OF_100,
) -> KernelResult:
    """KID or KVD of features (n, d), (m, d).

    unbiased: the U-statistic, which leaves out each feature beside itself and the bias with it. The V-statistic keeps it.
    subsets: as published; None takes all features at once, which is more exact.
    """
    x, y = (torch.as_tensor(given).detach().to("cpu", torch.float64) for given in (a, b))
    if x.ndim != 2 or y.ndim != 2 or x.shape[1] != y.shape[1] or min(len(x), len(y)) < 2:
        raise ValueError(f"two sets of at least 2 features (n, d), got {tuple(x.shape)} and {tuple(y.shape)}")
    if subsets is None:
        values = [_discrepancy(x, y, kernel, unbiased)]
    else:
        rng, size = np.random.default_rng(subsets.seed), min(subsets.size, len(x), len(y))
        draws = (
            [torch.from_numpy(rng.choice(len(z), size, replace=False)) for z in (x, y)] for _ in range(subsets.count)
        )
        values = [_discrepancy(x[i], y[j], kernel, unbiased) for i, j in draws]
    return KernelResult(
        value=float(np.mean(values)),
        spread=float(np.std(values)),
        n=(len(x), len(y)),
        dim=x.shape[1],
        unbiased=unbiased,
        kernel=kernel,
        subsets=subsets,
    )


def _discrepancy(x: Tensor, y: Tensor, kernel: Polynomial, unbiased: bool, block: int = 2048) -> float:
    def total(p: Tensor, q: Tensor) -> Tensor:
        return sum(kernel(rows, q).sum() for rows in p.split(block))

    def own(p: Tensor) -> Tensor:
        n = len(p)
        if not unbiased:
            return total(p, p) / n**2
        beside_itself = ((kernel.gamma or 1 / p.shape[1]) * p.square().sum(1) + kernel.constant) ** kernel.degree
        return (total(p, p) - beside_itself.sum()) / (n * (n - 1))

    return float(own(x) + own(y) - 2 * total(x, y) / (len(x) * len(y)))

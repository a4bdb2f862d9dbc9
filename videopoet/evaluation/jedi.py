"""JEDi: the kernel distance of V-JEPA features (Luo et al. 2024), from statistics alone."""

from dataclasses import dataclass

import numpy as np
from torch import Tensor

from videopoet.evaluation.statistics import GaussianStatistics


@dataclass(frozen=True, kw_only=True)
class JEDiResult:
    value: float
    n: tuple[int, int]
    dim: int


def jedi(a: GaussianStatistics | Tensor | np.ndarray, b: GaussianStatistics | Tensor | np.ndarray) -> JEDiResult:
    """100 times the biased squared discrepancy under k(x, y) = (x·y / d)², of features (n, d) or their statistics.

    That kernel is the inner product of x xᵀ / d and y yᵀ / d, so the discrepancy is the squared distance of the two mean
    outer products, |E[x xᵀ] - E[y yᵀ]|² / d²: it needs no pairs, merges over ranks, and costs n d² instead of n² d.
    The published number is of 1,280 features of V-JEPA ViT-H/16 with its SSv2 probe; of others it is another metric.
    """
    a, b = (given if isinstance(given, GaussianStatistics) else GaussianStatistics(given) for given in (a, b))
    if a.dim != b.dim:
        raise ValueError(f"features of {a.dim} and {b.dim} dimensions have no distance: use one detector for both")
    difference = a.second_moment() - b.second_moment()
    return JEDiResult(value=100 * float(difference.square().sum()) / a.dim**2, n=(a.n, b.n), dim=a.dim)

"""Kernel distances and JEDi: against the sums they are defined by."""

import numpy as np
import pytest
import torch

from videopoet.evaluation.jedi import jedi
from videopoet.evaluation.kernel import Polynomial, Subsets, kernel_distance
from videopoet.evaluation.statistics import GaussianStatistics


def samples(n: int, d: int, seed: int) -> torch.Tensor:
    return torch.randn(n, d, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def by_pairs(x, y, kernel, unbiased: bool) -> float:
    """The definition, pair by pair."""
    own = []
    for z in (x, y):
        values = [float(kernel(z[i : i + 1], z[j : j + 1])) for i in range(len(z)) for j in range(len(z)) if i != j]
        values += [] if unbiased else [float(kernel(z[i : i + 1], z[i : i + 1])) for i in range(len(z))]
        own.append(np.mean(values))
    return own[0] + own[1] - 2 * float(kernel(x, y).mean())


@pytest.mark.parametrize("unbiased", [True, False])
@pytest.mark.parametrize("kernel", [Polynomial(), Polynomial(degree=2, constant=0.0), Polynomial(gamma=0.3)])
def test_the_definition(kernel, unbiased):
    x, y = samples(7, 5, 0), samples(9, 5, 1) + 0.3
    made = kernel_distance(x, y, kernel=kernel, unbiased=unbiased, subsets=None)
    assert made.value == pytest.approx(by_pairs(x, y, kernel, unbiased), rel=1e-11)
    assert (made.n, made.dim, made.spread) == ((7, 9), 5, 0)


def test_the_kernel_by_hand():
    x, y = torch.tensor([[1.0, 2.0]]), torch.tensor([[3.0, 4.0]])
    assert float(Polynomial()(x, y)) == pytest.approx((11 / 2 + 1) ** 3)


def test_only_the_unbiased_one_is_at_zero_where_nothing_differs():
    unbiased = [
        kernel_distance(samples(40, 8, 2 * i), samples(40, 8, 2 * i + 1), subsets=None).value for i in range(60)
    ]
    biased = [
        kernel_distance(samples(40, 8, 2 * i), samples(40, 8, 2 * i + 1), subsets=None, unbiased=False).value
        for i in range(60)
    ]
    error = np.std(unbiased) / 60**0.5
    assert abs(np.mean(unbiased)) < 3 * error and np.mean(biased) > 10 * error
    assert min(unbiased) < 0 < min(biased)


def test_subsets_are_drawn_by_the_seed_and_shrink_to_the_smaller_set():
    x, y = samples(90, 6, 0), samples(50, 6, 1) + 0.5
    few = Subsets(count=10, size=30)
    made = kernel_distance(x, y, subsets=few)
    assert (
        made == kernel_distance(x, y, subsets=few) != kernel_distance(x, y, subsets=Subsets(count=10, size=30, seed=1))
    )
    assert made.spread > 0
    assert made.value == pytest.approx(kernel_distance(x, y, subsets=None).value, rel=0.3)
    whole = kernel_distance(x[:50], y, subsets=Subsets(count=2, size=1000))
    assert whole.value == pytest.approx(kernel_distance(x[:50], y, subsets=None).value) and whole.spread < 1e-12


def test_jedi_is_its_kernel_from_statistics_alone():
    x, y = samples(60, 9, 0) + 2, samples(40, 9, 1) * 1.5
    kernel = Polynomial(degree=2, constant=0.0)
    slow = 100 * kernel_distance(x, y, kernel=kernel, unbiased=False, subsets=None).value
    assert jedi(x, y).value == pytest.approx(slow, rel=1e-10)
    ranks = GaussianStatistics(x[:25]).merge(GaussianStatistics(x[25:]))
    assert jedi(ranks, y).value == pytest.approx(slow, rel=1e-10)
    assert jedi(x, x).value < 1e-20
    with pytest.raises(ValueError, match="features of 9 and 8 dimensions"):
        jedi(x, y[:, :8])


def test_too_few_are_refused():
    with pytest.raises(ValueError, match="at least 2 features"):
        kernel_distance(samples(1, 4, 0), samples(5, 4, 1))

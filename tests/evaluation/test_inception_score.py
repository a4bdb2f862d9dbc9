"""The inception score: closed cases, its ceiling, and splits."""

import math

import numpy as np
import pytest
import torch

from videopoet.evaluation.inception_score import inception_ceiling, inception_score


def sure(labels, classes: int, certainty: float = 60.0) -> torch.Tensor:
    return torch.nn.functional.one_hot(torch.as_tensor(labels), classes).double() * certainty


def test_closed_cases():
    assert inception_score(torch.zeros(40, 7), splits=4).value == pytest.approx(1)  # no idea
    assert inception_score(sure([3] * 40, 7), splits=4).value == pytest.approx(1)  # always the same
    assert inception_score(sure(list(range(8)) * 5, 8), splits=1).value == pytest.approx(8)  # sure and even
    half = torch.tensor([[0.9, 0.1], [0.1, 0.9]]).log()
    entropy = -(0.9 * math.log(0.9) + 0.1 * math.log(0.1))
    assert inception_score(half, splits=1).value == pytest.approx(math.exp(math.log(2) - entropy))


def test_a_shift_of_logits_changes_nothing_and_large_ones_are_fine():
    x = torch.randn(60, 9, generator=torch.Generator().manual_seed(0)).double() * 3
    base = inception_score(x, splits=3).value
    assert inception_score(x + 1e4 * torch.arange(60)[:, None], splits=3).value == pytest.approx(base, rel=1e-9)
    assert inception_score(x * 1e3, splits=3).value <= 9


def test_splits_follow_the_order_and_use_every_sample():
    labels = [0] * 20 + [1] * 20 + [2] * 20
    sorted_by_class = inception_score(sure(labels, 3), splits=3)
    assert sorted_by_class.value == pytest.approx(1)
    shuffled = inception_score(sure(labels, 3), splits=3, shuffle_seed=0)
    assert shuffled.value > 2.5 and shuffled == inception_score(sure(labels, 3), splits=3, shuffle_seed=0)
    last = sure([0] * 9 + [1], 2)  # 10 samples in 3 splits: 3, 3, 4
    assert inception_score(last, splits=3).value > 1


@pytest.mark.parametrize(
    ("n", "splits", "ceiling"), [(10000, 1, 100.5), (10000, 10, 96.0), (2048, 1, 98.6), (2048, 10, 76.6)]
)
def test_the_ceiling_of_ucf_101(n, splits, ceiling):
    assert inception_ceiling(n // splits, 101) == pytest.approx(ceiling, rel=0.004)
    rng = np.random.default_rng(0)
    found = [inception_score(sure(rng.integers(0, 101, n), 101), splits=splits) for _ in range(max(1, 6000 // n))]
    assert np.mean([f.value for f in found]) == pytest.approx(ceiling, rel=0.02)
    assert found[0].ceiling == inception_ceiling(n // splits, 101)


def test_small_ceilings_by_hand():
    assert inception_ceiling(1, 101) == pytest.approx(1)
    # two samples of two classes: different half of the time, so E[H] = log(2) / 2
    assert inception_ceiling(2, 2) == pytest.approx(math.exp(math.log(2) / 2))


def test_nonsense_is_refused():
    for bad, splits in ((torch.zeros(5), 1), (torch.zeros(5, 3), 6), (torch.zeros(5, 1), 1)):
        with pytest.raises(ValueError, match="logits"):
            inception_score(bad, splits=splits)
    with pytest.raises(ValueError, match="not finite"):
        inception_score(torch.full((5, 3), float("nan")), splits=1)

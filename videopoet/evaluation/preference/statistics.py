"""The statistics of paired comparisons, each a small function with its source; numpy and nothing else."""

from collections.abc import Callable, Mapping, Sequence
from math import comb, sqrt
from statistics import NormalDist

import numpy as np


def wilson(successes: float, n: int, confidence: float = 0.95) -> tuple[float, float]:
    """Wilson's score interval of a share: (p + z²/2n ± z √(p(1-p)/n + z²/4n²)) / (1 + z²/n). (Wilson 1927)

    8 of 10 -> (0.490, 0.943); 0 of 10 -> (0, 0.278), where the textbook's interval has no width. n = 0 says nothing:
    (0, 1). Takes answers as independent, which those about one prompt are not: see `bootstrap`.
    """
    if n == 0:
        return 0.0, 1.0
    z, p = NormalDist().inv_cdf(0.5 + confidence / 2), successes / n
    middle, half = p + z * z / (2 * n), z * sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    return max(0.0, (middle - half) / (1 + z * z / n)), min(1.0, (middle + half) / (1 + z * z / n))


def sign_test(plus: int, minus: int) -> float:
    """How often a fair coin is at least as uneven as `plus` to `minus`, both ways, exactly: 9 to 1 -> 22/1024."""
    n = plus + minus
    tail = sum(comb(n, k) for k in range(max(plus, minus), n + 1))
    return min(1.0, 2 * tail / 2**n) if n else 1.0


def holm(values: Sequence[float]) -> list[float]:
    """Holm's correction of several p-values: (0.01, 0.04, 0.03) -> (0.03, 0.06, 0.06). (Holm 1979)"""
    order, adjusted, largest = sorted(range(len(values)), key=lambda i: values[i]), [0.0] * len(values), 0.0
    for place, i in enumerate(order):
        largest = max(largest, min(1.0, (len(values) - place) * values[i]))
        adjusted[i] = largest
    return adjusted


def resampled(raters: int, prompts: int, draws: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """How often each rater and each prompt is drawn, (draws, raters) and (draws, prompts).

    Both are drawn again with replacement, independently (the pigeonhole bootstrap; Owen 2007): answers of one rater are
    alike, and so are answers about one prompt.
    """
    rng = np.random.default_rng(seed)
    return tuple(rng.multinomial(n, [1 / n] * n, size=draws).astype(float) for n in (raters, prompts))


def bootstrap(
    scores: np.ndarray, counts: np.ndarray, *, draws: int = 2000, seed: int = 0, confidence: float = 0.95
) -> tuple[float, float]:
    """Interval of mean score over raters and prompts. scores, counts: sums and numbers of answers, (raters, prompts)."""
    r, p = resampled(*scores.shape, draws, seed)
    total, number = ((r @ values * p).sum(1) for values in (scores, counts))
    means = total[number > 0] / number[number > 0]
    low, high = np.quantile(means, [0.5 - confidence / 2, 0.5 + confidence / 2])
    return float(low), float(high)


def bradley_terry(wins: np.ndarray, *, tolerance: float = 1e-12, steps: int = 100_000) -> np.ndarray | None:
    """Strengths p with P(i beats j) = p_i / (p_i + p_j), of geometric mean 1, most likely given wins[i, j].

    "About the same" counts as half a win for each. By Hunter's steps (2004): p_i <- Σ_j w_ij / Σ_j n_ij / (p_i + p_j).
    Two sets, 3 wins to 1: p = (√3, 1/√3). None where no finite strengths exist: some sets never lost to the others.
    """
    k = len(wins)
    reach = (wins > 0) | np.eye(k, dtype=bool)
    for _ in range(k):
        reach = (reach.astype(int) @ reach.astype(int)) > 0
    if not reach.all():
        return None
    games, won, p = wins + wins.T, wins.sum(1), np.ones(k)
    for _ in range(steps):
        new = won / (games / (p[:, None] + p[None, :])).sum(1)
        new /= np.exp(np.log(new).mean())
        if np.abs(new / p - 1).max() < tolerance:
            return new
        p = new
    return p


def elo(strengths: np.ndarray, mean: float = 1500.0) -> np.ndarray:
    """Strengths on the scale of Elo: 400 points are odds of ten to one."""
    return mean + 400 * np.log10(strengths)


def nominal(a: float, b: float) -> float:
    """Answers are alike or not."""
    return float(a != b)


def interval(a: float, b: float) -> float:
    """Opposite answers (1 and 0) are four times as far apart as either and about the same (0.5)."""
    return (a - b) ** 2


def krippendorff(
    units: Mapping[str, Sequence[float]], distance: Callable[[float, float], float] = nominal
) -> float | None:
    """Krippendorff's alpha (2004): 1 - observed over expected disagreement; 1 is agreement, 0 is chance.

    units: what was rated -> the answers it got; units with one answer say nothing. None where nothing can be said: no
    unit has two answers, or all answers ever given are the same.
    """
    rated = [values for values in units.values() if len(values) > 1]
    values = [value for unit in rated for value in unit]
    if not rated or len(set(values)) < 2:
        return None
    observed = sum(sum(distance(a, b) for a in unit for b in unit) / (len(unit) - 1) for unit in rated) / len(values)
    kinds = {value: values.count(value) for value in set(values)}
    expected = sum(n * m * distance(a, b) for a, n in kinds.items() for b, m in kinds.items())
    return 1 - observed / (expected / (len(values) * (len(values) - 1)))

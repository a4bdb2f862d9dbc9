"""Inception score (Salimans et al. 2016), and the most that its number of samples allows."""

import math
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class InceptionScore:
    """Mean over splits of exp(mean KL of a sample's classes from the split's classes), with its spread over splits.

    `ceiling` is what a perfect generator with uniform random classes would be given at this size: 2,048 samples of 101
    classes in 10 splits end at about 77, not 101. Scores of different sizes or splits do not compare.
    """

    value: float
    spread: float
    ceiling: float
    n: int
    classes: int
    splits: int
    shuffle_seed: int | None


def inception_score(
    logits: Tensor | np.ndarray, *, splits: int = 10, shuffle_seed: int | None = None
) -> InceptionScore:
    """Score of class logits (n, k), before the softmax, in float64.

    splits: parts of the samples in their order, each scored by itself; part i has samples i n // splits on, so none is
    left out. shuffle_seed: shuffle first; None keeps the order, which matters where samples come sorted by class.
    """
    x = torch.as_tensor(logits).detach().to("cpu", torch.float64)
    if x.ndim != 2 or x.shape[1] < 2 or not 1 <= splits <= len(x):
        raise ValueError(f"logits (n, k) of at least 2 classes and {splits} samples, got {tuple(x.shape)}")
    if not torch.isfinite(x).all():
        raise ValueError("logits are not finite: look at the clips")
    if shuffle_seed is not None:
        x = x[torch.from_numpy(np.random.RandomState(shuffle_seed).permutation(len(x)))]
    logs = x.log_softmax(1)
    starts = [i * len(x) // splits for i in range(splits + 1)]
    scores = np.array([_score(logs[start:end]) for start, end in pairwise(starts)])
    return InceptionScore(
        value=float(scores.mean()),
        spread=float(scores.std()),
        ceiling=inception_ceiling(len(x) // splits, x.shape[1]),
        n=len(x),
        classes=x.shape[1],
        splits=splits,
        shuffle_seed=shuffle_seed,
    )


def _score(logs: Tensor) -> float:
    mean = logs.logsumexp(0) - math.log(len(logs))
    return math.exp(float((logs.exp() * (logs - mean)).sum(1).mean()))


def inception_ceiling(n: int, classes: int) -> float:
    """exp of the expected entropy of n draws of uniform classes: the score of a generator that is always certain.

    The count c of a class is binomial, so E[H] = -classes * Σ_c P(c) (c / n) log(c / n).
    """
    if classes == 1:
        return 1.0
    entropy, log_p, log_q = 0.0, -math.log(classes), math.log1p(-1 / classes)
    for c in range(1, n + 1):
        log_choose = math.lgamma(n + 1) - math.lgamma(c + 1) - math.lgamma(n - c + 1)
        entropy -= math.exp(log_choose + c * log_p + (n - c) * log_q) * (c / n) * math.log(c / n)
    return math.exp(classes * entropy)

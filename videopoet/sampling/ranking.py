"""Several candidates for one request, and the best of them by a scorer."""

from collections.abc import Sequence as Many
from typing import Protocol

from videopoet.data.media import Media
from videopoet.sampling.request import Request

CANDIDATE_STRIDE = 2**40  # between the seeds of one request's candidates: far above any batch of requests


class Scorer(Protocol):
    """How well each candidate answers the request; higher is better.

    One that has a `check(request)` is asked before anything is made; it raises ValueError for what cannot be ranked by.
    """

    def __call__(self, request: Request, candidates: Many[Media]) -> list[float]: ...


def candidate_seeds(seed: int, num_candidates: int) -> list[int]:
    """The seed of each candidate. The first is the request's own, so one candidate is what there is without ranking."""
    if num_candidates < 1:
        raise ValueError(f"{num_candidates} candidates: at least 1 is needed")
    return [seed + number * CANDIDATE_STRIDE for number in range(num_candidates)]


def best(scorer: Scorer, request: Request, candidates: Many[Media]) -> Media:
    """The candidate of the highest score; the first of equals."""
    scores = scorer(request, candidates)
    return candidates[scores.index(max(scores))]

"""What the answers of a study say: preference per question, strengths over all sets, and how far to trust them."""

from collections import defaultdict
from collections.abc import Callable, Sequence
from itertools import combinations
from typing import Any

import numpy as np

from videopoet.evaluation.preference import statistics
from videopoet.evaluation.preference.answers import Key, Vote

REPORT_FORMAT = "videopoet-preference-report/1"


def analyse(key: Key, votes: Sequence[Vote], *, draws: int = 2000, seed: int = 0) -> dict[str, Any]:
    """The report: facts, a row per two sets and question, strengths per question, agreement, and warnings."""
    raters, prompts = (sorted({getattr(vote, name) for vote in votes}) for name in ("rater", "prompt"))
    comparisons = []
    for sets in sorted({vote.sets for vote in votes}, key=lambda s: [key.sets.index(name) for name in s]):
        for axis in key.axes:
            chosen = [vote for vote in votes if vote.sets == sets and vote.axis == axis]
            comparisons.append(compare(sets, axis, chosen, draws, seed))
    adjusted = statistics.holm([row["sign_test"]["p"] for row in comparisons])
    for row, p in zip(comparisons, adjusted):
        row["sign_test"]["p_holm"] = p
    return {
        "format": REPORT_FORMAT,
        "study": key.study,
        "sets": list(key.sets),
        "raters": len(raters),
        "prompts": len(prompts),
        "pairs": len({vote.pair for vote in votes}),
        "pairs_in_study": len(key.clips),
        "answers": len(votes),
        "bootstrap": {"draws": draws, "seed": seed, "over": ["raters", "prompts"]},
        "comparisons": comparisons,
        "strengths": [strengths(key, axis, votes, draws, seed) for axis in key.axes],
        "agreement": {axis: agreement([vote for vote in votes if vote.axis == axis]) for axis in key.axes},
        "left": left_share(votes),
        "warnings": warnings(key, votes),
    }


def compare(sets: tuple[str, str], axis: str, votes: Sequence[Vote], draws: int, seed: int) -> dict[str, Any]:
    """Two sets on one question. `share` leaves out "about the same", `score` counts it as a half for each."""
    first = sum(vote.preferred == sets[0] for vote in votes)
    second = sum(vote.preferred == sets[1] for vote in votes)
    decided = first + second
    leaning = defaultdict(float)  # prompt -> how much more often the first set was preferred
    for vote in votes:
        leaning[vote.prompt] += vote.score - 0.5
    plus, minus = sum(value > 0 for value in leaning.values()), sum(value < 0 for value in leaning.values())
    scores, counts = table_of(votes, lambda vote: vote.score)
    return {
        "first": sets[0],
        "second": sets[1],
        "axis": axis,
        "answers": len(votes),
        "preferred": {"first": first, "same": len(votes) - decided, "second": second},
        "share": first / decided if decided else None,
        "share_wilson_95": list(statistics.wilson(first, decided)),
        "score": float(scores.sum() / counts.sum()),
        "score_bootstrap_95": list(statistics.bootstrap(scores, counts, draws=draws, seed=seed)),
        "sign_test": {"prompts_for_first": plus, "prompts_for_second": minus, "p": statistics.sign_test(plus, minus)},
    }


def table_of(votes: Sequence[Vote], value: Callable[[Vote], float]) -> tuple[np.ndarray, np.ndarray]:
    """Sums and numbers of answers, (raters, prompts): prompts are what is drawn again, however many pairs they have."""
    raters = {name: i for i, name in enumerate(sorted({vote.rater for vote in votes}))}
    prompts = {name: i for i, name in enumerate(sorted({vote.prompt for vote in votes}))}
    sums, counts = np.zeros((2, len(raters), len(prompts)))
    for vote in votes:
        sums[raters[vote.rater], prompts[vote.prompt]] += value(vote)
        counts[raters[vote.rater], prompts[vote.prompt]] += 1
    return sums, counts


def strengths(key: Key, axis: str, votes: Sequence[Vote], draws: int, seed: int) -> dict[str, Any]:
    """Bradley-Terry strengths on the scale of Elo, mean 1500, with intervals over raters and prompts."""
    chosen = [vote for vote in votes if vote.axis == axis]
    rank = {name: i for i, name in enumerate(key.sets)}
    raters = {name: i for i, name in enumerate(sorted({vote.rater for vote in chosen}))}
    prompts = {name: i for i, name in enumerate(sorted({vote.prompt for vote in chosen}))}
    where = np.array([[raters[v.rater], prompts[v.prompt], *(rank[name] for name in v.sets)] for v in chosen])
    score = np.array([vote.score for vote in chosen])

    def fit(weights: np.ndarray) -> np.ndarray | None:
        wins = np.zeros((len(rank), len(rank)))
        np.add.at(wins, (where[:, 2], where[:, 3]), weights * score)
        np.add.at(wins, (where[:, 3], where[:, 2]), weights * (1 - score))
        found = statistics.bradley_terry(wins, tolerance=1e-9)
        return None if found is None else statistics.elo(found)

    whole = fit(np.ones(len(chosen)))
    report: dict[str, Any] = {"axis": axis, "elo": None, "elo_bootstrap_95": None, "draws_without_strengths": None}
    if whole is None:
        return report | {"cause": "some sets never lost to the others: no finite strengths exist, ask for more answers"}
    draws = min(draws, 500)
    r, p = statistics.resampled(len(raters), len(prompts), draws, seed)
    fits = [found for i in range(draws) if (found := fit(r[i, where[:, 0]] * p[i, where[:, 1]])) is not None]
    report |= {"elo": dict(zip(key.sets, map(float, whole))), "draws_without_strengths": draws - len(fits)}
    if fits:
        low, high = np.quantile(np.array(fits), [0.025, 0.975], axis=0)
        report["elo_bootstrap_95"] = {name: [float(low[i]), float(high[i])] for i, name in enumerate(key.sets)}
    return report


def agreement(votes: Sequence[Vote]) -> dict[str, Any]:
    """Of one question: alpha, and how often two raters of one pair said the same."""
    units = defaultdict(list)
    for vote in votes:
        units[vote.pair].append(vote.score)
    twos = [a == b for values in units.values() for a, b in combinations(values, 2)]
    return {
        "alpha_nominal": statistics.krippendorff(units),
        "alpha_interval": statistics.krippendorff(units, statistics.interval),
        "same_answer": sum(twos) / len(twos) if twos else None,
        "pairs_with_two_answers": sum(len(values) > 1 for values in units.values()),
    }


def left_share(votes: Sequence[Vote]) -> dict[str, Any]:
    """Whether raters lean to a side: sides are random, so a half is what honest eyes give."""
    left, right = (sum(vote.side == side for vote in votes) for side in ("left", "right"))
    share = left / (left + right) if left + right else None
    return {"share": share, "wilson_95": list(statistics.wilson(left, left + right))}


def warnings(key: Key, votes: Sequence[Vote]) -> list[str]:
    """What weakens the numbers, in sentences."""
    said, by_rater = [], defaultdict(list)
    for vote in votes:
        by_rater[vote.rater].append(vote)
    if len(by_rater) < 3:
        said.append(f"{len(by_rater)} rater{'s' * (len(by_rater) > 1)}: intervals over so few raters say little")
    for rater, own in sorted(by_rater.items()):
        sides = {vote.side for vote in own}
        if len(own) >= 20 and len(sides) == 1:
            said.append(f"rater {rater!r} gave the same answer ({sides.pop()}) all {len(own)} times")
        times = {vote.pair: vote.seconds for vote in own}
        hasty = sum(0 < seconds < 3 for seconds in times.values())
        if hasty > len(times) / 2:
            said.append(f"rater {rater!r} spent under 3 seconds on {hasty} of {len(times)} pairs")
    if missing := len(key.clips) - len({vote.pair for vote in votes}):
        said.append(f"{missing} of {len(key.clips)} pairs were answered by nobody")
    return said

"""Answers of raters, read with suspicion: files come by mail, are edited, sent twice, or belong to another study."""

import json
import math
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from videopoet.evaluation.preference.axes import CHOICES
from videopoet.evaluation.preference.study import KEY_FORMAT

ANSWERS_FORMAT = "videopoet-preference-answers/1"
MAX_BYTES = 32 * 2**20


@dataclass(frozen=True, kw_only=True)
class Key:
    """What the study's key says. clips: pair -> clip -> set; prompts: pair -> its prompt."""

    study: str
    sets: tuple[str, ...]
    axes: tuple[str, ...]
    clips: dict[str, dict[str, str]]
    prompts: dict[str, str]


@dataclass(frozen=True, kw_only=True)
class Vote:
    """One rater's answer to one question about one pair. preferred: a set, or None for about the same."""

    rater: str
    pair: str
    prompt: str
    axis: str
    sets: tuple[str, str]  # in the key's order
    preferred: str | None
    side: str  # left, same or right
    seconds: float  # spent on the pair

    @property
    def score(self) -> float:
        """1 for the first set, 0 for the second, a half for about the same."""
        return 0.5 if self.preferred is None else float(self.preferred == self.sets[0])


def read_key(path: Path) -> Key:
    """The key that `write_page` wrote. Raises ValueError where it is none."""
    data = _read(path, KEY_FORMAT)
    with _explained(path, "a key"):
        pairs, sets = data["pairs"], tuple(data["sets"])
        key = Key(
            study=data["study"],
            sets=sets,
            axes=tuple(data["axes"]),
            clips={pair["pair"]: dict(pair["clips"]) for pair in pairs},
            prompts={pair["pair"]: pair["prompt"] for pair in pairs},
        )
        for pair, clips in key.clips.items():
            if len(clips) != 2 or len(set(clips.values())) != 2 or not set(clips.values()) <= set(sets):
                raise ValueError(f"{path}: pair {pair} does not have a clip of each of two sets")
        return key


def read_answers(paths: Iterable[Path], key: Key) -> list[Vote]:
    """All votes of all files. Raises ValueError, naming file and place, for whatever is not an answer to this study.

    A rater may send several files; the same pair in two of them is refused, as nobody can say which one holds.
    """
    votes, seen = [], {}
    for path in paths:
        data = _read(path, ANSWERS_FORMAT)
        if data.get("study") != key.study:
            raise ValueError(f"{path}: answers study {data.get('study')!r}, the key is of {key.study!r}")
        rater = data.get("rater")
        if not isinstance(rater, str) or not rater.strip() or len(rater) > 200:
            raise ValueError(f'{path}: "rater" is {rater!r}, a name is needed')
        answers = data.get("answers")
        if not isinstance(answers, list):
            raise ValueError(f'{path}: "answers" must be a list')
        for number, answer in enumerate(answers):
            where = f"{path}, answer {number}"
            pair = _check(answer, key, where)
            if other := seen.get((rater, pair)):
                raise ValueError(f"{where}: rater {rater!r} answers pair {pair} here and in {other}: keep one of them")
            seen[rater, pair] = where
            votes += _votes(rater, answer, key)
    if not votes:
        raise ValueError("no answer in any of the files")
    return votes


def _check(answer: Any, key: Key, where: str) -> str:
    """The pair that is answered. Raises ValueError for what the page would not have written."""
    if not isinstance(answer, dict):
        raise ValueError(f"{where}: needs an object, not {type(answer).__name__}")
    pair = answer.get("pair")
    if not isinstance(pair, str) or pair not in key.clips:
        raise ValueError(f"{where}: the study has no pair {pair!r}")
    shown = [answer.get("left"), answer.get("right")]
    if not all(isinstance(clip, str) for clip in shown) or set(shown) != set(key.clips[pair]):
        raise ValueError(f"{where}: pair {pair} does not show {shown[0]!r} beside {shown[1]!r}")
    choices = answer.get("choices")
    if not isinstance(choices, dict) or set(choices) != set(key.axes):
        found = sorted(choices) if isinstance(choices, dict) else choices
        raise ValueError(f"{where}: answers {found}, the questions are {sorted(key.axes)}")
    for axis, choice in choices.items():
        if choice not in CHOICES:
            raise ValueError(f"{where}: {axis} is {choice!r}, one of {', '.join(CHOICES)} is needed")
    seconds = answer.get("seconds", 0)
    if (
        isinstance(seconds, bool)
        or not isinstance(seconds, int | float)
        or not (math.isfinite(seconds) and seconds >= 0)
    ):
        raise ValueError(f'{where}: "seconds" is {seconds!r}, a time from 0 is needed')
    return pair


def _votes(rater: str, answer: dict, key: Key) -> list[Vote]:
    pair = answer["pair"]
    owner = key.clips[pair]
    sets = tuple(sorted(owner.values(), key=key.sets.index))
    return [
        Vote(
            rater=rater,
            pair=pair,
            prompt=key.prompts[pair],
            axis=axis,
            sets=(sets[0], sets[1]),
            preferred=None if choice == "same" else owner[answer[choice]],
            side=choice,
            seconds=float(answer.get("seconds", 0)),
        )
        for axis, choice in answer["choices"].items()
    ]


def _read(path: Path, form: str) -> dict[str, Any]:
    """A JSON object of the wanted format; NaN, repeated names and huge files are refused."""
    if not path.is_file():
        raise ValueError(f"{path}: no such file")
    if (size := path.stat().st_size) > MAX_BYTES:
        raise ValueError(f"{path}: {size} bytes, answers have at most {MAX_BYTES}")

    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        made = dict(pairs)
        if len(made) < len(pairs):
            raise ValueError(f"a name stands twice among {sorted(name for name, _ in pairs)}")
        return made

    def number(text: str) -> float:
        raise ValueError(f"{text} is no number")

    try:
        data = json.loads(path.read_bytes().decode("utf-8-sig"), object_pairs_hook=once, parse_constant=number)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path}: not JSON ({error})") from None
    if not isinstance(data, dict) or data.get("format") != form:
        said = data.get("format") if isinstance(data, dict) else type(data).__name__
        raise ValueError(f"{path}: its format is {said!r}, {form!r} is needed")
    return data


class _explained:
    """Turns a missing or misshapen field into a ValueError that names the file."""

    def __init__(self, path: Path, what: str):
        self.path, self.what = path, what

    def __enter__(self):
        return self

    def __exit__(self, kind, error, trace):
        if isinstance(error, LookupError | TypeError | AttributeError):
            raise ValueError(f"{self.path}: is not {self.what} of this program ({error!r})") from None

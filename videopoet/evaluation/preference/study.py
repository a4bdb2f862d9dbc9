"""Which two videos are shown together, under which names, and on which side.

Nothing a rater is given says which model made what: files are named by a hash, and which hash is which set stands in a
key that stays with whoever runs the study. Sides and order are drawn for every rater anew, by a hash of study, rater and
pair that the page and this module compute alike (`order.js`).
"""

import hashlib
import json
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

from videopoet.evaluation.exporters.sources import Made, read_set
from videopoet.evaluation.preference.axes import AXES, Axis

KEY_FORMAT = "videopoet-preference-key/1"


@dataclass(frozen=True, kw_only=True)
class Clip:
    """One video under its hidden name."""

    id: str
    set: str
    path: Path


@dataclass(frozen=True, kw_only=True)
class Pair:
    """Two videos of one prompt, of two sets, in an order that says nothing."""

    id: str
    prompt: str
    index: int
    clips: tuple[Clip, Clip]


@dataclass(frozen=True, kw_only=True)
class Study:
    """All pairs of a study."""

    title: str
    seed: int
    sets: tuple[str, ...]
    pairs: tuple[Pair, ...]
    axes: tuple[Axis, ...] = AXES

    @property
    def id(self) -> str:
        return _digest(json.dumps(self._facts(), sort_keys=True))

    def key(self) -> dict[str, Any]:
        """What the analysis needs and no rater may see."""
        return {"format": KEY_FORMAT, "study": self.id} | self._facts()

    def _facts(self) -> dict[str, Any]:
        return {
            "title": self.title,
            "seed": self.seed,
            "sets": list(self.sets),
            "axes": [axis.id for axis in self.axes],
            "pairs": [
                {"pair": p.id, "prompt": p.prompt, "index": p.index, "clips": {c.id: c.set for c in p.clips}}
                for p in self.pairs
            ],
        }


def build(
    folders: Mapping[str, Path],
    *,
    seed: int = 0,
    title: str = "Which video is better?",
    against: str | None = None,
    limit: int | None = None,
) -> tuple[Study, dict[str, int]]:
    """A study of the videos that the sets have in common, and per set how many found no counterpart.

    Sets are paired each with each, or all with the set `against`. Videos belong together that have prompt and number in
    common (`read_set` says where it takes them from). limit: so many prompts, drawn by the seed, the same for all sets.
    Raises ValueError where there are not two sets or nothing is in common.
    """
    if len(folders) < 2:
        raise ValueError(f"{len(folders)} set of videos: a comparison needs two, as --set ours=DIR --set theirs=DIR")
    if against is not None and against not in folders:
        raise ValueError(f"no set is called '{against}', there are {', '.join(folders)}")
    if limit is not None and limit < 1:
        raise ValueError(f"a study of {limit} prompts: at least 1 is needed")
    sets = {name: {(made.prompt, made.index): made for made in read_set(folder)} for name, folder in folders.items()}
    matches = [pair for pair in combinations(sets, 2) if against is None or against in pair]
    shared = {match: [what for what in sets[match[0]] if what in sets[match[1]]] for match in matches}
    for (first, second), common in shared.items():
        if not common:
            raise ValueError(
                f"sets '{first}' and '{second}' have no prompt in common (as {next(iter(sets[first]))[0]!r} and "
                f"{next(iter(sets[second]))[0]!r}): name files by prompts, or list them in captions.jsonl"
            )
    kept = _kept({what for common in shared.values() for what in common}, seed, limit)
    pairs = [
        _pair(seed, prompt, index, {name: sets[name][prompt, index] for name in match})
        for match, common in shared.items()
        for prompt, index in common
        if (prompt, index) in kept
    ]
    alone = {
        name: len(made.keys() - {w for m, c in shared.items() if name in m for w in c}) for name, made in sets.items()
    }
    pairs.sort(key=lambda pair: pair.id)  # by hash: the page's own order says nothing either
    return Study(title=title, seed=seed, sets=tuple(sets), pairs=tuple(pairs)), alone


def _kept(shared: set[tuple[str, int]], seed: int, limit: int | None) -> set[tuple[str, int]]:
    """All, or those of `limit` prompts."""
    prompts = sorted({prompt for prompt, _ in shared})
    chosen = set(random.Random(seed).sample(prompts, min(limit or len(prompts), len(prompts))))
    return {what for what in shared if what[0] in chosen}


def _pair(seed: int, prompt: str, index: int, made: Mapping[str, Made]) -> Pair:
    clips = [
        Clip(id=_digest("clip", seed, name, prompt, index), set=name, path=each.path) for name, each in made.items()
    ]
    clips.sort(key=lambda clip: clip.id)
    return Pair(
        id=_digest("pair", seed, *(clip.id for clip in clips)), prompt=prompt, index=index, clips=(clips[0], clips[1])
    )


def _digest(*parts: Any) -> str:
    return hashlib.sha256("\0".join(map(str, parts)).encode("utf-8", "surrogatepass")).hexdigest()[:16]


def hash32(text: str) -> int:
    """FNV-1a of the UTF-8 bytes, then Murmur3's finaliser: the same 32 bits as `hash32` of `order.js`."""
    value = 0x811C9DC5
    for byte in text.encode("utf-8"):
        value = ((value ^ byte) * 0x01000193) & 0xFFFFFFFF
    for shift, factor in ((16, 0x85EBCA6B), (13, 0xC2B2AE35)):
        value = ((value ^ (value >> shift)) * factor) & 0xFFFFFFFF
    return value ^ (value >> 16)


def order_for(study: str, rater: str, pairs: Sequence[str]) -> list[str]:
    """The pairs in the order in which one rater sees them."""
    return sorted(pairs, key=lambda pair: (hash32(f"order|{study}|{rater}|{pair}"), pair))


def first_is_left(study: str, rater: str, pair: str) -> bool:
    """Whether the first clip of a pair stands on the left for one rater."""
    return hash32(f"side|{study}|{rater}|{pair}") % 2 == 0

"""One run of a protocol: its samples, its real clips, and the features of both, computed once and shared by processes."""

import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from torch import Tensor

from videopoet.data.files import whole_or_nothing
from videopoet.evaluation.cache import FeatureCache
from videopoet.evaluation.detectors.base import Detector
from videopoet.evaluation.detectors.weights import sha256_of
from videopoet.evaluation.makers import Sample
from videopoet.evaluation.plans import Wish
from videopoet.evaluation.protocol import Contents, Entry, digest
from videopoet.evaluation.protocol import Protocol as Knobs
from videopoet.evaluation.sampling import PATIENCE, Samples, Share, waiting

SAVED_AT_ONCE = 32  # items whose features are written as one block
UNITS = 64  # pictures or clips that a network sees at once


@dataclass(frozen=True)
class Item:
    """Something that has features. `content`: hash of the bytes it is read from and of what turns them into a clip."""

    key: str
    content: str
    load: Callable[[], Any] = field(compare=False, hash=False)


class Reading(Protocol):
    """What is computed of each item: `identity` is part of the cache's key, so equal identities give equal rows.

    `prepare` turns what an item loads into an array whose first axis is units (pictures, clips); `compute` turns units of
    one shape into as many rows, or, where `alone` is set, the units of one item into any number of rows.
    """

    identity: str
    alone: bool

    def prepare(self, loaded: Any, key: str) -> Any: ...

    def compute(self, units: Any) -> Tensor: ...


@dataclass(frozen=True, kw_only=True)
class Run:
    """What a run adds to a protocol.

    limit: at most so many samples and real clips. allow_partial: measure although the data are not as published. patience:
    seconds after which rank 0 takes over what other ranks have not made. progress: called with what is done and how many
    there are, gives what is called with each number done.
    """

    data: Path
    work: Path
    seed: int = 0
    limit: int | None = None
    allow_partial: bool = False
    share: Share = Share()
    patience: float = PATIENCE
    progress: Callable[[str, int], Callable[[int], Any]] | None = None

    def stage(self, what: str, total: int) -> Callable[[int], Any]:
        return self.progress(what, total) if self.progress else lambda steps: None


class Study:
    """What measures work on. `unusable` says why clips could not be read; they count nowhere. `known`: those of them that
    every rank knew before any features were computed. `shortened`: samples of whose prompt the model read only the words
    that fit it.
    """

    def __init__(self, knobs: Knobs, contents: Contents, wishes: Sequence[Wish], samples: Samples,
                 detectors: dict[str, Detector], run: Run, maker_facts: dict[str, Any]):  # fmt: skip
        self.knobs, self.contents, self.samples, self.detectors = knobs, contents, samples, detectors
        self.run, self.maker_facts = run, maker_facts
        self.cache = FeatureCache(run.work / "features")
        self.unusable: dict[str, str] = {}
        self.known: dict[str, str] = {}
        self.shortened = 0
        self._wishes = list(wishes)
        self._files: dict[Path, str] = {}

    @property
    def wishes(self) -> list[Wish]:
        """The samples that there are."""
        return [wish for wish in self._wishes if wish.source_key not in self.unusable or wish in self.samples]

    def sample(self, wish: Wish) -> Item:
        content = getattr(self.samples, "content", lambda w: None)(wish) or self._hash(self.samples.path(wish))
        return Item(key=f"sample {wish.number}", content=content, load=lambda: self.samples.read(wish))

    def real(self, entry: Entry, key: str | None = None) -> Item:
        key, source = key or entry.key, self.knobs.source
        content = digest([self._hash(entry.path), source])
        return Item(key=key, content=content, load=lambda: Sample(media=source.read(entry.path, key)))

    def pair(self, wish: Wish) -> Item:
        """A sample with the clip it was made from: loads (real, made)."""
        a, b = self.real(wish.entry, wish.source_key), self.sample(wish)
        return Item(key=b.key, content=digest([a.content, b.content]), load=lambda: (a.load(), b.load()))

    def _hash(self, path: Path) -> str:
        if path not in self._files:
            self._files[path] = sha256_of(path)
        return self._files[path]

    def nothing(self, what: str) -> ValueError:
        """That nothing of `what` could be read, with the first reason."""
        reason = next((f": {key}: {why}" for key, why in self.unusable.items()), "")
        return ValueError(f"{what} could be read{reason}")

    def key_of(self, reading: Reading, item: Item) -> str:
        return hashlib.sha256(f"{reading.identity}\0{item.key}\0{item.content}".encode()).hexdigest()

    def extract(self, reading: Reading, items: Sequence[Item], what: str) -> None:
        """Compute what is not yet there of this rank's share, then (rank 0) of what others left.

        Ranks share out `items`, which must be the same on all of them.
        """
        advance = self.run.stage(what, len(items))
        self.cache.refresh()
        self._extract(reading, self.run.share.mine(items, UNITS), advance)
        if self.run.share.rank == 0:
            for left in waiting(lambda i: self._there(reading, i), items, self.run.share, advance, self.run.patience):
                self._extract(reading, left, advance)

    def extract_reals(self, reading: Reading, reals: Callable[["Study", dict[str, str]], list[Item]], what: str) -> None:
        """Features of real clips; others take the place of those that cannot be read, as long as there are more.

        reals: the clips to take when some are unusable. Rank 0 alone knows in the end which are, so it does the others.
        """
        self.extract(reading, reals(self, self.known), what)
        while self.run.share.rank == 0:
            items = [item for item in reals(self, self.unusable) if not self._there(reading, item)]
            if not items:
                return
            self._extract(reading, items, self.run.stage(what, len(items)))

    def _there(self, reading: Reading, item: Item) -> bool:
        key = self.key_of(reading, item)
        if key not in self.cache:
            self.cache.refresh()
        if key not in self.cache and item.key not in self.unusable and self._refusal(key).is_file():
            self.unusable[item.key] = self._refusal(key).read_text(encoding="utf-8")
        return key in self.cache or item.key in self.unusable

    def _refusal(self, key: str) -> Path:
        """Where a rank tells the others why it computed no features; each tries its own share anew in the next run."""
        return self.cache.folder / f"{key}.unusable"

    def _refuse(self, key: str, item: Item, why: str) -> None:
        self.unusable[item.key] = why
        with whole_or_nothing(self._refusal(key)) as part:
            part.write_text(why, encoding="utf-8")

    def _extract(self, reading: Reading, items: Iterable[Item], advance: Callable[[int], Any]) -> None:
        block: list[tuple[str, Tensor]] = []
        for key, rows in self._rows(reading, items, advance):
            block.append((key, rows))
            if len(block) == SAVED_AT_ONCE:
                self.cache.add(block)
                block = []
        self.cache.add(block)

    def _rows(
        self, reading: Reading, items: Iterable[Item], advance: Callable[[int], Any]
    ) -> Iterator[tuple[str, Tensor]]:
        waiting_units: list[tuple[str, Any]] = []

        def run() -> Iterator[tuple[str, Tensor]]:
            if waiting_units:
                rows = reading.compute(np.concatenate([units for _, units in waiting_units]))
                yield from zip((k for k, _ in waiting_units), rows.split([len(units) for _, units in waiting_units]))
                waiting_units.clear()

        for item in items:
            key = self.key_of(reading, item)
            advance(1)
            if key in self.cache or item.key in self.unusable:
                continue
            self._refusal(key).unlink(missing_ok=True)
            try:
                units = reading.prepare(item.load(), item.key)
                if reading.alone:
                    yield key, reading.compute(units)
                    continue
            except (ValueError, OSError) as error:
                self._refuse(key, item, str(error))
                continue
            if waiting_units and (units.shape[1:] != waiting_units[0][1].shape[1:] or units.dtype != waiting_units[0][1].dtype
                                  or sum(len(u) for _, u in waiting_units) + len(units) > UNITS):  # fmt: skip
                yield from run()
            waiting_units.append((key, units))
        yield from run()

    def rows(self, reading: Reading, items: Sequence[Item]) -> list[Tensor]:
        """float32 (rows, d) of each item that could be read, in order."""
        self.cache.refresh()
        return [self.cache[self.key_of(reading, item)] for item in items if item.key not in self.unusable]

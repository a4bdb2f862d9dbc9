"""Which inputs and clips are worth a place in the shards: small steps, each a value, refused by name and reason.

    videopoet shards build VIDEOS --out shards --filter MinSide:pixels=240 --filter CaptionLength:fewest=3

or in YAML, where a class of your own may stand as well: a list of `class_path` and `init_args`.
"""

import re
import unicodedata
from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import ClassVar

import numpy as np

from videopoet.data.captions import Caption, read_sidecars
from videopoet.data.decoding import Facts
from videopoet.data.inputs import Input
from videopoet.data.rejections import Rejection
from videopoet.data.schema import Clip

WINDOW = 0.02  # seconds over which the level of sound is measured


class Filter(ABC):
    """A frozen dataclass of plain values. `kind`: what its rejections are counted as."""

    kind: ClassVar[str]


class FactsFilter(Filter):
    """Judges a file by what its header says, before anything is decoded."""

    @abstractmethod
    def __call__(self, facts: Facts) -> str | None:
        """Why not to take the file; None to take it."""


class CaptionFilter(Filter):
    """Judges each caption of an input; an input is refused if it is left with none."""

    @abstractmethod
    def __call__(self, caption: str) -> bool:
        """Whether to keep the caption."""


class ClipFilter(Filter):
    """Judges a clip as it would be written."""

    @abstractmethod
    def __call__(self, clip: Clip, sample_rate: int) -> str | None:
        """Why not to take the clip; None to take it. sample_rate: Hz, of `clip.audio`."""


class ListFilter(Filter):
    """Judges the whole list of inputs before any is opened, so that the answer does not depend on who works when."""

    @abstractmethod
    def __call__(self, folder: Path, inputs: list[Input]) -> dict[int, str]:
        """Which inputs not to take, by their places in the list, and why."""


@dataclass(frozen=True, kw_only=True)
class MinSide(FactsFilter):
    """The shorter side of the pictures in the file is at least `pixels`; files of sound pass."""

    pixels: int
    kind: ClassVar[str] = "small"

    def __call__(self, facts: Facts) -> str | None:
        side = None if facts.height is None else min(facts.height, facts.width)
        return f"{facts.width} x {facts.height} pixels, the shorter side of {self.pixels} is asked for" \
            if side is not None and side < self.pixels else None  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class MinDuration(FactsFilter):
    """The file, or the span of it that is listed, lasts at least so long; files that do not say how long they are pass."""

    seconds: float
    kind: ClassVar[str] = "brief"

    def __call__(self, facts: Facts) -> str | None:
        if facts.seconds is None or facts.seconds >= self.seconds:
            return None
        return f"lasts {facts.seconds:.2f} s, {self.seconds:g} s are asked for"


@dataclass(frozen=True, kw_only=True)
class MaxSilence(ClipFilter):
    """At most this share of a clip's sound is silent: below `level` in windows of 20 ms. Without a track, all of it is."""

    share: float
    level: float = -60.0  # dB of full scale
    kind: ClassVar[str] = "silent"

    def __call__(self, clip: Clip, sample_rate: int) -> str | None:
        found = 1.0 if clip.audio is None else silent_share(clip.audio, sample_rate, self.level)
        if found <= self.share:
            return None
        what = "has no sound" if clip.audio is None else f"{100 * found:.0f} % is silent"
        return f"{what}, at most {100 * self.share:g} % below {self.level:g} dB is asked for"


@dataclass(frozen=True, kw_only=True)
class CaptionLength(CaptionFilter):
    """Captions of `fewest` to `most` words. An input without any caption is refused too, unless `required` is false."""

    fewest: int = 1
    most: int = 1000
    required: bool = True
    kind: ClassVar[str] = "caption length"

    def __call__(self, caption: str) -> bool:
        return self.fewest <= len(caption.split()) <= self.most


@dataclass(frozen=True, kw_only=True)
class UniqueKey(ListFilter):
    """Of inputs with nearly the same key the first is taken; spans of one file with other times are not the same.

    of: "file" (its name without folder and suffix), "caption" (the first one), or a field that the listing gives, such as
    "url". Keys are compared by `normalised`. Inputs without such a key pass.
    """

    of: str = "file"
    kind: ClassVar[str] = "duplicate"

    def __call__(self, folder: Path, inputs: list[Input]) -> dict[int, str]:
        seen: dict[tuple, str] = {}
        refused = {}
        for number, entry in enumerate(inputs):
            key = normalised(self._key(folder, entry))
            if key and (first := seen.setdefault((key, entry.start, entry.end), entry.file)) is not entry.file:
                refused[number] = f"its {self.of} is nearly that of {first}"
        return refused

    def _key(self, folder: Path, entry: Input) -> str:
        if self.of == "file":
            return PurePosixPath(entry.file).stem
        if self.of == "caption":
            return next(iter(_captions(folder, entry).texts), "")
        return str(entry.caption.extra.get(self.of) or "")


def normalised(key: str) -> str:
    """A key without what copies differ in: case, accents' encoding, punctuation, "(1)", "copy", a size such as 480p.

    >>> normalised("Red_Ball (1)"), normalised("red-ball 480p copy")
    ('redball', 'redball')
    """
    key = unicodedata.normalize("NFKC", key).casefold()
    key = re.sub(r"\(\d+\)|(?<![^\W_])(copy|\d{3,4}p|\d{3,4}x\d{3,4})(?![^\W_])", " ", key)
    return "".join(letter for letter in key if letter.isalnum())


def silent_share(audio: np.ndarray, sample_rate: int, level: float) -> float:
    """The share of windows of 20 ms whose root mean square lies below `level` dB of full scale. audio: int16 (s,)."""
    window = max(1, round(WINDOW * sample_rate))
    whole = audio[: len(audio) // window * window] if len(audio) >= window else audio
    blocks = whole.reshape(-1, min(window, len(whole))).astype(np.float32) / 32767
    return float(np.mean(np.sqrt(np.mean(blocks**2, axis=1)) < 10 ** (level / 20)))


def _captions(folder: Path, entry: Input) -> Caption:
    try:
        return read_sidecars(folder / entry.file) + entry.caption
    except ValueError:  # reported where the file is cut
        return entry.caption


@dataclass(frozen=True, kw_only=True)
class Filters:
    """Several filters, applied in order within each stage: list, captions, facts, clips."""

    steps: tuple[Filter, ...] = ()

    def of_list(self, folder: Path, inputs: list[Input]) -> tuple[list[Input], tuple[Rejection, ...]]:
        """The inputs that are left, and the others with their reasons."""
        rejected: list[Rejection] = []
        for step in self._steps(ListFilter):
            refused = step(folder, inputs)
            rejected += [
                _refusal(step, inputs[i].file, reason, inputs[i].start or None) for i, reason in refused.items()
            ]
            inputs = [entry for i, entry in enumerate(inputs) if i not in refused]
        return inputs, tuple(rejected)

    def of_caption(self, caption: Caption) -> tuple[Caption, tuple[str, str] | None]:
        """What is left of the captions, and kind and reason if that is too little."""
        for step in self._steps(CaptionFilter):
            texts = tuple(text for text in caption.texts if step(text))
            if not texts and (caption.texts or getattr(step, "required", False)):
                said = "; ".join(caption.texts)
                return caption, (step.kind, f"none of its {len(caption.texts)} captions will do: {said[:200]}")
            caption = replace(caption, texts=texts)
        return caption, None

    @property
    def reads_facts(self) -> bool:
        """Whether any of them judges by a file's header."""
        return any(self._steps(FactsFilter))

    def of_facts(self, facts: Facts) -> tuple[str, str] | None:
        """Kind and reason of the first refusal."""
        found = ((step.kind, step(facts)) for step in self._steps(FactsFilter))
        return next(((kind, reason) for kind, reason in found if reason is not None), None)

    def of_clip(self, clip: Clip, sample_rate: int) -> tuple[str, str] | None:
        """Kind and reason of the first refusal."""
        found = ((step.kind, step(clip, sample_rate)) for step in self._steps(ClipFilter))
        return next(((kind, reason) for kind, reason in found if reason is not None), None)

    def _steps(self, kind: type) -> list:
        return [step for step in self.steps if isinstance(step, kind)]


def _refusal(step: Filter, file: str, reason: str, second: float | None) -> Rejection:
    return Rejection(file=file, kind=step.kind, reason=reason, second=second)

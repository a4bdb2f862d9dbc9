"""Which samples are made of a dataset, as values: all captions, one of each video, the first 40,960, so many of a class.

A plan is a function of the dataset's entries, of its own seed, and of the prompts it reads, if any. Sample i draws from
the run's seed + i.
"""

import hashlib
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np

from videopoet.data.media import Media
from videopoet.sampling.request import Request

if TYPE_CHECKING:
    from videopoet.evaluation.protocol import Entry


@dataclass(frozen=True, kw_only=True)
class Wish:
    """One sample to make. `draw` counts the samples of one entry, so that each may have a clip of its own."""

    number: int
    prompt: str
    entry: "Entry"
    draw: int = 0

    @property
    def source_key(self) -> str:
        """The name of its real clip."""
        return f"{self.entry.key}#{self.draw}" if self.draw else self.entry.key


class Plan(Protocol):
    """`expected`: how many samples the published protocol has; None where that depends on the data.

    Called with the dataset's entries and its folder (--data), where a plan may find more than the entries.
    """

    expected: int | None

    def __call__(self, entries: Sequence["Entry"], folder: Path | None = None) -> list[Wish]: ...


def pick(seed: int, key: str, n: int) -> int:
    """One of n, by seed and name alone: the order of files and of draws changes nothing."""
    return int.from_bytes(hashlib.sha256(f"{seed}\0{key}".encode()).digest()[:16], "big") % n


def _numbered(pairs: Sequence[tuple["Entry", str, int]]) -> list[Wish]:
    return [Wish(number=i, entry=entry, prompt=prompt, draw=draw) for i, (entry, prompt, draw) in enumerate(pairs)]


@dataclass(frozen=True, kw_only=True)
class EveryCaption:
    """Each caption of each video, in the file's order; `count`: the first so many only.

    MSR-VTT's test has 59,794 (VideoPoet, Make-A-Video). Captions that occur twice count twice, as they stand in the file.
    """

    count: int | None = None
    expected: int | None = None

    def __call__(self, entries: Sequence["Entry"], folder: Path | None = None) -> list[Wish]:
        return _numbered([(e, caption, i) for e in entries for i, caption in enumerate(e.captions)][: self.count])


@dataclass(frozen=True, kw_only=True)
class OneRandomCaption:
    """One caption of each video, by the seed and the video's name (Video LDM)."""

    seed: int = 0
    expected: int | None = None

    def __call__(self, entries: Sequence["Entry"], folder: Path | None = None) -> list[Wish]:
        return _numbered([(e, e.captions[pick(self.seed, e.key, len(e.captions))], 0) for e in entries if e.captions])


@dataclass(frozen=True, kw_only=True)
class CaptionsPerRepeat:
    """`repeats` times `count` videos drawn without replacement, a random caption of each."""

    repeats: int
    count: int
    seed: int = 0

    @property
    def expected(self) -> int:
        return self.repeats * self.count

    def __call__(self, entries: Sequence["Entry"], folder: Path | None = None) -> list[Wish]:
        captioned, rows = [e for e in entries if e.captions], []
        for repeat in range(self.repeats):
            order = np.random.default_rng([self.seed, repeat]).permutation(len(captioned))[: self.count]
            for e in (captioned[i] for i in order):
                rows.append((e, e.captions[pick(self.seed, f"{e.key}/{repeat}", len(e.captions))], repeat))
        return _numbered(rows)


class Wording(Protocol):
    """The prompt of a class, from the name it has in the dataset; `folder` is the dataset's."""

    def __call__(self, label: str, folder: Path | None = None) -> str: ...


@dataclass(frozen=True, kw_only=True)
class SplitWords:
    """ "ApplyEyeMakeup" -> "apply eye makeup", put into `template`."""

    template: str = "{}"

    def __call__(self, label: str, folder: Path | None = None) -> str:
        words = re.sub(r"(?<=[a-z])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])|[_\s]+", " ", label)
        return self.template.format(words.lower().strip())


@dataclass(frozen=True, kw_only=True)
class WrittenPrompts:
    """A sentence for each class, written by hand: a JSON object {class: prompt}, in --data or anywhere."""

    file: str

    def __call__(self, label: str, folder: Path | None = None) -> str:
        places = [Path(self.file), *([folder / self.file] if folder else [])]
        path = next((p for p in places if p.is_file()), None)
        if path is None:
            raise ValueError(f"no prompts at {' or '.join(map(str, places))}: a JSON object {{class: prompt}}")
        said = json.loads(path.read_text(encoding="utf-8"))
        if label not in said:
            raise ValueError(f"{path} has no prompt for the class {label}")
        return said[label]


@dataclass(frozen=True, kw_only=True)
class ClassPrompts:
    """`count` samples of the classes' prompts.

    balanced: class i % classes for sample i (50 of each of ImageNet's 1,000 in 50,000); otherwise drawn uniformly by seed.
    """

    count: int
    wording: Wording = SplitWords()
    balanced: bool = True
    seed: int = 0

    @property
    def expected(self) -> int:
        return self.count

    def __call__(self, entries: Sequence["Entry"], folder: Path | None = None) -> list[Wish]:
        first: dict[str, Entry] = {}
        for entry in entries:
            first.setdefault(entry.label, entry)
        labels = sorted(first)
        if not labels:
            return []
        prompts = {label: self.wording(label, folder) for label in labels}
        rng = np.random.default_rng(self.seed)
        chosen = np.arange(self.count) % len(labels) if self.balanced else rng.integers(0, len(labels), self.count)
        return _numbered([(first[labels[i]], prompts[labels[i]], draw) for draw, i in enumerate(chosen)])


@dataclass(frozen=True, kw_only=True)
class EachVideo:
    """Each video once, or `count` samples that go round the videos; later rounds have clips of their own.

    prompt: "none", "label" or "caption" (the first). Videos are shuffled by `seed` where it is given, so that a part of
    the dataset is a fair one.
    """

    count: int | None = None
    prompt: str = "none"
    seed: int | None = None
    expected: int | None = None

    def __post_init__(self) -> None:
        if self.prompt not in ("none", "label", "caption"):
            raise ValueError(f"prompt is 'none', 'label' or 'caption', not {self.prompt!r}")

    def __call__(self, entries: Sequence["Entry"], folder: Path | None = None) -> list[Wish]:
        entries = list(entries)
        if not entries:
            return []
        if self.seed is not None:
            entries = [entries[i] for i in np.random.default_rng(self.seed).permutation(len(entries))]
        said = {"none": lambda e: "", "label": lambda e: e.label, "caption": lambda e: (*e.captions, "")[0]}[
            self.prompt
        ]
        count = len(entries) if self.count is None else self.count
        rows = [(entries[i % len(entries)], i // len(entries)) for i in range(count)]
        return _numbered([(e, said(e), draw) for e, draw in rows])


class Given(Protocol):
    """What of the real clip the model sees. `reads`: whether it needs the clip at all."""

    reads: bool

    def __call__(self, prompt: str, clip: Media | None) -> Request: ...


@dataclass(frozen=True, kw_only=True)
class TextAlone:
    """The prompt."""

    reads = False

    def __call__(self, prompt: str, clip: Media | None) -> Request:
        return Request(prompt=prompt)


@dataclass(frozen=True, kw_only=True)
class FirstFrames:
    """The first frames, and the prompt where the plan has one. They stay in the sample as they were given."""

    frames: int
    reads = True

    def __call__(self, prompt: str, clip: Media | None) -> Request:
        if len(clip.video) < self.frames:
            raise ValueError(f"the clip has {len(clip.video)} frames, {self.frames} are given")
        return Request(prompt=prompt, video=Media(video=clip.video[: self.frames], fps=clip.fps))


@dataclass(frozen=True, kw_only=True)
class FirstPicture:
    """The first frame as a picture."""

    reads = True

    def __call__(self, prompt: str, clip: Media | None) -> Request:
        return Request(prompt=prompt, image=clip.video[0])


@dataclass(frozen=True, kw_only=True)
class WholeClip:
    """The clip with its sound: the task hides what it hides."""

    reads = True

    def __call__(self, prompt: str, clip: Media | None) -> Request:
        return Request(prompt=prompt, video=clip)


@dataclass(frozen=True, kw_only=True)
class SoundAlone:
    """The clip's sound."""

    reads = True

    def __call__(self, prompt: str, clip: Media | None) -> Request:
        if clip.audio is None:
            raise ValueError("the clip has no sound")
        return Request(prompt=prompt, audio=Media(video=None, fps=0.0, audio=clip.audio, sample_rate=clip.sample_rate))

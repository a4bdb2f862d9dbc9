"""What a sentence about the built-in world asks for: the inverse of `bounce_captions`, for judging answers by prompt."""

import re
from dataclasses import dataclass

from videopoet.data.bounce import BACKGROUNDS, COLOURS, RADII, SHAPES, TONES
from videopoet.data.bounce_captions import DIRECTION_PHRASES

_SUBJECT = re.compile(rf"\b({'|'.join(RADII)}) ({'|'.join(COLOURS)}) ({'|'.join(SHAPES)})\b")
_BACKGROUND = re.compile(rf"\b({'|'.join(BACKGROUNDS)}) ({'|'.join(TONES)}) background\b")
_MOTION = re.compile(r"\b(stands still|does not move|drifts|glides|bounces|falls)\b")
_KINDS = {"stands still": "still", "does not move": "still", "drifts": "drift", "glides": "drift", "bounces": "bounce",
          "falls": "fall"}  # fmt: skip
# Longest first: "up and left" also says "left".
_DIRECTIONS = sorted(
    ((phrase, name) for name, phrases in DIRECTION_PHRASES.items() for phrase in phrases), key=lambda p: -len(p[0])
)


@dataclass(frozen=True, kw_only=True)
class AskedMotion:
    kind: str
    direction: str | None = None


@dataclass(frozen=True, kw_only=True)
class AskedBody:
    shape: str
    colour: str
    size: str
    motion: AskedMotion


@dataclass(frozen=True, kw_only=True)
class AskedBackground:
    kind: str
    tone: str


@dataclass(frozen=True, kw_only=True)
class AskedScene:
    """As much of a `bounce.Scene` as a sentence says, for `bounce_oracle.score`.

    A sentence does not say when something strikes: `struck` is what was seen to strike in the answer, (time in seconds,
    shape), so that the sound is held against the pictures it belongs to.
    """

    objects: tuple[AskedBody, ...]
    background: AskedBackground
    struck: tuple["AskedImpact", ...] = ()

    def impacts(self) -> tuple["AskedImpact", ...]:
        return self.struck


@dataclass(frozen=True, kw_only=True)
class AskedImpact:
    time: float  # seconds
    shape: str


def read_prompt(prompt: str) -> AskedScene:
    """The scene a sentence asks for. Raises ValueError where it is not about the built-in world."""
    text = prompt.lower()
    subjects, background = list(_SUBJECT.finditer(text)), _BACKGROUND.search(text)
    if not subjects or background is None:
        raise ValueError(
            f"'{prompt}' does not name size, colour and shape of an object and a background of the built-in world, as in "
            "'a small red circle falls and rebounds on a plain dark background'"
        )
    ends = [*(subject.start() for subject in subjects[1:]), len(text)]
    bodies = []
    for subject, end in zip(subjects, ends):
        motion = _read_motion(text[subject.end() : end])
        if motion is None:
            raise ValueError(f"'{prompt}' does not say how the {subject[2]} {subject[3]} moves")
        bodies.append(AskedBody(shape=subject[3], colour=subject[2], size=subject[1], motion=motion))
    return AskedScene(objects=tuple(bodies), background=AskedBackground(kind=background[1], tone=background[2]))


def _read_motion(text: str) -> AskedMotion | None:
    found = _MOTION.search(text)
    if found is None:
        return None
    kind = _KINDS[found[1]]
    if kind != "drift":
        return AskedMotion(kind=kind)
    rest = text[found.end() :]
    direction = next((name for phrase, name in _DIRECTIONS if rest.startswith(" " + phrase)), None)
    return None if direction is None else AskedMotion(kind=kind, direction=direction)

"""The built-in audio-visual world: a seed becomes a scene, a scene becomes a video with sound whose truth is known.

One or two shapes move on a grey background by exact kinematics (``bounce_motion``), every impact rings
(``bounce_sound``), captions say what happens (``bounce_captions``), and ``bounce_oracle`` reads it all back from pixels
and samples. A fixed set of (shape, colour, motion) combinations, ``HELD_OUT``, never occurs in the training split.

    videopoet world out/world --num-scenes 2000 --seed 0 --split train --size 64
"""

import math
from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import Literal

import numpy as np

from videopoet.data import bounce_captions, bounce_sound
from videopoet.data.bounce_motion import DIRECTIONS, MOTION_KINDS, Bounce, Drift, Fall, Motion, Still

Split = Literal["train", "heldout"]
SPLITS = ("train", "heldout")
SHAPES = ("circle", "square", "triangle")
COLOURS = {  # sRGB
    "red": (225, 35, 35),
    "green": (30, 170, 50),
    "blue": (40, 70, 230),
    "yellow": (240, 215, 30),
    "magenta": (215, 40, 200),
    "cyan": (30, 205, 215),
}
RADII = {"small": 0.14, "big": 0.22}  # sides
# Half width and half height of each shape in radii; the areas are alike: 3.14, 3.10 and 2.64 radii squared.
HALF_EXTENTS = {"circle": (1.0, 1.0), "square": (0.88, 0.88), "triangle": (1.2, 1.1)}
BACKGROUNDS = ("plain", "striped", "checked")
TONES = {"dark": (30, 66), "light": (170, 222)}  # the two greys of a texture; a plain background is their mean
TEXTURE_PERIOD = 0.375  # sides

HELD_OUT = frozenset(
    {
        ("circle", "red", "bounce"),
        ("circle", "cyan", "drift"),
        ("circle", "yellow", "fall"),
        ("square", "blue", "drift"),
        ("square", "green", "bounce"),
        ("square", "magenta", "still"),
        ("triangle", "blue", "still"),
        ("triangle", "red", "fall"),
    }
)

CLIP_FRAMES, CLIP_FPS = 17, 8.0
CLIP_SECONDS = CLIP_FRAMES / CLIP_FPS
_MOTION_WEIGHTS = (0.15, 0.35, 0.25, 0.25)  # of MOTION_KINDS
_TWO_OBJECTS = 0.25
# Impacts keep this far from each other and from the ends of the clip, so that each can be told apart by eye and by ear.
_IMPACT_GAP = 0.15  # seconds
_FIRST_IMPACT, _LAST_IMPACT = 0.15, 1.87  # seconds
_SLOWEST_IMPACT = 0.2  # sides per second


@dataclass(frozen=True, kw_only=True)
class Background:
    """A static grey backdrop: ``kind`` of BACKGROUNDS, ``tone`` of TONES."""

    kind: str
    tone: str
    vertical: bool  # whether stripes run top to bottom
    phase: tuple[float, float]  # texture offset in sides

    def render(self, resolution: int) -> np.ndarray:
        """Grey levels (h, w) float32 in [0, 255]."""
        dark, light = TONES[self.tone]
        if self.kind == "plain":
            return np.full((resolution, resolution), (dark + light) / 2, dtype=np.float32)
        x, y = (self._wave(offset, resolution) for offset in self.phase)
        if self.kind == "striped":
            mix = np.broadcast_to(x[None, :] if self.vertical else x[:, None], (resolution, resolution))
        else:
            mix = x[None, :] * (1 - y[:, None]) + (1 - x[None, :]) * y[:, None]
        return (dark + (light - dark) * mix).astype(np.float32)

    @staticmethod
    def _wave(offset: float, resolution: int) -> np.ndarray:
        """An anti-aliased square wave (w,) in [0, 1]: the share of each pixel inside the light half of the period."""
        u = np.mod((np.arange(resolution) + 0.5) / resolution + offset, TEXTURE_PERIOD)
        return np.clip(0.5 + (TEXTURE_PERIOD / 4 - np.abs(u - TEXTURE_PERIOD / 2)) * resolution, 0.0, 1.0)


@dataclass(frozen=True, kw_only=True)
class Body:
    """One moving shape."""

    shape: str
    colour: str
    size: str
    motion: Motion

    @property
    def half(self) -> tuple[float, float]:
        """Half width and half height of the bounding box in sides."""
        return half_extent(self.shape, self.size)

    @property
    def combination(self) -> tuple[str, str, str]:
        """(shape, colour, motion kind), the unit of the held-out set."""
        return self.shape, self.colour, self.motion.kind

    def centres(self, times: np.ndarray) -> np.ndarray:
        """Centres of the bounding box (t, 2) in sides at ``times`` in seconds."""
        return self.motion.centres(times, self.half)


@dataclass(frozen=True, kw_only=True)
class Impact:
    """A body strikes a wall: ``time`` in seconds, ``speed`` along the normal in sides per second."""

    time: float
    speed: float
    wall: str
    body: int  # index into Scene.objects
    shape: str


@dataclass(frozen=True, kw_only=True)
class Truth:
    """What really happens in a rendered clip. Pixel coordinates have the centre of the top left pixel at (0.5, 0.5)."""

    centres: np.ndarray  # (t, objects, 2): x, y in sides
    pixels: np.ndarray  # (t, objects, 2): x, y in pixels
    impacts: tuple[Impact, ...]  # in time order
    flow: np.ndarray  # (t - 1, h, w, 2) float32: forward motion x, y in pixels of what frame i shows at each pixel
    depth: np.ndarray  # (t, h, w) uint8: 0 background, i + 1 where objects[i] is seen
    order: tuple[int, ...]  # indices of the objects from back to front


@dataclass(frozen=True, kw_only=True)
class Scene:
    """A whole scene, a pure function of (seed, split). ``front`` is the object that hides the other where they meet."""

    seed: int
    split: str
    objects: tuple[Body, ...]
    background: Background
    front: int

    @classmethod
    def sample(cls, seed: int, split: Split = "train") -> "Scene":
        """Draw the scene of ``seed``. In the held-out split the first object has a HELD_OUT combination."""
        if split not in SPLITS:
            raise ValueError(f"split {split!r} is not one of {', '.join(SPLITS)}")
        rng = np.random.default_rng([seed, SPLITS.index(split)])
        background = Background(
            kind=str(rng.choice(BACKGROUNDS)),
            tone=str(rng.choice(list(TONES))),
            vertical=bool(rng.random() < 0.5),
            phase=tuple(float(quarter) * TEXTURE_PERIOD / 4 for quarter in rng.integers(4, size=2)),
        )
        count = 2 if rng.random() < _TWO_OBJECTS else 1
        objects, front = _sample_bodies(rng, split, count), int(rng.integers(count))
        return cls(seed=seed, split=split, objects=objects, background=background, front=front)

    @property
    def order(self) -> tuple[int, ...]:
        """Indices of the objects from back to front."""
        return (*(index for index in range(len(self.objects)) if index != self.front), self.front)

    def impacts(self, seconds: float = CLIP_SECONDS) -> tuple[Impact, ...]:
        """Every impact before ``seconds``, in time order."""
        found = (
            Impact(time=strike.time, speed=strike.speed, wall=strike.wall, body=index, shape=body.shape)
            for index, body in enumerate(self.objects)
            for strike in body.motion.strikes(seconds, body.half)
        )
        return tuple(sorted(found, key=lambda impact: impact.time))

    def captions(self) -> tuple[str, ...]:
        """Several sentences, each saying exactly what happens."""
        return bounce_captions.captions(self.objects, self.background)

    def render(self, frames: int = CLIP_FRAMES, fps: float = CLIP_FPS, resolution: int = 64) -> np.ndarray:
        """Anti-aliased video uint8 (t, h, w, 3); frame i shows time i / fps."""
        times = np.arange(frames) / fps
        grey = self.background.render(resolution)
        video = np.empty((frames, resolution, resolution, 3), dtype=np.float32)
        video[...] = grey[None, :, :, None]
        for index in self.order:
            body = self.objects[index]
            cover = coverage(body.shape, body.half, body.centres(times), resolution)[..., None]
            video += cover * (np.asarray(COLOURS[body.colour], dtype=np.float32) - video)
        return (video + 0.5).astype(np.uint8)

    def sound(self, frames: int = CLIP_FRAMES, fps: float = CLIP_FPS) -> np.ndarray:
        """Soundtrack float32 (s,) in [-1, 1] at bounce_sound.SAMPLE_RATE, round(frames / fps * rate) samples long."""
        rings = [
            (impact.time, impact.speed, impact.shape, self.objects[impact.body].size)
            for impact in self.impacts(frames / fps)
        ]
        return bounce_sound.soundtrack(rings, round(frames / fps * bounce_sound.SAMPLE_RATE))

    def truth(self, frames: int = CLIP_FRAMES, fps: float = CLIP_FPS, resolution: int = 64) -> Truth:
        """The ground truth of ``render(frames, fps, resolution)`` and ``sound(frames, fps)``."""
        times = np.arange(frames) / fps
        centres = np.stack([body.centres(times) for body in self.objects], axis=1)
        depth = np.zeros((frames, resolution, resolution), dtype=np.uint8)
        for index in self.order:
            body = self.objects[index]
            depth[coverage(body.shape, body.half, centres[:, index], resolution) > 0.5] = index + 1
        steps = np.diff(centres, axis=0) * resolution
        steps = np.concatenate([np.zeros((frames - 1, 1, 2)), steps], axis=1)  # the background stands still
        flow = steps[np.arange(frames - 1)[:, None, None], depth[:-1]].astype(np.float32)
        return Truth(
            centres=centres,
            pixels=centres * resolution,
            impacts=self.impacts(frames / fps),
            flow=flow,
            depth=depth,
            order=self.order,
        )

    def attributes(self) -> dict:
        """The scene as plain JSON values."""
        motions = [{"kind": body.motion.kind, **asdict(body.motion)} for body in self.objects]
        objects = [{**asdict(body), "motion": motion} for body, motion in zip(self.objects, motions)]
        impacts = [asdict(impact) for impact in self.impacts()]
        return {**asdict(self), "objects": objects, "impacts": impacts}


def half_extent(shape: str, size: str) -> tuple[float, float]:
    """Half width and half height in sides, e.g. (0.168, 0.154) for a small triangle."""
    width, height = HALF_EXTENTS[shape]
    return width * RADII[size], height * RADII[size]


def coverage(shape: str, half: tuple[float, float], centres: np.ndarray, resolution: int) -> np.ndarray:
    """The share of every pixel that the shape covers, (t, h, w) float32 in [0, 1], for ``centres`` (t, 2) in sides.

    One pixel wide ramps across the outline: exact for axis-aligned edges, close to it elsewhere. A triangle points up
    and fills its bounding box from apex to base.
    """
    grid = ((np.arange(resolution) + 0.5) / resolution).astype(np.float32)
    centres = np.asarray(centres, dtype=np.float32)
    x, y = np.abs(grid - centres[:, :1]), grid - centres[:, 1:]  # (t, w) and (t, h)

    def ramp(inside: np.ndarray) -> np.ndarray:
        return np.clip(inside * np.float32(resolution) + np.float32(0.5), 0.0, 1.0)

    if shape == "circle":
        return ramp(np.float32(half[0]) - np.sqrt(np.square(x)[:, None, :] + np.square(y)[:, :, None]))
    base = ramp(np.float32(half[1]) - (y if shape == "triangle" else np.abs(y)))[:, :, None]
    if shape == "square":
        return ramp(np.float32(half[0]) - x)[:, None, :] * base
    slant = math.hypot(half[0], 2 * half[1])
    down, across = np.float32(half[0] / slant), np.float32(2 * half[1] / slant)
    return ramp((down * (y + np.float32(half[1])))[:, :, None] - (across * x)[:, None, :]) * base


def _sample_attributes(rng: np.random.Generator, split: str, count: int) -> list[tuple[str, str, str, str]]:
    """Draw (shape, colour, motion kind, size) per body; colours differ, and training never meets HELD_OUT."""
    drawn: list[tuple[str, str, str, str]] = []
    while len(drawn) < count:
        if split == "heldout" and not drawn:
            shape, colour, kind = sorted(HELD_OUT)[rng.integers(len(HELD_OUT))]
        else:
            shape, colour = SHAPES[rng.integers(len(SHAPES))], list(COLOURS)[rng.integers(len(COLOURS))]
            kind = MOTION_KINDS[rng.choice(len(MOTION_KINDS), p=_MOTION_WEIGHTS)]
        held_out = split == "train" and (shape, colour, kind) in HELD_OUT
        if not held_out and all(colour != other[1] for other in drawn):
            drawn.append((shape, colour, kind, list(RADII)[rng.integers(len(RADII))]))
    return drawn


def _sample_bodies(rng: np.random.Generator, split: str, count: int) -> tuple[Body, ...]:
    """Draw bodies that can be told apart; attributes that leave no room for that are drawn anew."""
    while True:
        attributes = _sample_attributes(rng, split, count)
        for _ in range(100):
            bodies = tuple(
                Body(shape=shape, colour=colour, size=size, motion=_sample_motion(rng, kind, half_extent(shape, size)))
                for shape, colour, kind, size in attributes
            )
            if _readable(bodies):
                return bodies


def _sample_motion(rng: np.random.Generator, kind: str, half: tuple[float, float]) -> Motion:
    """Draw a motion that is readable in the standard clip on its own."""

    def within(x: tuple[float, float] = (0.0, 0.0), y: tuple[float, float] = (0.0, 0.0)) -> tuple[float, float]:
        """A start from which travelling through the (low, high) ranges x and y keeps the box inside the frame."""
        return (
            float(rng.uniform(half[0] - x[0], 1 - half[0] - x[1])),
            float(rng.uniform(half[1] - y[0], 1 - half[1] - y[1])),
        )

    if kind == "still":
        return Still(start=within())
    if kind == "fall":
        height = float(rng.uniform(0.4, min(0.6, 1 - 2 * half[1])))
        return Fall(start=(within()[0], 1 - half[1] - height))
    if kind == "drift":
        direction, speed = list(DIRECTIONS)[rng.integers(len(DIRECTIONS))], float(rng.uniform(0.13, 0.19))
        travel = [CLIP_SECONDS * axis for axis in Drift(start=(0, 0), direction=direction, speed=speed).velocity]
        x, y = ((min(0.0, distance), max(0.0, distance)) for distance in travel)
        return Drift(start=within(x, y), direction=direction, speed=speed)
    while True:
        speed, angle = float(rng.uniform(0.55, 0.95)), float(rng.uniform(0, 2 * math.pi))
        motion = Bounce(start=within(), velocity=(speed * math.cos(angle), speed * math.sin(angle)))
        strikes = motion.strikes(CLIP_SECONDS, half)
        fast_enough = len(strikes) >= 2 and all(strike.speed >= _SLOWEST_IMPACT for strike in strikes)
        # A nearly vertical bounce could be taken for a fall.
        if abs(math.cos(angle)) > 0.45 and fast_enough and _apart([strike.time for strike in strikes]):
            return motion


def _apart(times: list[float]) -> bool:
    """Whether impact ``times``, sorted, keep their distance from each other and from the ends of the clip."""
    inside = not times or (times[0] >= _FIRST_IMPACT and times[-1] <= _LAST_IMPACT)
    return inside and all(later - earlier >= _IMPACT_GAP for earlier, later in pairwise(times))


def _readable(objects: tuple[Body, ...]) -> bool:
    """Whether impacts are apart and, of two objects, the hidden one is hidden in part and briefly only."""
    if not _apart(sorted(strike.time for body in objects for strike in body.motion.strikes(CLIP_SECONDS, body.half))):
        return False
    if len(objects) == 1:
        return True
    frames = np.arange(CLIP_FRAMES) / CLIP_FPS
    apart = np.abs(objects[0].centres(frames) - objects[1].centres(frames))
    halves = np.array([body.half for body in objects])
    shared = np.clip(np.minimum(halves.sum(axis=0) - apart, 2 * halves.min(axis=0)), 0.0, None).prod(axis=1)
    hidden = shared / (4 * halves.prod(axis=1).min())
    return hidden[0] == 0 and hidden.max() <= 0.5 and np.count_nonzero(hidden) <= CLIP_FRAMES // 3

"""Exact kinematics of the built-in world: where a body is at any time, and when it strikes a wall.

The world is the unit square, x to the right and y down, so (0, 0) is the top left corner of the picture. Times are
seconds and speeds are sides per second. A body is its bounding box: ``half`` is (half width, half height), and a wall
is struck when the box touches it. Every motion is a closed form, never a per-frame integration, so impact times are
continuous and the same at any frame rate.
"""

import math
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

GRAVITY = 2.0  # sides per second squared
RESTITUTION = 0.7  # speed kept by a rebound off the floor
SETTLED_SPEED = 0.05  # sides per second; a falling body slower than this at an impact stays down

DIRECTIONS: dict[str, tuple[int, int]] = {
    "left": (-1, 0),
    "right": (1, 0),
    "up": (0, -1),
    "down": (0, 1),
    "up left": (-1, -1),
    "up right": (1, -1),
    "down left": (-1, 1),
    "down right": (1, 1),
}


@dataclass(frozen=True, kw_only=True)
class Strike:
    """One contact with a wall: ``time`` in seconds and ``speed`` along the wall's normal in sides per second."""

    time: float
    speed: float
    wall: str  # left, right, top or bottom


@dataclass(frozen=True, kw_only=True)
class Still:
    """Stays at ``start``; strikes nothing."""

    kind: ClassVar[str] = "still"
    start: tuple[float, float]

    def centres(self, times: np.ndarray, half: tuple[float, float]) -> np.ndarray:
        """Centres (t, 2) at ``times`` (t,) in seconds."""
        return np.tile(np.asarray(self.start), (len(times), 1))

    def strikes(self, seconds: float, half: tuple[float, float]) -> tuple[Strike, ...]:
        """No strikes, ever."""
        return ()


@dataclass(frozen=True, kw_only=True)
class Drift:
    """Moves at a constant velocity along one of eight directions and ignores the walls.

    A sampled drift stays inside the frame for the standard clip; a longer clip shows it leave.
    """

    kind: ClassVar[str] = "drift"
    start: tuple[float, float]
    direction: str  # a key of DIRECTIONS
    speed: float

    @property
    def velocity(self) -> tuple[float, float]:
        """(x, y) in sides per second; its length is ``speed`` in all eight directions."""
        x, y = DIRECTIONS[self.direction]
        return self.speed * x / math.hypot(x, y), self.speed * y / math.hypot(x, y)

    def centres(self, times: np.ndarray, half: tuple[float, float]) -> np.ndarray:
        """Centres (t, 2) at ``times`` (t,) in seconds."""
        return np.asarray(self.start) + np.asarray(times)[:, None] * np.asarray(self.velocity)

    def strikes(self, seconds: float, half: tuple[float, float]) -> tuple[Strike, ...]:
        """No strikes, ever."""
        return ()


@dataclass(frozen=True, kw_only=True)
class Bounce:
    """Moves at a constant speed and reflects off the four walls without loss.

    Per axis the unfolded coordinate ``u = start - half + velocity t`` is folded into the free span
    ``[0, 1 - 2 half]``; the wall is struck whenever u crosses a multiple of the span.
    """

    kind: ClassVar[str] = "bounce"
    start: tuple[float, float]
    velocity: tuple[float, float]

    def centres(self, times: np.ndarray, half: tuple[float, float]) -> np.ndarray:
        """Centres (t, 2) at ``times`` (t,) in seconds."""
        half_extent = np.asarray(half)
        span = 1.0 - 2.0 * half_extent
        unfolded = np.asarray(self.start) - half_extent + np.asarray(times)[:, None] * np.asarray(self.velocity)
        return half_extent + span - np.abs(np.mod(unfolded, 2.0 * span) - span)

    def strikes(self, seconds: float, half: tuple[float, float]) -> tuple[Strike, ...]:
        """All strikes in [0, ``seconds``), in time order."""
        found = []
        for axis, walls in enumerate((("left", "right"), ("top", "bottom"))):
            span = 1.0 - 2.0 * half[axis]
            offset, velocity = self.start[axis] - half[axis], self.velocity[axis]
            if velocity == 0.0:
                continue
            crossing, step = (math.floor(offset / span) + 1, 1) if velocity > 0 else (math.ceil(offset / span) - 1, -1)
            while (time := (crossing * span - offset) / velocity) < seconds:
                found.append(Strike(time=time, speed=abs(velocity), wall=walls[crossing % 2]))
                crossing += step
        return tuple(sorted(found, key=lambda strike: strike.time))


@dataclass(frozen=True, kw_only=True)
class Fall:
    """Falls from rest under ``GRAVITY`` and rebounds off the floor, keeping ``RESTITUTION`` of its speed.

    From height h the floor is struck first at ``T = sqrt(2 h / g)`` with speed ``g T``, then after flights of
    ``2 e T``, ``2 e^2 T``, ... For h = 0.5, g = 2, e = 0.7: strikes at 0.707 s and 1.697 s, speeds 1.414 and 0.990.
    """

    kind: ClassVar[str] = "fall"
    start: tuple[float, float]

    def centres(self, times: np.ndarray, half: tuple[float, float]) -> np.ndarray:
        """Centres (t, 2) at ``times`` (t,) in seconds."""
        times = np.asarray(times, dtype=np.float64)
        height = 1.0 - half[1] - self.start[1] - 0.5 * GRAVITY * times**2
        for strike in self.strikes(float(times.max(initial=0.0)) + 1.0, half):
            rebound = RESTITUTION * strike.speed if strike.speed > SETTLED_SPEED else 0.0
            since = times - strike.time
            flight = np.maximum(rebound * since - 0.5 * GRAVITY * since**2, 0.0)
            height = np.where(since >= 0, flight, height)
        return np.stack([np.full_like(times, self.start[0]), 1.0 - half[1] - height], axis=1)

    def strikes(self, seconds: float, half: tuple[float, float]) -> tuple[Strike, ...]:
        """All strikes in [0, ``seconds``), in time order; a body too slow to be seen rebounding strikes no more."""
        height = 1.0 - half[1] - self.start[1]
        time = math.sqrt(2.0 * height / GRAVITY)
        speed = GRAVITY * time
        found = []
        while time < seconds and speed > 0.0:
            found.append(Strike(time=time, speed=speed, wall="bottom"))
            if speed <= SETTLED_SPEED:
                break
            speed *= RESTITUTION
            time += 2.0 * speed / GRAVITY
        return tuple(found)


Motion = Still | Drift | Bounce | Fall
MOTION_KINDS = tuple(motion.kind for motion in (Still, Drift, Bounce, Fall))

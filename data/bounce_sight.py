"""Reading the built-in world from pixels alone: objects, their paths and impacts, and the background.

The background is grey, so the chroma of a pixel (its colour minus its mean) is the object's chroma times the share of
the pixel the object covers, however blurred the picture is. Everything is read from these soft shares, never from hard
edges, which is what lets it survive H.264 and a neural tokenizer.
"""

import math
from dataclasses import dataclass
from functools import lru_cache
from itertools import product

import numpy as np

from videopoet.data.bounce import (
    BACKGROUNDS,
    COLOURS,
    HALF_EXTENTS,
    RADII,
    TEXTURE_PERIOD,
    TONES,
    Background,
    coverage,
)
from videopoet.data.bounce_motion import DIRECTIONS

NOISE_SHARE = 0.12  # shares below this are chroma noise
SMALLEST_AREA = 0.025  # sides squared; half of a small triangle
SIZE_AREA = 0.087  # sides squared; between a small circle (0.062) and a big triangle (0.128)
SHAPE_REACH = 1.6  # radii of the circle of the same area; the triangle's corners reach 1.53
THREEFOLD, FOURFOLD = -0.07, -0.04  # between the angular moments of a blurred triangle, a blurred square and a circle
STILL_RANGE = 0.12  # sides; a drift crosses at least 0.27 of a side in a clip, 0.19 per axis on a diagonal
BENT = 0.045  # sides; how far a path may stray from a straight line and be a drift
FALL_RANGE = 0.12  # sides; a bounce crosses more than this sideways
KINK = 0.28  # sides per second; the velocity change of the slowest impact is 0.4
WALL_DISTANCE = 0.1  # sides
PLAIN_CONTRAST = 0.35  # of the texture's own contrast

# Areas in radii squared, and how far the centroid lies below the centre of the bounding box in half heights.
_AREAS = {
    "circle": math.pi,
    "square": 4 * HALF_EXTENTS["square"][0] ** 2,
    "triangle": 2 * HALF_EXTENTS["triangle"][0] * HALF_EXTENTS["triangle"][1],
}
_CENTROID_DROP = {"circle": 0.0, "square": 0.0, "triangle": 1 / 3}


@dataclass(frozen=True, kw_only=True)
class SeenObject:
    """One object as read from the pixels."""

    shape: str
    colour: str
    size: str
    motion: str | None  # still, bounce, fall, or "drift left" ... "drift down right"; None for a single picture
    centres: np.ndarray  # (t, 2): x, y of the bounding box's centre in sides
    impacts: tuple[float, ...]  # seconds


def see_objects(video: np.ndarray, fps: float) -> tuple[SeenObject, ...]:
    """Objects in ``video`` (t, h, w, 3) uint8, at most two, the most visible first."""
    chroma = video.astype(np.float32)
    chroma -= _grey(chroma)[..., None]
    shares = _shares(chroma, tuple(COLOURS))
    areas = np.median(shares.mean(axis=(2, 3)), axis=1)  # (6,) sides squared
    hues = [hue for hue in np.argsort(-areas)[:2] if areas[hue] >= SMALLEST_AREA]
    if not hues:
        return ()
    colours = tuple(list(COLOURS)[hue] for hue in hues)
    # With the colours known, pixels where two colours blend no longer count for a third.
    shares = _shares(chroma, colours)
    return tuple(_read_object(shares, index, colour, fps) for index, colour in enumerate(colours))


def see_background(video: np.ndarray) -> tuple[str, str]:
    """(kind, tone) of the background behind the objects of ``video`` (t, h, w, 3) uint8."""
    picture = video.astype(np.float32)
    grey, (red, green, blue) = _grey(picture), np.moveaxis(picture, -1, 0)
    spread = np.maximum(np.maximum(np.abs(red - grey), np.abs(green - grey)), np.abs(blue - grey))
    weight = np.clip(1.0 - spread / 24.0, 0.0, 1.0) + 1e-6  # (t, h, w), zero on the objects
    still, weight = (grey * weight).sum(axis=0) / weight.sum(axis=0), weight.sum(axis=0)
    weight = (weight / weight.sum()).ravel()
    mean = float(still.ravel() @ weight)
    tone = min(TONES, key=lambda name: abs(sum(TONES[name]) / 2 - mean))
    kinds, templates = _textures(video.shape[1])
    templates = templates - (templates @ weight)[:, None]
    # Least squares contrast of every template, and how much of the picture's variance it explains.
    power = np.maximum((templates**2) @ weight, 1e-9)
    fit = (templates * weight) @ (still.ravel() - mean)
    best = int(np.argmax(np.where(fit > 0, fit**2 / power, 0.0)))
    contrast = fit[best] / power[best]
    return (kinds[best] if contrast > PLAIN_CONTRAST * (TONES[tone][1] - TONES[tone][0]) else "plain"), tone


@lru_cache(maxsize=4)
def _textures(resolution: int) -> tuple[tuple[str, ...], np.ndarray]:
    """All textures at eight phases per axis, as their kinds and (n, h * w) patterns in [0, 1]."""
    phases = [TEXTURE_PERIOD * eighth / 8 for eighth in range(8)]
    settings = [("striped", vertical, (phase, phase)) for vertical in (False, True) for phase in phases]
    settings += [("checked", False, pair) for pair in product(phases, phases)]
    dark, light = TONES["dark"]
    patterns = [
        Background(kind=kind, tone="dark", vertical=vertical, phase=phase).render(resolution).ravel()
        for kind, vertical, phase in settings
    ]
    assert set(BACKGROUNDS) == {"plain", *(kind for kind, _, _ in settings)}
    return tuple(kind for kind, _, _ in settings), (np.stack(patterns) - dark) / (light - dark)


def _grey(picture: np.ndarray) -> np.ndarray:
    """Mean of the three channels; summed by hand, since numpy reduces an axis of length 3 slowly."""
    return (picture[..., 0] + picture[..., 1] + picture[..., 2]) / 3.0


def _shares(chroma: np.ndarray, colours: tuple[str, ...]) -> np.ndarray:
    """The share (k, t, h, w) of every pixel that each of ``colours`` covers; a pixel goes to its nearest hue only."""
    reference = np.array([COLOURS[colour] for colour in colours], dtype=np.float32)
    reference -= reference.mean(axis=1, keepdims=True)
    length = np.linalg.norm(reference, axis=1)
    along = chroma @ (reference / length[:, None]).T  # (t, h, w, k)
    nearest = along.argmax(axis=-1)
    most = np.take_along_axis(along, nearest[..., None], axis=-1)[..., 0]
    share = most / length[nearest]
    # More than 60 degrees off its nearest hue, a pixel is of no colour asked for.
    off_hue = most < 0.5 * np.sqrt(np.einsum("...c,...c->...", chroma, chroma))
    share = np.where((share < NOISE_SHARE) | off_hue, 0.0, np.minimum(share, 1.0))
    return np.stack([np.where(nearest == index, share, 0.0) for index in range(len(colours))])


def _read_object(shares: np.ndarray, index: int, colour: str, fps: float) -> SeenObject:
    own, others = shares[index], shares.sum(axis=0) - shares[index]
    resolution = own.shape[-1]
    area = float(np.quantile(own.mean(axis=(1, 2)), 0.75))
    size = "big" if area > SIZE_AREA else "small"
    coarse = _locate(own, others, "circle", area)
    reach = 1.7 * math.sqrt(area / math.pi)
    grid = (np.arange(resolution) + 0.5) / resolution
    near_x, near_y = (np.abs(grid - coarse[:, axis, None]) < reach for axis in (0, 1))
    own = own * (near_x[:, None, :] & near_y[:, :, None])
    areas = own.mean(axis=(1, 2))
    centroids = _centroids(own)
    clear = areas >= 0.9 * np.quantile(areas, 0.75)
    shape = _shape(own[clear], centroids[clear], area)
    # Where the object is partly hidden its centroid is off; the template fitted around the hiding object is not.
    drop = _CENTROID_DROP[shape] * HALF_EXTENTS[shape][1] * math.sqrt(area / _AREAS[shape])
    centres = np.where(clear[:, None], centroids - (0.0, drop), _locate(own, others, shape, area))
    half = tuple(extent * RADII[size] for extent in HALF_EXTENTS[shape])
    motion = _motion(centres) if len(centres) > 1 else None
    impacts = _impacts(centres, half, fps)
    return SeenObject(shape=shape, colour=colour, size=size, motion=motion, centres=centres, impacts=impacts)


def _half(shape: str, area: float) -> tuple[float, float]:
    """Half width and half height of the ``shape`` with this ``area`` in sides squared."""
    radius = math.sqrt(area / _AREAS[shape])
    return HALF_EXTENTS[shape][0] * radius, HALF_EXTENTS[shape][1] * radius


def _centroids(own: np.ndarray) -> np.ndarray:
    """Centres of mass (t, 2) in sides of the shares (t, h, w); the picture's centre where there is nothing."""
    grid = (np.arange(own.shape[-1]) + 0.5) / own.shape[-1]
    mass = np.maximum(own.sum(axis=(1, 2)), 1e-6)
    return np.stack([own.sum(axis=1) @ grid / mass, own.sum(axis=2) @ grid / mass], axis=1)


def _shape(own: np.ndarray, centroids: np.ndarray, area: float) -> str:
    """Shape of the object (t, h, w) by its angular moments about the centroid, the median over t.

    With z = x + iy in radii of a circle of the same area, up and right positive, the mean of z^3 is -0.38i for the
    triangle and 0 for the others, that of z^4 is -0.16 for the square and 0 for the others. Blur shrinks both and
    turns neither round, which template matching does: a blurred square is nearer to a circle than to a square.
    """
    grid, radius = (np.arange(own.shape[-1]) + 0.5) / own.shape[-1], math.sqrt(max(area, 1e-6) / math.pi)
    x = (grid[None, None, :] - centroids[:, 0, None, None]) / radius
    y = (centroids[:, 1, None, None] - grid[None, :, None]) / radius
    own = own * (x**2 + y**2 < SHAPE_REACH**2)  # a disc: noise in the corners of a square would look fourfold
    mass, z = np.maximum(own.sum(axis=(1, 2)), 1e-6), x + 1j * y
    threefold = float(np.median((own * z**3).sum(axis=(1, 2)).imag / mass))
    fourfold = float(np.median((own * z**4).sum(axis=(1, 2)).real / mass))
    if threefold < THREEFOLD:
        return "triangle"
    return "square" if fourfold < FOURFOLD else "circle"


def _locate(own: np.ndarray, others: np.ndarray, shape: str, area: float) -> np.ndarray:
    """Centres (t, 2) in sides where the template of ``shape`` covers most of the object and least of the background.

    Pixels of other objects count neither way, since the object may go on behind them.
    """
    resolution = own.shape[-1]
    evidence = own - np.clip(1.0 - own - others, 0.0, 1.0)
    template = coverage(shape, _half(shape, area), np.full((1, 2), 0.5), resolution)[0]
    # The template is centred between the pixels resolution / 2 - 1 and resolution / 2.
    correlation = np.fft.irfft2(np.fft.rfft2(evidence) * np.conj(np.fft.rfft2(template)), s=evidence.shape[1:])
    correlation = np.fft.fftshift(correlation, axes=(1, 2))
    peaks = correlation.reshape(len(own), -1).argmax(axis=1)
    rows, columns = np.unravel_index(peaks, correlation.shape[1:])
    centres = []
    for values, row, column in zip(correlation, rows, columns):
        x = column + _vertex(values[row, [(column + step) % resolution for step in (-1, 0, 1)]])
        y = row + _vertex(values[[(row + step) % resolution for step in (-1, 0, 1)], column])
        centres.append((x / resolution, y / resolution))
    return np.array(centres)


def _vertex(values: np.ndarray) -> float:
    """Offset in [-0.5, 0.5] of the peak of the parabola through three equally spaced values."""
    curvature = values[0] - 2 * values[1] + values[2]
    return 0.0 if curvature >= 0 else float(np.clip(0.5 * (values[0] - values[2]) / curvature, -0.5, 0.5))


def _motion(centres: np.ndarray) -> str:
    """Name the motion of a path (t, 2): straight or not, and if not, sideways or not."""
    width, height = np.ptp(centres, axis=0)
    if max(width, height) < STILL_RANGE:
        return "still"
    frames = np.arange(len(centres)) - (len(centres) - 1) / 2
    velocity = frames @ centres / (frames @ frames)
    strays = np.linalg.norm(centres - centres.mean(axis=0) - frames[:, None] * velocity, axis=1)
    # One misread frame shall not turn a drift into a bounce, hence the third largest.
    if np.sort(strays)[-min(3, len(strays))] < BENT:
        angles = {name: np.dot(velocity, way) / math.hypot(*way) for name, way in DIRECTIONS.items()}
        return f"drift {max(angles, key=angles.get)}"
    return "fall" if width < FALL_RANGE else "bounce"


def _impacts(centres: np.ndarray, half: tuple[float, float], fps: float) -> tuple[float, ...]:
    """Times in seconds at which a path (t, 2) turns back at a wall.

    Between frames i and i + 1 the lines through frames i - 1, i and through i + 1, i + 2 meet at the impact.
    """
    found = []
    for axis in (0, 1):
        path, steps = centres[:, axis], np.diff(centres[:, axis])
        times = []
        for i in range(1, len(path) - 2):
            before, after = steps[i - 1], steps[i + 1]
            if before * after >= 0 or abs(before - after) * fps < KINK:
                continue
            since = (path[i + 1] - path[i] - after) / (before - after)
            turn = path[i] + before * np.clip(since, 0.0, 1.0)
            wall = 1.0 - half[axis] if before > 0 else half[axis]
            if -0.5 <= since <= 1.5 and abs(turn - wall) < WALL_DISTANCE:
                times.append((abs(since - 0.5), (i + float(np.clip(since, 0.0, 1.0))) / fps))
        # Neighbouring intervals may both claim one impact; the one whose lines meet inside it wins.
        kept: list[float] = []
        for _, time in sorted(times):
            if all(abs(time - other) > 1.25 / fps for other in kept):
                kept.append(time)
        found += kept
    return tuple(sorted(found))

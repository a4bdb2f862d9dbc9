"""The oracle of the built-in world: reads a scene's attributes back from pixels and samples alone, and scores them.

    python -m videopoet.data.bounce_oracle --num-scenes 2000 --codec

measures the oracle itself on generated scenes, clean or after a round trip through H.264 and AAC.
"""

import argparse
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import permutations
from pathlib import Path

import numpy as np

from videopoet.data.bounce import CLIP_FPS, CLIP_FRAMES, SPLITS, Body, Scene
from videopoet.data.bounce_sight import SeenObject, see_background, see_objects
from videopoet.data.bounce_sound import PITCHES, SAMPLE_RATE

QUIET = 0.04  # amplitude; the softest ring has 0.125
QUIETEST_RATIO = 0.15  # of the loudest ring in the clip
HISS = 0.02  # root mean square; above it sound without rings is noise, not silence
_WINDOW = 0.016  # seconds; its side lobes at the distance of two pitches lie under 0.06 of a ring
_HOP = 0.002  # seconds


@dataclass(frozen=True, kw_only=True)
class Onset:
    """A ring that was heard: ``time`` in seconds, the ``shape`` of its pitch, ``loudness`` as its peak amplitude."""

    time: float
    shape: str
    loudness: float


@dataclass(frozen=True, kw_only=True)
class Reading:
    """What the oracle saw and heard. ``onsets`` and ``silent`` are None when there was no sound to read."""

    objects: tuple[SeenObject, ...]
    background: tuple[str, str]  # kind, tone
    impacts: tuple[float, ...]  # seconds, seen in the video, all objects together
    onsets: tuple[Onset, ...] | None
    silent: bool | None
    fps: float


def read_scene(
    video: np.ndarray, audio: np.ndarray | None, fps: float = CLIP_FPS, sample_rate: int = SAMPLE_RATE
) -> Reading:
    """Read ``video`` uint8 (t, h, w, 3) and mono ``audio`` float32 (s,), or None for no sound.

    Raises ValueError if the video is not square uint8 RGB or the audio not one-dimensional.
    """
    if video.ndim != 4 or video.shape[-1] != 3 or video.dtype != np.uint8 or video.shape[1] != video.shape[2]:
        raise ValueError(f"the oracle reads square uint8 video (t, h, h, 3), got {video.dtype} {video.shape}")
    if audio is not None and audio.ndim != 1:
        raise ValueError(f"the oracle reads mono sound (s,), got {audio.shape}; take one channel")
    objects = see_objects(video, fps)
    onsets = None if audio is None else hear(audio, sample_rate)
    silent = None if onsets is None else not onsets and float(np.sqrt(np.mean(np.square(audio)))) < HISS
    return Reading(
        objects=objects,
        background=see_background(video),
        impacts=tuple(sorted(time for seen in objects for time in seen.impacts)),
        onsets=onsets,
        silent=silent,
        fps=fps,
    )


def hear(audio: np.ndarray, sample_rate: int = SAMPLE_RATE) -> tuple[Onset, ...]:
    """Rings in mono ``audio`` (s,), in time order.

    Per pitch f the envelope is ``|sum w(s - t) x(s) exp(-2 pi i f s)|`` over a 16 ms window w centred on t, and a ring
    is a peak of its rise from t - 12 ms to t + 12 ms.
    """
    size, hop = round(_WINDOW * sample_rate), round(_HOP * sample_rate)
    window = np.hanning(size + 2)[1:-1]
    window /= window.sum() / 2  # a steady tone of amplitude a reads a
    phases = 2 * np.pi * np.outer(np.arange(size) / sample_rate, list(PITCHES.values()))
    padded = np.pad(audio.astype(np.float64), (size // 2, size))
    pieces = np.lib.stride_tricks.sliding_window_view(padded, size)[: len(audio) : hop]
    cosine, sine = (pieces @ (window[:, None] * wave(phases)) for wave in (np.cos, np.sin))
    found = [
        Onset(time=time, shape=shape, loudness=loud)
        for shape, envelope in zip(PITCHES, np.hypot(cosine, sine).T)
        for time, loud in _rises(envelope, hop / sample_rate)
    ]
    loudest = max((onset.loudness for onset in found), default=0.0)
    kept = [onset for onset in found if onset.loudness >= QUIETEST_RATIO * loudest]
    return tuple(sorted(kept, key=lambda onset: onset.time))


def _rises(envelope: np.ndarray, hop: float) -> list[tuple[float, float]]:
    """(time, amplitude) of the steps up of ``envelope``, sampled every ``hop`` seconds, largest first."""
    reach = round(0.012 / hop)
    padded = np.concatenate([np.zeros(reach), envelope, np.zeros(reach)])
    rise = padded[2 * reach :] - padded[: -2 * reach]
    steps: list[tuple[float, float]] = []
    for index in np.argsort(-rise):
        if rise[index] < QUIET:
            break
        if all(abs(index * hop - time) > 0.08 for time, _ in steps):
            steps.append((float(index * hop), float(rise[index])))
    return steps


def score(reading: Reading, scene: Scene, impacts: Iterable[float] | None = None) -> dict[str, float]:
    """The fraction of each attribute that is right, in [0, 1], objects matched by the best assignment.

    ``count`` and ``background`` are 0 or 1; ``colour``, ``shape``, ``size`` and ``motion`` (with the drift direction)
    are means over the scene's objects, and a missing object has nothing right. ``sound_pitch`` is 1 if exactly the
    shapes that strike are heard, and for a scene without impacts if it is silent. ``sound_timing`` is
    ``2 matched / (onsets + impacts)``, matched within one video frame, 1 if there are neither. ``sound_shapes`` is 1 if
    the shapes seen to strike are the ones heard. ``sound_impacts`` is ``sound_timing`` of clips in which something strikes
    or is heard, not a number of others, so that silence over stillness counts for nothing. ``motion_kind`` is ``motion``
    without the drift's direction.

    ``impacts`` are the times that onsets are held against: the scene's own by default; of a generated video, whose
    course the caption leaves open, pass ``reading.impacts``, the ones seen in that same video. A reading without sound
    has no sound scores, one of a single picture no motion score.
    """
    slots = [*reading.objects, *[None] * (len(scene.objects) - len(reading.objects))]
    scores = max(
        (_score_objects(order, scene) for order in permutations(slots, len(scene.objects))),
        key=lambda values: sum(values.values()),
    )
    if any(seen.motion is None for seen in reading.objects):
        del scores["motion"], scores["motion_kind"]
    kind, tone = reading.background
    scores["count"] = float(len(reading.objects) == len(scene.objects))
    scores["background"] = float((kind, tone) == (scene.background.kind, scene.background.tone))
    if reading.onsets is not None:
        struck = {impact.shape for impact in scene.impacts()}
        rung = {onset.shape for onset in reading.onsets}
        scores["sound_pitch"] = float(rung == struck if struck else reading.silent)
        expected = [impact.time for impact in scene.impacts()] if impacts is None else list(impacts)
        scores["sound_shapes"] = float(rung == {seen.shape for seen in reading.objects if seen.impacts})
        scores["sound_timing"] = timing([onset.time for onset in reading.onsets], expected, 1.0 / reading.fps)
        scores["sound_impacts"] = scores["sound_timing"] if reading.onsets or expected else float("nan")
    return scores


def timing(onsets: Iterable[float], impacts: Iterable[float], tolerance: float) -> float:
    """``2 matched / (onsets + impacts)``, one-to-one, at most ``tolerance`` seconds apart; 1 if both are empty.

    For onsets (0.5, 1.0, 1.9), impacts (0.55, 1.3), tolerance 0.125: one match, 2 / 5 = 0.4.
    """
    onsets, open_impacts = sorted(onsets), sorted(impacts)
    total, matched = len(onsets) + len(open_impacts), 0
    # On a line, matching every onset with the earliest impact in reach is the largest matching.
    for onset in onsets:
        near = next((impact for impact in open_impacts if abs(impact - onset) <= tolerance), None)
        if near is not None:
            open_impacts.remove(near)
            matched += 1
    return 2 * matched / total if total else 1.0


def _score_objects(order: tuple[SeenObject | None, ...], scene: Scene) -> dict[str, float]:
    """Mean agreement of the seen objects, in this order, with the scene's."""
    right = {
        "colour": lambda seen, body: seen.colour == body.colour,
        "shape": lambda seen, body: seen.shape == body.shape,
        "size": lambda seen, body: seen.size == body.size,
        "motion": lambda seen, body: seen.motion == motion_name(body),
        "motion_kind": lambda seen, body: (seen.motion or "").split(" ")[0] == body.motion.kind,
    }
    pairs = list(zip(order, scene.objects))
    return {
        name: float(np.mean([seen is not None and agree(seen, body) for seen, body in pairs]))
        for name, agree in right.items()
    }


def motion_name(body: Body) -> str:
    """The motion as the oracle names it: still, bounce, fall, "drift left" ... "drift down right"."""
    direction = getattr(body.motion, "direction", None)
    return f"{body.motion.kind} {direction}" if direction else body.motion.kind


def measure(seeds: Iterable[int], split: str = "train", codec: bool = False, size: int = 64) -> dict[str, float]:
    """Mean scores over the scenes of ``seeds``: the oracle's own accuracy, after H.264 and AAC if ``codec``.

    ``seen_timing`` is the agreement of the onsets with the impacts seen in the video, by which samples are judged.
    """
    from rich.progress import track

    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for seed in track(list(seeds), description="reading scenes"):
            scene = Scene.sample(seed, split)
            video, audio = scene.render(CLIP_FRAMES, CLIP_FPS, size), scene.sound()
            if codec:
                video, audio = _through_codec(video, audio, Path(folder) / "scene.mp4")
            reading = read_scene(video, audio)
            seen = score(reading, scene, reading.impacts)["sound_timing"]
            rows.append({**score(reading, scene), "seen_timing": seen})
    return {name: float(np.nanmean([row[name] for row in rows])) for name in rows[0]}


def _through_codec(video: np.ndarray, audio: np.ndarray, path: Path) -> tuple[np.ndarray, np.ndarray]:
    from videopoet.data.media import Media, read_media, write_media

    write_media(path, Media(video=video, fps=CLIP_FPS, audio=audio[None], sample_rate=SAMPLE_RATE))
    media = read_media(path, sample_rate=SAMPLE_RATE)
    return media.video, media.audio[0]


def main() -> None:
    """Command line: measure the oracle."""
    from rich.console import Console
    from rich.table import Table

    parser = argparse.ArgumentParser(
        description="Measure how often the oracle reads generated scenes right.",
        epilog="example: python -m videopoet.data.bounce_oracle --num-scenes 2000 --codec",
    )
    parser.add_argument("--num-scenes", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=10_000_000, help="seed of the first scene")
    parser.add_argument("--split", choices=SPLITS, default="train")
    parser.add_argument("--size", type=int, default=64, help="width and height in pixels")
    parser.add_argument("--codec", action="store_true", help="read the scenes back from H.264 and AAC")
    arguments = parser.parse_args()
    if arguments.num_scenes < 1:
        raise SystemExit(f"bounce_oracle: {arguments.num_scenes} scenes leave nothing to measure; ask for at least 1")
    seeds = range(arguments.seed, arguments.seed + arguments.num_scenes)
    accuracy = measure(seeds, arguments.split, arguments.codec, arguments.size)
    source = "through H.264/AAC" if arguments.codec else "clean renders"
    table = Table("attribute", "right", title=f"{arguments.num_scenes} {arguments.split} scenes, {source}")
    for name, value in accuracy.items():
        table.add_row(name, f"{value:.4f}")
    Console().print(table)


if __name__ == "__main__":
    main()

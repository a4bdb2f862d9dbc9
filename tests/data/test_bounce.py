"""The built-in world: what is drawn, rung and said agrees with the kinematics, and the held-out set stays held out."""

import collections
import json
import math

import numpy as np
import pytest

from videopoet.data import bounce_sound
from videopoet.data.bounce import (
    BACKGROUNDS,
    CLIP_FPS,
    CLIP_FRAMES,
    CLIP_SECONDS,
    COLOURS,
    HELD_OUT,
    RADII,
    SHAPES,
    TONES,
    Scene,
    coverage,
    half_extent,
)
from videopoet.data.bounce_files import write_world
from videopoet.data.bounce_motion import DIRECTIONS, GRAVITY, MOTION_KINDS, RESTITUTION, Bounce, Fall

SCENES = [Scene.sample(seed, split) for split in ("train", "heldout") for seed in range(300)]


def test_a_seed_is_a_scene():
    for seed in range(5):
        first, second = Scene.sample(seed), Scene.sample(seed)
        assert first == second
        assert first.render().tobytes() == second.render().tobytes()
        assert first.sound().tobytes() == second.sound().tobytes()
        assert first.captions() == second.captions()
    assert len({Scene.sample(seed).render().tobytes() for seed in range(20)}) == 20
    assert Scene.sample(0, "train") != Scene.sample(0, "heldout")
    with pytest.raises(ValueError, match="heldout"):
        Scene.sample(0, "test")


def test_shapes_and_types():
    scene = Scene.sample(3)
    video, audio = scene.render(5, 6.0, 48), scene.sound(5, 6.0)
    assert video.shape == (5, 48, 48, 3) and video.dtype == np.uint8
    assert audio.shape == (round(5 / 6 * 16000),) and audio.dtype == np.float32
    assert scene.sound().shape == (34000,)
    json.dumps(scene.attributes())


def test_training_never_meets_held_out_combinations():
    combinations = [collections.Counter(), collections.Counter()]
    for scene in SCENES:
        held_out = scene.split == "heldout"
        combinations[held_out].update(body.combination for body in scene.objects)
        if held_out:
            assert scene.objects[0].combination in HELD_OUT
    train = combinations[0]
    assert not HELD_OUT & set(train)
    total = len(SHAPES) * len(COLOURS) * len(MOTION_KINDS)
    assert 0.1 <= len(HELD_OUT) / total <= 0.12
    # Every single value is common in training, and so is every pair of values that a held-out combination contains.
    for place, values in enumerate((SHAPES, COLOURS, MOTION_KINDS)):
        for value in values:
            assert sum(count for key, count in train.items() if key[place] == value) > 0.05 * train.total()
    for combination in HELD_OUT:
        for left, right in ((0, 1), (0, 2), (1, 2)):
            pair = combination[left], combination[right]
            assert any((key[left], key[right]) == pair for key in train)


def test_all_values_occur():
    bodies = [body for scene in SCENES for body in scene.objects]
    assert {body.motion.direction for body in bodies if body.motion.kind == "drift"} == set(DIRECTIONS)
    assert {body.size for body in bodies} == set(RADII)
    assert {(s.background.kind, s.background.tone) for s in SCENES} == {(k, t) for k in BACKGROUNDS for t in TONES}
    two = [scene for scene in SCENES if len(scene.objects) == 2]
    assert 0.15 < len(two) / len(SCENES) < 0.35
    assert all(scene.objects[0].colour != scene.objects[1].colour for scene in two)
    assert {scene.front for scene in two} == {0, 1}


def test_bodies_stay_inside_and_speeds_are_real():
    times = np.linspace(0, CLIP_SECONDS, 200)
    for scene in SCENES:
        for body in scene.objects:
            centres = body.centres(times)
            assert np.all(centres >= np.array(body.half) - 1e-6) and np.all(centres <= 1 - np.array(body.half) + 1e-6)
            path = np.linalg.norm(np.diff(centres, axis=0), axis=1).sum()
            assert path == 0 if body.motion.kind == "still" else path >= 0.25
            strikes = body.motion.strikes(CLIP_SECONDS, body.half)
            assert len(strikes) >= {"still": 0, "drift": 0, "bounce": 2, "fall": 1}[body.motion.kind]


def test_impacts_agree_with_the_trajectory():
    """At every impact the box touches the named wall, turning from the stated speed towards it to away from it."""
    step = 1e-5
    for scene in SCENES:
        for impact in scene.impacts():
            body = scene.objects[impact.body]
            axis, sign = {"left": (0, -1), "right": (0, 1), "top": (1, -1), "bottom": (1, 1)}[impact.wall]
            before, at, after = body.centres(impact.time + np.array([-step, 0.0, step]))[:, axis]
            wall = 1 - body.half[axis] if sign > 0 else body.half[axis]
            assert at == pytest.approx(wall, abs=1e-9)
            assert sign * (at - before) / step == pytest.approx(impact.speed, rel=1e-3)
            kept = RESTITUTION if body.motion.kind == "fall" else 1.0
            assert sign * (after - at) / step == pytest.approx(-kept * impact.speed, rel=1e-3)


def test_no_turn_without_an_impact():
    """Between impacts the velocity changes by gravity alone."""
    times = np.linspace(0, CLIP_SECONDS, 2001)
    step = times[1]
    for scene in SCENES[:100]:
        for index, body in enumerate(scene.objects):
            bend = np.abs(np.diff(body.centres(times), 2, axis=0) / step).max(axis=1)  # velocity change per step
            struck = [impact.time for impact in scene.impacts() if impact.body == index]
            away = np.array([all(abs(time - moment) > 2 * step for moment in struck) for time in times[1:-1]])
            assert bend[away].max() <= GRAVITY * step + 1e-6


def test_the_worked_fall():
    half = half_extent("circle", "small")
    strikes = Fall(start=(0.5, 1 - half[1] - 0.5)).strikes(2.0, half)
    assert [(round(strike.time, 3), round(strike.speed, 3)) for strike in strikes] == [(0.707, 1.414), (1.697, 0.99)]


def test_a_fall_comes_to_rest():
    half = half_extent("square", "big")
    fall = Fall(start=(0.5, 1 - half[1] - 0.4))
    assert len(fall.strikes(1e6, half)) < 20
    assert fall.centres(np.array([60.0]), half)[0, 1] == pytest.approx(1 - half[1])


def test_a_bounce_against_the_wall_it_starts_at():
    """A body that starts touching a wall and leaves it does not strike it; one that moves along it never does."""
    leaving = Bounce(start=(0.25, 0.5), velocity=(0.5, 0.0)).strikes(1.5, (0.25, 0.25))
    assert [(strike.wall, strike.time) for strike in leaving] == [("right", 1.0)]


def test_silent_exactly_without_impacts():
    for scene in SCENES:
        audio = scene.sound()
        assert np.abs(audio).max() <= 1.0
        assert np.any(audio) == bool(scene.impacts())
        moving = any(body.motion.kind in ("bounce", "fall") for body in scene.objects)
        assert moving == bool(scene.impacts())
        if scene.impacts():
            first = int(np.flatnonzero(audio)[0]) / bounce_sound.SAMPLE_RATE
            assert first == pytest.approx(scene.impacts()[0].time, abs=2e-4)


def test_louder_when_faster_and_pitched_by_shape():
    speeds = np.linspace(0.1, 3.0, 30)
    peaks = [np.abs(bounce_sound.soundtrack([(0.0, speed, "circle", "big")], 4000)).max() for speed in speeds]
    assert np.all(np.diff(peaks) > 0) and peaks[-1] < bounce_sound.LOUDEST
    for shape, pitch in bounce_sound.PITCHES.items():
        spectrum = np.abs(np.fft.rfft(bounce_sound.soundtrack([(0.0, 1.0, shape, "small")], 16000)))
        assert np.argmax(spectrum) == pytest.approx(pitch, abs=3)


def test_resolutions_agree():
    """A 256 pixel render averaged down to 64 is the 64 pixel render, up to the outline's anti-aliasing."""
    for scene in SCENES[:25]:
        large = scene.render(3, 2.0, 256).astype(np.float32).reshape(3, 64, 4, 64, 4, 3).mean(axis=(2, 4))
        error = np.abs(large - scene.render(3, 2.0, 64))
        assert error.mean() < 1.0
        assert error.max() < 60


def test_covered_area_is_the_shape_area():
    areas = {"circle": math.pi, "square": 4 * 0.88**2, "triangle": 2 * 1.2 * 1.1}
    for shape in SHAPES:
        for size, radius in RADII.items():
            cover = coverage(shape, half_extent(shape, size), np.array([[0.47, 0.52]]), 64)
            assert cover.mean() == pytest.approx(areas[shape] * radius**2, rel=0.02)


def test_flow_warps_each_frame_onto_the_next():
    resolution = 96
    for scene in SCENES[:25]:
        truth, video = scene.truth(resolution=resolution), scene.render(resolution=resolution).astype(np.float32)
        for i in (2, 9):
            rows, columns = np.indices((resolution, resolution))
            moving = truth.depth[i] > 0
            to_x = np.rint(columns + truth.flow[i, ..., 0]).astype(int)
            to_y = np.rint(rows + truth.flow[i, ..., 1]).astype(int)
            inside = (to_x >= 0) & (to_x < resolution) & (to_y >= 0) & (to_y < resolution)
            to_x, to_y = to_x.clip(0, resolution - 1), to_y.clip(0, resolution - 1)
            # A pixel of an object arrives on the same object, unless the other one hides it or the outline rounds off.
            same = inside & (truth.depth[i + 1][to_y, to_x] == truth.depth[i])
            error = np.abs(video[i + 1][to_y, to_x] - video[i]).mean(axis=-1)
            assert same[moving].mean() > 0.5 if len(scene.objects) == 2 else same[moving].mean() > 0.93
            assert np.median(error[moving & same]) < 1.0
            assert not truth.flow[i][~moving].any()


def test_truth_is_consistent():
    for scene in SCENES[:40]:
        truth = scene.truth(resolution=64)
        assert truth.centres.shape == (CLIP_FRAMES, len(scene.objects), 2)
        assert truth.flow.shape == (CLIP_FRAMES - 1, 64, 64, 2)
        np.testing.assert_allclose(truth.pixels, truth.centres * 64)
        assert truth.order[-1] == scene.front and sorted(truth.order) == list(range(len(scene.objects)))
        video = scene.render()
        for frame in (0, 8, 16):
            x, y = truth.pixels[frame, scene.front].astype(int)
            assert truth.depth[frame, y, x] == scene.front + 1
            assert tuple(video[frame, y, x]) == COLOURS[scene.objects[scene.front].colour]


def test_captions_say_exactly_what_happens():
    drift_words = {word for name in DIRECTIONS for word in name.split()}
    words_of_direction = {
        "left": "left",
        "right": "right",
        "up": ("up", "upper", "top"),
        "down": ("down", "lower", "bottom"),
    }
    vocabulary = set()
    for scene in SCENES:
        captions = scene.captions()
        assert len(set(captions)) >= 4
        for caption in captions:
            words = caption.split()
            vocabulary.update(words)
            assert len(words) <= 22 and caption == caption.lower()
            for body in scene.objects:
                assert f"a {body.size} {body.colour} {body.shape}" in caption
            assert sum(words.count(shape) for shape in SHAPES) == len(scene.objects)
            assert sum(words.count(colour) for colour in COLOURS) == len(scene.objects)
            assert f"a {scene.background.kind} {scene.background.tone} background" in caption
            for kind, stems in _VERBS.items():
                said = sum(words.count(verb) for verb in stems)
                assert said == sum(body.motion.kind == kind for body in scene.objects), caption
            moving = {word for body in scene.objects for word in getattr(body.motion, "direction", "").split()}
            for word in drift_words:
                assert any(said in words for said in np.atleast_1d(words_of_direction[word])) == (word in moving)
    assert len(vocabulary) <= 60


_VERBS = {
    "still": ("stands", "move"),
    "drift": ("drifts", "glides"),
    "bounce": ("bounces",),
    "fall": ("falls",),
}


def test_world_on_disk(tmp_path):
    from videopoet.data.media import read_media

    write_world(tmp_path / "world", 3, seed=7, split="heldout", size=32)
    files = sorted(path.name for path in (tmp_path / "world").iterdir())
    assert files == [f"heldout-0000000{seed}.{suffix}" for seed in (7, 8, 9) for suffix in ("json", "mp4")]
    for seed in (7, 8, 9):
        scene, path = Scene.sample(seed, "heldout"), tmp_path / "world" / f"heldout-{seed:08d}.mp4"
        sidecar, media = json.loads(path.with_suffix(".json").read_text()), read_media(path)
        assert tuple(sidecar["captions"]) == scene.captions()
        assert sidecar["bounce"] == json.loads(json.dumps(scene.attributes()))
        assert media.video.shape == (CLIP_FRAMES, 32, 32, 3) and media.fps == CLIP_FPS
        assert np.abs(media.video.astype(float) - scene.render(resolution=32)).mean() < 8
        np.testing.assert_allclose(media.audio[0], scene.sound(), atol=0.03)
    first = (tmp_path / "world" / "heldout-00000007.mp4").read_bytes()
    write_world(tmp_path / "again", 1, seed=7, split="heldout", size=32)
    assert (tmp_path / "again" / "heldout-00000007.mp4").read_bytes() == first


def test_bad_requests(tmp_path):
    with pytest.raises(ValueError, match="0 scenes"):
        write_world(tmp_path, 0)
    with pytest.raises(ValueError, match="33 pixels"):
        write_world(tmp_path, 1, size=33)
    with pytest.raises(ValueError, match="test"):
        write_world(tmp_path, 1, split="test")
    assert not list(tmp_path.iterdir())

"""The oracle is right on the world it reads, and notices when something is wrong."""

import dataclasses

import numpy as np
import pytest

from videopoet.data.bounce import Background, Body, Scene
from videopoet.data.bounce_motion import Drift, Still
from videopoet.data.bounce_oracle import hear, measure, read_scene, score, timing
from videopoet.data.bounce_sound import PITCHES, soundtrack


def _assert_right(accuracy: dict[str, float], least: float) -> None:
    assert {"colour", "shape", "size", "motion", "count", "background", "sound_pitch", "sound_timing"} <= set(accuracy)
    assert min(accuracy.values()) >= least, accuracy


@pytest.mark.parametrize("first", [0, 50, 100])
def test_right_on_clean_renders(first):
    _assert_right(measure(range(first, first + 50), "train"), 0.99)


def test_right_after_h264_and_aac():
    _assert_right(measure(range(60), "heldout", codec=True), 0.99)


@pytest.mark.timeout(900)
@pytest.mark.parametrize("codec", [False, True])
def test_right_on_thousands(codec):
    _assert_right(measure(range(1000, 2000), "train", codec=codec), 0.99)


@pytest.mark.parametrize("resolution", [48, 128])
def test_any_resolution(resolution):
    _assert_right(measure(range(500, 512), "train", size=resolution), 0.97)


def test_right_on_blurred_and_noisy_pictures():
    """The quality of a neural tokenizer: blur and noise at 28 dB."""
    generator = np.random.default_rng(0)
    distance = np.subtract.outer(np.arange(64), np.arange(64))
    blur = np.exp(-0.5 * distance**2)
    blur /= blur.sum(axis=1, keepdims=True)
    rows = []
    for seed in range(25):
        scene = Scene.sample(seed)
        video = np.einsum("yi,xj,tijc->tyxc", blur, blur, scene.render().astype(np.float64), optimize=True)
        video = np.clip(video + generator.normal(scale=8, size=video.shape), 0, 255).astype(np.uint8)
        rows.append(score(read_scene(video, scene.sound()), scene))
    _assert_right({name: float(np.mean([row[name] for row in rows])) for name in rows[0]}, 0.97)


def _scene(*bodies: Body, kind: str = "plain", tone: str = "dark") -> Scene:
    ground = Background(kind=kind, tone=tone, vertical=True, phase=(0.0, 0.0))
    return Scene(seed=0, split="train", objects=bodies, background=ground, front=0)


RED = Body(shape="circle", colour="red", size="big", motion=Still(start=(0.3, 0.3)))


@pytest.mark.parametrize(
    ("attribute", "told"),
    [
        ("colour", _scene(dataclasses.replace(RED, colour="blue"))),
        ("shape", _scene(dataclasses.replace(RED, shape="square"))),
        ("size", _scene(dataclasses.replace(RED, size="small"))),
        ("motion", _scene(dataclasses.replace(RED, motion=Drift(start=(0.3, 0.3), direction="right", speed=0.2)))),
        ("background", _scene(RED, tone="light")),
        ("background", _scene(RED, kind="striped")),
    ],
)
def test_one_wrong_attribute_costs_that_attribute_only(attribute, told):
    shown = _scene(RED)
    scores = score(read_scene(shown.render(), shown.sound()), told)
    assert scores[attribute] == 0.0
    assert np.isnan(scores["sound_impacts"]), "nothing strikes and nothing is heard"
    assert all(value == 1.0 for name, value in scores.items() if not name.startswith((attribute, "sound_impacts")))


def test_drift_in_the_wrong_direction_is_wrong():
    left, right = (
        _scene(dataclasses.replace(RED, motion=Drift(start=start, direction=direction, speed=0.2)))
        for start, direction in (((0.75, 0.3), "left"), ((0.25, 0.3), "right"))
    )
    assert score(read_scene(left.render(), None), left)["motion"] == 1.0
    assert score(read_scene(left.render(), None), right)["motion"] == 0.0


def test_missing_and_extra_objects():
    other = Body(shape="square", colour="green", size="small", motion=Still(start=(0.8, 0.8)))
    one, two = _scene(RED), _scene(other, RED)
    missing = score(read_scene(one.render(), one.sound()), two)
    assert missing["count"] == 0.0 and missing["colour"] == missing["shape"] == missing["motion"] == 0.5
    extra = score(read_scene(two.render(), two.sound()), one)
    assert extra["count"] == 0.0 and extra["colour"] == extra["shape"] == extra["motion"] == 1.0
    nothing = read_scene(np.full((5, 64, 64, 3), 48, dtype=np.uint8), None)
    assert nothing.objects == () and nothing.impacts == ()
    assert score(nothing, one)["colour"] == 0.0 and score(nothing, one)["motion"] == 0.0


def test_order_of_the_objects_does_not_matter():
    for seed in range(60):
        scene = Scene.sample(seed)
        swapped = dataclasses.replace(scene, objects=scene.objects[::-1])
        reading = read_scene(scene.render(), None)
        assert score(reading, scene) == score(reading, swapped)


def test_positions_and_impacts_are_read_from_the_pixels():
    errors, delays = [], []
    for seed in range(40):
        scene = Scene.sample(seed)
        reading, truth = read_scene(scene.render(), None), scene.truth()
        for seen in reading.objects:
            index = next(i for i, body in enumerate(scene.objects) if body.colour == seen.colour)
            errors.append(np.linalg.norm(seen.centres - truth.centres[:, index], axis=1))
            impacts = [impact.time for impact in truth.impacts if impact.body == index]
            assert len(impacts) == len(seen.impacts)
            delays += [abs(time - other) for time, other in zip(impacts, seen.impacts)]
    assert np.median(np.concatenate(errors)) < 0.005 and np.quantile(np.concatenate(errors), 0.99) < 0.05
    assert max(delays) < 1 / 8


def test_rings_are_heard_with_pitch_time_and_loudness():
    rings = [(0.31, 0.3, "circle", "big"), (0.52, 0.4, "circle", "big"), (0.9, 1.2, "triangle", "small")]
    onsets = hear(soundtrack(rings, 24000))
    assert [onset.shape for onset in onsets] == [shape for _, _, shape, _ in rings]
    assert [onset.time for onset in onsets] == pytest.approx([time for time, *_ in rings], abs=0.02)
    assert onsets[2].loudness > 1.5 * onsets[0].loudness
    for shape in PITCHES:
        assert {onset.shape for onset in hear(soundtrack([(0.2, 1.0, shape, "big")], 8000))} == {shape}


def test_sound_scores():
    scene = next(scene for scene in map(Scene.sample, range(99)) if {b.motion.kind for b in scene.objects} == {"fall"})
    video, audio = scene.render(), scene.sound()
    mute = score(read_scene(video, np.zeros_like(audio)), scene)
    assert mute["sound_pitch"] == 0.0 and mute["sound_timing"] == 0.0
    late = read_scene(video, np.concatenate([np.zeros(4000, dtype=np.float32), audio[:-4000]]))
    assert score(late, scene)["sound_timing"] == 0.0 and score(late, scene)["sound_pitch"] == 1.0
    # Held against other impacts than the scene's: those the sound was moved to.
    assert score(late, scene, [impact.time + 0.25 for impact in scene.impacts()])["sound_timing"] == 1.0
    assert not {"sound_pitch", "sound_timing"} & set(score(read_scene(video, None), scene))


def test_silence_and_noise():
    scene = _scene(RED)
    assert read_scene(scene.render(), scene.sound()).silent
    assert score(read_scene(scene.render(), scene.sound()), scene)["sound_timing"] == 1.0
    noise = np.random.default_rng(0).normal(scale=0.05, size=34000).astype(np.float32)
    assert not read_scene(scene.render(), noise).silent


def test_timing_worked_example():
    assert timing([0.5, 1.0, 1.9], [0.55, 1.3], 0.125) == pytest.approx(0.4)
    assert timing([], [], 0.125) == 1.0 and timing([1.0], [], 0.125) == 0.0
    # Two onsets may not share an impact, and the nearest pairing in order is found.
    assert timing([1.0, 1.05], [1.02], 0.125) == pytest.approx(2 / 3)
    assert timing([1.0, 1.1], [1.1, 1.2], 0.125) == 1.0


def test_a_picture_has_no_motion_score():
    scene = Scene.sample(1)
    scores = score(read_scene(scene.render(frames=1), None), scene)
    assert "motion" not in scores and scores["colour"] == scores["shape"] == scores["size"] == 1.0


def test_bad_input():
    with pytest.raises(ValueError, match="square uint8"):
        read_scene(np.zeros((3, 64, 64, 3), dtype=np.float32), None)
    with pytest.raises(ValueError, match="mono"):
        read_scene(np.zeros((3, 64, 64, 3), dtype=np.uint8), np.zeros((1, 100), dtype=np.float32))

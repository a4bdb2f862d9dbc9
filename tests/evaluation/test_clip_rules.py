"""Which frames are scored, and what storing them does."""

import numpy as np
import pytest

from videopoet.component import instantiate, spec_of
from videopoet.evaluation.clip_rules import (
    AllFrames,
    AtStart,
    Central,
    ClipRule,
    HoldLast,
    Loop,
    RandomStart,
    UniformFrames,
)
from videopoet.evaluation.detectors.base import BUILDABLE
from videopoet.evaluation.round_trip import Jpeg, Mp4, NoRoundTrip


@pytest.mark.parametrize(
    ("rule", "frames", "fps", "expected"),
    [
        (ClipRule(frames=4), 10, None, [3, 4, 5, 6]),
        (ClipRule(frames=4), 11, None, [3, 4, 5, 6]),  # 8 starts: 3 of 0..7, the earlier middle
        (ClipRule(frames=4), 4, None, [0, 1, 2, 3]),
        (ClipRule(frames=3, stride=3), 10, None, [1, 4, 7]),
        (ClipRule(frames=4, offset=AtStart()), 10, None, [0, 1, 2, 3]),
        (ClipRule(frames=5, fps=8, offset=AtStart()), 100, 30.0, [0, 3, 7, 11, 15]),
        (ClipRule(frames=3, fps=8, stride=2, offset=AtStart()), 100, 30.0, [0, 7, 15]),
        (ClipRule(frames=4, fps=30, offset=AtStart()), 9, 10.0, [0, 0, 0, 1]),
        (ClipRule(frames=4, fps=8), 100, 30.0, [44, 47, 51, 55]),  # spans 12 of 100: 89 starts
        (ClipRule(frames=6, short=HoldLast()), 4, None, [0, 1, 2, 3, 3, 3]),
        (ClipRule(frames=6, short=Loop()), 4, None, [0, 1, 2, 3, 0, 1]),
        (UniformFrames(frames=4), 10, None, [1, 3, 6, 8]),
        (UniformFrames(frames=4, ends=True), 10, None, [0, 3, 6, 9]),
        (UniformFrames(frames=4), 2, None, [0, 0, 1, 1]),
        (UniformFrames(frames=1), 9, None, [4]),
        (AllFrames(), 3, None, [0, 1, 2]),
    ],
    ids=str,
)
def test_hand_tables(rule, frames, fps, expected):
    assert rule.indices(frames, fps=fps).tolist() == expected


def test_the_rate_of_television_is_no_float():
    """At 30000/1001 frames a second every 1001st part must not slip: frame 1000 i / 1000 of the same rate is frame i."""
    rule = ClipRule(frames=3000, fps=30000 / 1001, offset=AtStart())
    assert rule.indices(3000, fps=29.97002997).tolist() == list(range(3000))


def test_random_starts_depend_on_the_name_and_the_seed_alone():
    rule = ClipRule(frames=16, offset=RandomStart(seed=3))
    starts = [int(rule.indices(116, key=f"video{i}")[0]) for i in range(2000)]
    assert starts == [int(rule.indices(116, key=f"video{i}")[0]) for i in range(2000)]
    assert set(starts) == set(range(101))
    counts = np.bincount(starts, minlength=101)
    assert counts.max() < 45  # about 20 each
    other = ClipRule(frames=16, offset=RandomStart(seed=4))
    assert starts != [int(other.indices(116, key=f"video{i}")[0]) for i in range(2000)]


def test_every_clip_lies_inside():
    for frames in range(16, 40):
        for offset in (AtStart(), Central(), RandomStart()):
            found = ClipRule(frames=6, stride=3, offset=offset).indices(frames, key=str(frames))
            assert found[0] >= 0 and found[-1] < frames and set(np.diff(found)) == {3}


def test_what_cannot_be_is_refused():
    with pytest.raises(ValueError, match="video3 has 15 frames, the clip spans 16"):
        ClipRule(frames=16).indices(15, key="video3")
    with pytest.raises(ValueError, match="frame rate of video3 is None: a rule of 8 fps"):
        ClipRule(frames=2, fps=8).indices(15, key="video3")
    for bad in ({"frames": 0}, {"stride": 0}, {"fps": 0.0}):
        with pytest.raises(ValueError, match="cannot be"):
            ClipRule(**bad)
    with pytest.raises(ValueError, match="has no frames"):
        AllFrames().indices(0)


def test_a_rule_survives_being_written_down():
    for rule in (ClipRule(frames=9, fps=8, offset=RandomStart(seed=2), short=Loop()), UniformFrames(), AllFrames()):
        assert instantiate(spec_of(rule), BUILDABLE) == rule


def moving() -> np.ndarray:
    y, x = np.mgrid[:46, :61]
    return np.stack([np.stack([(3 * x + 5 * t) % 200, 2 * y, x + y], -1) for t in range(9)]).astype(np.uint8)


def test_storage_keeps_frames_and_sizes_and_costs_what_it_says():
    clip = moving()
    assert NoRoundTrip()(clip) is clip
    errors = []
    for trip in (Mp4(crf=1), Mp4(crf=40), Jpeg(quality=95), Jpeg()):
        back = trip(clip, fps=29.97)
        assert back.shape == clip.shape and back.dtype == np.uint8
        errors.append(np.abs(back.astype(int) - clip).mean())
    assert 0 < errors[0] < errors[1] and 0 < errors[2] < errors[3]
    means = Mp4(crf=1)(clip)[..., 0].mean((1, 2))  # in order, none twice
    assert np.abs(np.diff(means) - np.diff(clip[..., 0].mean((1, 2)))).max() < 0.5

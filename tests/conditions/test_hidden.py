"""Hidden pixels: MAGVIT's regions to the pixel, and nothing of what is hidden reaches the condition or its codes."""

import numpy as np
import pytest
import torch

from videopoet import component
from videopoet.conditions.hidden import Central, Edge, HiddenRegion, Interpolation, MovingStrip, Outside
from videopoet.conditions.registry import CONDITIONS, conditions_of
from videopoet.conditions.shot import Shot
from videopoet.data.bounce import Scene
from videopoet.data.transforms import video_to_float

HIDING = {name: value for name, value in CONDITIONS.items() if isinstance(value, HiddenRegion)}
# Share of the pixels hidden (MAGVIT, App. B.1: 75, 50, 50, 50, 25, 25 %).
SHARES = {"inpainting_central": 0.25, "inpainting_dynamic": 0.25, "outpainting_central": 0.75,
          "outpainting_vertical": 0.5, "outpainting_horizontal": 0.5, "outpainting_dynamic": 0.5}  # fmt: skip


def shot(seed: int = 0, size: int = 16) -> Shot:
    video = np.random.default_rng(seed).integers(0, 256, (17, size, size, 3), dtype=np.uint8)
    return Shot(video=video, fps=8.0)


def scrambled(value: Shot, hidden: np.ndarray) -> Shot:
    """The same clip with other pixels where it is hidden."""
    return Shot(video=np.where(hidden[..., None], 255 - value.video, value.video), fps=value.fps)


def hidden_of(name: str, size: int = 16) -> np.ndarray:
    if name == "interpolation":
        return np.broadcast_to((np.arange(17) % 16 != 0)[:, None, None], (17, size, size))
    return HIDING[name].region.mask(17, size, size)


@pytest.mark.parametrize("name", HIDING)
@pytest.mark.parametrize("size", [16, 64])
def test_a_region_hides_its_share(name, size):
    assert hidden_of(name, size).mean() == SHARES[name]


def test_regions_are_where_they_should_be():
    central = Central().mask(17, 64, 64)
    assert central[0].any(1).nonzero()[0].tolist() == list(range(16, 48)) == central[9].any(0).nonzero()[0].tolist()
    strip = MovingStrip().mask(17, 64, 64)
    starts = [frame[0].nonzero()[0].min() for frame in strip]
    assert starts == list(range(0, 33, 2)) and all(frame.all(0).sum() == 32 for frame in strip)


@pytest.mark.parametrize("name", [*HIDING, "interpolation"])
def test_hidden_pixels_do_not_reach_the_codes(name, shipped):
    """Whatever is hidden, the condition and its codes are the same; the true clip's codes are not."""
    visual = component.load(shipped / "visual.safetensors")
    original = shot()
    other = scrambled(original, hidden_of(name))
    clips = [CONDITIONS[name](each) for each in (original, other)]
    assert np.array_equal(*clips)
    codes = [visual.encode(video_to_float(clip)[None]) for clip in clips]
    assert torch.equal(*codes)
    true = [visual.encode(video_to_float(each.video)[None]) for each in (original, other)]
    assert not torch.equal(*true), "the test would notice"


@pytest.mark.parametrize("name", HIDING)
def test_shown_pixels_stay(name):
    original = shot()
    shown = ~hidden_of(name)
    assert np.array_equal(CONDITIONS[name](original)[shown], original.video[shown])


def test_edges_are_drawn_out():
    video = np.arange(16, dtype=np.uint8).reshape(1, 4, 4, 1).repeat(3, -1)
    made = HiddenRegion(region=Outside(region=Central()), fill=Edge())(Shot(video=video, fps=8.0))
    assert made[0, :, :, 0].tolist() == [[5, 5, 6, 6], [5, 5, 6, 6], [9, 9, 10, 10], [9, 9, 10, 10]]
    with pytest.raises(ValueError, match="drawn out from a rectangle only"):
        HiddenRegion(region=Central(), fill=Edge())(Shot(video=video, fps=8.0))


def test_frames_are_blended():
    video = np.zeros((5, 1, 1, 3), np.uint8)
    video[-1], video[2] = 200, 99
    assert Interpolation()(Shot(video=video, fps=8.0))[:, 0, 0, 0].tolist() == [0, 50, 100, 150, 200]
    with pytest.raises(ValueError, match="2 frames are given at each end of a clip that has 4"):
        Interpolation(given=2)(Shot(video=video[:4], fps=8.0))


@pytest.mark.parametrize("name", CONDITIONS)
def test_a_condition_shows_the_shot_s_own_pixels_where_it_says(name):
    original = shot()
    shown = CONDITIONS[name].shows(*original.video.shape[:3])
    assert np.array_equal(CONDITIONS[name](original)[shown], original.video[shown])
    assert shown.any() == (name != "flow_depth") and not shown.all()


@pytest.mark.parametrize("name", CONDITIONS)
def test_a_condition_travels_as_json(name):
    assert component.instantiate(component.spec_of(CONDITIONS[name])) == CONDITIONS[name]


def test_conditions_come_from_names_and_yaml(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text(
        "mine:\n  class_path: videopoet.conditions.hidden.HiddenRegion\n  init_args:\n"
        "    region: {class_path: videopoet.conditions.hidden.Vertical}\n"
        "    fill: {class_path: videopoet.conditions.hidden.Black}\n"
    )
    assert list(conditions_of(["interpolation", str(path)])) == ["interpolation", "mine"]
    assert set(conditions_of(["all"])) == set(CONDITIONS)
    clip = Scene.sample(1).render(17, 8, 16)
    assert (conditions_of([str(path)])["mine"](Shot(video=clip, fps=8.0))[:, :, 4:12] == 0).all()
    path.write_text(path.read_text().replace("mine:", "visual:"))
    for names, message in (
        (["inpaint"], "no condition 'inpaint': there are inpainting_central"),
        ([str(path)], "'visual' cannot name a stream"),
        ([str(tmp_path / "none.yaml")], "no file at"),
    ):
        with pytest.raises(ValueError, match=message):
            conditions_of(names)
    path.write_text("mine: {class_path: videopoet.tasks.painting.Painting}")
    with pytest.raises(ValueError, match="must map names of streams to conditions"):
        conditions_of([str(path)])

"""Resizing: hand tables for each convention, and the steps of a preprocessing one by one."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from videopoet.component import instantiate, spec_of
from videopoet.evaluation.detectors.base import BUILDABLE
from videopoet.evaluation.resize import (
    AlignCorners,
    Antialiased,
    PilBicubic,
    PilBicubicFloat,
    Resize,
    RoundTo8Bits,
    ShortSideCrop,
    Stretch,
    TF1Bilinear,
    TorchBilinear,
    TruncateTo8Bits,
)

CONVENTIONS = [TF1Bilinear(), TorchBilinear(), Antialiased(), AlignCorners(), PilBicubic(), PilBicubicFloat()]
#: Pixels 0, 10, 20, 30 made 7 wide and 2 wide, worked out by hand from the formulas in `resize.py`.
TABLE = {
    "TF1Bilinear": ([0, 40 / 7, 80 / 7, 120 / 7, 160 / 7, 200 / 7, 30], [0, 20]),
    "TorchBilinear": ([0, 25 / 7, 65 / 7, 15, 145 / 7, 185 / 7, 30], [5, 25]),
    # triangles of half-width 2: (0 * 1.5 + 10 * 1.5 + 20 * 0.5) / 3.5
    "Antialiased": ([0, 25 / 7, 65 / 7, 15, 145 / 7, 185 / 7, 30], [50 / 7, 160 / 7]),
    "AlignCorners": ([0, 5, 10, 15, 20, 25, 30], [0, 30]),
}


def line(values, height: int = 1) -> np.ndarray:
    """A picture (1, height, w, 3) of these columns."""
    return np.repeat(np.repeat(np.array(values, np.uint8)[None, None, :, None], height, 1), 3, 3)


@pytest.mark.parametrize("convention", CONVENTIONS[:4], ids=lambda c: type(c).__name__)
def test_hand_tables(convention):
    for width, expected in zip((7, 2), TABLE[type(convention).__name__]):
        wide = Resize(height=1, width=width, convention=convention)(line([0, 10, 20, 30]))
        assert wide[0, 0, :, 1].tolist() == pytest.approx(expected, abs=1e-4)
        tall = Resize(height=width, width=3, convention=convention)(line([0, 10, 20, 30], 3).transpose(0, 2, 1, 3))
        assert tall[0, :, 0, 2].tolist() == pytest.approx(expected, abs=1e-4)


def cubic(x: float, a: float = -0.5) -> float:
    x = abs(x)
    if x < 1:
        return (a + 2) * x**3 - (a + 3) * x**2 + 1
    return a * x**3 - 5 * a * x**2 + 8 * a * x - 4 * a if x < 2 else 0.0


@pytest.mark.parametrize("width", [3, 7])
def test_bicubic_by_its_formula(width):
    """Weights of the cubic over m / n pixels where it makes smaller, normalised to sum 1."""
    values = np.array([0, 90, 20, 200, 255])
    scale = max(1.0, 5 / width)
    expected = []
    for i in range(width):
        weights = np.array([cubic((j + 0.5 - (i + 0.5) * 5 / width) / scale) for j in range(5)])
        expected.append(float((weights * values).sum() / weights.sum()))
    made = Resize(height=1, width=width, convention=PilBicubicFloat())(line(values))
    assert made[0, 0, :, 0].tolist() == pytest.approx(expected, abs=1e-3)
    whole = Resize(height=1, width=width, convention=PilBicubic())(line(values))
    assert whole[0, 0, :, 0].tolist() == pytest.approx(np.clip(expected, 0, 255), abs=0.51)
    assert torch.equal(whole, whole.round())


def smooth(h: int, w: int) -> np.ndarray:
    y, x = np.mgrid[:h, :w]
    planes = [127 + 120 * np.sin(2 * np.pi * (k + 1) * (x / w + 0.3 * k * y / h)) for k in range(3)]
    return np.stack(planes, -1).round().astype(np.uint8)[None]


def test_the_convention_alone_is_another_metric():
    a, b = (Resize(height=224, width=224, convention=c)(smooth(64, 64)) for c in (TF1Bilinear(), TorchBilinear()))
    assert (a - b).abs().mean() > 2  # of 255


def test_every_convention_keeps_a_constant_and_its_own_size():
    flat = np.full((2, 20, 30, 3), 77, np.uint8)
    for convention in CONVENTIONS:
        for size in ((9, 13), (40, 41)):
            made = Resize(height=size[0], width=size[1], convention=convention)(flat)
            assert made.shape == (2, *size, 3) and (made - 77).abs().max() < 1e-3
        same = Resize(height=20, width=30, convention=convention)(smooth(20, 30))
        assert torch.equal(same, torch.from_numpy(smooth(20, 30)).float())


def test_a_batch_of_clips_is_its_pictures():
    clip = np.stack([smooth(12, 16)[0], smooth(12, 16)[0][::-1], smooth(12, 16)[0][:, ::-1]])
    resize = Resize(height=20, width=10)
    both = resize(np.stack([clip, clip[::-1]]))
    assert both.shape == (2, 3, 20, 10, 3)
    assert torch.equal(both[1, 0], resize(clip)[2])


def test_short_side_and_crop():
    """16 x 32 to 8 x 8: first 8 x 16, then columns 4 to 12; tall pictures the other way."""
    wide = smooth(16, 32)
    fit = Resize(height=8, width=8, convention=TorchBilinear(), fit=ShortSideCrop())
    pictures = torch.from_numpy(wide).movedim(-1, 1).float()
    expected = F.interpolate(pictures, (8, 16), mode="bilinear")[..., 4:12].movedim(1, -1)
    assert torch.equal(fit(wide), expected)
    assert torch.equal(fit(wide.transpose(0, 2, 1, 3)), expected.transpose(1, 2))
    stretched = Resize(height=8, width=8, convention=TorchBilinear(), fit=Stretch())(wide)
    assert not torch.allclose(stretched, expected)


@pytest.mark.parametrize(("round_margin", "first"), [(False, 1), (True, 2)])
def test_an_odd_margin(round_margin, first):
    """7 columns for 4: of a margin of 3 one goes left, or 1.5 rounded to even, 2, as torchvision's CenterCrop has it."""
    values = line(range(0, 70, 10), height=4)
    made = Resize(height=4, width=4, fit=ShortSideCrop(round_margin=round_margin))(values)
    assert made[0, 0, :, 0].tolist() == [10 * (first + i) for i in range(4)]


def test_the_long_side_is_rounded_down():
    seen = []

    class Spy:
        def __call__(self, pictures, height, width):
            seen.append((height, width))
            return TorchBilinear()(pictures, height, width)

    Resize(height=224, width=224, convention=Spy(), fit=ShortSideCrop())(np.zeros((1, 240, 321, 3), np.uint8))
    assert seen == [(224, 299)]  # 299.6


def test_rounding_and_truncation():
    values = line([0, 7])  # thirds: 2.33, 4.67
    for rounding, expected in ((RoundTo8Bits(), [0, 2, 5, 7]), (TruncateTo8Bits(), [0, 2, 4, 7])):
        made = Resize(height=1, width=4, convention=AlignCorners(), rounding=rounding)(values)
        assert made[0, 0, :, 0].tolist() == expected
    over = Resize(height=1, width=9, convention=PilBicubicFloat())(line([0, 255, 0, 255]))
    assert over.max() > 255 and RoundTo8Bits()(over).max() == 255 and TruncateTo8Bits()(over).min() == 0


def test_by_way_of_another_size():
    via = Resize(height=32, width=32, via=(8, 8))(smooth(40, 50))
    small = Resize(height=8, width=8)(smooth(40, 50))
    assert torch.equal(via, Resize(height=32, width=32)(small))


def test_clip_preprocessing_is_pillows():
    """OpenAI's: short side bicubic in 8 bits, centre crop."""
    picture = smooth(50, 90)
    resized = Image.fromarray(picture[0]).resize((57, 32), Image.Resampling.BICUBIC)
    expected = np.asarray(resized)[:, 12:44]
    made = Resize(height=32, width=32, convention=PilBicubic(), fit=ShortSideCrop(round_margin=True))(picture)
    assert np.array_equal(made[0].numpy().astype(np.uint8), expected)


def test_a_spec_survives_being_written_down():
    for convention in CONVENTIONS:
        resize = Resize(height=8, width=9, convention=convention, fit=ShortSideCrop(round_margin=True), via=(3, 4))
        assert instantiate(spec_of(resize), BUILDABLE) == resize


def test_other_shapes_are_refused():
    for bad in (np.zeros((4, 4, 3), np.uint8), np.zeros((1, 3, 4, 4), np.uint8), np.zeros((0, 4, 4, 3), np.uint8)):
        with pytest.raises(ValueError, match="pictures are"):
            Resize(height=2, width=2)(bad)

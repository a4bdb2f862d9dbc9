"""Losses on pixels, and their sum with a perceptual term."""

import pytest
import torch

from videopoet.tokenizers.visual.losses import PixelLoss, ReconstructionLoss
from videopoet.tokenizers.visual.perceptual import Perceptual
from videopoet.tokenizers.visual.pretrained import Pretrained


class Brightness(Perceptual):
    """Sees a frame's mean."""

    def __init__(self, weight: float = 1.0, **how):
        super().__init__(Pretrained(), weight, **how)

    def see(self, frames):
        return [frames.mean((1, 2, 3))]

    def distance(self, made, real):
        return (made[0] - real[0]).square().mean()


@pytest.fixture
def video() -> torch.Tensor:
    return torch.rand(2, 3, 5, 8, 8, generator=torch.Generator().manual_seed(0)) * 2 - 1


def test_pixel_terms_by_hand():
    video, made = torch.zeros(1, 3, 1, 2, 2), torch.zeros(1, 3, 1, 2, 2)
    made[..., 0, 0] = 1.0  # one of four pixels is off by one: so is one of two differences along rows and columns
    assert PixelLoss(l2=1.0)(made, video) == pytest.approx(0.25)
    assert PixelLoss(l2=0.0, l1=2.0)(made, video) == pytest.approx(0.5)
    assert PixelLoss(l2=0.0, gradient=1.0)(made, video) == pytest.approx(1.0)


def test_the_papers_weight_on_unit_pixels_is_the_default(video):
    made = video.flip(0)
    on_unit = 5.0 * ((made / 2 + 0.5) - (video / 2 + 0.5)).square().mean()
    torch.testing.assert_close(PixelLoss()(made, video), on_unit)


def test_the_parts_add_up(video):
    made = (0.9 * video).requires_grad_()
    pixels, brightness = PixelLoss(), Brightness(weight=3.0)
    total, parts = ReconstructionLoss(pixels, brightness)(made, video)
    assert set(parts) == {"pixels", "perceptual"}
    torch.testing.assert_close(total, pixels(made, video) + brightness(made, video))
    total.backward()
    assert made.grad.abs().max() > 0


def test_without_a_perceptual_term_it_is_the_pixel_loss(video):
    total, parts = ReconstructionLoss(PixelLoss())(0.5 * video, video)
    assert set(parts) == {"pixels"} and total == PixelLoss()(0.5 * video, video)


def test_the_draw_of_frames_is_a_function_of_the_step(video):
    made = torch.randn_like(video)
    few, whole = Brightness(num_frames=3), Brightness()
    assert few(made, video, step=4) == few(made, video, step=4)
    assert len({float(few(made, video, step)) for step in range(8)}) > 1
    drawn = torch.stack([few(made, video, step) for step in range(400)]).mean()
    torch.testing.assert_close(drawn, whole(made, video), rtol=0.1, atol=0)
    assert Brightness(num_frames=100)(made, video) == whole(made, video)


def test_the_draw_takes_the_same_frames_of_both(video):
    assert Brightness(num_frames=2)(video, video, step=7) == 0


def test_no_frames_are_refused():
    with pytest.raises(ValueError, match="num_frames is 0"):
        Brightness(num_frames=0)

"""The discriminator: blur pooling by hand, images as clips of one frame, samples apart from each other."""

import pytest
import torch
import torch.nn.functional as F

from videopoet.tokenizers.visual.discriminator import (
    BlurHalving,
    Conv3d,
    MeanHalving,
    StyleGANDiscriminator,
    blur_pool,
)

HALVINGS = [BlurHalving(), MeanHalving()]


def small(**how) -> StyleGANDiscriminator:
    torch.manual_seed(0)
    return StyleGANDiscriminator(**({"size": (16, 16), "channels": 4, "multipliers": (1, 2, 2)} | how))


def test_blur_pool_by_hand():
    row = torch.tensor([0.0, 0, 8, 8]).reshape(1, 1, 1, 1, 4)
    assert blur_pool(row).flatten().tolist() == [1, 7]
    odd = torch.tensor([0.0, 8, 16]).reshape(1, 1, 3, 1, 1)  # 0 | 0 8 16 | 16 16
    assert blur_pool(odd).flatten().tolist() == [(0 + 0 + 24 + 16) / 8, (8 + 48 + 48 + 16) / 8]


@pytest.mark.parametrize("shape", [(4, 6, 8), (5, 7, 4), (1, 8, 5), (2, 2, 2)])
def test_blur_pool_is_a_strided_convolution(shape):
    x = torch.randn(2, 3, *shape, dtype=torch.float64)
    expected, taps = x, torch.tensor([1.0, 3, 3, 1], dtype=torch.float64) / 8
    for axis, size in enumerate(shape):
        if size > 1:
            lines = expected.movedim(2 + axis, -1)
            padded = F.pad(lines.flatten(0, -2)[:, None], (1, 1 + size % 2), mode="replicate")
            pooled = F.conv1d(padded, taps.reshape(1, 1, 4), stride=2).unflatten(0, lines.shape[:-1])[..., 0, :]
            expected = pooled.movedim(-1, 2 + axis)
    torch.testing.assert_close(blur_pool(x), expected)


def test_blur_pool_keeps_constants_and_calms_a_flicker():
    assert torch.equal(blur_pool(torch.ones(1, 1, 5, 6, 7)), torch.ones(1, 1, 3, 3, 4))
    flicker = (torch.arange(16) % 2 * 2.0 - 1).reshape(1, 1, 16, 1, 1)
    assert blur_pool(flicker)[:, :, 1:-1].abs().max() == 0  # subsampling alone would give all ones


def test_the_mean_by_hand():
    row = torch.tensor([0.0, 0, 8, 8, 6]).reshape(1, 1, 1, 1, 5)
    assert MeanHalving()(row).flatten().tolist() == [0, 8, 6]
    flicker = (torch.arange(16) % 4 // 2 * 2.0 - 1).reshape(1, 1, 16, 1, 1)  # - - + + - - + +
    shifted = flicker.roll(1, 2)
    change = {type(down): float((down(flicker) - down(shifted)).abs().max()) for down in HALVINGS}
    assert change[BlurHalving] < change[MeanHalving] == 1


@pytest.mark.parametrize("down", HALVINGS, ids=lambda d: type(d).__name__)
@pytest.mark.parametrize("shape", [(4, 6, 8), (5, 7, 4), (1, 8, 5), (17, 1, 1)])
def test_either_halving_rounds_up_and_keeps_constants(down, shape):
    halved = down(torch.full((2, 3, *shape), 7.0))
    assert halved.shape == (2, 3, *(-(-n // 2) for n in shape)) and (halved == 7).all()


def test_halvings_differ_in_no_weight():
    blur, mean = small(), small(down=MeanHalving())
    mean.load_state_dict(blur.state_dict())
    video = torch.randn(2, 3, 5, 16, 16)
    assert not torch.allclose(blur(video), mean(video), atol=1e-4)


def test_the_published_shape():
    with torch.device("meta"):
        network = StyleGANDiscriminator()
        shapes, x = [], torch.empty(1, 3, 17, 128, 128)
        for layer in (network.conv_in, *network.blocks):
            x = layer(x)
            shapes.append(tuple(x.shape[1:]))
        channels, frames, heights = zip(*(shape[:3] for shape in shapes))
        assert channels == (128, 256, 512, 512, 512, 512)
        assert frames == (17, 9, 5, 3, 2, 1) and heights == (128, 64, 32, 16, 8, 4)
        assert network(torch.empty(2, 3, 17, 128, 128)).shape == (2,)
        assert network(torch.empty(2, 3, 1, 128, 128)).shape == (2,)


@pytest.mark.parametrize("down", HALVINGS, ids=lambda d: type(d).__name__)
@pytest.mark.parametrize("frames", [1, 2, 5, 17])
def test_every_pixel_of_every_frame_counts(frames, down):
    video = torch.randn(2, 3, frames, 16, 16, requires_grad=True)
    small(down=down)(video).sum().backward()
    assert (video.grad.abs() > 0).all()


def test_samples_do_not_see_each_other():
    network, video = small(), torch.randn(3, 3, 5, 16, 16)
    together, alone = network(video), torch.cat([network(clip[None]) for clip in video])
    torch.testing.assert_close(together, alone, atol=1e-6, rtol=1e-5)


def test_a_single_frame_takes_the_middle_slice():
    torch.manual_seed(0)
    layer, image = Conv3d(2, 3), torch.randn(2, 2, 1, 6, 6)
    whole = F.conv3d(image, layer.weight, layer.bias, padding=1)
    torch.testing.assert_close(layer(image), whole, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("down", HALVINGS, ids=lambda d: type(d).__name__)
def test_gradients_can_be_penalised(down):
    network, video = small(down=down), torch.randn(2, 3, 5, 16, 16, requires_grad=True)
    (slope,) = torch.autograd.grad(network(video).sum(), video, create_graph=True)
    slope.square().sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in network.conv_in.parameters() if p.ndim > 1)
    assert network.conv_in.weight.grad.abs().max() > 0


def test_it_learns_to_tell_moving_from_still():
    network, rows = small(), torch.randn(4, 3, 1, 16, 16)
    still = rows.expand(-1, -1, 5, -1, -1)
    moving = torch.cat([rows.roll(i, -1) for i in range(5)], 2)
    optimizer = torch.optim.Adam(network.parameters(), 3e-3, (0.0, 0.99))
    for _ in range(30):
        loss = F.softplus(-network(moving)).mean() + F.softplus(network(still)).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert network(moving).min() > 0 > network(still).max()


@pytest.mark.parametrize("shape", [(1, 3, 5, 16, 32), (1, 1, 5, 16, 16)])
def test_other_sizes_are_refused(shape):
    with pytest.raises(ValueError, match=r"made for \(b, 3, t, 16, 16\)"):
        small()(torch.zeros(shape))

"""The visual tokenizer: strictly causal, an image is a clip of one frame, codes round-trip; on random and trained weights."""

from pathlib import Path

import pytest
import torch
import yaml
from conftest import VISUAL, published

from videopoet import component
from videopoet.data.bounce import Scene
from videopoet.data.transforms import video_to_float
from videopoet.tokenizers.streaming import Stream
from videopoet.tokenizers.visual.causal import depth_to_space, repeat_to, space_to_depth
from videopoet.tokenizers.visual.layers import AdaptiveNorm, CausalLayers


@pytest.fixture(scope="module")
def clip() -> torch.Tensor:
    scenes = (Scene.sample(seed).render(9, 8, 32) for seed in (1, 2))
    return torch.stack([video_to_float(scene) for scene in scenes])


def test_lattice(tokenizer, clip):
    codes = tokenizer.encode(clip)
    assert codes.shape == (2, 3, 4, 4) and codes.dtype == torch.int64
    assert 0 <= codes.min() and codes.max() < tokenizer.codebook_size
    assert tokenizer.decode(codes).shape == clip.shape


def test_an_image_is_the_first_frame(tokenizer, clip):
    assert torch.equal(tokenizer.encode(clip)[:, :1], tokenizer.encode(clip[:, :, :1]))


def test_a_prefix_of_codes_decodes_to_a_prefix_of_frames(tokenizer, clip):
    codes = tokenizer.encode(clip)
    whole = tokenizer.decode(codes)
    for latent_frames, frames in ((1, 1), (2, 5)):
        torch.testing.assert_close(tokenizer.decode(codes[:, :latent_frames]), whole[:, :, :frames], atol=1e-5, rtol=0)


def test_encoder_gradient_from_later_frames_is_zero(tokenizer, clip):
    video = clip[:1].clone().requires_grad_()
    latents = tokenizer.latents(video)
    for latent, frames in ((0, 1), (1, 5)):
        (gradient,) = torch.autograd.grad(latents[:, :, latent].abs().sum(), video, retain_graph=True)
        assert gradient[:, :, frames:].abs().max() == 0
        assert (gradient[:, :, :frames].abs().amax(dim=(0, 1, 3, 4)) > 0).all(), "a frame is not seen"


def test_decoder_gradient_from_later_latents_is_zero(tokenizer, clip):
    latents = tokenizer.quantizer.embed(tokenizer.encode(clip[:1])).requires_grad_()
    video = tokenizer.decoder(latents)
    for frame, latent in ((0, 0), (1, 1), (4, 1), (5, 2)):
        (gradient,) = torch.autograd.grad(video[:, :, frame].abs().sum(), latents, retain_graph=True)
        assert gradient[:, :, latent].abs().max() > 0
        assert latent == 2 or gradient[:, :, latent + 1 :].abs().max() == 0


def test_every_input_frame_influences_some_latent(tokenizer, clip):
    video = clip[:1].clone().requires_grad_()
    tokenizer.latents(video).abs().sum().backward()
    assert (video.grad.abs().amax(dim=(0, 1, 3, 4)) > 0).all()


def test_training_treats_an_image_as_evaluation_does(tokenizer, clip):
    """In training an image takes the two-dimensional fast path: same numbers, same gradients."""
    image, latents = clip[:, :, :1], {}
    for mode in (True, False):
        tokenizer.encoder.train(mode)
        latents[mode] = tokenizer.latents(image)
    tokenizer.eval()
    torch.testing.assert_close(latents[True], latents[False], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("frames, height, hint", [(16, 32, "use 13 or 17"), (2, 32, "use 1 or 5"), (9, 30, "resize")])
def test_shapes_that_do_not_fit_are_refused(frames, height, hint):
    with pytest.raises(ValueError, match=hint):
        published().encode(torch.zeros(1, 3, frames, height, 32))


def test_codes_out_of_range_are_refused(tokenizer):
    with pytest.raises(ValueError, match="codes span 0 to"):
        tokenizer.decode(torch.tensor([0, tokenizer.codebook_size]).reshape(1, 1, 1, 2))


def test_rearrangements_are_inverse_and_follow_the_drop_rule():
    x = torch.randn(1, 3, 5, 4, 4)
    assert torch.equal(depth_to_space(space_to_depth(x, 2), (1, 2, 2)), x)
    assert depth_to_space(torch.randn(1, 8, 3, 2, 2), (2, 2, 2)).shape == (1, 1, 5, 4, 4)
    latents = torch.arange(3.0).reshape(1, 1, 3, 1, 1)
    assert repeat_to(latents, torch.Size((1, 1, 9, 2, 2)))[0, 0, :, 0, 0].tolist() == [0, 1, 1, 1, 1, 2, 2, 2, 2]


@pytest.mark.parametrize("layout", [torch.channels_last_3d, torch.contiguous_format], ids=["last", "first"])
@pytest.mark.parametrize("frames, chunks", [(9, [3]), (1, [1]), (9, [1, 2])], ids=["clip", "image", "stream"])
def test_adaptive_norm_is_its_formula(layout, frames, chunks):
    """norm(x) * (1 + gamma) + beta with gamma and beta of the latent of the same place and time, here repeated to x."""
    torch.manual_seed(0)
    norm = AdaptiveNorm().layer(CausalLayers(), 8, 4)
    torch.nn.init.normal_(norm.modulation.weight)
    torch.nn.init.normal_(norm.modulation.bias)
    latents = torch.randn(2, 4, sum(chunks), 3, 2)
    x = torch.randn(2, 8, frames, 12, 8).contiguous(memory_format=layout)
    gamma, beta = repeat_to(norm.modulation(latents), x.shape).chunk(2, 1)
    expected = norm.norm(x) * (1 + gamma) + beta
    stream, parts, start = Stream() if len(chunks) > 1 else None, [], 0
    for piece in latents.split(chunks, 2):
        stop = start + 4 * piece.shape[2] - (3 if start == 0 else 0)
        parts.append(norm(x[:, :, start:stop], piece, stream))
        start = stop
        if stream is not None:
            stream.num_steps += piece.shape[2]
    torch.testing.assert_close(torch.cat(parts, 2), expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name, clip, lattice, millions", [
    ("video_128", (17, 128, 128), (5, 16, 16), 336.3), ("video_64", (17, 64, 64), (5, 8, 8), 336.3),
    ("video_128", (41, 128, 224), (11, 16, 28), 336.3), ("image_128", (1, 128, 128), (1, 16, 16), 105.2),
    ("image_256", (1, 256, 256), (1, 16, 16), 108.3), ("image_512", (1, 512, 512), (1, 16, 16), 157.9),
])  # fmt: skip
def test_published_configs_have_the_published_geometry(name, clip, lattice, millions):
    """At full size, without memory: shapes only."""
    path = Path(__file__).parents[2] / f"configs/tokenizer/magvit_v2_{name}.yaml"
    spec = yaml.safe_load(path.read_text())["model"]["init_args"]["tokenizer"]
    with torch.device("meta"):
        model = component.instantiate(spec).eval()
        assert model.latents(torch.zeros(1, 3, *clip)).shape == (1, 18, *lattice)
        assert model.lattice(*clip) == lattice
        assert model.decoder(torch.zeros(1, 18, *lattice)).shape == (1, 3, *clip)
    assert model.codebook_size == 2**18 and model.causal
    assert sum(parameter.numel() for parameter in model.parameters()) / 1e6 == pytest.approx(millions, abs=0.1)


def test_a_fixed_batch_is_learned(clip):
    torch.manual_seed(0)
    model = component.instantiate(VISUAL)
    optimizer = torch.optim.Adam(model.parameters(), 3e-3)
    losses = []
    for _ in range(15):
        reconstruction = model(clip)
        loss = (reconstruction.video - clip).square().mean()
        (loss + reconstruction.loss).backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    assert losses[-1] < 0.7 * losses[0]

"""An image tokenizer inflated into a video tokenizer does the same on one frame, and nothing is mapped by chance."""

import pytest
import torch

from videopoet.tokenizers.quantizers.lookup_free import LookupFreeQuantizer
from videopoet.tokenizers.visual.autoencoder import VideoTokenizer
from videopoet.tokenizers.visual.cnn import EARLY_TEMPORAL, LATE_TEMPORAL, Decoder, Encoder
from videopoet.tokenizers.visual.inflation import inflate
from videopoet.tokenizers.visual.layers import (
    AveragePooling,
    CausalLayers,
    DepthToSpace,
    ResizeConvolution,
    StridedConvolution,
    Unconditioned,
    ZeroPaddedLayers,
)

SMALL = {"dimension": 6, "channels": 8, "multipliers": (1, 1, 2, 2), "num_blocks": 1}


def pair(strides=LATE_TEMPORAL, layers=CausalLayers, down=None, up=None, conditioning=None, **other):
    """An image tokenizer with random weights everywhere, and the video tokenizer beside it."""
    arguments = {**SMALL, **other}

    def tokenizer(layers, strides, stride) -> VideoTokenizer:
        encoder = Encoder(**arguments, strides=strides, layers=layers, down=down)
        decoder = Decoder(**arguments, strides=strides, layers=layers, up=up, conditioning=conditioning)
        return VideoTokenizer(encoder, LookupFreeQuantizer(6), decoder, stride).eval()

    torch.manual_seed(0)
    image = tokenizer(layers(time_kernel=1), [(1, h, w) for _, h, w in strides], (1, 8, 8))
    for parameter in image.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    image.quantizer.steps.fill_(7)
    return image, tokenizer(layers(), strides, (4, 8, 8))


VARIANTS = {
    "ours": {},
    "early temporal": {"strides": EARLY_TEMPORAL},
    "average pooling and resize": {"down": AveragePooling(), "up": ResizeConvolution()},
    "no adaptive norm": {"conditioning": Unconditioned(), "down": StridedConvolution()},
    "zero padded, first frame kept": {"layers": ZeroPaddedLayers, "up": DepthToSpace(keep=0)},
}


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_inflated_network_is_the_image_network_on_one_frame(variant):
    image, video = pair(**VARIANTS[variant])
    frames = torch.rand(3, 3, 1, 16, 24) * 2 - 1
    assert not torch.allclose(video.latents(frames), image.latents(frames), atol=1e-2)
    inflate(image, video)
    torch.testing.assert_close(video.latents(frames), image.latents(frames), atol=1e-4, rtol=1e-4)
    codes = image.encode(frames)
    assert torch.equal(video.encode(frames), codes)
    torch.testing.assert_close(video.decode(codes), image.decode(codes), atol=1e-4, rtol=1e-4)
    assert video.quantizer.steps == 7, "buffers travel too"


def test_a_scene_at_rest_decodes_to_frames_at_rest():
    """With depth-to-space every frame of a step starts as the image, not only the one kept of the first step."""
    image, video = pair()
    inflate(image, video)
    picture = torch.rand(1, 3, 1, 16, 16) * 2 - 1
    decoded = video.decode(video.encode(picture.expand(-1, -1, 9, -1, -1)))
    assert decoded.shape[2] == 9
    torch.testing.assert_close(decoded, image.decode(image.encode(picture)).expand_as(decoded), atol=1e-4, rtol=1e-4)


def test_kernels_are_in_the_last_slice_and_nothing_else():
    image, video = pair()
    inflate(image, video)
    kernel, flat = video.encoder.conv_in.weight, image.encoder.conv_in.weight
    assert torch.equal(kernel[:, :, -1], flat[:, :, 0]) and not kernel[:, :, :-1].any()


@pytest.mark.parametrize("change, named", [
    ({"num_blocks": 2}, r"\d of 116 .*\(decoder\.levels\.0\.1\.conv1\.bias: only in the image network; .*\.\.\.\): conf"),
    ({"channels": 16}, r"112 of 116 .*modulation\.weight: \(64, 6, 1, 1, 1\) in the image network, \(32, 6, 1, 1, 1\)"),
    ({"conditioning": Unconditioned()}, r"8 of .*decoder\.adaptive\.0\.modulation\.weight: only in the video network"),
])  # fmt: skip
def test_what_does_not_fit_is_named_and_nothing_is_written(change, named):
    image, video = pair(**change)[0], pair()[1]
    before = {name: tensor.clone() for name, tensor in video.state_dict().items()}
    with pytest.raises(ValueError, match=named):
        inflate(image, video)
    assert all(torch.equal(before[name], tensor) for name, tensor in video.state_dict().items())

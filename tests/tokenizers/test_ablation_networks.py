"""Every encoder and decoder of the family: what it claims about time is what its gradients show."""

import itertools
from functools import partial

import pytest
import torch

from videopoet.tokenizers.quantizers.lookup_free import LookupFreeQuantizer
from videopoet.tokenizers.streaming import Stream
from videopoet.tokenizers.visual.autoencoder import VideoTokenizer
from videopoet.tokenizers.visual.cnn import EARLY_TEMPORAL, LATE_TEMPORAL, Decoder, Encoder
from videopoet.tokenizers.visual.cvivit import CViViTDecoder, CViViTEncoder, WindowedDecoder, WindowedEncoder
from videopoet.tokenizers.visual.layers import (
    AveragePooling,
    CausalLayers,
    DepthToSpace,
    PooledAdaptiveNorm,
    PooledNormLayers,
    PortedLayers,
    ResizeConvolution,
    SymmetricLayers,
    Unconditioned,
    ZeroPaddedLayers,
)
from videopoet.tokenizers.visual.magvit3d import Magvit3DDecoder, Magvit3DEncoder
from videopoet.tokenizers.visual.network import FIRST_FRAME_ALONE, WHOLE_WINDOWS

SMALL = {"dimension": 6, "channels": 8, "multipliers": (1, 1, 2, 2), "num_blocks": 1}
WINDOWED = {**SMALL, "temporal_depth": 1, "num_heads": 2}
VIT = {"dimension": 6, "width": 16, "spatial_depth": 1, "temporal_depth": 1, "num_heads": 2}


def cnn(encoder: dict | None = None, decoder: dict | None = None, stride=(4, 8, 8), **both):
    """A tokenizer of the CNN family that differs from ours in `both`, or on one side only."""
    arguments = {**SMALL, **both}
    sides = Encoder(**arguments, **(encoder or {})), LookupFreeQuantizer(6), Decoder(**arguments, **(decoder or {}))
    return VideoTokenizer(*sides, stride)


#: name -> (constructor, whether it is causal, whether it streams)
NETWORKS = {
    "ours": (lambda: cnn(), True, True),
    "average pooling": (lambda: cnn(encoder={"down": AveragePooling()}), True, True),
    "resize convolution": (lambda: cnn(decoder={"up": ResizeConvolution()}), True, True),
    "early temporal": (lambda: cnn(strides=EARLY_TEMPORAL), True, True),
    "early, pooled, resized": (lambda: cnn({"down": AveragePooling()}, {"up": ResizeConvolution()},
                                           strides=EARLY_TEMPORAL), True, True),
    "deeper": (lambda: cnn(num_blocks=2), True, True),
    "no adaptive norm": (lambda: cnn(decoder={"conditioning": Unconditioned()}), True, True),
    "checkpoint": (lambda: cnn(checkpoint=True), True, True),
    "keep first": (lambda: cnn(decoder={"up": DepthToSpace(keep=0)}), True, True),
    "zero padded": (lambda: cnn(layers=ZeroPaddedLayers()), True, True),
    "time stride 8": (lambda: cnn(strides=((2, 2, 2), (2, 2, 2), (2, 2, 2)), stride=(8, 8, 8)), True, True),
    "image": (lambda: cnn(layers=CausalLayers(time_kernel=1), strides=((1, 2, 2),) * 3, stride=(1, 8, 8)), True, True),
    "pooled norm": (lambda: cnn(layers=PooledNormLayers()), False, False),
    "pooled adaptive norm": (lambda: cnn(decoder={"conditioning": PooledAdaptiveNorm()}), False, False),
    "ported": (lambda: cnn({}, {"conditioning": PooledAdaptiveNorm(), "up": DepthToSpace(keep=0)},
                           layers=PortedLayers()), False, False),
    "symmetric": (lambda: cnn(layers=SymmetricLayers()), False, False),
    "magvit 3d": (lambda: VideoTokenizer(Magvit3DEncoder(**SMALL), LookupFreeQuantizer(6), Magvit3DDecoder(**SMALL)),
                  False, False),
    "c-vivit": (lambda: VideoTokenizer(CViViTEncoder(**VIT), LookupFreeQuantizer(6), CViViTDecoder(**VIT)),
                True, False),
    "c-vivit + magvit": (lambda: VideoTokenizer(WindowedEncoder(**WINDOWED), LookupFreeQuantizer(6),
                                                WindowedDecoder(**WINDOWED)), True, False),
}  # fmt: skip


class Case:
    """A network with random weights everywhere, and a clip of three latent frames (two where windows are whole)."""

    def __init__(self, name: str):
        torch.manual_seed(0)
        make, self.causal, self.streams = NETWORKS[name]
        self.model = make().eval()
        for parameter in self.model.parameters():
            if not parameter.any():  # what starts as the identity must do something
                torch.nn.init.normal_(parameter, std=0.1)
        self.stride, self.lead = self.model.stride[0], self.model.encoder.rule.lead
        self.latent_frames = 3
        self.frames = self.model.encoder.rule.frames(3, self.stride)
        self.video = torch.rand(2, 3, self.frames, 16, 24) * 2 - 1

    def last_frame(self, latent: int) -> int:
        """The last frame of the window that belongs to a latent frame."""
        return self.model.encoder.rule.frames(latent + 1, self.stride) - 1


@pytest.fixture(scope="module", params=NETWORKS)
def case(request) -> Case:
    return Case(request.param)


@pytest.fixture(scope="module")
def seen(case) -> tuple[torch.Tensor, torch.Tensor]:
    """Which input frame moves which latent frame (n', n), and which latent frame moves which output frame (n, n')."""
    video = case.video[:1].clone().requires_grad_()
    latents = case.model.latents(video)
    encode = torch.stack([_reach(latents[:, :, i], video) for i in range(latents.shape[2])])
    codes = case.model.quantizer.embed(case.model.encode(case.video[:1])).requires_grad_()
    out = case.model.decoder(codes)
    decode = torch.stack([_reach(out[:, :, i], codes) for i in range(out.shape[2])])
    return encode, decode


def _reach(output: torch.Tensor, source: torch.Tensor) -> torch.Tensor:
    weights = torch.randn(output.shape, generator=torch.Generator().manual_seed(1))
    (gradient,) = torch.autograd.grad((output * weights).sum(), source, retain_graph=True)
    return gradient.abs().amax(dim=(0, 1, 3, 4)) > 0


def later(case: Case, seen: tuple[torch.Tensor, torch.Tensor]) -> tuple[list, list]:
    """The (latent, frame) pairs of encoding and (frame, latent) pairs of decoding that look into the future."""
    encode, decode = seen
    ends = [case.last_frame(i) for i in range(case.latent_frames)]
    ahead = [
        (i, j) for i, j in itertools.product(range(len(encode)), range(case.frames)) if encode[i, j] and j > ends[i]
    ]
    window = [next(k for k, end in enumerate(ends) if frame <= end) for frame in range(case.frames)]
    behind = [
        (i, j) for i, j in itertools.product(range(case.frames), range(len(ends))) if decode[i, j] and j > window[i]
    ]
    return ahead, behind


def test_causality_is_what_it_claims(case, seen):
    """The gradient of a latent with respect to later frames, and of a frame to later latents, is exactly zero, or the
    network says that it is not causal. So `causal` cannot lie in either direction."""
    ahead, behind = later(case, seen)
    assert case.model.causal == case.causal
    assert case.model.encoder.causal == (not ahead), ahead
    assert case.model.decoder.causal == (not behind), behind


def test_every_frame_influences_a_code_and_every_code_a_frame(case, seen):
    encode, decode = seen
    assert encode.any(0).all() and encode.any(1).all()
    assert decode.any(0).all() and decode.any(1).all()
    if case.model.causal:
        for latent in range(case.latent_frames):
            window = range(case.last_frame(latent - 1) + 1 if latent else 0, case.last_frame(latent) + 1)
            assert encode[latent, list(window)].all(), "a latent frame sees all of its own window"
            assert decode[list(window), latent].all(), "and is seen by it"


def test_an_image_is_the_first_frame_where_it_is_causal(case):
    video, model = case.video, case.model
    if case.lead == 0:
        with pytest.raises(ValueError, match="got 1"):
            model.encode(video[:, :, :1])
        return
    first, image = model.latents(video)[:, :, :1], model.latents(video[:, :, :1])
    assert torch.equal(model.quantizer(first).codes, model.encode(video[:, :, :1])) == model.encoder.causal
    codes = model.encode(video)
    whole, head = model.decode(codes), model.decode(codes[:, :1])
    assert head.shape[2] == 1
    if model.encoder.causal:
        torch.testing.assert_close(first, image, atol=1e-5, rtol=1e-4)
    close = torch.allclose(whole[:, :, :1], head, atol=1e-5)
    assert close == model.decoder.causal


@pytest.mark.parametrize("size", [(8, 8), (16, 8), (24, 40)])
@pytest.mark.parametrize("latent_frames", [1, 2, 4])
def test_lattice_for_any_size(case, size, latent_frames):
    frames = case.model.encoder.rule.frames(latent_frames, case.stride)
    video = torch.rand(1, 3, frames, *size) * 2 - 1
    codes = case.model.encode(video)
    assert codes.shape == (1, latent_frames, size[0] // 8, size[1] // 8) == (1, *case.model.lattice(frames, *size))
    assert case.model.decode(codes).shape == video.shape


def test_it_trains(case):
    """Every parameter has a finite gradient."""
    case.model.train()
    reconstruction = case.model(case.video)
    (reconstruction.video.square().mean() + reconstruction.loss).backward()
    case.model.eval()
    for name, parameter in case.model.named_parameters():
        assert parameter.grad is not None and parameter.grad.isfinite().all(), name
    case.model.zero_grad()


def test_streaming_where_it_can(case):
    model, video = case.model, case.video
    codes, encoding, decoding = model.encode(video), Stream(), Stream(stepwise=False)
    assert (model.encoder.streams and model.decoder.streams) == case.streams
    if model.encoder.streams:
        streamed = torch.cat([model.encode(chunk, encoding) for chunk in video.split(2, 2)], 1)
        assert torch.equal(streamed, codes)
    else:
        with pytest.raises(ValueError, match="Encoder cannot stream"):
            model.encode(video, encoding)
    if model.decoder.streams:
        frames = torch.cat([model.decode(chunk, decoding) for chunk in codes.split(2, 1)], 2)
        torch.testing.assert_close(frames, model.decode(codes), atol=1e-5, rtol=0)
    else:
        with pytest.raises(ValueError, match="Decoder cannot stream"):
            model.decode(codes, decoding)


# --- single choices


def test_checkpointing_changes_memory_and_nothing_else():
    gradients, saved = {}, {}
    for checkpoint in (False, True):
        torch.manual_seed(0)
        model = cnn(checkpoint=checkpoint).train()
        saved[checkpoint] = []
        with torch.autograd.graph.saved_tensors_hooks(partial(_keep, saved[checkpoint]), lambda x: x):
            loss = model(torch.rand(1, 3, 5, 16, 16)).video.square().mean()
        loss.backward()
        gradients[checkpoint] = {name: parameter.grad for name, parameter in model.named_parameters()}
    assert all(torch.equal(gradients[False][name], gradients[True][name]) for name in gradients[False])
    assert sum(saved[True]) < 0.5 * sum(saved[False])


def _keep(sizes: list[int], tensor: torch.Tensor) -> torch.Tensor:
    sizes.append(tensor.numel())
    return tensor


def test_average_pooling_is_of_the_window_that_ends_at_the_step():
    x = torch.arange(5.0).reshape(1, 1, 5, 1, 1)
    pooled = CausalLayers().pool((2, 1, 1))(x)
    assert pooled.flatten().tolist() == [0, 1.5, 3.5]


def test_resize_keeps_one_frame_of_the_first_step():
    layer = ResizeConvolution().layer(CausalLayers(), 8, 8, (2, 2, 2))
    layer.conv = torch.nn.Identity()
    layer.conv.forward = lambda x, stream: x
    x = torch.arange(3.0).reshape(1, 1, 3, 1, 1).expand(1, 8, 3, 1, 1)
    assert layer(x)[0, 0, :, 0, 0].tolist() == [0, 1, 1, 2, 2]


@pytest.mark.parametrize("keep, first", [(-1, 1), (0, 0)])
def test_depth_to_space_keeps_one_frame_of_the_first_step(keep, first):
    layer = DepthToSpace(keep=keep).layer(CausalLayers(), 2, 1, (2, 1, 1))
    layer.conv = torch.nn.Identity()
    layer.conv.forward = lambda x, stream: x
    x = torch.tensor([[0.0, 1.0], [2.0, 3.0]]).T.reshape(
        1, 2, 2, 1, 1
    )  # step 0 makes frames 0 and 1, step 1 makes 2, 3
    assert layer(x).flatten().tolist() == [first, 2, 3]


@pytest.mark.parametrize("rule, stride, frames, latent_frames", [
    (FIRST_FRAME_ALONE, 4, 17, 5), (FIRST_FRAME_ALONE, 4, 1, 1), (WHOLE_WINDOWS, 4, 16, 4), (FIRST_FRAME_ALONE, 1, 7, 7),
])  # fmt: skip
def test_temporal_rules_are_inverse(rule, stride, frames, latent_frames):
    assert rule.latent_frames(frames, stride) == latent_frames
    assert rule.frames(latent_frames, stride) == frames


@pytest.mark.parametrize("rule, frames, hint", [
    (FIRST_FRAME_ALONE, 16, r"1 \+ 4k frames, got 16: use 13 or 17"), (FIRST_FRAME_ALONE, 0, "use 1 or 5"),
    (WHOLE_WINDOWS, 17, "4k frames, got 17: use 16 or 20"), (WHOLE_WINDOWS, 1, "use 4 or 8"),
    (WHOLE_WINDOWS, 0, "use 4 or 8"),
])  # fmt: skip
def test_frames_that_do_not_fit_are_refused_with_the_remedy(rule, frames, hint):
    with pytest.raises(ValueError, match=hint):
        rule.latent_frames(frames, 4)


def test_choices_that_do_not_go_together_are_refused():
    with pytest.raises(ValueError, match="would skip frames"):
        cnn(layers=CausalLayers(time_kernel=1))
    with pytest.raises(ValueError, match="one family"):
        VideoTokenizer(Encoder(**SMALL), LookupFreeQuantizer(6), Magvit3DDecoder(**SMALL))
    with pytest.raises(ValueError, match="3 given"):
        Encoder(6, 8, (1, 2), LATE_TEMPORAL)
    with pytest.raises(ValueError, match="heads"):
        CViViTEncoder(6, width=10, num_heads=4)

"""Cosmos' weights in our classes: equal to their network run straight off their tensors; wavelets, quantizer, strictness."""

import importlib.util
import sys
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file

from videopoet import component
from videopoet.tokenizers.quantizers.finite_scalar import FiniteScalarQuantizer
from videopoet.tokenizers.visual.autoencoder import VideoTokenizer
from videopoet.tokenizers.visual.cosmos import CosmosDecoder, fold, haar, inverse_haar, unfold

ROOT = Path(__file__).parents[1]
CHANNELS, MULTIPLIERS, BLOCKS, WIDTH = 8, (2, 3, 3), 2, 4
LEVELS = (8, 8, 8, 5, 5, 5)


@pytest.fixture(scope="module")
def tool():
    spec = importlib.util.spec_from_file_location("convert_cosmos", ROOT / "tools/convert_cosmos.py")
    module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def state() -> dict[str, torch.Tensor]:
    """Random weights under the published keys, few channels."""
    generator, state = torch.Generator().manual_seed(0), {}

    def conv(name, inside, outside, kernel):
        fan = inside * kernel[0] * kernel[1] * kernel[2]
        state[f"{name}.conv3d.weight"] = torch.randn(outside, inside, *kernel, generator=generator) / fan**0.5
        state[f"{name}.conv3d.bias"] = 0.2 * torch.randn(outside, generator=generator)

    def both(name, inside, outside):
        conv(f"{name}.0", inside, outside, (1, 3, 3)), conv(f"{name}.1", outside, outside, (3, 1, 1))

    def norm(name, size):
        state[f"{name}.norm.weight"] = 1 + 0.2 * torch.randn(size, generator=generator)
        state[f"{name}.norm.bias"] = 0.2 * torch.randn(size, generator=generator)

    def block(name, inside, outside):
        norm(f"{name}.norm1", inside), both(f"{name}.conv1", inside, outside)
        norm(f"{name}.norm2", outside), both(f"{name}.conv2", outside, outside)
        if inside != outside:
            conv(f"{name}.nin_shortcut", inside, outside, (1, 1, 1))

    widths = [CHANNELS * m for m in MULTIPLIERS]
    both("encoder.conv_in", 192, CHANNELS), both("decoder.conv_in", WIDTH, widths[-1])
    both("encoder.conv_out", widths[-1], WIDTH), both("decoder.conv_out", widths[0], 192)
    norm("encoder.norm_out", widths[-1]), norm("decoder.norm_out", widths[0])
    for i, width in enumerate(widths):
        for j in range(BLOCKS):
            block(f"encoder.down.{i}.block.{j}", ([CHANNELS, *widths][i]) if j == 0 else width, width)
        for j in range(BLOCKS + 1):
            block(f"decoder.up.{i}.block.{j}", widths[min(2, i + 1)] if j == 0 else width, width)
        for k, (down, up) in enumerate([((1, 3, 3), (3, 1, 1)), ((3, 1, 1), (1, 3, 3)), ((1, 1, 1), (1, 1, 1))], 1):
            if i < 2:
                conv(f"encoder.down.{i}.downsample.conv{k}", width, width, down)
            if i > 0:
                conv(f"decoder.up.{i}.upsample.conv{k}", width, width, up)
    for side in ("encoder", "decoder"):
        for part in ("block_1", "block_2"):
            block(f"{side}.mid.{part}", widths[-1], widths[-1])
        for i in (0, 1):
            norm(f"{side}.mid.attn_1.{i}.norm", widths[-1])
            for part in ("q", "k", "v", "proj_out"):
                conv(f"{side}.mid.attn_1.{i}.{part}", widths[-1], widths[-1], (1, 1, 1))
    conv("quant_conv", WIDTH, 6, (1, 1, 1)), conv("post_quant_conv", 6, WIDTH, (1, 1, 1))
    return state


class Published:
    """Their network by its published plan, run off the tensors: the oracle of the conversion."""

    def __init__(self, state, compression):
        time, space, _ = compression
        self.state, self.time, self.space = state, {4: 0, 8: 1}[time], {8: 1, 16: 2}[space]

    def conv(self, name, x, stride=(1, 1, 1), pad=None):
        weight, bias = self.state[f"{name}.conv3d.weight"], self.state[f"{name}.conv3d.bias"]
        ahead = weight.shape[2] - 1 + (1 - stride[0])
        x = torch.cat([x[:, :, :1]] * ahead + [x], 2)
        side = weight.shape[3] // 2 if pad is None else pad
        return F.conv3d(F.pad(x, (side,) * 4), weight, bias, stride)

    def both(self, name, x):
        return self.conv(f"{name}.1", self.conv(f"{name}.0", x))

    def norm(self, name, x):
        weight, bias = (self.state[f"{name}.norm.{part}"] for part in ("weight", "bias"))
        frames = [F.group_norm(frame, 1, weight, bias, 1e-6) for frame in x.unbind(2)]
        return torch.stack(frames, 2)

    def block(self, name, x):
        h = self.both(f"{name}.conv1", F.silu(self.norm(f"{name}.norm1", x)))
        h = self.both(f"{name}.conv2", F.silu(self.norm(f"{name}.norm2", h)))
        return h + (self.conv(f"{name}.nin_shortcut", x) if f"{name}.nin_shortcut.conv3d.weight" in self.state else x)

    def attention(self, name, x, over_time):
        q, k, v = (self.conv(f"{name}.{part}", self.norm(f"{name}.norm", x)) for part in "qkv")
        c, t = x.shape[1:3]
        if over_time:
            score = torch.einsum("bcthw,bcshw->bhwts", q, k) / c**0.5
            score = score.masked_fill(torch.ones(t, t).triu(1).bool(), float("-inf")).softmax(-1)
            y = torch.einsum("bhwts,bcshw->bcthw", score, v)
        else:
            score = (torch.einsum("bctn,bctm->btnm", q.flatten(3), k.flatten(3)) / c**0.5).softmax(-1)
            y = torch.einsum("btnm,bctm->bctn", score, v.flatten(3)).reshape(x.shape)
        return x + self.conv(f"{name}.proj_out", y)

    def middle(self, side, x):
        x = self.block(f"{side}.mid.block_1", x)
        x = self.attention(f"{side}.mid.attn_1.0", x, False)
        return self.block(f"{side}.mid.block_2", self.attention(f"{side}.mid.attn_1.1", x, True))

    def wavelet(self, x):
        """By convolutions with the filters (1, 1) and (1, -1) / sqrt 2 along each axis, over 2 sqrt 2."""
        low, high = torch.tensor([1.0, 1.0]) / 2**0.5, torch.tensor([1.0, -1.0]) / 2**0.5
        kernels = [torch.einsum("t,h,w->thw", a, b, c) for a in (low, high) for b in (low, high) for c in (low, high)]
        out = [F.conv3d(x, k.expand(x.shape[1], 1, 2, 2, 2), stride=2, groups=x.shape[1]) for k in kernels]
        return torch.cat(out, 1) / 8**0.5

    def unwavelet(self, x):
        low, high = torch.tensor([1.0, 1.0]) / 2**0.5, torch.tensor([1.0, -1.0]) / 2**0.5
        kernels = [torch.einsum("t,h,w->thw", a, b, c) for a in (low, high) for b in (low, high) for c in (low, high)]
        parts = [F.conv_transpose3d(band, k.expand(band.shape[1], 1, 2, 2, 2), stride=2, groups=band.shape[1])
                 for band, k in zip(x.chunk(8, 1), kernels)]  # fmt: skip
        return sum(parts) * 8**0.5

    def encode(self, video):
        x = torch.cat([video[:, :, :1].repeat_interleave(4, 2), video[:, :, 1:]], 2)
        x = self.both("encoder.conv_in", self.wavelet(self.wavelet(x)))
        for i in range(3):
            for j in range(BLOCKS):
                x = self.block(f"encoder.down.{i}.block.{j}", x)
            if i < 2:
                x = self.down(f"encoder.down.{i}.downsample", x, i < self.space, i < self.time)
        x = F.silu(self.norm("encoder.norm_out", self.middle("encoder", x)))
        return self.conv("quant_conv", self.both("encoder.conv_out", x))

    def down(self, name, x, space, time):
        if not (space or time):
            return x
        if space:
            x = F.pad(x, (0, 1, 0, 1))
            x = self.conv(f"{name}.conv1", x, (1, 2, 2), pad=0) + F.avg_pool3d(x, (1, 2, 2), (1, 2, 2))
        if time:
            x = torch.cat([x[:, :, :1], x], 2)
            x = self.conv(f"{name}.conv2", x, (2, 1, 1)) + F.avg_pool3d(x, (2, 1, 1), (2, 1, 1))
        return self.conv(f"{name}.conv3", x)

    def decode(self, z):
        x = self.middle("decoder", self.both("decoder.conv_in", self.conv("post_quant_conv", z)))
        for i in (2, 1, 0):
            for j in range(BLOCKS + 1):
                x = self.block(f"decoder.up.{i}.block.{j}", x)
            if i > 0:
                reverse = 2 - i
                time = 0 < reverse < self.time + 1
                space = time or (reverse < self.space and self.space > self.time)
                x = self.up(f"decoder.up.{i}.upsample", x, space, time)
        x = self.both("decoder.conv_out", F.silu(self.norm("decoder.norm_out", x)))
        return self.unwavelet(self.unwavelet(x))[:, :, 3:]

    def up(self, name, x, space, time):
        if not (space or time):
            return x
        if time:
            factor = 2 if x.shape[2] > 1 else 1
            x = x.repeat_interleave(factor, 2)[:, :, factor - 1 :]
            x = self.conv(f"{name}.conv1", x) + x
        if space:
            x = x.repeat_interleave(2, 3).repeat_interleave(2, 4)
            x = self.conv(f"{name}.conv2", x) + x
        return self.conv(f"{name}.conv3", x)


def converted(tool, state, folder, compression="8x16x16") -> VideoTokenizer:
    save_file(state, folder / "theirs.safetensors")
    out = str(folder / "o.safetensors")
    tool.run(tool.parser().parse_args([str(folder / "theirs.safetensors"), "--compression", compression, "--out", out]))
    return component.load(out, VideoTokenizer)


@torch.no_grad()
@pytest.mark.parametrize("compression", [(4, 8, 8), (8, 8, 8), (8, 16, 16)])
@pytest.mark.parametrize("steps", [0, 2])
def test_the_tokenizer_is_theirs(tool, state, tmp_path, compression, steps):
    tokenizer = converted(tool, state, tmp_path, "x".join(map(str, compression)))
    theirs, clip = Published(state, compression), torch.rand(1, 3, 1 + steps * compression[0], 32, 16) * 2 - 1
    assert tuple(tokenizer.stride) == compression and tokenizer.codebook_size == 64000 and tokenizer.causal
    latents = theirs.encode(clip)
    assert torch.allclose(tokenizer.latents(clip), latents, atol=1e-4)
    codes = tokenizer.encode(clip)
    assert codes.shape[1:] == tokenizer.lattice(*clip.shape[2:])
    quantized = tokenizer.quantizer.embed(codes)
    made = theirs.decode(quantized)
    assert made.shape == clip.shape and torch.allclose(tokenizer.decoder(quantized), made, atol=1e-4)


@torch.no_grad()
def test_it_is_causal_and_an_image_is_the_first_frame(tool, state, tmp_path):
    tokenizer, clip = converted(tool, state, tmp_path, "8x8x8"), torch.rand(1, 3, 17, 16, 16) * 2 - 1
    other = torch.cat([clip[:, :, :9], torch.rand(1, 3, 8, 16, 16)], 2)
    a, b = tokenizer.latents(clip), tokenizer.latents(other)
    assert torch.allclose(a[:, :, :2], b[:, :, :2], atol=1e-5) and not torch.allclose(a[:, :, 2], b[:, :, 2], atol=1e-2)
    assert torch.allclose(tokenizer.latents(clip[:, :, :1]), a[:, :, :1], atol=1e-5)
    with pytest.raises(ValueError, match="cannot stream"):
        from videopoet.tokenizers.streaming import Stream

        tokenizer.encode(clip, Stream())


def test_wavelets_invert_and_keep_what_is_constant():
    x = torch.randn(2, 3, 4, 6, 8)
    assert torch.allclose(inverse_haar(haar(x)), x, atol=1e-6)
    assert torch.allclose(haar(torch.full((1, 2, 2, 2, 2), 0.7))[0, :, 0, 0, 0], torch.tensor([0.7] * 2 + [0.0] * 14))
    video = torch.randn(1, 3, 9, 8, 8)
    assert fold(video, 4).shape == (1, 192, 3, 2, 2) and torch.allclose(unfold(fold(video, 4), 4), video, atol=1e-5)


@pytest.mark.parametrize("levels", [LEVELS, (3,), (8, 5), (2, 2, 7)])
def test_finite_scalar_codes_round_trip_and_cover_the_codebook(levels):
    quantizer = FiniteScalarQuantizer(levels)
    codes = torch.arange(quantizer.size).reshape(1, 1, 1, -1)
    latents = quantizer.embed(codes)
    middle = torch.tensor(levels) // 2
    digits = (latents.movedim(1, -1) * middle + middle).round().long()
    basis = [1]
    for level in levels[:-1]:
        basis.append(basis[-1] * level)
    assert torch.equal((digits * torch.tensor(basis)).sum(-1), codes) and latents.abs().max() <= 1
    quantized = quantizer(torch.randn(1, len(levels), 4, 16, 16) * 2)
    assert torch.allclose(quantizer.embed(quantized.codes), quantized.latents, atol=1e-6)
    assert 0 <= quantized.codes.min() and quantized.codes.max() < quantizer.size
    far = quantizer(torch.full((1, len(levels), 1, 1, 1), 50.0)).codes.item()
    assert far == quantizer.size - 1 and quantizer(torch.full((1, len(levels), 1, 1, 1), -50.0)).codes.item() == 0


def test_finite_scalar_passes_the_gradient_and_counts_as_documented():
    quantizer, z = FiniteScalarQuantizer((8, 5)), torch.zeros(1, 2, 1, 1, 1, requires_grad=True)
    out = quantizer(z)
    assert out.codes.item() == 20 and out.latents.flatten().tolist() == [0, 0]
    out.latents.sum().backward()
    assert (z.grad > 0).all()
    with pytest.raises(ValueError, match="at least 2"):
        FiniteScalarQuantizer((8, 1))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s.pop("decoder.mid.attn_1.1.k.conv3d.bias"), r"missing.*decoder\.mid\.attn_1\.1\.k\.conv3d\.bias"),
        (lambda s: s.update({"encoder.more": torch.zeros(1)}), r"not in the table of keys: encoder\.more"),
        (
            lambda s: s.update({"encoder.norm_out.norm.bias": torch.zeros(2)}),
            r"does not fit: encoder\.norm_out\.norm\.bias",
        ),
        (lambda s: s.update({"encoder.down.1.attn.0.0.q.conv3d.weight": torch.zeros(1)}), "attention inside a level"),
        (lambda s: s.update({"quant_conv.conv3d.weight": torch.zeros(16, 4, 1, 1, 1)}), "latents of 16 channels"),
        (lambda s: s.update({"encoder.conv_in.0.conv3d.weight": torch.zeros(8, 48, 1, 3, 3)}), "takes 48 channels"),
        (lambda s: s.update({"quantizer._levels": torch.tensor([8, 8, 8, 8, 8, 8])}), r"quantizer\._levels is"),
        (lambda s: s.pop("encoder.conv_in.0.conv3d.weight"), "no discrete video tokenizer of Cosmos"),
    ],
)
def test_whatever_does_not_fit_is_named_and_nothing_is_written(tool, state, tmp_path, change, message):
    other = dict(state)
    change(other)
    with pytest.raises(ValueError, match=message):
        converted(tool, other, tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["theirs.safetensors"]


def test_constants_that_torchscript_saves_are_checked_and_left_out(tool, state, tmp_path):
    more = {"quantizer._levels": torch.tensor(LEVELS), "quantizer.implicit_codebook": torch.zeros(2, 6),
            "encoder.patcher3d.wavelets": torch.full((2,), 0.7071), "encoder.patcher3d._arange": torch.arange(2),
            "decoder.unpatcher3d.patch_size_buffer": torch.tensor([4], dtype=torch.int32)}  # fmt: skip
    assert isinstance(converted(tool, state | more, tmp_path), VideoTokenizer)


def test_published_sizes(tool):
    """Parameters in millions as the peers' benchmark counted them: 112.5 for Cosmos DV."""
    places = tool.places_of(tool.Shape(dimension=6, width=16, channels=128, multipliers=(2, 4, 4), num_blocks=2))
    spec = tool.Shape(dimension=6, width=16, channels=128, multipliers=(2, 4, 4), num_blocks=2).spec((8, 16, 16))
    with torch.device("meta"):
        ours = component.instantiate(spec).state_dict()
    assert ours.keys() == {place.name for place in places.values()}
    assert round(sum(t.numel() for t in ours.values()) / 1e6, 1) == 112.5


def test_strides_the_levels_cannot_make_are_refused():
    for stride in ((8, 32, 32), (16, 16, 16), (4, 8, 16), (3, 8, 8)):
        with pytest.raises(ValueError, match="cannot"):
            CosmosDecoder(channels=4, stride=stride)

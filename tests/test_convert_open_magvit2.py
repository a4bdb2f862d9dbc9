"""Open-MAGVIT2's weights in our classes: equal to their published layer plan run straight off their tensors; strictness."""

import importlib.util
import pickle
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file

from videopoet import component
from videopoet.tokenizers.streaming import Stream
from videopoet.tokenizers.visual.autoencoder import VideoTokenizer

ROOT = Path(__file__).parents[1]
BITS, CHANNELS, MULTIPLIERS = 6, 32, (1, 2, 2)  # the second step halves time, by their rule


@pytest.fixture(scope="module")
def tool():
    spec = importlib.util.spec_from_file_location("convert_open_magvit2", ROOT / "tools/convert_open_magvit2.py")
    module = importlib.util.module_from_spec(spec)
    __import__("sys").modules[spec.name] = module
    spec.loader.exec_module(module)
    module.GROUPS_FROM = CHANNELS  # the oracle below has our number of groups; from 128 channels on it is theirs, 32
    return module


def tensors(video: bool) -> dict[str, torch.Tensor]:
    """Random weights under the published keys: three levels, one block each."""
    generator, state = torch.Generator().manual_seed(int(video)), {}

    def conv(name, inside, outside, kernel=3, bias=False):
        name, size = (f"{name}.conv_1", (kernel,) * 3) if video else (name, (kernel,) * 2)
        fan = inside * kernel ** len(size)
        state[f"{name}.weight"] = torch.randn(outside, inside, *size, generator=generator) / fan**0.5
        if bias:
            state[f"{name}.bias"] = 0.3 * torch.randn(outside, generator=generator)

    def vector(name, size):
        state[f"{name}.weight"] = 1 + 0.3 * torch.randn(size, generator=generator)
        state[f"{name}.bias"] = 0.3 * torch.randn(size, generator=generator)

    def block(name, inside, outside):
        vector(f"{name}.norm1", inside), conv(f"{name}.conv1", inside, outside)
        vector(f"{name}.norm2", outside), conv(f"{name}.conv2", outside, outside)
        if inside != outside:
            conv(f"{name}.nin_shortcut", inside, outside, 1)

    widths = [CHANNELS * m for m in MULTIPLIERS]
    last = len(widths) - 1
    conv("encoder.conv_in", 3, CHANNELS), conv("decoder.conv_in", BITS, widths[-1], bias=True)
    for i, width in enumerate(widths):
        block(f"encoder.down.{i}.block.0", widths[max(0, i - 1)], width)
        above = widths[min(last, i + 1)]
        block(f"decoder.up.{i}.block.0", above, width)
        for part in ("gamma", "beta"):
            state[f"decoder.adaptive.{i}.{part}.weight"] = torch.randn(above, BITS, generator=generator) / BITS**0.5
            state[f"decoder.adaptive.{i}.{part}.bias"] = torch.rand(above, generator=generator)
        if i < last:
            conv(f"encoder.down.{i}.downsample", width, width, bias=True)
            up = widths[i + 1]
            conv(
                f"decoder.up.{i + 1}.upsample.conv1", up, up * (4 if not video or MULTIPLIERS[i] == 1 else 8), bias=True
            )
    for side in ("encoder", "decoder"):
        block(f"{side}.mid_block.0", widths[-1], widths[-1])
    vector("encoder.norm_out", widths[-1]), conv("encoder.conv_out", widths[-1], BITS, 1, bias=True)
    vector("decoder.norm_out", CHANNELS), conv("decoder.conv_out", CHANNELS, 3, bias=True)
    return state


class Published:
    """Their networks by the published layer plan, run off the tensors: the oracle of the conversion."""

    def __init__(self, state: dict[str, torch.Tensor], video: bool):
        self.state, self.video = state, video

    def conv(self, name, x, stride=None):
        name = f"{name}.conv_1" if self.video else name
        weight, bias = self.state[f"{name}.weight"], self.state.get(f"{name}.bias")
        side = weight.shape[-1] // 2
        if self.video:  # zeros before the clip
            x = F.pad(x, (side, side, side, side, weight.shape[2] - 1, 0))
            return F.conv3d(x, weight, bias, stride or 1)
        return F.conv2d(x, weight, bias, 2 if stride else 1, side)

    def norm(self, name, x):
        return F.silu(
            F.group_norm(x, min(32, x.shape[1] // 4), self.state[f"{name}.weight"], self.state[f"{name}.bias"], 1e-6)
        )

    def block(self, name, x):
        h = self.conv(f"{name}.conv1", self.norm(f"{name}.norm1", x))
        h = self.conv(f"{name}.conv2", self.norm(f"{name}.norm2", h))
        short = f"{name}.nin_shortcut" + (".conv_1" if self.video else "") + ".weight"
        return h + (self.conv(f"{name}.nin_shortcut", x) if short in self.state else x)

    def encode(self, x):
        x = self.conv("encoder.conv_in", x)
        for i in range(len(MULTIPLIERS)):
            x = self.block(f"encoder.down.{i}.block.0", x)
            if i < len(MULTIPLIERS) - 1:
                x = self.conv(f"encoder.down.{i}.downsample", x, (1 if MULTIPLIERS[i] == 1 else 2, 2, 2))
        x = self.block("encoder.mid_block.0", x)
        return self.conv("encoder.conv_out", self.norm("encoder.norm_out", x))

    def decode(self, z):
        x = self.block("decoder.mid_block.0", self.conv("decoder.conv_in", z))
        flat = z.flatten(2)
        for i in range(len(MULTIPLIERS) - 1, -1, -1):
            name = f"decoder.adaptive.{i}"
            scale = F.linear(
                (flat.var(-1) + 1e-6).sqrt(), self.state[f"{name}.gamma.weight"], self.state[f"{name}.gamma.bias"]
            )
            shift = F.linear(flat.mean(-1), self.state[f"{name}.beta.weight"], self.state[f"{name}.beta.bias"])
            ones = (1,) * (x.ndim - 2)
            x = F.group_norm(x, min(32, x.shape[1] // 4), eps=1e-6) * scale.reshape(
                *scale.shape, *ones
            ) + shift.reshape(*shift.shape, *ones)
            x = self.block(f"decoder.up.{i}.block.0", x)
            if i > 0:
                x = self.upsample(self.conv(f"decoder.up.{i}.upsample.conv1", x), x.shape[1])
        return self.conv("decoder.conv_out", self.norm("decoder.norm_out", x))

    def upsample(self, x, channels):
        if not self.video:
            b, _, h, w = x.shape
            return x.reshape(b, 2, 2, channels, h, w).permute(0, 3, 4, 1, 5, 2).reshape(b, channels, 2 * h, 2 * w)
        b, c, t, h, w = x.shape
        s = c // channels // 4
        x = x.reshape(b, s, 2, 2, channels, t, h, w).permute(0, 4, 5, 1, 6, 2, 7, 3)
        x = x.reshape(b, channels, t * s, 2 * h, 2 * w)
        return x if s == 1 else torch.cat([x[:, :, :1], x[:, :, 2:]], 2)  # the second frame goes


def converted(tool, state, folder, *options) -> VideoTokenizer:
    save_file(state, folder / "theirs.safetensors")
    arguments = tool.parser().parse_args(
        [str(folder / "theirs.safetensors"), "--out", str(folder / "o.safetensors"), *options]
    )
    tool.run(arguments)
    return component.load(folder / "o.safetensors", VideoTokenizer)


@pytest.fixture(scope="module")
def video(tool, tmp_path_factory):
    state = tensors(True)
    return state, converted(tool, state, tmp_path_factory.mktemp("video"))


@pytest.fixture(scope="module")
def image(tool, tmp_path_factory):
    state = tensors(False)
    return state, converted(tool, state, tmp_path_factory.mktemp("image"))


@torch.no_grad()
@pytest.mark.parametrize("frames", [1, 5])
def test_the_video_tokenizer_is_theirs(video, frames):
    state, tokenizer = video
    theirs, clip = Published(state, True), torch.rand(1, 3, frames, 16, 24) * 2 - 1
    assert tokenizer.stride == [2, 4, 4] and not tokenizer.causal
    latents = theirs.encode(clip)
    assert torch.allclose(tokenizer.latents(clip), latents, atol=1e-4)
    codes = tokenizer.encode(clip)
    bits = (latents > 0).movedim(1, -1).long()
    assert torch.equal(codes, (bits * 2 ** torch.arange(BITS)).sum(-1))
    made = theirs.decode(torch.where(latents > 0, 1.0, -1.0))
    assert made.shape == clip.shape
    assert torch.allclose(tokenizer.decoder(tokenizer.quantizer.embed(codes)), made, atol=1e-4)


@torch.no_grad()
def test_the_image_tokenizer_is_theirs_on_every_frame_and_streams(image):
    state, tokenizer = image
    theirs, clip = Published(state, False), torch.rand(1, 3, 3, 16, 24) * 2 - 1
    frames = [theirs.encode(clip[:, :, i]) for i in range(3)]
    assert tokenizer.stride == [1, 4, 4] and tokenizer.causal
    assert torch.allclose(tokenizer.latents(clip), torch.stack(frames, 2), atol=1e-4)
    codes = tokenizer.encode(clip)
    made = torch.stack([theirs.decode(torch.where(z > 0, 1.0, -1.0)) for z in frames], 2)
    assert torch.allclose(tokenizer.decoder(tokenizer.quantizer.embed(codes)), made, atol=1e-4)
    stream = Stream()
    assert torch.equal(torch.cat([tokenizer.encode(part, stream) for part in clip.split(2, 2)], 1), codes)
    stream = Stream()
    parts = torch.cat([tokenizer.decode(part, stream) for part in codes.split(1, 1)], 2)
    assert torch.allclose(parts, made.clamp(-1, 1), atol=1e-4)


def test_averages_are_taken_where_there_are_any(tool, image, tmp_path):
    state, _ = image
    averages = {f"model_ema.{key.replace('.', '')}": 2 * tensor for key, tensor in state.items()}
    whole = state | averages | {"model_ema.decay": torch.tensor(0.999), "model_ema.num_updates": torch.tensor(5),
                                "loss.discriminator.main.0.weight": torch.zeros(2),
                                "model_ema.lossdiscriminatormain0weight": torch.zeros(2)}  # fmt: skip
    for options, factor in (((), 2), (("--weights", "ema"), 2), (("--weights", "raw"), 1)):
        tokenizer = converted(tool, whole, tmp_path, *options)
        assert torch.equal(tokenizer.encoder.conv_in.weight[:, :, 0], factor * state["encoder.conv_in.weight"])
    with pytest.raises(ValueError, match="missing from the average: take --weights raw"):
        converted(tool, {k: v for k, v in whole.items() if k != "model_ema.encoderconv_inweight"}, tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda s: s.pop("decoder.up.1.block.0.norm2.bias"),
            r"1 tensors missing.*decoder\.up\.1\.block\.0\.norm2\.bias",
        ),
        (lambda s: s.update({"encoder.extra": torch.zeros(1)}), r"not in the table of keys: encoder\.extra"),
        (
            lambda s: s.update({"quantize.project.weight": torch.zeros(1)}),
            r"not in the table.*quantize\.project\.weight",
        ),
        (
            lambda s: s.update({"encoder.norm_out.weight": torch.zeros(3)}),
            r"shape that does not fit: encoder\.norm_out",
        ),
        (
            lambda s: s.update({"decoder.conv_in.weight": torch.zeros(64, 2 * BITS, 3, 3)}),
            "given noise beside the latents",
        ),
        (lambda s: s.update({"decoder.up.1.upsample.conv1.weight": torch.zeros(9, 64, 3, 3)}), "does not upsample by"),
        (lambda s: s.pop("encoder.conv_in.weight"), "no tokenizer of Open-MAGVIT2"),
        (lambda s: s.update({"encoder.conv_in.weight": torch.zeros(16, 3, 3, 3)}), "only networks of 32 channels"),
    ],
)
def test_whatever_does_not_fit_is_named_and_nothing_is_written(tool, image, tmp_path, change, message):
    state = dict(image[0])
    change(state)
    with pytest.raises(ValueError, match=message):
        converted(tool, state, tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["theirs.safetensors"]


def test_checkpoints_are_read_as_tensors_only(tool, image, tmp_path):
    from videopoet.foreign_weights import read_state

    state = {key: tensor for key, tensor in image[0].items() if "conv_in" in key}
    torch.save({"state_dict": state, "epoch": 3}, tmp_path / "a.ckpt")
    torch.save(state, tmp_path / "b.pt")
    for name in ("a.ckpt", "b.pt"):
        assert read_state(tmp_path / name).keys() == state.keys()
    torch.save({"state_dict": state, "callback": Path("x")}, tmp_path / "c.ckpt")
    (tmp_path / "d.ckpt").write_bytes(pickle.dumps(print))
    (tmp_path / "e.ckpt").write_bytes(b"not a checkpoint")
    (tmp_path / "e.safetensors").write_bytes(b"not a checkpoint")
    torch.save([1, 2], tmp_path / "f.pt")
    unreadable = [(name, "tensors alone") for name in ("c.ckpt", "d.ckpt", "e.ckpt", "e.safetensors")]
    for name, message in [*unreadable, ("f.pt", "no state_dict"), ("g.pt", "no checkpoint")]:
        with pytest.raises(ValueError, match=message):
            read_state(tmp_path / name)


@pytest.mark.parametrize(("video", "multipliers", "millions"), [(True, (1, 2, 2, 4), 370.5)])
def test_published_sizes(tool, video, multipliers, millions):
    """Parameters in millions as the peers' benchmark counted them."""
    strides = ((1, 2, 2), (2, 2, 2), (2, 2, 2))
    shape = tool.Shape(video=video, dimension=18, channels=128, multipliers=multipliers, strides=strides, num_blocks=4)
    with torch.device("meta"):
        ours = component.instantiate(shape.spec()).state_dict()
    placed = [ours[place.name].numel() for place in tool.places_of(shape).values()]
    assert round(sum(placed) / 1e6, 1) == millions and shape.stride == [4, 8, 8]

#!/usr/bin/env python3
"""Open-MAGVIT2's public tokenizers (TencentARC/SEED-Voken; image 8x and 16x, video 4x8x8) -> a visual tokenizer of ours.

example: python tools/convert_open_magvit2.py video_128.ckpt --out open_magvit2.safetensors

The codes are theirs bit for bit: our quantizer has the same bit order (least significant first), and its normalisation
changes no sign. Their averaged (EMA) weights are taken where the checkpoint has them, as their evaluation does. Losses
and discriminators are left out. The video tokenizer pools statistics over the clip: it is not causal and cannot stream.

Their keys, for level i, block j (image: `.weight` directly under the layer; video: `.conv_1.weight`):
  encoder.conv_in, .down.i.block.j.{norm1,conv1,norm2,conv2,nin_shortcut}, .down.i.downsample, .mid_block.j...,
  .norm_out, .conv_out
  decoder.conv_in, .mid_block.j..., .adaptive.i.{gamma,beta}, .up.i.block.j..., .up.i.upsample.conv1, .norm_out, .conv_out
"""

import argparse
import re
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from videopoet import component
from videopoet.commands.safely import run_safely
from videopoet.foreign_weights import Place, convert, read_state, refuse

VISUAL = "videopoet.tokenizers.visual"
TRAINING_ONLY = ("loss.", "model_ema.loss", "model_ema.decay", "model_ema.num_updates")
GROUPS_FROM = 128  # channels from which their 32 groups and our min(32, channels / 4) agree


@dataclass(frozen=True, kw_only=True)
class Shape:
    """What the keys and shapes of a checkpoint say about its networks."""

    video: bool
    dimension: int
    channels: int
    multipliers: tuple[int, ...]
    strides: tuple[tuple[int, int, int], ...]
    num_blocks: int

    @property
    def stride(self) -> list[int]:
        total = [1, 1, 1]
        for stride in self.strides:
            total = [a * b for a, b in zip(total, stride)]
        return total

    def spec(self) -> dict:
        """The component that runs these weights as they were trained."""
        network = {
            "dimension": self.dimension,
            "channels": self.channels,
            "multipliers": list(self.multipliers),
            "strides": [list(s) for s in self.strides],
            "num_blocks": self.num_blocks,
            "layers": _class("layers.PortedLayers") if self.video else _class("layers.CausalLayers", time_kernel=1),
        }
        decoder = {
            "up": _class("layers.DepthToSpace", keep=0 if self.video else -1),
            "conditioning": _class(
                "layers.PooledAdaptiveNorm" if self.video else "open_magvit2.FramePooledAdaptiveNorm"
            ),
        }
        quantizer = "videopoet.tokenizers.quantizers.lookup_free.LookupFreeQuantizer"
        return _class(
            "autoencoder.VideoTokenizer",
            encoder=_class("cnn.Encoder", **network),
            quantizer={"class_path": quantizer, "init_args": {"num_bits": self.dimension}},
            decoder=_class("open_magvit2.OpenMagvit2Decoder", **network, **decoder),
            stride=self.stride,
        )


def _class(name: str, **arguments) -> dict:
    return {"class_path": f"{VISUAL}.{name}", "init_args": arguments}


def generator(state: dict[str, Tensor], weights: str) -> dict[str, Tensor]:
    """Encoder and decoder of a checkpoint, averaged or as trained; raises ValueError naming keys of neither kind.

    The average of `encoder.conv_in.weight` is stored as `model_ema.encoderconv_inweight`.
    """
    averages = {key for key in state if key.startswith("model_ema.") and not key.startswith(TRAINING_ONLY)}
    plain = {key: tensor for key, tensor in state.items() if key.startswith(("encoder.", "decoder."))}
    known = averages | plain.keys() | {key for key in state if key.startswith(TRAINING_ONLY)}
    refuse("not in the table of keys", sorted(state.keys() - known))
    if weights == "raw" or (weights == "auto" and not averages):
        return plain
    named = {f"model_ema.{key.replace('.', '')}": key for key in plain}
    refuse("of the average have no counterpart", sorted(averages - named.keys()))
    refuse("missing from the average: take --weights raw", sorted(named.keys() - averages))
    return {key: state[average] for average, key in named.items()}


def shape_of(state: dict[str, Tensor]) -> Shape:
    """Read the networks off the tensors. Raises ValueError where they are none of the published family."""
    video = any(".conv_1." in key for key in state)
    end = ".conv_1.weight" if video else ".weight"

    def weight(name: str) -> Tensor:
        if f"{name}{end}" not in state or state[f"{name}{end}"].ndim != (5 if video else 4):
            raise ValueError(
                f"{name}{end} is missing or no kernel of {3 if video else 2} axes: no tokenizer of Open-MAGVIT2"
            )
        return state[f"{name}{end}"]

    channels, dimension = weight("encoder.conv_in").shape[0], weight("encoder.conv_out").shape[0]
    levels = _count(state, r"encoder\.down\.(\d+)\.")
    blocks = _count(state, r"encoder\.down\.0\.block\.(\d+)\.")
    widths = [weight(f"encoder.down.{i}.block.0.conv1").shape[0] for i in range(levels)]
    if channels < GROUPS_FROM:
        raise ValueError(f"norms of {channels} channels have 32 groups there, {min(32, channels // 4)} here: "
                         f"only networks of {GROUPS_FROM} channels and more can be expressed")  # fmt: skip
    if any(width % channels for width in widths):
        raise ValueError(f"levels of {widths} channels are no multiples of {channels}: no tokenizer of Open-MAGVIT2")
    if weight("decoder.conv_in").shape[1] != dimension:
        raise ValueError(
            f"decoder.conv_in takes {weight('decoder.conv_in').shape[1]} channels, the latents have {dimension}: a decoder "
            "that is given noise beside the latents cannot be expressed"
        )
    multipliers = tuple(width // channels for width in widths)
    strides = []
    for i in range(levels - 1):
        up = weight(f"decoder.up.{i + 1}.upsample.conv1")
        stride = {4: (1, 2, 2), 8: (2, 2, 2)}.get(up.shape[0] // up.shape[1])
        expected = (1, 2, 2) if not video or multipliers[i] == 1 else (2, 2, 2)
        if stride != expected:  # the encoder's strides follow this rule and show in no shape
            raise ValueError(
                f"decoder.up.{i + 1}.upsample.conv1 of shape {tuple(up.shape)} does not upsample by {expected}"
            )
        strides.append(stride)
    return Shape(video=video, dimension=dimension, channels=channels, multipliers=multipliers, strides=tuple(strides),
                 num_blocks=blocks)  # fmt: skip


def _count(state: dict[str, Tensor], pattern: str) -> int:
    return 1 + max((int(match[1]) for key in state if (match := re.match(pattern, key))), default=-1)


def places_of(shape: Shape) -> dict[str, Place]:
    """Their keys -> our places, for every tensor that networks of this shape have."""
    places: dict[str, Place] = {}
    inner = ".conv_1" if shape.video else ""
    widths = [shape.channels * m for m in shape.multipliers]
    last = len(widths) - 1

    def put(theirs: str, ours: str, parts: str, transform: Callable[[Tensor], Tensor] = lambda t: t) -> None:
        for part in parts.split():
            places[f"{theirs}.{part}"] = Place(name=f"{ours}.{part}", transform=transform)

    def convolution(theirs: str, ours: str, parts: str = "weight", transform=lambda t: t) -> None:
        put(f"{theirs}{inner}", ours, parts, lambda t: transform(t if shape.video or t.ndim < 4 else t.unsqueeze(2)))

    def block(theirs: str, ours: str, changes: bool) -> None:
        for i in "12":
            put(f"{theirs}.norm{i}", f"{ours}.norm{i}", "weight bias")
            convolution(f"{theirs}.conv{i}", f"{ours}.conv{i}")
        if changes:
            convolution(f"{theirs}.nin_shortcut", f"{ours}.shortcut")

    convolution("encoder.conv_in", "encoder.conv_in")
    convolution("decoder.conv_in", "decoder.conv_in", "weight bias")
    for i, width in enumerate(widths):
        level = last - i  # ours counts a decoder's levels from coarse to fine
        for j in range(shape.num_blocks):
            block(f"encoder.down.{i}.block.{j}", f"encoder.levels.{i}.{j}", j == 0 and width != widths[max(0, i - 1)])
            block(
                f"decoder.up.{i}.block.{j}", f"decoder.levels.{level}.{j}", j == 0 and width != widths[min(last, i + 1)]
            )
        for part in ("gamma", "beta"):
            put(f"decoder.adaptive.{i}.{part}", f"decoder.adaptive.{level}.{part}", "weight bias")
        if i < last:
            convolution(f"encoder.down.{i}.downsample", f"encoder.downs.{i}", "weight bias")
            rearrange = partial(_channels_first, stride=shape.strides[i])
            convolution(f"decoder.up.{i + 1}.upsample.conv1", f"decoder.ups.{level - 1}.conv", "weight bias", rearrange)
    for side in ("encoder", "decoder"):
        for j in range(shape.num_blocks):
            block(f"{side}.mid_block.{j}", f"{side}.middle.{j}", False)
        put(f"{side}.norm_out", f"{side}.norm_out", "weight bias")
        convolution(f"{side}.conv_out", f"{side}.conv_out", "weight bias")
    return places


def _channels_first(tensor: Tensor, stride: tuple[int, int, int]) -> Tensor:
    """Output channels in the order (s_t, s_h, s_w, c), as theirs are rearranged, to (c, s_t, s_h, s_w), as ours are."""
    return tensor.unflatten(0, (*stride, -1)).movedim(3, 0).flatten(0, 3)


def run(arguments: argparse.Namespace) -> None:
    a = arguments
    if a.out.suffix != ".safetensors" or not a.out.parent.is_dir():
        raise ValueError(f"--out is {a.out}: name a .safetensors file in a folder that exists")
    state = generator(read_state(a.checkpoint), a.weights)
    shape = shape_of(state)
    made = convert(state, places_of(shape), shape.spec())
    facts = {"source": "Open-MAGVIT2", "weights": a.weights, "causal": not shape.video}
    component.save(a.out, shape.spec(), made, facts, half=a.half)
    kind = (
        "video tokenizer, not causal: takes whole clips" if shape.video else "image tokenizer, frame by frame on a clip"
    )
    print(f"{a.out}: {len(state)} tensors, 2^{shape.dimension} codes, stride {' x '.join(map(str, shape.stride))}; {kind}\n"
          f"next: videopoet tokenizer inspect {a.out}")  # fmt: skip


def parser() -> argparse.ArgumentParser:
    text = (__doc__ or "").strip().splitlines()
    root = argparse.ArgumentParser(description=text[0], epilog=text[2])
    root.add_argument("checkpoint", type=Path, help="local .ckpt, .pt or .safetensors")
    root.add_argument("--out", type=Path, required=True, metavar="FILE", help="file to write, .safetensors")
    root.add_argument("--weights", choices=("auto", "ema", "raw"), default="auto",
                      help="averaged or as trained (default: averaged where the checkpoint has them)")  # fmt: skip
    root.add_argument("--half", action="store_true", help="store float16 (default: float32, so that codes are theirs)")
    root.set_defaults(run=run)
    return root


if __name__ == "__main__":
    run_safely(parser().parse_args(), [])

#!/usr/bin/env python3
"""NVIDIA Cosmos' discrete video tokenizers (DV 4x8x8, 8x8x8, 8x16x16) -> a visual tokenizer of ours.

example: python tools/convert_cosmos.py model.pt --compression 8x16x16 --out cosmos.safetensors

The checkpoint's tensors do not say by how much it compresses: the three published ones have the same keys and shapes, so
the name of the file has to. TorchScript files (autoencoder.jit) are programs and are not opened here; save their weights
where you trust them: safetensors.torch.save_file(torch.jit.load("autoencoder.jit").state_dict(), "cosmos.safetensors").
The image tokenizers and the continuous ones (CI, CV, DI) have other keys and are refused.

Their keys, for level i, block j (convolutions end in .conv3d.{weight,bias}, norms in .norm.{weight,bias}):
  encoder.conv_in.{0,1}, .down.i.block.j.{norm1,conv1.{0,1},norm2,conv2.{0,1},nin_shortcut}, .down.i.downsample.conv{1,2,3},
  .mid.block_{1,2}, .mid.attn_1.{0,1}.{norm,q,k,v,proj_out}, .norm_out, .conv_out.{0,1}; decoder the same with .up.i; and
  quant_conv, post_quant_conv
"""

import argparse
import math
import re
import sys
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from videopoet import component
from videopoet.commands.safely import run_safely
from videopoet.foreign_weights import Place, convert, read_state, refuse

COMPRESSIONS = {"4x8x8": (4, 8, 8), "8x8x8": (8, 8, 8), "8x16x16": (8, 16, 16)}
LEVELS = (8, 8, 8, 5, 5, 5)  # of the published quantizer; it has no tensors
PATCH = 4  # pixels a side that the wavelets fold


@dataclass(frozen=True, kw_only=True)
class Shape:
    """What the keys and shapes say about the networks."""

    dimension: int
    width: int
    channels: int
    multipliers: tuple[int, ...]
    num_blocks: int

    def spec(self, stride: tuple[int, int, int]) -> dict:
        visual, network = (
            "videopoet.tokenizers.visual",
            {
                "dimension": self.dimension,
                "width": self.width,
                "channels": self.channels,
                "multipliers": list(self.multipliers),
                "num_blocks": self.num_blocks,
                "patch": PATCH,
                "stride": list(stride),
            },
        )
        quantizer = "videopoet.tokenizers.quantizers.finite_scalar.FiniteScalarQuantizer"
        parts = {
            "encoder": {"class_path": f"{visual}.cosmos.CosmosEncoder", "init_args": network},
            "quantizer": {"class_path": quantizer, "init_args": {"levels": list(LEVELS)}},
            "decoder": {"class_path": f"{visual}.cosmos.CosmosDecoder", "init_args": network},
        }
        return {"class_path": f"{visual}.autoencoder.VideoTokenizer", "init_args": {**parts, "stride": list(stride)}}


def without_constants(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The weights, without the constants that TorchScript saves beside them; raises ValueError where one differs."""
    levels = torch.tensor(LEVELS)
    basis = torch.tensor([math.prod(LEVELS[:i]) for i in range(len(LEVELS))])
    expected = {"quantizer._levels": levels, "quantizer._basis": basis}
    for patcher in ("encoder.patcher3d", "decoder.unpatcher3d"):
        haar = torch.full((2,), 0.5).sqrt()
        expected |= {f"{patcher}.wavelets": haar, f"{patcher}._arange": torch.arange(2)}
        expected |= {f"{patcher}.patch_size_buffer": torch.tensor([PATCH])}
    for key in state.keys() & expected.keys():
        have, want = state[key].double(), expected[key].double()
        if have.shape != want.shape or not torch.allclose(have, want, atol=1e-2):  # bfloat16 rounds
            raise ValueError(f"{key} is {have.tolist()}, the network that can be expressed has {want.tolist()}")
    return {key: t for key, t in state.items() if key not in expected and key != "quantizer.implicit_codebook"}


def shape_of(state: dict[str, Tensor]) -> Shape:
    """Read the networks off the tensors. Raises ValueError where they are no discrete video tokenizer of Cosmos."""

    def weight(name: str) -> Tensor:
        if f"{name}.conv3d.weight" not in state or state[f"{name}.conv3d.weight"].ndim != 5:
            raise ValueError(
                f"{name}.conv3d.weight is missing or no kernel of 3 axes: no discrete video tokenizer of Cosmos"
            )
        return state[f"{name}.conv3d.weight"]

    def count(pattern: str) -> int:
        return 1 + max((int(match[1]) for key in state if (match := re.match(pattern, key))), default=-1)

    first = weight("encoder.conv_in.0")
    if first.shape[1] != 3 * PATCH**3:
        raise ValueError(f"encoder.conv_in.0 takes {first.shape[1]} channels, patches of {PATCH} make {3 * PATCH**3}: cannot "
                         "be expressed")  # fmt: skip
    refuse(
        "of attention inside a level, which cannot be expressed",
        [key for key in state if re.search(r"(down|up)\.\d+\.attn", key)],
    )
    channels, dimension = first.shape[0], weight("quant_conv").shape[0]
    if dimension != len(LEVELS):
        raise ValueError(
            f"latents of {dimension} channels, the published quantizer has levels {LEVELS}: cannot be expressed"
        )
    widths = [weight(f"encoder.down.{i}.block.0.conv1.0").shape[0] for i in range(count(r"encoder\.down\.(\d+)\."))]
    if any(width % channels for width in widths):
        raise ValueError(f"levels of {widths} channels are no multiples of {channels}: no tokenizer of Cosmos")
    return Shape(
        dimension=dimension,
        width=weight("quant_conv").shape[1],
        channels=channels,
        multipliers=tuple(width // channels for width in widths),
        num_blocks=count(r"encoder\.down\.0\.block\.(\d+)\."),
    )


def places_of(shape: Shape) -> dict[str, Place]:
    """Their keys -> our places, for every tensor that networks of this shape have."""
    places: dict[str, Place] = {}
    widths = [shape.channels * m for m in shape.multipliers]
    last = len(widths) - 1

    def put(theirs: str, ours: str) -> None:
        for part in ("weight", "bias"):
            places[f"{theirs}.{part}"] = Place(name=f"{ours}.{part}")

    def factorized(theirs: str, ours: str) -> None:
        for i in (0, 1):
            put(f"{theirs}.{i}.conv3d", f"{ours}.{i}")

    def block(theirs: str, ours: str, changes: bool = False) -> None:
        for i in (1, 2):
            put(f"{theirs}.norm{i}.norm", f"{ours}.norm{i}")
            factorized(f"{theirs}.conv{i}", f"{ours}.conv{i}")
        if changes:
            put(f"{theirs}.nin_shortcut.conv3d", f"{ours}.shortcut")

    for side in ("encoder", "decoder"):
        factorized(f"{side}.conv_in", f"{side}.conv_in")
        factorized(f"{side}.conv_out", f"{side}.conv_out")
        put(f"{side}.norm_out.norm", f"{side}.norm_out")
        block(f"{side}.mid.block_1", f"{side}.middle.0")
        block(f"{side}.mid.block_2", f"{side}.middle.3")
        for i in (0, 1):  # in space, in time
            put(f"{side}.mid.attn_1.{i}.norm.norm", f"{side}.middle.{i + 1}.norm")
            for theirs, ours in (("q", "q"), ("k", "k"), ("v", "v"), ("proj_out", "out")):
                put(f"{side}.mid.attn_1.{i}.{theirs}.conv3d", f"{side}.middle.{i + 1}.{ours}")
    for i, width in enumerate(widths):
        level, below = (
            last - i,
            shape.channels if i == 0 else widths[i - 1],
        )  # ours counts a decoder from coarse to fine
        for j in range(shape.num_blocks):
            block(f"encoder.down.{i}.block.{j}", f"encoder.levels.{i}.{j}", j == 0 and width != below)
        for j in range(shape.num_blocks + 1):
            block(
                f"decoder.up.{i}.block.{j}", f"decoder.levels.{level}.{j}", j == 0 and width != widths[min(last, i + 1)]
            )
        if i < last:
            for theirs, ours in (("conv1", "space"), ("conv2", "time"), ("conv3", "out")):
                put(f"encoder.down.{i}.downsample.{theirs}.conv3d", f"encoder.downs.{i}.{ours}")
            for theirs, ours in (("conv1", "time"), ("conv2", "space"), ("conv3", "out")):
                put(f"decoder.up.{i + 1}.upsample.{theirs}.conv3d", f"decoder.ups.{level - 1}.{ours}")
    put("quant_conv.conv3d", "encoder.project")
    put("post_quant_conv.conv3d", "decoder.project")
    return places


def run(arguments: argparse.Namespace) -> None:
    a = arguments
    if a.out.suffix != ".safetensors" or not a.out.parent.is_dir():
        raise ValueError(f"--out is {a.out}: name a .safetensors file in a folder that exists")
    state = without_constants(read_state(a.checkpoint))
    shape = shape_of(state)
    spec = shape.spec(COMPRESSIONS[a.compression])
    made = convert(state, places_of(shape), spec)
    component.save(a.out, spec, made, {"source": f"Cosmos DV {a.compression}"}, half=a.half)
    print(f"{a.out}: {len(state)} tensors, {math.prod(LEVELS)} codes, stride {a.compression}; causal, takes whole clips\n"
          f"next: videopoet tokenizer inspect {a.out}")  # fmt: skip


def parser() -> argparse.ArgumentParser:
    text = (__doc__ or "").strip().splitlines()
    root = argparse.ArgumentParser(description=text[0], epilog=text[2])
    root.add_argument("checkpoint", type=Path, help="local .pt or .safetensors")
    root.add_argument("--compression", choices=COMPRESSIONS, required=True, help="as in the checkpoint's name")
    root.add_argument("--out", type=Path, required=True, metavar="FILE", help="file to write, .safetensors")
    root.add_argument("--half", action="store_true", help="store float16 (default: float32)")
    root.set_defaults(run=run)
    return root


if __name__ == "__main__":
    run_safely(parser().parse_args(), [])

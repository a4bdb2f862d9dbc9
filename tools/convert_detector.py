#!/usr/bin/env python3
"""The published weights of a detector of `videopoet evaluate` -> one safetensors file, checked against its network.

example: python tools/convert_detector.py fid-inception pt_inception-2015-12-05-6726825d.pth --out fid.safetensors

Detectors: fid-inception, torchvision-inception, vggish, pann-16k, pann-32k (torch files, read as tensors alone),
c3d (conv3d_deepnetA_ucf.npz with --mean mean2.npz), and vjepa (vith16.pth.tar with --probe ssv2-probe.pth.tar). I3D has a
tool of its own, convert_i3d.py.
"""

import argparse
import pickle
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from videopoet.commands.safely import run_safely
from videopoet.evaluation.detectors.c3d import C3DNetwork
from videopoet.evaluation.detectors.inception import Inception3
from videopoet.evaluation.detectors.sound import Cnn14, VGGishNetwork
from videopoet.evaluation.detectors.vjepa import VJEPANetwork
from videopoet.evaluation.detectors.weights import sha256_of
from videopoet.foreign_weights import read_state, refuse


@dataclass(frozen=True, kw_only=True)
class Kind:
    """A network, and the names of tensors in its file that it has no use for."""

    network: Callable[[], nn.Module]
    unused: tuple[str, ...] = ()


KINDS = {
    "fid-inception": Kind(network=Inception3),
    "torchvision-inception": Kind(
        network=lambda: Inception3(classes=1000, counts_border=True, last_pool="average"), unused=("AuxLogits.",)
    ),
    "vggish": Kind(network=VGGishNetwork, unused=("pproc.",)),
    "pann-16k": Kind(network=lambda: Cnn14(points=512, hop=160)),
    "pann-32k": Kind(network=lambda: Cnn14(points=1024, hop=320)),
    "c3d": Kind(network=C3DNetwork),
    "vjepa": Kind(network=VJEPANetwork, unused=("linear.",)),
}


def read_c3d(path: Path, mean: Path | None) -> dict[str, Tensor]:
    """TGANv2's arrays (layer/W, layer/b) and its mean clip, cut as its evaluation cuts it."""
    if mean is None:
        raise ValueError("c3d needs the mean clip too: --mean mean2.npz, from the same release")
    try:
        with np.load(path, allow_pickle=False) as file:
            state = {n.replace("/W", ".weight").replace("/b", ".bias"): torch.from_numpy(file[n]) for n in file.files}
        with np.load(mean, allow_pickle=False) as file:
            clip = torch.from_numpy(file["mean"]).float()
    except (OSError, KeyError, ValueError) as error:
        raise ValueError(f"{path} and {mean} are not C3D's arrays ({error})") from None
    if clip.numel() != 3 * 16 * 128 * 171:
        raise ValueError(f"{mean} holds {tuple(clip.shape)}, the mean clip is (3, 16, 128, 171)")
    return state | {"mean": clip.reshape(3, 16, 128, 171)[:, :, 8:120, 8:120]}


def read_vjepa(path: Path, probe: Path | None) -> dict[str, Tensor]:
    """V-JEPA's target encoder and the pooler of its probe, without the prefixes that training gave them."""
    if probe is None:
        raise ValueError("vjepa needs the probe too: --probe ssv2-probe.pth.tar, of the same encoder")
    state = {}
    for file, part, prefix in ((path, "target_encoder", "encoder."), (probe, "classifier", "")):
        try:
            said = torch.load(file, map_location="cpu", weights_only=True, mmap=True)
        except (OSError, pickle.UnpicklingError, RuntimeError, EOFError, KeyError) as error:
            cause = next(iter(str(error).strip().splitlines()), type(error).__name__)
            raise ValueError(f"{file} cannot be read as tensors alone ({cause[:200]})") from None
        tensors = said.get(part) if isinstance(said, dict) else None
        if not isinstance(tensors, dict) or not all(isinstance(t, Tensor) for t in tensors.values()):
            raise ValueError(f"{file} holds no {part}: it is another file of V-JEPA's")
        state |= {prefix + name.removeprefix("module.").removeprefix("backbone."): t for name, t in tensors.items()}
    return state


def checked(state: dict[str, Tensor], kind: Kind) -> dict[str, Tensor]:
    """The tensors that the network has. Raises ValueError naming others, missing ones, and wrong shapes."""
    with torch.device("meta"):
        expected = kind.network().state_dict()
    counters = {name for name in expected if name.endswith("num_batches_tracked")}
    state = {
        name: t for name, t in state.items() if not name.startswith(kind.unused or ("\0",)) and name not in counters
    }
    refuse("that the network has not", sorted(state.keys() - expected.keys()))
    refuse("of the network missing", sorted(expected.keys() - counters - state.keys()))
    refuse(
        "of a shape that does not fit",
        [f"{name} {tuple(t.shape)}" for name, t in state.items() if t.shape != expected[name].shape],
    )
    return {name: t.float().contiguous().clone() for name, t in state.items()}


def run(arguments: argparse.Namespace) -> None:
    a = arguments
    if a.out.suffix != ".safetensors" or not a.out.parent.is_dir():
        raise ValueError(f"--out is {a.out}: name a .safetensors file in a folder that exists")
    if a.detector == "c3d":
        read = read_c3d(a.checkpoint, a.mean)
    else:
        read = read_vjepa(a.checkpoint, a.probe) if a.detector == "vjepa" else read_state(a.checkpoint)
    state = checked(read, KINDS[a.detector])
    save_file(state, a.out, metadata={"source": a.checkpoint.name, "sha256": sha256_of(a.checkpoint)})
    print(f"{a.out}: {len(state)} tensors, sha256 {sha256_of(a.out)}")


def parser() -> argparse.ArgumentParser:
    text = (__doc__ or "").strip().splitlines()
    root = argparse.ArgumentParser(description=text[0], epilog=text[2])
    root.add_argument("detector", choices=KINDS)
    root.add_argument("checkpoint", type=Path, help="local file")
    root.add_argument("--mean", type=Path, help="of c3d: mean2.npz")
    root.add_argument("--probe", type=Path, help="of vjepa: ssv2-probe.pth.tar")
    root.add_argument("--out", type=Path, required=True, metavar="FILE", help="file to write, .safetensors")
    root.set_defaults(run=run)
    return root


if __name__ == "__main__":
    run_safely(parser().parse_args(), [])

#!/usr/bin/env python3
"""The I3D that FVD compares, in any of its public forms -> a safetensors file for `videopoet.evaluation.detectors.i3d`.

example: python tools/convert_i3d.py i3d_pretrained_400.pt --out i3d_pretrained_400.safetensors

Forms: state dicts with the names of pytorch-i3d (VideoGPT, TATS: Mixed_3b.b1a), of its rewrites (Mixed_3b.branch1a) and of
kinetics_i3d_pytorch (mixed_3b.branch_1.0, batch3d); StyleGAN-V's i3d_torchscript.pt. The last is a *program*: loading it
runs its author's code, so it needs --allow-torchscript, for a file you trust; its tensors are taken in their order, batch
norms folded or not, and the conversion counts only if the program and our network give the same 400 numbers for a fixed
clip. --against compares a second file, converted likewise: two files with the features of one network make one FVD.
"""

import argparse
import re
import sys
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from videopoet.commands.safely import run_safely
from videopoet.component import fit
from videopoet.evaluation.detectors.i3d import InceptionI3d
from videopoet.evaluation.detectors.weights import sha256_of
from videopoet.foreign_weights import read_state, refuse

AGREE = 1e-3  # relative difference of features that rounding explains; the published one of two ports is 3e-4 in all
RENAMES = (
    (r"^(?:(?:module|model|i3d|end_points)\.)+", ""),
    (r"^conv3d_0c_1x1\.", "logits."),
    (r"^conv3d_", "Conv3d_"),
    (r"^mixed_", "Mixed_"),
    (r"\.batch3d\.", ".bn."),
    (r"\.branch_?0\.", ".b0."),
    (r"\.branch_([12])\.0\.", r".b\1a."),
    (r"\.branch_([12])\.1\.", r".b\1b."),
    (r"\.branch_3\.1\.", ".b3b."),
    (r"\.branch([123][ab])\.", r".b\1."),
)


def converted(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Their tensors under our names, by name. Raises ValueError naming what has no place."""
    made: dict[str, Tensor] = {}
    for name, tensor in state.items():
        for pattern, ours in RENAMES:
            name = re.sub(pattern, ours, name)
        if not name.endswith("num_batches_tracked"):
            made[name] = tensor
    expected = tensors_of_ours()
    refuse("that I3D has not", sorted(made.keys() - expected.keys()))
    refuse("of I3D missing", sorted(expected.keys() - made.keys()))
    wrong = [f"{name} {tuple(t.shape)}" for name, t in made.items() if t.shape != expected[name].shape]
    refuse("of a shape that does not fit", wrong)
    return made


def in_order(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Their tensors under our names, by their order; a convolution with a bias stands for one with its norm folded in."""
    theirs = [tensor for tensor in state.values() if tensor.ndim > 0]
    expected, made, at = tensors_of_ours(), {}, 0

    def take(name: str) -> None:
        nonlocal at
        found = tuple(theirs[at].shape) if at < len(theirs) else "nothing"
        if found != tuple(expected[name].shape):
            raise ValueError(
                f"tensor {at} is {found}, {name} is {tuple(expected[name].shape)}: no I3D in a known order"
            )
        made[name] = theirs[at]
        at += 1

    folded = len(theirs) == 2 * sum(name.endswith("conv3d.weight") for name in expected)
    for unit in [name.removesuffix(".conv3d.weight") for name in expected if name.endswith(".conv3d.weight")]:
        take(f"{unit}.conv3d.weight")
        if unit == "logits":
            take("logits.conv3d.bias")
        elif folded:
            take(f"{unit}.bn.bias")
            zero = torch.zeros_like(made[f"{unit}.bn.bias"])
            made |= {
                f"{unit}.bn.weight": zero + 1,
                f"{unit}.bn.running_mean": zero,
                f"{unit}.bn.running_var": zero + 1 - 1e-3,
            }
        else:
            for part in ("weight", "bias", "running_mean", "running_var"):
                take(f"{unit}.bn.{part}")
    if at != len(theirs):
        raise ValueError(f"{len(theirs) - at} of {len(theirs)} tensors are left over: no I3D in a known order")
    return made


def tensors_of_ours() -> dict[str, Tensor]:
    with torch.device("meta"):
        state = InceptionI3d().state_dict()
    return {name: tensor for name, tensor in state.items() if not name.endswith("num_batches_tracked")}


def network_of(state: dict[str, Tensor]) -> InceptionI3d:
    network = InceptionI3d().eval()
    counts = {name: t for name, t in network.state_dict().items() if name.endswith("num_batches_tracked")}
    fit(network, state | counts, "the converted file")
    return network


def clip(side: int = 224) -> Tensor:
    """(1, 3, 9, side, side) in [-1, 1], always the same."""
    return torch.rand(1, 3, 9, side, side, generator=torch.Generator().manual_seed(1)) * 2 - 1


@torch.inference_mode()
def difference(a: Tensor, b: Tensor) -> float:
    """Relative, in L2. ValueError for other shapes than (1, 400)."""
    if a.shape != (1, 400) or b.shape != (1, 400):
        raise ValueError(f"features of a clip are (1, 400), got {tuple(a.shape)} and {tuple(b.shape)}")
    return float((a - b).norm() / b.norm())


@torch.inference_mode()
def read(path: Path, allow_torchscript: bool, side: int = 224) -> dict[str, Tensor]:
    """The tensors of a file under our names. Raises ValueError where it is no I3D, or a program that may not run."""
    if not is_torchscript(path):
        return converted(read_state(path))
    if not allow_torchscript:
        raise ValueError(f"{path} is TorchScript, a program that runs when it is loaded: say --allow-torchscript if you trust "
                         "who wrote it")  # fmt: skip
    program = torch.jit.load(str(path), map_location="cpu").eval()
    state = dict(program.state_dict())
    try:
        made = converted(state)
    except ValueError:
        made = in_order(state)
    theirs = program(clip(side), rescale=False, resize=False, return_features=True)
    apart = difference(network_of(made)(clip(side))[1], theirs)
    if not apart < AGREE:
        raise ValueError(f"the program and the converted network differ by {apart:.1e} of a clip's features, at most "
                         f"{AGREE:g} is rounding: its tensors are in another order, nothing is written")  # fmt: skip
    print(f"the program and the converted network differ by {apart:.1e} of a clip's features")
    return made


def is_torchscript(path: Path) -> bool:
    """Whether a file is an archive that holds code; decided by its list of files, without opening any."""
    import zipfile

    if not path.is_file() or not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as archive:
        return any("/code/" in name for name in archive.namelist())


def run(arguments: argparse.Namespace) -> None:
    a = arguments
    if a.out.suffix != ".safetensors" or not a.out.parent.is_dir():
        raise ValueError(f"--out is {a.out}: name a .safetensors file in a folder that exists")
    state = {name: t.float().contiguous().clone() for name, t in read(a.checkpoint, a.allow_torchscript).items()}
    if a.against is not None:
        other = network_of(read(a.against, a.allow_torchscript))
        with torch.inference_mode():
            apart = difference(network_of(state)(clip())[1], other(clip())[1])
        print(
            f"{a.checkpoint.name} and {a.against.name}: features of a fixed clip differ by {apart:.1e} (relative, L2)"
        )
        if not apart < AGREE:
            raise ValueError(f"two networks: their FVDs do not compare ({apart:.1e} is more than {AGREE:g})")
    save_file(state, a.out, metadata={"source": a.checkpoint.name, "sha256": sha256_of(a.checkpoint)})
    print(f"{a.out}: {len(state)} tensors, sha256 {sha256_of(a.out)}")


def parser() -> argparse.ArgumentParser:
    text = (__doc__ or "").strip().splitlines()
    root = argparse.ArgumentParser(description=text[0], epilog=text[2])
    root.add_argument("checkpoint", type=Path, help="local file")
    root.add_argument("--out", type=Path, required=True, metavar="FILE", help="file to write, .safetensors")
    root.add_argument("--against", type=Path, metavar="FILE", help="another form, whose features must be the same")
    root.add_argument(
        "--allow-torchscript", action="store_true", help="run the program in a TorchScript file you trust"
    )
    root.set_defaults(run=run)
    return root


if __name__ == "__main__":
    run_safely(parser().parse_args(), [])

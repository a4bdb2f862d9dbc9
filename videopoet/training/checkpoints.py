"""Opening whatever `videopoet fit` writes: a `.ckpt` file, or the folder of a strategy that deals weights out to ranks."""

import json
import pickle
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor, nn

from videopoet import component
from videopoet.training.sharded import WEIGHTS, facts, portable


@dataclass(frozen=True, kw_only=True)
class Trained:
    """The trained part of a checkpoint: averaged where weights are averaged.

    files: files of the tokenizers it was trained with, as the run's configuration names them.
    """

    spec: dict
    state: dict[str, Tensor]
    metadata: dict
    files: dict[str, str]


def is_checkpoint(path: str | Path) -> bool:
    """Whether this is a checkpoint of a training, and not an exported part or a folder of parts."""
    path = Path(path)
    return (path / WEIGHTS).is_file() or (path.is_file() and path.suffix == ".ckpt")


def read(path: str | Path) -> Trained:
    """The trained part. Raises ValueError for anything but a checkpoint of `videopoet fit`."""
    path = Path(path)
    if not path.exists():
        raise ValueError(f"no checkpoint at {path}")
    if path.is_dir():
        spec, state, metadata = _read_folder(path)
    else:
        spec, state, metadata = _read_file(path)
    files = metadata.pop("files", {})
    return Trained(spec=spec, state=state, metadata=metadata, files=files)


def _read_folder(path: Path) -> tuple[dict, dict[str, Tensor], dict]:
    if not (path / WEIGHTS).is_file():
        raise ValueError(f"{path} is not a checkpoint of 'videopoet fit' (no {WEIGHTS} in it)")
    with safe_open(path / WEIGHTS, "pt") as file:
        header = file.metadata()
    return json.loads(header["spec"]), load_file(path / WEIGHTS), json.loads(header["metadata"])


def _read_file(path: Path) -> tuple[dict, dict[str, Tensor], dict]:
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
        part = content["component"]
    except (KeyError, TypeError, RuntimeError, EOFError, pickle.UnpicklingError) as error:
        raise ValueError(f"{path} is not a checkpoint of 'videopoet fit' ({type(error).__name__})") from None
    prefix = part["name"] + "."
    state = {k.removeprefix(prefix): v for k, v in content["state_dict"].items() if k.startswith(prefix)}
    return part["spec"], state, facts(content)


def load(path: str | Path, expect: type[nn.Module]) -> tuple[nn.Module, dict[str, str]]:
    """The trained part as `component.load` gives it, in eval mode, and the files of its tokenizers.

    Raises ValueError where it is of another class than expected.
    """
    trained = read(path)
    spec = portable(trained.spec)
    module = component.instantiate(spec)
    if not isinstance(module, expect):
        raise ValueError(f"{path} trains {type(module).__name__}, {expect.__name__} is needed")
    component.fit(module, trained.state, str(path))
    module.metadata, module.spec = trained.metadata, spec
    module.fingerprint = component.fingerprint(json.dumps(spec), trained.state)
    module.stored = {name: tensor.dtype for name, tensor in trained.state.items()}
    return module.eval(), trained.files


def find(name: str, fingerprints: dict[str, str], files: dict[str, str], folders: Iterable[Path]) -> Path:
    """The file of the tokenizer that a checkpoint's tokens were made by: where its run had it, or NAME.safetensors in
    one of the folders. Raises ValueError where none of these has the fingerprint."""
    candidates = [Path(files[name])] if name in files else []
    candidates += [folder / f"{name}.safetensors" for folder in folders]
    for candidate in candidates:
        if candidate.is_file() and component.read_fingerprint(candidate) == fingerprints.get(name):
            return candidate
    raise ValueError(
        f"the {name} tokenizer {fingerprints.get(name)}, by which the checkpoint's tokens were made, is none of "
        f"{', '.join(map(str, candidates))}: put it beside the checkpoint as {name}.safetensors"
    )

"""Training checkpoint -> shipped component."""

import pickle
from pathlib import Path

import torch

from videopoet import component


def export(checkpoint: str | Path, out: str | Path, *, half: bool = True, int8: str | None = None) -> int:
    """Write the trained part of a checkpoint as a component and return its size in bytes.

    With weight averaging the averaged weights are what the checkpoint holds as its own. The written file is loaded
    once, so that what ships is known to fit. Raises ValueError for anything but a checkpoint of `videopoet fit`.
    """
    path = Path(checkpoint)
    if not path.is_file():
        raise ValueError(f"no checkpoint at {path}")
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
        part = content["component"]
    except (KeyError, TypeError, RuntimeError, EOFError, pickle.UnpicklingError) as error:
        raise ValueError(f"{path} is not a checkpoint of 'videopoet fit' ({type(error).__name__})") from None
    prefix = part["name"] + "."
    state = {k.removeprefix(prefix): v for k, v in content["state_dict"].items() if k.startswith(prefix)}
    facts = {"steps": content["global_step"], **content.get("metadata", {})}
    component.save(out, portable(part["spec"]), state, facts, half=half, int8=int8)
    component.load(out)
    return Path(out).stat().st_size


def portable(spec):
    """The spec without `sentencepiece` paths: the text model's bytes travel in the weights."""
    if isinstance(spec, dict):
        return {key: None if key == "sentencepiece" else portable(value) for key, value in spec.items()}
    return [portable(item) for item in spec] if isinstance(spec, list | tuple) else spec

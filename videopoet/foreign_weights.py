"""Other projects' checkpoints -> our components, strictly: every tensor finds its place or is named in an error."""

import pickle
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from videopoet import component

NAMED = 12  # names an error lists before it counts the rest


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where a tensor of theirs goes, and how it is rearranged on the way."""

    name: str  # in our module
    transform: Callable[[Tensor], Tensor] = lambda tensor: tensor


def read_state(path: str | Path) -> dict[str, Tensor]:
    """The tensors of a `.safetensors` file or of a torch checkpoint (its `state_dict` where it has one).

    A torch file is read with `weights_only=True`: no code in it runs. Raises ValueError where that is not enough.
    """
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"no checkpoint at {path}: download it first")
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        state = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, SafetensorError, RuntimeError, EOFError, KeyError, UnicodeDecodeError) as error:
        cause = next(iter(str(error).strip().splitlines()), type(error).__name__)
        raise ValueError(
            f"{path} cannot be read as tensors alone ({cause[:200]}): if it is whole and holds other objects too, save its "
            "state_dict as .safetensors where you trust it"
        ) from None
    state = state.get("state_dict", state) if isinstance(state, dict) else state
    if not isinstance(state, dict) or not state or not all(isinstance(t, Tensor) for t in state.values()):
        raise ValueError(f"{path} holds no state_dict of tensors: give a checkpoint's weights")
    return state


def convert(state: dict[str, Tensor], places: dict[str, Place], spec: dict) -> dict[str, Tensor]:
    """Their tensors at our places, ready for `component.save`; biases that theirs lack are zero.

    Raises ValueError naming every tensor of theirs without a place, every place without a tensor, every wrong shape,
    and every tensor of ours that nothing fills.
    """
    refuse("not in the table of keys", sorted(state.keys() - places.keys()))
    refuse("missing from the checkpoint", sorted(places.keys() - state.keys()))
    with torch.device("meta"):  # shapes only
        module = component.instantiate(spec)
    ours = module.state_dict()  # out of the block, so that what a module says of itself (its extra state) is real
    shapes = {name: tensor.shape for name, tensor in ours.items()}
    made: dict[str, Tensor] = {}
    wrong = []
    for key, place in places.items():
        try:
            made[place.name] = place.transform(state[key]).contiguous()
        except RuntimeError:  # a rearrangement that its shape does not allow
            wrong.append(f"{key} {tuple(state[key].shape)}")
            continue
        if place.name not in shapes or made[place.name].shape != shapes[place.name]:
            wrong.append(f"{key} {tuple(state[key].shape)} for {place.name} {tuple(shapes.get(place.name, ()))}")
    refuse("of a shape that does not fit", wrong)
    made |= {name: tensor for name, tensor in ours.items() if name.endswith("_extra_state")}
    absent = shapes.keys() - made.keys()
    zeros = {name for name in absent if name.endswith(".bias") or not ours[name].is_floating_point()}
    refuse("of ours that nothing fills", sorted(absent - zeros))
    return made | {name: torch.zeros(shapes[name], dtype=ours[name].dtype) for name in zeros}


def refuse(what: str, names: list[str]) -> None:
    """Raises ValueError naming them, where there are any."""
    if names:
        rest = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
        raise ValueError(f"{len(names)} tensors {what}: {', '.join(names[:NAMED])}{rest}")

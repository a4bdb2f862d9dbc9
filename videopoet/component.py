"""Shipped parts: one safetensors file holds the weights and, in its metadata, the class and arguments that rebuild it."""

import hashlib
import importlib
import json
import os
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import get_args, get_origin, get_type_hints

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

BUILDABLE = ("videopoet.tokenizers.", "videopoet.models.", "videopoet.tasks.", "videopoet.conditions.")
FORMAT = "videopoet-component-1"
SCALE = ".int8_scale"  # suffix of the tensor beside one stored in 8 bits


def instantiate(spec, buildable: tuple[str, ...] = BUILDABLE):
    """Rebuild `{"class_path": ..., "init_args": {...}}`, nested to any depth. Only parts of models are built by default."""
    if isinstance(spec, list):
        return [instantiate(item, buildable) for item in spec]
    if not isinstance(spec, dict):
        return spec
    if "class_path" not in spec:
        return {name: instantiate(value, buildable) for name, value in spec.items()}
    module, _, name = spec["class_path"].rpartition(".")
    if not spec["class_path"].startswith(buildable):
        raise ValueError(f"{spec['class_path']} is not in {', '.join(buildable)}: refusing to build it from a file")
    arguments = {name: instantiate(value, buildable) for name, value in (spec.get("init_args") or {}).items()}
    try:
        cls = getattr(importlib.import_module(module), name)
        assert isinstance(cls, type)
        return cls(**{name: _as_annotated(cls, name, value) for name, value in arguments.items()})
    except (ImportError, AttributeError, AssertionError, TypeError) as error:
        raise ValueError(f"{spec['class_path']} cannot be built as the file says ({error})") from None


def _as_annotated(cls: type, name: str, value):
    """A plain dict becomes the dataclass that `cls` declares for `name`: the command line writes those without a class."""
    if not isinstance(value, dict):
        return value
    hint = get_type_hints(cls.__init__).get(name)
    if get_origin(hint) is dict:  # a mapping of names to values is what it is
        return value
    declared = next((kind for kind in (hint, *get_args(hint)) if isinstance(kind, type) and is_dataclass(kind)), None)
    return value if declared is None else declared(**value)


def spec_of(value):
    """Inverse of `instantiate` for frozen dataclasses of plain values and of each other."""
    if is_dataclass(value):
        cls = type(value)
        arguments = {field.name: spec_of(getattr(value, field.name)) for field in fields(value) if field.init}
        return {"class_path": f"{cls.__module__}.{cls.__qualname__}", "init_args": arguments}
    return value


def save(
    path: str | Path,
    spec: dict,
    state: dict[str, Tensor],
    metadata: dict | None = None,
    *,
    half: bool = True,
    int8: str | None = None,
) -> None:
    """Write a component whole or not at all.

    metadata: JSON-able facts that travel along (a layout, the fingerprints of tokenizers, training steps).
    half: store floating-point weights as float16.
    int8: store the matrices and kernels whose name starts so in 8 bits, with a scale per output channel.
    """
    floats = {name: tensor for name, tensor in state.items() if tensor.is_floating_point()}
    stored = dict.fromkeys(floats, torch.float16 if half else torch.float32)
    if int8 is not None:
        stored |= {name: torch.int8 for name, tensor in floats.items() if name.startswith(int8) and tensor.ndim > 1}
    _write(Path(path), spec, state, metadata or {}, stored)


def save_again(path: str | Path, module: nn.Module) -> None:
    """Write a component that `load` made with the weights it has now, each stored as it was in the file it came from.

    Unchanged weights give a file of the same fingerprint. Raises ValueError for a module that was not loaded.
    """
    if not hasattr(module, "stored"):
        raise ValueError(f"this {type(module).__name__} does not come from a file: write it by 'videopoet export'")
    # Only what the file held: a class may since have learnt to say more of itself, by which it would have another name.
    state = {name: tensor for name, tensor in module.state_dict().items() if name in module.stored}
    _write(Path(path), module.spec, state | _renamed(module), module.metadata, module.stored)


def _renamed(module: nn.Module) -> dict[str, Tensor]:
    """The weights that a class reads from its file under names it has no more: as the file has them, for the fingerprint.

    Raises ValueError where they were trained since, as they cannot be named back.
    """
    _, state = _read(module.file)
    renamed = {name: tensor for name, tensor in state.items() if name not in module.state_dict()}
    if renamed:
        before = load(module.file).state_dict()
        changed = [
            n for n, t in module.state_dict().items() if n not in module.stored and not torch.equal(t.cpu(), before[n])
        ]
        if changed:
            raise ValueError(f"{changed[0]} was trained since and {module.file} has it under an old name: export it")
    return renamed


def _write(path: Path, spec: dict, state: dict[str, Tensor], metadata: dict, stored: dict[str, torch.dtype]) -> None:
    """stored: the dtype of each floating-point weight in the file; of others it does not matter."""
    path.parent.mkdir(parents=True, exist_ok=True)
    tensors = {}
    for name, tensor in state.items():
        if stored.get(name) is torch.int8:
            tensors[name], tensors[name + SCALE] = _to_int8(tensor)
        else:
            tensors[name] = tensor.to(stored[name]) if tensor.is_floating_point() else tensor
    tensors = {name: tensor.contiguous().cpu() for name, tensor in tensors.items()}
    header = {"format": FORMAT, "spec": json.dumps(spec), "metadata": json.dumps(metadata)}
    part = path.with_name(path.name + ".part")
    try:
        save_file(tensors, part, metadata=header)
        os.umask(mask := os.umask(0o022))
        part.chmod(0o666 & ~mask)  # as any file, where safetensors keeps it to its writer
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


def _to_int8(weight: Tensor) -> tuple[Tensor, Tensor]:
    """float (o, ...) -> int8 (o, ...), scales float32 (o, 1, ...): weight = int8 * scale to within half a step."""
    scale = weight.float().abs().amax(dim=tuple(range(1, weight.ndim)), keepdim=True).clamp_min(1e-12) / 127
    return (weight / scale).round().to(torch.int8), scale


def load(path: str | Path, expect: type[nn.Module] | None = None) -> nn.Module:
    """Rebuild a component in fp32, in eval mode, with `.metadata`, `.fingerprint`, `.spec` and `.stored` set.

    `stored` and `file`: the dtype of each of its weights in the file, and which file that is, for `save_again`.
    Raises ValueError where the file is missing, is no component, is of another class than expected, or does not fit.
    """
    header, state = _read(path)
    module = instantiate(json.loads(header["spec"]))
    if expect is not None and not isinstance(module, expect):
        raise ValueError(f"{path} holds {type(module).__name__}, {expect.__name__} is needed")
    fit(module, state, str(path))
    module.metadata, module.fingerprint = json.loads(header["metadata"]), fingerprint(header["spec"], state)
    module.spec, module.stored, module.file = json.loads(header["spec"]), _stored(path), Path(path).absolute()
    return module.eval()


def load_into(module: nn.Module, path: str | Path) -> dict:
    """Start a module from a shipped component's weights; returns its metadata. Raises ValueError on a misfit."""
    header, state = _read(path)
    fit(module, state, str(path))
    return json.loads(header["metadata"])


def read_fingerprint(path: str | Path) -> str:
    """The fingerprint of a shipped component, without building it."""
    header, state = _read(path)
    return fingerprint(header["spec"], state)


def _read(path: str | Path) -> tuple[dict[str, str], dict[str, Tensor]]:
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"no checkpoint at {path}")
    try:
        with safe_open(path, "pt") as file:
            header = file.metadata() or {}
            stored = {name: file.get_tensor(name) for name in file.keys()}
    except SafetensorError as error:
        raise ValueError(f"{path} is not a safetensors file: {error}") from None
    if header.get("format") != FORMAT or not {"spec", "metadata"} <= set(header):
        raise ValueError(
            f"{path} has format {header.get('format')!r}, expected {FORMAT!r}: write it by 'videopoet export'"
        )
    scales = {name: stored.pop(name + SCALE) for name in list(stored) if name + SCALE in stored}
    return header, {name: t * scales[name] if name in scales else t for name, t in stored.items()}


def _stored(path: str | Path) -> dict[str, torch.dtype]:
    """The dtype of each weight in a file."""
    with safe_open(path, "pt") as file:
        return {name: file.get_tensor(name).dtype for name in file.keys() if not name.endswith(SCALE)}


def fit(module: nn.Module, state: dict[str, Tensor], name: str) -> None:
    """Load weights strictly; raises one-line ValueError naming the first misfit."""
    try:
        module.load_state_dict({k: v.float() if v.is_floating_point() else v for k, v in state.items()})
    except RuntimeError as error:
        cause = next((line.strip() for line in str(error).splitlines()[1:]), str(error))
        raise ValueError(f"{name} does not fit the configured {type(module).__name__}: {cause}") from None


def fingerprint(spec: str, state: dict[str, Tensor]) -> str:
    """16 hex digits that change with whatever determines a tokenizer's codes: class, arguments and weights.

    A decoder is left out: it may be trained further without making tokens, or models of them, stale.
    """
    parts = json.loads(spec)
    parts["init_args"] = {name: value for name, value in (parts.get("init_args") or {}).items() if name != "decoder"}
    digest = hashlib.sha256(json.dumps(parts, sort_keys=True).encode())
    for name in sorted(name for name in state if not name.startswith("decoder.")):
        tensor = state[name].detach().contiguous().cpu()
        digest.update(f"{name}{tensor.dtype}{tuple(tensor.shape)}".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:16]

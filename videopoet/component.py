"""Shipped parts: one safetensors file holds the weights and, in its metadata, the class and arguments that rebuild it."""

import hashlib
import importlib
import json
import os
from dataclasses import fields, is_dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

BUILDABLE = ("videopoet.tokenizers.", "videopoet.models.", "videopoet.tasks.", "videopoet.conditions.")
FORMAT = "videopoet-component-1"
SCALE = ".int8_scale"  # suffix of the tensor beside one stored in 8 bits


def instantiate(spec):
    """Rebuild `{"class_path": ..., "init_args": {...}}`, nested to any depth. Only parts of models are built."""
    if isinstance(spec, list):
        return [instantiate(item) for item in spec]
    if not isinstance(spec, dict):
        return spec
    if "class_path" not in spec:
        return {name: instantiate(value) for name, value in spec.items()}
    module, _, name = spec["class_path"].rpartition(".")
    if not spec["class_path"].startswith(BUILDABLE):
        raise ValueError(f"{spec['class_path']} is not a part of a model: refusing to build it from a file")
    arguments = {name: instantiate(value) for name, value in (spec.get("init_args") or {}).items()}
    try:
        cls = getattr(importlib.import_module(module), name)
        assert isinstance(cls, type)
        return cls(**arguments)
    except (ImportError, AttributeError, AssertionError, TypeError) as error:
        raise ValueError(f"{spec['class_path']} cannot be built as the file says ({error})") from None


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
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    tensors = {}
    for name, tensor in state.items():
        if int8 is not None and name.startswith(int8) and tensor.is_floating_point() and tensor.ndim > 1:
            tensors[name], tensors[name + SCALE] = _to_int8(tensor)
        else:
            tensors[name] = tensor.half() if half and tensor.is_floating_point() else tensor
    tensors = {name: tensor.contiguous().cpu() for name, tensor in tensors.items()}
    header = {"format": FORMAT, "spec": json.dumps(spec), "metadata": json.dumps(metadata or {})}
    part = path.with_name(path.name + ".part")
    try:
        save_file(tensors, part, metadata=header)
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


def _to_int8(weight: Tensor) -> tuple[Tensor, Tensor]:
    """float (o, ...) -> int8 (o, ...), scales float32 (o, 1, ...): weight = int8 * scale to within half a step."""
    scale = weight.float().abs().amax(dim=tuple(range(1, weight.ndim)), keepdim=True).clamp_min(1e-12) / 127
    return (weight / scale).round().to(torch.int8), scale


def load(path: str | Path, expect: type[nn.Module] | None = None) -> nn.Module:
    """Rebuild a component in fp32, in eval mode, with `.metadata` and `.fingerprint` set.

    Raises ValueError where the file is missing, is no component, is of another class than expected, or does not fit.
    """
    header, state = _read(path)
    module = instantiate(json.loads(header["spec"]))
    if expect is not None and not isinstance(module, expect):
        raise ValueError(f"{path} holds {type(module).__name__}, {expect.__name__} is needed")
    fit(module, state, str(path))
    module.metadata, module.fingerprint = json.loads(header["metadata"]), fingerprint(header["spec"], state)
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

"""A protocol: which videos, which prompts, what the model makes of them, and how that is measured, as one value.

    protocol = read_protocol("msrvtt")          # configs/evaluation/msrvtt.yaml
    protocol.hash                                # 16 hex digits of every knob: equal hashes, the same measurement

Everything that moves a published number (dossiers of failed reproductions are full of it) is a field: captions, frames,
frame rate, offset, resize, storage, counts, repeats, seeds, networks and what of them is read. What a run adds (weights,
seed of the samples, data that lacked files) stands in its report.
"""

import difflib
import hashlib
import json
from abc import ABC, abstractmethod
from dataclasses import dataclass, field, fields, is_dataclass
from inspect import signature
from pathlib import Path
from typing import Any

import yaml

from videopoet import component
from videopoet.evaluation.detectors.base import BUILDABLE, Detector, build_detector
from videopoet.evaluation.plans import Given, Plan, TextAlone
from videopoet.evaluation.shelf import names
from videopoet.evaluation.views import Source


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One video of a dataset, or one class where the dataset is of names alone."""

    key: str
    path: Path | None
    captions: tuple[str, ...] = ()
    label: str = ""


@dataclass(frozen=True, kw_only=True)
class Contents:
    """What a dataset's folder held. `sources`: sha256 of the annotation files; `facts`: what else a report should say."""

    entries: tuple[Entry, ...]
    missing: tuple[str, ...] = ()
    sources: dict[str, str] = field(default_factory=dict)
    facts: dict[str, Any] = field(default_factory=dict)
    complaints: tuple[str, ...] = ()  # counts that are not what the protocol says


class Dataset(ABC):
    """Reads a folder as its publisher laid it out."""

    @abstractmethod
    def read(self, folder: Path) -> Contents:
        """Raises ValueError where the annotations are not there or are not what they should be."""


@dataclass(frozen=True, kw_only=True)
class Network:
    """A detector without its weights: `detector` is a class of `videopoet.evaluation.detectors`.

    expects: the name that the published numbers are of; another name is measured, and compared with none of them.
    optional: where no weights are given, what needs it is left out, and the report says so.
    """

    detector: str
    arguments: dict[str, Any] = field(default_factory=dict)
    expects: str = ""
    optional: bool = False

    def build(self, weights: str | None) -> Detector:
        """weights: what `--weights` named: a file, a folder or a hub name; None where nothing was named."""
        spec = {"class_path": self.detector, "init_args": dict(self.arguments)}
        if weights is not None:
            cls = component_class(self.detector)
            names = [name for name in ("weights", "source", "folder") if name in signature(cls).parameters]
            if not names:
                raise ValueError(f"{cls.__name__} takes no weights, {weights} was named")
            spec["init_args"][names[0]] = weights
        return build_detector(spec)


def component_class(path: str) -> type:
    """The class at a path of the detectors, without making one."""
    import importlib

    module, _, name = path.rpartition(".")
    if not path.startswith(BUILDABLE):
        raise ValueError(f"{path} is not in {', '.join(BUILDABLE)}: refusing to build it from a file")
    try:
        return getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise ValueError(f"no detector {path} ({error})") from None


@dataclass(frozen=True, kw_only=True)
class Protocol:
    """The knobs. `task`: a task's name, a task, "reconstruct" (tokenizers) or "compare" (given samples alone).

    source: the clip of each video that counts as real, and of which the model is given `given`.
    networks: by role; measures name roles.
    """

    title: str
    dataset: Dataset
    plan: Plan
    task: Any
    measures: tuple
    source: Source = Source()
    given: Given = TextAlone()
    networks: dict[str, Network] = field(default_factory=dict)
    name: str = field(default="", compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "measures", tuple(self.measures))
        unknown = sorted({r for m in self.measures for r in m.roles} - set(self.networks))
        if unknown:
            raise ValueError(f"{self.title}: measures name the networks {', '.join(unknown)}, there are "
                             f"{', '.join(self.networks) or 'none'}")  # fmt: skip

    def spec(self) -> dict:
        """Every knob as plain values, less title and name."""
        return {name: value for name, value in plain(self)["init_args"].items() if name not in ("title", "name")}

    @property
    def hash(self) -> str:
        return digest(self.spec())


def plain(value: Any) -> Any:
    """Frozen values -> JSON: dataclasses as class_path and init_args, at any depth."""
    if is_dataclass(value) and not isinstance(value, type):
        cls = type(value)
        arguments = {f.name: plain(getattr(value, f.name)) for f in fields(value) if f.init}
        return {"class_path": f"{cls.__module__}.{cls.__qualname__}", "init_args": arguments}
    if isinstance(value, dict):
        return {str(name): plain(item) for name, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    return str(value) if isinstance(value, Path) else value


def digest(value: Any) -> str:
    """16 hex digits of plain values."""
    return hashlib.sha256(json.dumps(plain(value), sort_keys=True).encode()).hexdigest()[:16]


def read_protocol(name: str | Path) -> Protocol:
    """A protocol by its name, or from a YAML file. Raises ValueError, naming the nearest, for what is not there."""
    known, path = names(), Path(name)
    path = known.get(str(name), path)
    if not path.is_file():
        near = difflib.get_close_matches(str(name), known, 1)
        hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(known)}"
        raise ValueError(f"no protocol '{name}': {hint}")
    try:
        spec = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is not YAML ({' '.join(str(error).split())})") from None
    if not isinstance(spec, dict) or "class_path" not in spec:
        raise ValueError(f"{path} names no class_path: a protocol is videopoet.evaluation.protocol.Protocol")
    made = component.instantiate(spec, (*BUILDABLE, "videopoet.tasks.", "videopoet.conditions."))
    if not isinstance(made, Protocol):
        raise ValueError(f"{path}: {spec['class_path']} is no protocol")
    object.__setattr__(made, "name", path.stem)
    return made

"""Filters and shot detectors by name on the command line, or by class_path in YAML."""

import importlib
from pathlib import Path
from typing import Any

import jsonargparse
import yaml

from videopoet.data import filters, shots
from videopoet.data.filters import Filter
from videopoet.data.shots import ShotDetector


def filters_of(words: list[str]) -> tuple[Filter, ...]:
    """`MinSide:pixels=240`, `UniqueKey`, or YAML files of lists of `class_path` and `init_args`, in the order given.

    Raises ValueError for a name, an argument or a file that cannot be used.
    """
    return tuple(_built(spec, Filter, word) for word in words for spec in _specs(word, filters))


def shots_of(word: str | None) -> ShotDetector | None:
    """The same for one detector: `FrameDifference:least=20`, or a YAML file of one `class_path` and `init_args`."""
    if word is None:
        return None
    specs = _specs(word, shots)
    if len(specs) != 1:
        raise ValueError(f"{word}: {len(specs)} detectors of shots, one is needed")
    return _built(specs[0], ShotDetector, word)


def known(module: Any, base: type) -> list[str]:
    """Names of the classes of a module that can be asked for."""
    return [name for name, value in vars(module).items()
            if isinstance(value, type) and issubclass(value, base) and not value.__abstractmethods__
            and value.__module__ == module.__name__ and hasattr(value, "__dataclass_fields__")]  # fmt: skip


def _specs(word: str, module: Any) -> list[dict]:
    if not word.endswith((".yaml", ".yml")):
        name, _, rest = word.partition(":")
        pairs = [pair.partition("=") for pair in rest.split(",") if pair]
        return [{"class_path": name if "." in name else f"{module.__name__}.{name}",
                 "init_args": {field: yaml.safe_load(value) for field, _, value in pairs}}]  # fmt: skip
    path = Path(word)
    if not path.is_file():
        raise ValueError(f"no file at {path}")
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise ValueError(f"{path} is not YAML: {' '.join(str(error).split())}") from None
    specs = content if isinstance(content, list) else [content]
    if not all(isinstance(spec, dict) and "class_path" in spec for spec in specs):
        raise ValueError(f"{path}: needs a list of class_path and init_args")
    return specs


def _built(spec: dict, base: type, word: str) -> Any:
    module, _, name = spec["class_path"].rpartition(".")
    try:
        found = getattr(importlib.import_module(module), name, None)
    except ImportError as error:
        raise ValueError(f"{word}: {error}") from None
    if not (isinstance(found, type) and issubclass(found, base)):
        home = filters if base is Filter else shots
        raise ValueError(f"{word}: no {base.__name__} {name}; there are {', '.join(known(home, base))}, and classes of "
                         "your own by class_path in a YAML file")  # fmt: skip
    parser = jsonargparse.ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(found, "step")
    try:
        parsed = parser.parse_object({"step": spec.get("init_args") or {}})
        return parser.instantiate_classes(parsed).step
    except (jsonargparse.ArgumentError, ValueError, TypeError) as error:
        raise ValueError(f"{word}: {' '.join(str(error).split())}") from None

"""Rules that name the class of a sample, or leave it out: for classifiers, tasks that read a class, and `Share.only`."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any


class Label(ABC):
    """Says the class of a sample by what its shard says about it; both kinds of shards carry that along."""

    @abstractmethod
    def __call__(self, source: dict[str, Any]) -> str | None:
        """`source` of a sample's JSON -> name of its class; None to leave the sample out."""


@dataclass(frozen=True, kw_only=True)
class FolderLabel(Label):
    """The top folder of the file a clip was cut from: `running/a/1.mp4` -> "running". Files outside folders are left out.

    Build the shards from a folder that holds one folder per class.
    """

    def __call__(self, source: dict[str, Any]) -> str | None:
        parts = PurePosixPath(source.get("file", "")).parts
        return parts[0] if len(parts) > 1 else None


@dataclass(frozen=True, kw_only=True)
class FieldLabel(Label):
    """What a sidecar or a listing says under a name, as `tools/prepare_*.py` write "label"; nothing said leaves it out."""

    field: str = "label"

    def __call__(self, source: dict[str, Any]) -> str | None:
        return str(source.get(self.field) or "") or None


@dataclass(frozen=True, kw_only=True)
class BounceLabel(Label):
    """What the one object of a scene of the built-in world does ("motion") or is; scenes with two are left out.

    attribute: motion (still, drift, fall, bounce), shape, colour or size.
    """

    attribute: str = "motion"

    def __post_init__(self) -> None:
        if self.attribute not in ("motion", "shape", "colour", "size"):
            raise ValueError(f"no attribute '{self.attribute}' of an object: take motion, shape, colour or size")

    def __call__(self, source: dict[str, Any]) -> str | None:
        objects = source.get("bounce", {}).get("objects", ())
        if len(objects) != 1:
            return None
        value = objects[0][self.attribute]
        return value["kind"] if self.attribute == "motion" else value


@dataclass(frozen=True, kw_only=True)
class Struck(Label):
    """Scenes of the built-in world in which something strikes; the others are silent, and left out."""

    def __call__(self, source: dict[str, Any]) -> str | None:
        return "struck" if source.get("bounce", {}).get("impacts") else None

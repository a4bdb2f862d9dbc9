"""What a condition is made of, and what every condition is."""

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import Any

import numpy as np


@dataclass(frozen=True, kw_only=True)
class Shot:
    """video: uint8 (t, h, w, 3). fps: frames per second. source: what is known about the clip, as its shard holds it."""

    video: np.ndarray
    fps: float
    source: dict[str, Any] = field(default_factory=dict)


class NotKnown(ValueError):
    """This shot does not have what the condition needs; `videopoet tokenize` leaves its stream out."""


class Condition(ABC):
    """Frozen dataclasses whose fields are plain values or such dataclasses, so that JSON can hold them."""

    @abstractmethod
    def __call__(self, shot: Shot) -> np.ndarray:
        """The clip that is to be tokenised, uint8 (t, h, w, 3). Raises NotKnown where it cannot be made of this shot."""

    def shows(self, t: int, h: int, w: int) -> np.ndarray:
        """bool (t, h, w), true where the condition shows the shot's own pixels, which a sample therefore keeps."""
        return np.zeros((t, h, w), dtype=bool)

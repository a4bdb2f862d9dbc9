"""Token shards that are not there: samples of code 0 in a layout, to look at a mixture without data."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np

from videopoet.data.schedule import Share
from videopoet.tasks.base import OWN, Layout


class BlankShards:
    """What `Mixture` asks of a `ShardReader`, with every stream that the tasks need and one caption of the built-in world."""

    folder = "blank examples"

    def __init__(self, layout: Layout, shares: dict[str, Share]):
        needed = (name for share in shares.values() for name in share.task.needs(layout))
        self.layout, self.streams = layout, [name for name in dict.fromkeys(needed) if name not in OWN]
        self.manifest = SimpleNamespace(streams={name: {} for name in self.streams})

    def __len__(self) -> int:
        return 1

    def has(self, field: str) -> np.ndarray:
        """All of them have it."""
        return np.ones(1, bool)

    def expect(self, indices) -> None:
        """Nothing is read."""

    def sources(self) -> list[tuple[int, dict]]:
        """Number and `source` of every sample."""
        return [(0, self.read(0)["json"]["source"])]

    def read(self, index: int, fields: tuple[str, ...] | None = None, needs: tuple[str, ...] = ()) -> dict:
        grid = np.zeros(self.layout.lattice, np.int64)
        sound = np.zeros((self.layout.audio_frames, self.layout.vocabulary.audio_levels), np.int64)
        said = {"captions": [CAPTION], "source": {"file": "class/file", "bounce": {"objects": [BLANK]}}}
        record = {"__key__": "blank", "json": said, "visual": grid, **dict.fromkeys(self.streams, grid)}
        return record | ({"audio": sound} if self.layout.audio_frames else {})


def of_any_sample(shares: dict[str, Share]) -> dict[str, Share]:
    """The same tasks without `only`: of a blank example nothing is said."""
    return {name: replace(share, only=None) for name, share in shares.items()}


CAPTION = "a small red circle falls and rebounds on a plain dark background"
BLANK = {"motion": {"kind": ""}, "shape": "", "colour": "", "size": ""}  # a body of the built-in world, unnamed

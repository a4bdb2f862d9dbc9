"""What was not taken into a folder of shards, and why: one line each in `rejected.jsonl`, counted by kind."""

import json
import os
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

REJECTED = "rejected.jsonl"


@dataclass(frozen=True, kw_only=True)
class Rejection:
    """A file that gave no clips, or not all of its clips; with `second`, the one clip or shot that begins there."""

    file: str  # relative to the folder
    kind: str  # "unreadable", "damaged", "too short", "captions", "missing", or a filter's: what the manifest counts
    reason: str
    second: float | None = None  # in the file

    def record(self) -> dict[str, Any]:
        """The fields that say something."""
        return {name: value for name, value in asdict(self).items() if value is not None}


def write_rejected(path: str | os.PathLike, rejections: Iterable[Rejection]) -> Counter[str]:
    """Write them one JSON object a line; returns how many there are of each kind."""
    kinds: Counter[str] = Counter()
    with Path(path).open("w", encoding="utf-8") as file:
        for rejection in rejections:
            kinds[rejection.kind] += 1
            file.write(json.dumps(rejection.record(), ensure_ascii=False) + "\n")
    return kinds


def read_rejected(folder: str | os.PathLike) -> Iterator[Rejection]:
    """The rejections of a shard folder, one after the other; none where it says nothing of them."""
    path = Path(folder) / REJECTED
    if path.is_file():
        with path.open(encoding="utf-8") as file:
            for line in file:
                yield Rejection(**json.loads(line))

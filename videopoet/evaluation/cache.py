"""Features that were computed once, by what they were computed of: the network, the rule of frames, and the bytes.

A folder of small safetensors files, each written whole. Any number of processes add to it, none changes what is there; a
killed run loses the block it was at. Equal keys hold equal features, so blocks of two processes never disagree.
"""

import hashlib
import json
import os
from collections.abc import Iterable
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

FORMAT = "videopoet-features-1"


class FeatureCache:
    """`cache[key]` is float32 (rows, d); keys are hex digests. `refresh` sees what other processes added."""

    def __init__(self, folder: Path):
        self.folder = Path(folder)
        self.folder.mkdir(parents=True, exist_ok=True)
        self._places: dict[str, tuple[Path, int, int]] = {}
        self._read: set[str] = set()
        self._open: tuple[Path, Tensor] | None = None
        self.refresh()

    def __contains__(self, key: str) -> bool:
        return key in self._places

    def __getitem__(self, key: str) -> Tensor:
        path, start, rows = self._places[key]
        if self._open is None or self._open[0] != path:
            with safe_open(path, "pt") as file:
                self._open = (path, file.get_tensor("features"))
        return self._open[1][start : start + rows].clone()

    def refresh(self) -> None:
        for path in sorted(self.folder.glob("*.safetensors")):
            if path.name not in self._read:
                self._read.add(path.name)
                self._index(path)

    def _index(self, path: Path) -> None:
        try:
            with safe_open(path, "pt") as file:
                header = file.metadata() or {}
        except (SafetensorError, OSError) as error:
            raise ValueError(f"{path} is damaged ({error}): delete it, its features are computed again") from None
        if header.get("format") != FORMAT:
            raise ValueError(f"{path} has format {header.get('format')!r}, expected {FORMAT!r}: name another --work")
        start = 0
        for key, rows in json.loads(header["entries"]):
            self._places.setdefault(key, (path, start, rows))
            start += rows

    def add(self, features: Iterable[tuple[str, Tensor]]) -> None:
        """Write features (rows, d) by key as one block."""
        features = [(key, rows.detach().float().cpu()) for key, rows in features if key not in self]
        if not features:
            return
        entries = [[key, len(rows)] for key, rows in features]
        name = hashlib.sha256(json.dumps(entries).encode()).hexdigest()[:24]
        path = self.folder / f"{name}.safetensors"
        part = path.with_name(f".{name}.{os.getpid()}.part")
        try:
            save_file({"features": torch.cat([rows for _, rows in features]).contiguous()}, part,
                      metadata={"format": FORMAT, "entries": json.dumps(entries)})  # fmt: skip
            os.replace(part, path)
        finally:
            part.unlink(missing_ok=True)
        self._read.add(path.name)
        self._index(path)

"""Shards read from end to end by WebDataset, for stores that are too slow to seek in: order and resume are statistical."""

import json
import os
import warnings
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch.utils.data import get_worker_info

from videopoet.data.faults import ShardFault
from videopoet.data.index import npy_header
from videopoet.data.patience import REMEDY
from videopoet.data.remote import Storage
from videopoet.data.schema import Shard
from videopoet.data.shards import ShardReader

SAID = (
    "streaming: resuming is statistical. Shards are drawn with replacement and mixed in a buffer; a resumed run goes on "
    "with the right task and step, but may train again on samples that it had, and leave out others"
)
PASSED_OVER = 10_000  # samples that lack what is needed, one after the other, before that is an error


@dataclass(frozen=True, kw_only=True)
class Streaming:
    """Read the tars of a folder or URL from end to end and mix samples in a buffer of so many."""

    buffer: int = 1000


class StreamReader(ShardReader):
    """A reader whose `read` gives the next sample of a stream, whichever was asked for.

    Each rank and each worker process streams shards of its own, drawn with replacement from (seed, rank, first step, worker).
    Samples that lack what is needed are passed over; what cannot be read is a ShardFault, and the stream goes on after it.
    There are no checksums of members in a stream. It says at once that its resume is statistical.
    """

    def __init__(self, folder: str | os.PathLike, kind: str, *, streaming: Streaming, rank: int = 0,
                 storage: Storage | None = None):  # fmt: skip
        super().__init__(folder, kind, tolerant=True, storage=storage)
        if not len(self):
            raise ValueError(f"{folder}: holds no samples")
        self.streaming, self.rank = streaming, rank
        self.begin(0, 0)
        warnings.warn(SAID, stacklevel=2)

    def begin(self, seed: int, start: int) -> None:
        """Begin another stream: `start` is the step that a run begins or goes on with."""
        self._from = (seed, self.rank, start)
        self._stream: tuple[int, Iterator[dict]] | None = None  # process it belongs to, samples
        self._failed: list[ShardFault] = []

    def read(self, index: int, fields: tuple[str, ...] | None = None, needs: tuple[str, ...] = ()) -> dict[str, Any]:
        """The next sample that has `needs`."""
        if self._stream is None or self._stream[0] != os.getpid():
            self._stream, self._failed = (os.getpid(), self._samples()), []
        for _ in range(PASSED_OVER):
            try:
                sample = next(self._stream[1])
            except ShardFault:
                self._stream = None  # begin anew
                raise
            if self._failed:
                raise self._failed.pop()
            names = {name.removesuffix(".npy"): name for name in sample if not name.startswith("__")}
            if set(needs) <= names.keys():
                kept = {field: name for field, name in names.items() if fields is None or field in fields}
                decoded = {field: self._read(sample, name) for field, name in kept.items()}
                return {"__key__": sample["__key__"]} | decoded
        url = sample["__url__"]
        said = f"{url}: none of {PASSED_OVER} samples has {' and '.join(needs)}"
        raise ShardFault(said, shard=url, reason="missing member")

    def expect(self, indices: Iterable[int]) -> None:
        """A stream comes as it comes."""

    def has(self, field: str) -> np.ndarray:
        """All of them, for all that is known before they pass."""
        return np.ones(len(self), bool)

    def sources(self) -> Iterator[tuple[int, dict[str, Any]]]:
        raise ValueError(
            "a stream knows no labels before its samples pass: leave out `streaming`, or tasks with a label or `only`"
        )

    def where(self, index: int) -> str:
        return f"{self.folder}, streamed"

    def fault(self, index: int, message: str) -> None:
        raise ShardFault(message, shard=str(self.folder), reason="unlike the manifest")

    def __getstate__(self) -> dict[str, Any]:
        return super().__getstate__() | {"_stream": None}

    def _samples(self) -> Iterator[dict]:
        """Raw samples of ever more shards, mixed."""
        from webdataset.filters import shuffle

        info = get_worker_info()
        rng = np.random.default_rng((*self._from, 0 if info is None else info.id))

        def drawn() -> Iterator[dict]:
            in_vain = 0  # shards without a sample, one after the other
            while True:
                found = 0
                for sample in self._shard(self.manifest.shards[int(rng.integers(len(self.manifest.shards)))]):
                    found += 1
                    yield sample
                in_vain = 0 if found else in_vain + 1
                if in_vain > 2 * len(self.manifest.shards) + 8 and self._failed:
                    raise self._failed[-1]

        buffer = self.streaming.buffer
        return iter(shuffle(buffer, initial=buffer, seed=int(rng.integers(2**62)))(drawn()))

    def _shard(self, shard: Shard) -> Iterator[dict]:
        """Raw samples of one shard. WebDataset gives what it has of a sample when a tar ends too soon, or mixes it with the
        next shard's: shards are read one by one, and the last sample before a fault is left out."""
        from webdataset.tariterators import group_by_keys, tar_file_expander

        failed: list[Exception] = []

        def noted(error: Exception) -> bool:
            failed.append(error)
            return True

        try:
            source = {"url": self._files.where(shard.name), "stream": self._files.stream(shard.name)}
        except ShardFault as fault:
            self._failed.append(fault)
            return
        with source["stream"]:
            last = None
            for sample in group_by_keys(tar_file_expander(iter([source]), handler=noted), handler=noted):
                if last is not None:
                    yield last
                last = sample
        if failed:
            self._failed.append(self._as_fault(source["url"], failed[0]))
        elif last is not None:
            yield last

    def _as_fault(self, url: str, error: Exception) -> ShardFault:
        said = error.args[0] if error.args else error  # WebDataset adds the stream and its URL
        reason = "truncated" if "unexpected end" in str(said) else "damaged"
        return ShardFault(f"{url}: {said}; {REMEDY}", shard=url, reason=reason)

    def _read(self, sample: dict, name: str) -> np.ndarray | dict:
        content = np.frombuffer(bytearray(sample[name]), np.uint8)
        try:
            if name.endswith(".npy"):
                dtype, shape, fortran, start = npy_header(content)
                return content[start:].view(dtype).reshape(shape, order="F" if fortran else "C")
            return json.loads(sample[name])
        except ValueError as error:
            url = sample["__url__"]
            said = f"{url}: member {sample['__key__']}.{name} is damaged ({error})"
            raise ShardFault(said, shard=url, reason="damaged") from error

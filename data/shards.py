"""Shards: plain WebDataset tars beside a manifest, written whole or not at all, read by seek."""

import bisect
import hashlib
import io
import itertools
import json
import os
import shutil
import tarfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self

import numpy as np

from videopoet.data.schema import MANIFEST, Manifest, Shard, read_manifest

MAX_OPEN = 64  # shards a reader keeps open
Record = Mapping[str, np.ndarray | dict[str, Any]]


class ShardWriter:
    """Writes samples into `prefix-000000.tar`, `prefix-000001.tar` ... and `manifest.json`.

    An array field `video` of sample `key` becomes the member `key.video.npy`; the field `json` (a dict) becomes
    `key.json`. Everything is written to a hidden folder beside `folder`, which takes its name in one step at `finish`;
    leaving the `with` block any other way removes it, so a shard folder is whole or absent.

        with ShardWriter("shards/train", prefix="clips") as writer:
            writer.write("000000_0000", {"video": video, "json": {"captions": ["a red ball"]}})
            writer.finish(MediaManifest(fps=8, frames=17, height=64, width=64, sample_rate=16000))

    Raises ValueError if the folder is in use; with `overwrite` a shard folder is replaced, any other folder never.
    """

    def __init__(
        self,
        folder: str | os.PathLike,
        prefix: str = "shard",
        max_samples: int = 512,
        max_bytes: int = 1 << 30,
        overwrite: bool = False,
    ):
        self._folder = Path(folder)
        self._prefix = prefix
        self._max_samples = max_samples
        self._max_bytes = max_bytes
        self._keys: set[str] = set()
        self._shards: list[Shard] = []
        self._tar: tarfile.TarFile | None = None
        self._samples_in_tar = 0
        self._finished = False
        if self._folder.exists() and (not self._folder.is_dir() or any(self._folder.iterdir())):
            if not (self._folder / MANIFEST).is_file():
                raise ValueError(f"{folder}: exists and is not a shard folder; choose another name")
            if not overwrite:
                raise ValueError(f"{folder}: already holds shards; choose another folder or pass overwrite")
        self._staging = self._folder.with_name(f".{self._folder.name}.{os.getpid()}.part")

    def __enter__(self) -> Self:
        self._staging.mkdir(parents=True)
        return self

    def __exit__(self, *exception: object) -> None:
        if self._tar is not None:
            self._tar.close()
        shutil.rmtree(self._staging, ignore_errors=True)
        assert self._finished or exception[0] is not None, "ShardWriter left without finish(manifest)"

    def write(self, key: str, record: Record) -> None:
        """Append one sample; ValueError if the key was used before or would not survive as a WebDataset key."""
        if not key or not key.isascii() or not key.replace("_", "").replace("-", "").isalnum():
            raise ValueError(f"sample key {key!r} must be letters, digits, '_' and '-' only")
        if key in self._keys:
            raise ValueError(f"sample key {key!r} is used twice")
        self._keys.add(key)
        members = [(_member_name(key, name), _to_bytes(key, name, value)) for name, value in record.items()]
        if self._tar is None:
            name = f"{self._prefix}-{len(self._shards):06d}.tar"
            self._tar = tarfile.open(self._staging / name, "w", format=tarfile.USTAR_FORMAT)
        for name, content in members:
            info = tarfile.TarInfo(name)  # no time, no owner: equal samples give equal files
            info.size = len(content)
            self._tar.addfile(info, io.BytesIO(content))
        self._samples_in_tar += 1
        if self._samples_in_tar >= self._max_samples or self._tar.offset >= self._max_bytes:
            self._close_shard()

    @property
    def num_samples(self) -> int:
        """Samples written so far."""
        return len(self._keys)

    def finish(self, manifest: Manifest) -> Manifest:
        """Close the last shard, write the manifest with its shards and counts filled in, and publish the folder."""
        self._close_shard()
        total = sum(shard.samples for shard in self._shards)
        manifest = replace(manifest, shards=tuple(self._shards), num_samples=total)
        (self._staging / MANIFEST).write_text(manifest.to_json(), encoding="utf-8")
        old = self._staging.with_suffix(".old")
        if self._folder.exists():
            os.replace(self._folder, old)
        os.replace(self._staging, self._folder)
        shutil.rmtree(old, ignore_errors=True)
        self._finished = True
        return manifest

    def _close_shard(self) -> None:
        if self._tar is None:
            return
        path = Path(self._tar.name)
        self._tar.close()
        digest = _sha256(path)
        self._shards.append(
            Shard(name=path.name, samples=self._samples_in_tar, bytes=path.stat().st_size, sha256=digest)
        )
        self._tar, self._samples_in_tar = None, 0


@dataclass(frozen=True)
class _Member:
    name: str
    offset: int  # of the content, bytes
    size: int  # bytes


class ShardReader:
    """Random access to the samples of a shard folder.

    `reader[i]` is `{"__key__": key, "video": array, ..., "json": dict}`. A shard's tar headers are read when one of
    its samples is first asked for; reading is by absolute offset, so worker processes may share a reader.

    Raises ValueError, naming shard and member, for a folder of another kind and for a missing, truncated or damaged
    shard. Flipped bytes inside a picture are found only by `verify`.
    """

    def __init__(self, folder: str | os.PathLike, kind: str | None = None):
        self.folder = Path(folder)
        self.manifest = read_manifest(folder, kind)
        self._ends = list(itertools.accumulate(shard.samples for shard in self.manifest.shards))
        self._index: dict[int, list[tuple[str, list[_Member]]]] = {}
        self._open: dict[int, int] = {}  # shard number -> file descriptor
        for shard in self.manifest.shards:
            path = self.folder / shard.name
            size = path.stat().st_size if path.is_file() else None
            if size != shard.bytes:
                found = "is missing" if size is None else f"has {size} bytes"
                raise ValueError(f"{path}: {found}, the manifest says {shard.bytes} bytes; build or copy it again")

    @property
    def identity(self) -> str:
        """Of the samples and their sequence: a digest of the checksums of all shards."""
        return hashlib.sha256("".join(shard.sha256 for shard in self.manifest.shards).encode()).hexdigest()[:16]

    def __len__(self) -> int:
        return self._ends[-1] if self._ends else 0

    def __getitem__(self, index: int) -> dict[str, Any]:
        return self.read(index)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return (self.read(index) for index in range(len(self)))

    def read(self, index: int, fields: tuple[str, ...] | None = None) -> dict[str, Any]:
        """Sample `index`; only the named fields (those it has) if `fields` is given."""
        number, (key, members) = self._locate(index)
        record: dict[str, Any] = {"__key__": key}
        for member in members:
            field = _field_name(member.name)
            if fields is None or field in fields:
                record[field] = self._content(number, member)
        return record

    def having(self, field: str) -> list[int]:
        """Samples that have a field, in order. Reads the headers of every shard, no contents."""
        fields = ({_field_name(m.name) for m in self._locate(index)[1][1]} for index in range(len(self)))
        return [index for index, present in enumerate(fields) if field in present]

    def where(self, index: int) -> str:
        """Shard file and key of a sample, for messages."""
        number, (key, _) = self._locate(index)
        return f"{self.folder / self.manifest.shards[number].name}: {key}"

    def verify(self) -> None:
        """Compare every shard with its checksum; ValueError names the first that differs."""
        for shard in self.manifest.shards:
            path = self.folder / shard.name
            if _sha256(path) != shard.sha256:
                raise ValueError(f"{path}: content differs from the checksum in the manifest; build or copy it again")

    def close(self) -> None:
        """Close the shards; a later read opens them again."""
        while self._open:
            os.close(self._open.popitem()[1])

    def __del__(self) -> None:
        if hasattr(self, "_open"):
            self.close()

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_open": {}}  # descriptors mean nothing in another process

    def _locate(self, index: int) -> tuple[int, tuple[str, list[_Member]]]:
        if not 0 <= index < len(self):
            raise IndexError(f"sample {index} of {len(self)} in {self.folder}")
        number = bisect.bisect_right(self._ends, index)
        if number not in self._index:
            self._index[number] = self._scan(number)
        return number, self._index[number][index - (self._ends[number - 1] if number else 0)]

    def _scan(self, number: int) -> list[tuple[str, list[_Member]]]:
        shard = self.manifest.shards[number]
        path = self.folder / shard.name
        samples: dict[str, list[_Member]] = {}
        try:
            with tarfile.open(path, "r:") as tar:
                for info in tar:
                    member = _Member(info.name, info.offset_data, info.size)
                    samples.setdefault(info.name.partition(".")[0], []).append(member)
        except (tarfile.TarError, OSError) as error:
            last = f" after {list(samples)[-1]}" if samples else ""
            raise ValueError(f"{path}: damaged tar{last} ({error}); build or copy it again") from error
        if len(samples) != shard.samples:
            raise ValueError(
                f"{path}: damaged tar, {len(samples)} samples up to {list(samples)[-1:]}, "
                f"the manifest says {shard.samples}; build or copy it again"
            )
        return list(samples.items())

    def _content(self, number: int, member: _Member) -> np.ndarray | dict[str, Any]:
        path = self.folder / self.manifest.shards[number].name
        content = os.pread(self._descriptor(number, path), member.size, member.offset)
        try:
            if member.name.endswith(".npy"):
                return np.load(io.BytesIO(content), allow_pickle=False)
            if member.name.endswith(".json"):
                return json.loads(content)
        except (ValueError, EOFError, OSError) as error:
            raise ValueError(f"{path}: member {member.name} is damaged ({error}); build or copy it again") from error
        raise ValueError(f"{path}: member {member.name} is neither .npy nor .json")

    def _descriptor(self, number: int, path: Path) -> int:
        if number not in self._open:
            while len(self._open) >= MAX_OPEN:
                os.close(self._open.pop(next(iter(self._open))))
            try:
                self._open[number] = os.open(path, os.O_RDONLY)
            except OSError as error:
                raise ValueError(f"{path}: cannot be opened ({error.strerror})") from error
        return self._open[number]


def _member_name(key: str, name: str) -> str:
    return f"{key}.json" if name == "json" else f"{key}.{name}.npy"


def _field_name(member: str) -> str:
    return member.partition(".")[2].removesuffix(".npy")


def _to_bytes(key: str, name: str, value: np.ndarray | dict[str, Any]) -> bytes:
    if name == "json":
        return json.dumps(value, ensure_ascii=False, sort_keys=True).encode()
    if not isinstance(value, np.ndarray) or value.dtype.hasobject:
        raise ValueError(f"sample {key}: field {name} must be an array of numbers, not {type(value).__name__}")
    buffer = io.BytesIO()
    np.save(buffer, value, allow_pickle=False)
    return buffer.getvalue()


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()

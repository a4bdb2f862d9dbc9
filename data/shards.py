"""Shards: plain WebDataset tars beside their indexes and a manifest, written whole or not at all, read by seek."""

import bisect
import contextlib
import hashlib
import io
import itertools
import json
import os
import shutil
import tarfile
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, NoReturn, Self

import numpy as np

from videopoet.data.faults import ShardFault
from videopoet.data.index import (
    IndexWriter,
    Member,
    Rows,
    Stamp,
    checksum,
    index_path,
    member_entry,
    npy_header,
    read_index,
    scan,
    write_index,
)
from videopoet.data.patience import REMEDY
from videopoet.data.remote import LocalFiles, Storage
from videopoet.data.schema import MANIFEST, Manifest, Shard, read_manifest

HEADER = tarfile.BLOCKSIZE  # bytes before the content of a member
NEAR = 1 << 16  # bytes between members that are cheaper read over than asked for apart
MAX_INDEXES = 16384  # that a reader keeps mapped; the kernel allows a process some 65,000 maps
GIVEN_UP = 60.0  # seconds that a shard which cannot be read is left alone
Record = Mapping[str, np.ndarray | dict[str, Any]]


class ShardWriter:
    """Writes samples into `prefix-000000.tar`, `prefix-000001.tar` ... with an index each, and `manifest.json`.

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
            self._index = IndexWriter()
        entries = {}
        for name, content in members:
            info = tarfile.TarInfo(name)  # no time, no owner: equal samples give equal files
            info.size = len(content)
            entries[name.partition(".")[2]] = member_entry(content, self._tar.offset + HEADER, name.endswith(".npy"))
            self._tar.addfile(info, io.BytesIO(content))
        self._index.add(key, entries)
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
        stamp = Stamp.of(path)
        write_index(path, self._index.rows(), stamp)
        self._shards.append(Shard(name=path.name, samples=self._samples_in_tar, bytes=stamp.bytes, sha256=stamp.sha256))
        self._tar, self._samples_in_tar = None, 0


class ShardReader:
    """Random access to the samples of a shard folder, a local one or a URL.

    `reader[i]` is `{"__key__": key, "video": array, ..., "json": dict}`. Each shard's index is opened when one of its
    samples is first asked for, and made and kept where there is none or it is of another tar; reading is by absolute
    offset, one read for a sample, so worker processes may share a reader. What is read is compared with its checksum.

    Raises ValueError, naming shard and member, for a folder of another kind and for a missing, truncated or damaged
    shard. A `tolerant` reader does not look at the shards at the start; ShardFault tells of each sample that it cannot
    read, and a shard that cannot be read at all is not tried again for a minute.
    """

    def __init__(
        self,
        folder: str | os.PathLike,
        kind: str | None = None,
        *,
        tolerant: bool = False,
        storage: Storage | None = None,
    ):
        self.folder = folder if "://" in os.fspath(folder) else Path(folder)
        self.tolerant = tolerant
        self._files = (storage or Storage()).open(folder)
        self.manifest = read_manifest(folder, kind, self._files)
        self._files.plan(sum(shard.bytes for shard in self.manifest.shards))
        self._ends = list(itertools.accumulate(shard.samples for shard in self.manifest.shards))
        self._rows: dict[int, Rows] = {}
        self._given_up: dict[int, tuple[float, ShardFault]] = {}  # shard number -> when to try again, why not before
        if not tolerant and isinstance(self._files, LocalFiles):
            for shard in self.manifest.shards:
                self._check_size(shard)

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

    def read(self, index: int, fields: tuple[str, ...] | None = None, needs: tuple[str, ...] = ()) -> dict[str, Any]:
        """Sample `index`; only the named fields (those it has) if `fields` is given.

        Raises ShardFault where the sample lacks one of `needs`.
        """
        number, place = self._locate(index)
        key, members = self._opened(number)[place]
        members = [m for m in members if fields is None or m.field in fields]
        shard, record = self.manifest.shards[number], {"__key__": key}
        try:
            contents = self._contents(shard, members)
        except ShardFault as fault:
            self._given_up[number] = (time.monotonic() + GIVEN_UP, fault)
            raise
        for member, content in zip(members, contents):
            record[member.field] = self._decode(shard, key, member, content)
        lacking = [name for name in needs if name not in record]
        if lacking:
            self._fault(shard, f"sample {key} lacks {' and '.join(lacking)}", "missing member")
        return record

    def expect(self, indices: Iterable[int]) -> None:
        """Be told which samples are read next, all of each: a disk then fetches them side by side, not one by one."""
        for number, place in map(self._locate, indices):
            with contextlib.suppress(ShardFault):  # reading it will say
                first, stop = self._opened(number).span(place)
                self._files.expect(self.manifest.shards[number].name, first, stop - first)

    def having(self, field: str) -> list[int]:
        """Samples that have a field, in order."""
        return np.flatnonzero(self.has(field)).tolist()

    def has(self, field: str) -> np.ndarray:
        """bool (samples,): whether each has a field, as the indexes say; no sample of a shard that has none, if tolerant."""
        found = np.zeros(len(self), bool)
        for number, end in enumerate(self._ends):
            try:
                found[end - self.manifest.shards[number].samples : end] = self._opened(number).has(field)
            except ShardFault:
                if not self.tolerant:
                    raise
        return found

    def sources(self) -> Iterator[tuple[int, dict[str, Any]]]:
        """Number and `source` of every sample's JSON; without those that cannot be read if tolerant."""
        for index in range(len(self)):
            try:
                yield index, self.read(index, ("json",)).get("json", {}).get("source", {})
            except ShardFault:
                if not self.tolerant:
                    raise

    def where(self, index: int) -> str:
        """Shard file and key of a sample, for messages."""
        number, place = self._locate(index)
        return f"{self._files.where(self.manifest.shards[number].name)}: {self._opened(number)[place][0]}"

    def fault(self, index: int, message: str) -> NoReturn:
        """Raise the ShardFault of a sample that is not what the manifest says."""
        number, _ = self._locate(index)
        where = self._files.where(self.manifest.shards[number].name)
        raise ShardFault(message, shard=where, reason="unlike the manifest")

    def verify(self) -> None:
        """Compare every shard with its checksum; ValueError names the first that differs."""
        for shard in self.manifest.shards:
            path = self._files.local(shard.name, shard.bytes)
            if path is None:
                raise ValueError(
                    f"{self.folder}: larger than the cache; verify where the shards lie, or raise cache_bytes"
                )
            if Stamp.of(path).sha256 != shard.sha256:
                raise ValueError(f"{path}: content differs from the checksum in the manifest; {REMEDY}")

    def close(self) -> None:
        """Close the shards; a later read opens them again."""
        self._files.close()

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_rows": {}}  # mapped again by the other process

    def _locate(self, index: int) -> tuple[int, int]:
        if not 0 <= index < len(self):
            raise IndexError(f"sample {index} of {len(self)} in {self.folder}")
        number = bisect.bisect_right(self._ends, index)
        return number, index - (self._ends[number - 1] if number else 0)

    def _opened(self, number: int) -> Rows:
        """The index of a shard."""
        if number in self._given_up:
            until, fault = self._given_up[number]
            if time.monotonic() < until:
                raise fault
            del self._given_up[number]
        if number not in self._rows:
            while len(self._rows) >= MAX_INDEXES:
                del self._rows[next(iter(self._rows))]
            try:
                self._rows[number] = Rows(self._index(self.manifest.shards[number]))
            except ShardFault as fault:
                self._given_up[number] = (time.monotonic() + GIVEN_UP, fault)
                raise
        return self._rows[number]

    def _index(self, shard: Shard) -> np.ndarray:
        stamp = Stamp(bytes=shard.bytes, sha256=shard.sha256)
        rows = self._remote_index(shard, stamp)
        path = None if rows is not None else self._files.local(shard.name, shard.bytes)
        if path is not None:
            rows = read_index(index_path(path), stamp)
        if rows is None:
            if path is None:
                self._fault(
                    shard, "larger than the cache and without an index; open the folder once where it lies", "storage"
                )
            self._check_size(shard)
            rows, found = scan(path)
            if found != stamp and len(rows) == shard.samples:
                self._fault(shard, f"content differs from the checksum in the manifest; {REMEDY}", "damaged")
            if len(rows) == shard.samples:
                with contextlib.suppress(OSError):  # a folder that cannot be written to: the index stays in memory
                    write_index(path, rows, stamp)
        if len(rows) != shard.samples:
            last = f" up to {rows[-1]['key'].decode()}" if len(rows) else ""
            said = f"damaged tar, {len(rows)} samples{last}, the manifest says {shard.samples}; {REMEDY}"
            self._fault(shard, said, "damaged" if len(rows) else "empty shard")
        return rows

    def _remote_index(self, shard: Shard, stamp: Stamp) -> np.ndarray | None:
        """The index that lies beside a shard on another machine: what is in a shard is known before it is fetched."""
        if isinstance(self._files, LocalFiles):
            return None
        try:
            content = self._files.read(index_path(shard.name).name)
        except ShardFault as fault:
            self._fault(shard, f"its index cannot be read ({fault})", fault.reason)
        return None if content is None else read_index(content, stamp)

    def _check_size(self, shard: Shard) -> None:
        path = self._files.local(shard.name, shard.bytes)
        size = path.stat().st_size if path.is_file() else None
        if size != shard.bytes:
            found = "is missing" if size is None else f"has {size} bytes"
            reason = "vanished" if size is None else "truncated" if size else "empty shard"
            self._fault(shard, f"{found}, the manifest says {shard.bytes} bytes; {REMEDY}", reason)

    def _contents(self, shard: Shard, members: list[Member]) -> list[np.ndarray]:
        """The bytes of members of one sample, by one read where little lies between them."""
        if not members:
            return []
        first, last = members[0].offset, members[-1].offset + members[-1].size
        if last - first <= sum(m.size for m in members) + NEAR:
            whole = self._files.pread(shard.name, shard.bytes, first, last - first)
            return [whole[m.offset - first : m.offset - first + m.size] for m in members]
        return [self._files.pread(shard.name, shard.bytes, m.offset, m.size) for m in members]

    def _decode(self, shard: Shard, key: str, member: Member, content: np.ndarray) -> np.ndarray | dict[str, Any]:
        name = f"{key}.{member.name}"
        if len(content) != member.size:
            self._fault(shard, f"ends inside member {name}; {REMEDY}", "truncated")
        if checksum(content) != member.sum:
            self._fault(shard, f"member {name} is damaged (its bytes have another checksum); {REMEDY}", "damaged")
        try:
            if member.npy:
                dtype, shape, fortran, start = npy_header(content)
                return content[start:].view(dtype).reshape(shape, order="F" if fortran else "C")
            if member.name == "json":
                return json.loads(content.tobytes())
        except ValueError as error:
            self._fault(shard, f"member {name} is damaged ({error}); {REMEDY}", "damaged")
        self._fault(shard, f"member {name} is neither .npy nor .json", "unlike the manifest")

    def _fault(self, shard: Shard, said: str, reason: str) -> NoReturn:
        where = self._files.where(shard.name)
        raise ShardFault(f"{where}: {said}", shard=where, reason=reason)


def _member_name(key: str, name: str) -> str:
    return f"{key}.json" if name == "json" else f"{key}.{name}.npy"


def _to_bytes(key: str, name: str, value: np.ndarray | dict[str, Any]) -> bytes:
    if name == "json":
        return json.dumps(value, ensure_ascii=False, sort_keys=True).encode()
    if not isinstance(value, np.ndarray) or value.dtype.hasobject:
        raise ValueError(f"sample {key}: field {name} must be an array of numbers, not {type(value).__name__}")
    buffer = io.BytesIO()
    np.save(buffer, value, allow_pickle=False)
    return buffer.getvalue()

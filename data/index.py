"""An index beside each shard: where every member of every sample lies, read by seek, shared between processes.

`clips-000000.index` is one line of JSON, then one fixed-size row per sample: the key and, for each kind of member, offset
and size of its content in the tar (bytes), its length (elements of an array, bytes otherwise) and its checksum. A member
that a sample lacks has size -1. Rows are mapped into memory, so that millions of samples cost a process nothing.
"""

import hashlib
import json
import math
import os
import tarfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Self

import numpy as np

from videopoet.data.faults import ShardFault
from videopoet.data.files import whole_or_nothing

SUFFIX = ".index"
FORMAT = 1
ALIGN = 64  # bytes that the line of JSON is filled up to
MEMBER = [("offset", "<i8"), ("size", "<i8"), ("length", "<i8"), ("sum", "<u8")]
ABSENT = (0, -1, 0, 0)
CHUNK = 1 << 22  # bytes


@dataclass(frozen=True, kw_only=True)
class Stamp:
    """Which tar an index was made of."""

    bytes: int
    sha256: str

    @classmethod
    def of(cls, tar: Path) -> Self:
        """Reads the whole file."""
        with tar.open("rb") as file:
            return cls(sha256=hashlib.file_digest(file, "sha256").hexdigest(), bytes=os.fstat(file.fileno()).st_size)


def checksum(content: np.ndarray) -> int:
    """Sum of the 64-bit little-endian words of uint8 content, filled up with zeros, modulo 2^64.

    Any one changed byte changes it, and it costs a tenth of a CRC. Not a defence against forgery.
    """
    whole = len(content) // 8 * 8
    total = int(content[:whole].view("<u8").sum(dtype=np.uint64))
    return (total + int.from_bytes(content[whole:].tobytes(), "little")) % (1 << 64)


def member_entry(content: bytes | np.ndarray, offset: int, npy: bool) -> tuple[int, int, int, int]:
    """Row entry of a member whose content begins at `offset`."""
    view = np.frombuffer(content, np.uint8)
    try:
        length = math.prod(npy_header(view)[1]) if npy else len(view)
    except ValueError:
        length = 0  # the entry still says where it is; reading it says what is wrong
    return offset, len(view), length, checksum(view)


def npy_header(content: np.ndarray) -> tuple[np.dtype, tuple[int, ...], bool, int]:
    """Type, shape, whether in Fortran order, and first byte of the numbers, of the bytes of an `.npy` file.

    Raises ValueError for anything else, and for arrays of objects, which would be pickles.
    """
    start = content[:12].tobytes()
    if start[:6] != b"\x93NUMPY" or start[6:7] not in (b"\x01", b"\x02", b"\x03"):
        raise ValueError("no array of numbers (.npy)")
    wide = start[6] > 1
    first = 12 if wide else 10
    stop = first + int.from_bytes(start[8:first], "little")
    return (*_parse_header(content[first:stop].tobytes()), stop)


@lru_cache(maxsize=4096)
def _parse_header(text: bytes) -> tuple[np.dtype, tuple[int, ...], bool]:
    import ast

    try:
        said = ast.literal_eval(text.decode("utf-8").strip())
        dtype = np.lib.format.descr_to_dtype(said["descr"])
        shape, fortran = tuple(int(n) for n in said["shape"]), bool(said["fortran_order"])
    except (ValueError, TypeError, KeyError, SyntaxError, MemoryError, RecursionError) as error:
        raise ValueError(f"damaged header of an array ({type(error).__name__})") from None
    if dtype.hasobject or any(n < 0 for n in shape):
        raise ValueError("an array of objects, not of numbers")
    return dtype, shape, fortran


class IndexWriter:
    """Collects the rows of one shard."""

    def __init__(self):
        self._rows: list[tuple[str, dict[str, tuple]]] = []

    def add(self, key: str, members: Mapping[str, tuple[int, int, int, int]]) -> None:
        """One sample: its key and an entry for each member, by what stands after the key (`video.npy`, `json`)."""
        self._rows.append((key, dict(members)))

    def rows(self) -> np.ndarray:
        """Structured array, one row per sample."""
        names = sorted({name for _, members in self._rows for name in members})
        longest = max((len(key.encode()) for key, _ in self._rows), default=1)
        dtype = np.dtype([("key", f"S{longest}"), *((name, MEMBER) for name in names)])
        rows = [(key.encode(), *(members.get(name, ABSENT) for name in names)) for key, members in self._rows]
        return np.array(rows, dtype)


def index_path(tar: str | os.PathLike) -> Path:
    """Where the index of a shard lies."""
    return Path(tar).with_suffix(SUFFIX)


def write_index(tar: str | os.PathLike, rows: np.ndarray, stamp: Stamp) -> None:
    """Put the index beside its shard, whole or not at all."""
    said = {
        "format": FORMAT,
        "tar": asdict(stamp),
        "samples": len(rows),
        "row": np.lib.format.dtype_to_descr(rows.dtype),
    }
    line = json.dumps(said).encode()
    line += b" " * (-(len(line) + 1) % ALIGN) + b"\n"
    with whole_or_nothing(index_path(tar)) as temporary, temporary.open("wb") as file:
        file.write(line)
        rows.tofile(file)


def read_index(source: Path | bytes, stamp: Stamp) -> np.ndarray | None:
    """Rows of the index in a file, mapped, or in these bytes; None where there is none, or none of this very tar."""
    try:
        content = np.memmap(source, np.uint8, "r") if isinstance(source, Path) else np.frombuffer(source, np.uint8)
        line = content[: 1 << 20].tobytes().partition(b"\n")[0] + b"\n"
        said = json.loads(line)
        if said["format"] != FORMAT or said["tar"] != asdict(stamp):
            return None
        dtype = np.lib.format.descr_to_dtype(_tuples(said["row"]))
        if dtype.hasobject or len(content) != len(line) + said["samples"] * dtype.itemsize:
            return None
        return np.asarray(content)[len(line) :].view(dtype)
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _tuples(descr: Any) -> Any:
    """A type's description as it was before JSON made its tuples lists."""
    return [(name, _tuples(kind) if isinstance(kind, list) else kind) for name, kind in descr]


def scan(tar: Path) -> tuple[np.ndarray, Stamp]:
    """Rows and stamp of a tar, read once from its start to its end.

    Raises ShardFault, naming the last sample that is whole, for a damaged or truncated tar.
    """
    writer, samples = IndexWriter(), {}
    try:
        with tarfile.open(tar, "r:") as file:
            for info in file:
                key, _, name = info.name.partition(".")
                content = file.extractfile(info).read() if info.isreg() else b""
                if len(content) != info.size:
                    raise tarfile.ReadError("unexpected end of data")
                samples.setdefault(key, {})[name] = member_entry(content, info.offset_data, name.endswith(".npy"))
    except FileNotFoundError as error:
        raise ShardFault(f"{tar}: vanished; build or copy it again", shard=str(tar), reason="vanished") from error
    except (tarfile.TarError, OSError) as error:
        last = f" after {list(samples)[-1]}" if samples else ""
        reason = "truncated" if "unexpected end" in str(error) else "damaged"
        raise ShardFault(
            f"{tar}: damaged tar{last} ({error}); build or copy it again", shard=str(tar), reason=reason
        ) from error
    for key, members in samples.items():
        writer.add(key, members)
    return writer.rows(), Stamp.of(tar)


@dataclass(frozen=True, slots=True)
class Member:
    """Where one member of a sample lies."""

    name: str  # what stands after the key: "video.npy", "json"
    field: str
    npy: bool
    offset: int  # of the content, bytes
    size: int  # bytes
    sum: int


class Rows:
    """The rows of an index, read one at a time."""

    def __init__(self, rows: np.ndarray):
        self._rows = rows
        names = rows.dtype.names[1:]
        self._kinds = [(name, name.removesuffix(".npy"), name.endswith(".npy")) for name in names]

    def __getitem__(self, place: int) -> tuple[str, list[Member]]:
        """Key and members of a sample, in the order they lie in."""
        key, *entries = self._rows[place].item()
        found = [(entry[0], entry, kind) for entry, kind in zip(entries, self._kinds) if entry[1] >= 0]
        found.sort()
        return key.decode(), [Member(*kind, entry[0], entry[1], entry[3]) for _, entry, kind in found]

    def span(self, place: int) -> tuple[int, int]:
        """First byte of a sample's contents in the tar, and the byte after its last."""
        entries = [entry for entry in self._rows[place].item()[1:] if entry[1] >= 0]
        return min(e[0] for e in entries), max(e[0] + e[1] for e in entries)

    def has(self, field: str) -> np.ndarray:
        """bool (samples,)"""
        found = [self._rows[name]["size"] >= 0 for name, kind, _ in self._kinds if kind == field]
        return np.logical_or.reduce(found) if found else np.zeros(len(self._rows), bool)

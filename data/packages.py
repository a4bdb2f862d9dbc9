"""Files inside installed Python packages and unpacked archives, found without importing anything."""

import importlib.metadata
import os
import re
import struct
import sys
from collections.abc import Iterator, Sequence
from functools import lru_cache
from importlib.metadata import PackagePath
from pathlib import Path


def package_files(package: str) -> list[PackagePath]:
    """Files that the installed distribution `package` lists; none where it is not installed."""
    try:
        return list(importlib.metadata.distribution(package).files or ())
    except importlib.metadata.PackageNotFoundError:
        return []


def find_files(package: str, pattern: str, folders: Sequence[Path] = ()) -> list[Path]:
    """Files whose path ends in a match of `pattern` (with "/"): in the installed package or, failing that, in `folders`."""
    ends = re.compile(f"(?:{pattern})$")
    found = [place for file in package_files(package) if ends.search(str(file)) if (place := _locate(file)) is not None]
    if not found:
        found = [
            Path(name) for folder in folders for name in _under(Path(folder)) if ends.search(Path(name).as_posix())
        ]
    return sorted(set(found))


def _locate(file: PackagePath) -> Path | None:
    # A wheel's data files are listed relative to site-packages but may lie under another prefix.
    relative = str(file).lstrip("./")
    places = (Path(file.locate()), Path(file.dist.locate_file("")) / relative, Path(sys.prefix) / relative)
    return next((place.resolve() for place in places if place.is_file()), None)


@lru_cache(maxsize=64)
def _under(folder: Path) -> tuple[str, ...]:
    return tuple(os.path.join(parent, name) for parent, _, names in os.walk(folder) for name in names)


def qt_resources(data: bytes) -> Iterator[tuple[str, bytes]]:
    """(path, content) of the uncompressed files in a Qt resource file; compressed ones are passed over.

    Source: Qt's rcc.cpp: "qres", version, offsets of tree, data and names, big-endian; a node is the offset of its name,
    flags (1, 4 compressed, 2 folder), then count and first child of a folder, or locale and offset of a file's data.
    """
    magic, version, tree, body, names = struct.unpack_from(">4s4I", data)
    if magic != b"qres":
        raise ValueError("no Qt resource file: it does not start with 'qres'")
    size = 14 if version < 2 else 22
    waiting = [(0, "")]
    while waiting:
        index, folder = waiting.pop()
        at = tree + index * size
        name_at, flags, *_ = struct.unpack_from(">IH", data, at)
        length = struct.unpack_from(">H", data, names + name_at)[0]
        start = names + name_at + 6
        path = f"{folder}/{data[start : start + 2 * length].decode('utf-16-be')}" if index else ""
        if flags & 2:
            count, first = struct.unpack_from(">2I", data, at + 6)
            waiting += [(first + i, path) for i in range(count)]
        elif not flags & 5:
            begin = body + struct.unpack_from(">I", data, at + 10)[0]
            length = struct.unpack_from(">I", data, begin)[0]
            yield path, data[begin + 4 : begin + 4 + length]

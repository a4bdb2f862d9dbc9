"""The list of inputs that a folder of shards is made of: files, or spans of files, with what is said about them."""

import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path
from typing import Any

from videopoet.data.captions import LISTING, SIDECARS, Caption, read_listing

FILES_PER_SHARD = 64
BYTES_PER_SHARD = 1 << 28  # of media files: some 35 minutes at 1 Mbit/s


@dataclass(frozen=True, kw_only=True)
class Input:
    """A file, or what lies between two of its times, and what a listing says about it."""

    file: str  # relative to the folder, with "/"
    start: float = 0.0  # seconds
    end: float | None = None  # seconds; None: to the end of the file
    caption: Caption = field(default_factory=Caption)
    bytes: int | None = None  # of the file; None where a listing tells of a file that is not there

    @property
    def whole(self) -> bool:
        """Whether this is all of the file."""
        return self.start == 0 and self.end is None

    def record(self) -> list[Any]:
        """All of it, as JSON can hold it."""
        return [self.file, self.start, self.end, self.bytes, list(self.caption.texts), self.caption.extra]


def list_inputs(folder: Path, suffixes: tuple[str, ...], listing: Path | None = None) -> list[Input]:
    """Every media file under `folder` with what its `captions.jsonl` says; or exactly what `listing` names, in its order.

    A file with spans in a listing is taken by its spans alone. Raises ValueError where there is nothing.
    """
    said = read_listing(listing or folder / LISTING)
    if listing is not None:
        if not listing.is_file():
            raise ValueError(f"{listing}: no such listing")
        if not said:
            raise ValueError(f"{listing}: lists nothing")
        sizes = {file: _size(folder / file) for file in dict.fromkeys(file for file, _, _ in said)}
        by_file = {file: [] for file in sizes}  # spans of one file side by side: storage reads it once
        for (file, start, end), caption in said.items():
            by_file[file].append(Input(file=file, start=start, end=end, caption=caption, bytes=sizes[file]))
        return [entry for entries in by_file.values() for entry in entries]
    entries = {
        (file, 0.0, None): Input(file=file, bytes=_size(folder / file)) for file in media_files(folder, suffixes)
    }
    for (file, start, end), caption in sorted(said.items(), key=lambda item: (item[0][:2], item[0][2] or 0.0)):
        size = _size(folder / file)
        entries[file, start, end] = Input(file=file, start=start, end=end, caption=caption, bytes=size)
    spans = {file for file, start, end in said if start or end is not None}
    found = [entry for entry in entries.values() if not (entry.whole and entry.file in spans)]
    return sorted(found, key=lambda entry: (entry.file, entry.start))


def units_of(inputs: list[Input], files: int = FILES_PER_SHARD, most_bytes: int = BYTES_PER_SHARD) -> list[range]:
    """Consecutive inputs that make a shard: at most so many, and not many more bytes. Depends on the list alone.

    A span counts for its share of the file's bytes.
    """
    parts = Counter(entry.file for entry in inputs)
    units, first, held = [], 0, 0.0
    for number, entry in enumerate(inputs):
        held += (entry.bytes or 0) / parts[entry.file]
        if number + 1 - first == files or held >= most_bytes:
            units.append(range(first, number + 1))
            first, held = number + 1, 0.0
    return units + [range(first, len(inputs))] * (first < len(inputs))


def digest_records(folder: Path, inputs: list[Input]) -> Iterator[list[Any]]:
    """What the list of inputs is told apart by: names, spans, captions, and sizes of files and sidecars."""
    for file, entries in groupby(inputs, key=lambda entry: entry.file):
        yield [_size((folder / file).with_suffix(suffix)) for suffix in SIDECARS]
        yield from (entry.record() for entry in entries)


def media_files(folder: Path, suffixes: tuple[str, ...]) -> list[str]:
    """Paths of the files with such names under `folder`, relative and sorted; ValueError if there are none."""
    if not folder.is_dir():
        raise ValueError(f"{folder}: {'is a file, not a folder' if folder.exists() else 'no such folder'}")
    names = []
    for parent, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        relative = Path(parent).relative_to(folder)
        names += [
            (relative / name).as_posix()
            for name in files
            if name.lower().endswith(suffixes) and not name.startswith(".")
        ]
    if not names:
        raise ValueError(f"{folder}: holds no media files (looked for {' '.join(suffixes)})")
    return sorted(names)


def _size(path: Path) -> int | None:
    try:
        return path.stat().st_size if path.is_file() else None
    except OSError:  # a name that no file system takes
        return None

"""Files inside installed Python packages and unpacked archives, found without importing anything."""

import importlib.metadata
import os
import re
import sys
from collections.abc import Sequence
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

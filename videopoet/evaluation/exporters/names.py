"""Prompts as file names. A benchmark finds a video by its name, so a name is kept as it is or refused, never mended.

Prompts are text from elsewhere: `../x`, a NUL or a name longer than a file system takes must not reach the disk.
"""

import os
import unicodedata
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path
from tempfile import TemporaryDirectory

MAX_BYTES = 240  # of UTF-8, suffix included; file systems end at 255, and copies get longer names


def check_name(name: str) -> str:
    """`name` itself if it can be the name of one file in one folder, visible and whole; ValueError says why not.

    Spaces stay: benchmarks look for the prompt as it stands, and before `-0.mp4` a space is harmless.
    """
    shown = repr(name if len(name) <= 80 else name[:77] + "...")
    if not name or not name.strip(". "):
        raise ValueError(f"{shown} is no file name: it names nothing")
    if separators := sorted({c for c in name if c in "/\\"}):
        raise ValueError(f"{shown} is no file name: it has the path separator {separators[0]!r}")
    if controls := [c for c in name if unicodedata.category(c) in ("Cc", "Cs", "Zl", "Zp")]:
        raise ValueError(f"{shown} is no file name: it has the control character U+{ord(controls[0]):04X}")
    if name.startswith("."):
        raise ValueError(f"{shown} is no file name: the leading dot hides the file")
    if (size := len(name.encode("utf-8"))) > MAX_BYTES:
        raise ValueError(f"{shown} is no file name: {size} bytes as UTF-8, at most {MAX_BYTES} are possible")
    return name


def check_folder(name: str) -> str:
    """The same for a folder, whose end no suffix covers: no space or dot there, as Windows would drop it."""
    if check_name(name) != name.rstrip(". "):
        raise ValueError(f"{name!r} is no folder name: it ends in a space or a dot")
    return name


def look_alikes(paths: Iterable[str]) -> list[list[str]]:
    """Groups of different paths that are one file where letters' case or the form of accents does not count.

    Windows and macOS disks by default; VBench itself has "A fantasy landscape" and "a fantasy landscape".
    """
    groups = defaultdict(list)
    for path in dict.fromkeys(paths):
        folded = unicodedata.normalize("NFC", unicodedata.normalize("NFC", path).casefold())
        groups[folded].append(path)
    return [group for group in groups.values() if len(group) > 1]


def folds(folder: Path) -> bool:
    """Whether the disk under `folder` takes `A` for `a`, or `é` in one character for `é` in two: tried, not guessed."""
    with TemporaryDirectory(dir=folder, prefix="try-") as place:
        (Path(place) / "Caf\u00e9").touch()
        return any(os.path.exists(Path(place) / name) for name in ("caf\u00e9", "Cafe\u0301"))

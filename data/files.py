"""Files that appear whole or not at all."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def whole_or_nothing(path: str | os.PathLike) -> Iterator[Path]:
    """A temporary name beside `path` to write to; it becomes `path` when the block ends well, and is removed if not."""
    path = Path(path)
    # The suffix stays last: FFmpeg picks the container by it.
    temporary = path.with_name(f".{path.stem}.{os.getpid()}.part{path.suffix}")
    try:
        yield temporary
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)

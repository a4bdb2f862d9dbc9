"""Files that appear whole or not at all."""

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def whole_or_nothing(path: str | os.PathLike) -> Iterator[Path]:
    """A temporary name beside `path` to write to; it becomes `path` when the block ends well, and is removed if not."""
    path = Path(path)
    # The suffix stays last: FFmpeg picks the container by it. Numbers of processes repeat among nodes of a shared disk.
    temporary = path.with_name(f".{path.stem}.{os.getpid()}-{secrets.token_hex(4)}.part{path.suffix}")
    try:
        yield temporary
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)

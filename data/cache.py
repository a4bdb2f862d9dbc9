"""Files fetched from elsewhere: a bounded folder that processes and runs share."""

import fcntl
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from videopoet.data.faults import ShardFault
from videopoet.data.files import whole_or_nothing
from videopoet.data.patience import REMEDY, Patience


class Cache:
    """Files that were fetched, at most `limit` bytes of them; those used longest ago give way.

    Safe between processes: a file appears whole, one process fetches it while others wait, and what is open stays
    readable when it gives way. Room is taken before a file is fetched, so that the limit holds meanwhile too.
    """

    def __init__(self, folder: Path, limit: int, patience: Patience):
        self.folder, self.limit, self.patience = folder, limit, patience

    def fetch(self, name: str, where: str, size: int, download: Callable[[Path], None]) -> Path:
        """Path of the cached file, downloaded if it is not there. ShardFault if it has another size than `size`."""
        path = self.folder / name
        if not self._use(path, size):
            if size > self.limit:
                raise ValueError(f"{where} has {size} bytes, the cache holds {self.limit}: raise storage.cache_bytes")
            path.parent.mkdir(parents=True, exist_ok=True)
            with _locked(path.with_name(f"{path.name}.lock")):
                if not self._use(path, size):
                    self._download(path, where, size, download)
        return path

    def _use(self, path: Path, size: int) -> bool:
        """Whether the file is there; if so it is the one used last."""
        try:
            found = path.stat()
            if found.st_size != size:  # of another edition of the folder
                return False
            os.utime(path, ns=(time.time_ns(), found.st_mtime_ns))
            return True
        except FileNotFoundError:
            return False

    def _download(self, path: Path, where: str, size: int, download: Callable[[Path], None]) -> None:
        for left in path.parent.glob(f".{path.stem}.*.part{path.suffix}"):  # by a process that was killed
            left.unlink(missing_ok=True)
        reserved = path.with_name(f"{path.name}.room")
        reserved.unlink(missing_ok=True)
        self._make_room(reserved, where, size)
        try:
            with whole_or_nothing(path) as temporary:
                download(temporary)
                found = temporary.stat().st_size
                if found != size:
                    reason = "truncated" if found < size else "damaged"
                    raise ShardFault(
                        f"{where}: has {found} bytes, the manifest says {size} bytes; {REMEDY}",
                        shard=where,
                        reason=reason,
                    )
        finally:
            with _locked(self.folder / "cache.lock"):  # else one who counts could miss both the room and the file
                reserved.unlink(missing_ok=True)

    def _make_room(self, reserved: Path, where: str, size: int) -> None:
        """Remove the files used longest ago, and take the room by an empty file of that size. Waits for rooms taken."""
        deadline = time.monotonic() + self.patience.timeout
        while True:
            with _locked(self.folder / "cache.lock"):
                files, taken = self._files()
                while files and taken + size > self.limit:
                    oldest, bytes = files.pop(0)
                    oldest.unlink(missing_ok=True)
                    taken -= bytes
                if taken + size <= self.limit:
                    with reserved.open("wb") as file:
                        file.truncate(size)  # takes no disk space
                    return
            if time.monotonic() > deadline:
                raise ShardFault(
                    f"{where}: no room for {size} bytes in the cache of {self.limit} while others are being fetched; "
                    "raise storage.cache_bytes",
                    shard=where,
                    reason="storage",
                )
            time.sleep(0.05)

    def _files(self) -> tuple[list[tuple[Path, int]], int]:
        """Files that may give way with their sizes, the one used longest ago first, and bytes taken with rooms."""
        files, taken = [], 0
        for folder in self.folder.iterdir():
            for path in folder.iterdir() if folder.is_dir() else ():
                if path.suffix == ".lock" or ".part" in path.name:
                    continue
                if path.suffix == ".room" and not _held(path.with_suffix(".lock")):
                    path.unlink(missing_ok=True)  # whoever took it was killed
                    continue
                try:
                    found = path.stat()
                except FileNotFoundError:
                    continue
                taken += found.st_size
                if path.suffix != ".room":
                    files.append((found.st_atime_ns, path, found.st_size))
        return [(path, size) for _, path, size in sorted(files)], taken


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Hold a lock file; the kernel lets go of it when a process dies."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _held(path: Path) -> bool:
    """Whether some process holds a lock file."""
    try:
        with path.open("r") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return False
    except FileNotFoundError:
        return False
    except BlockingIOError:
        return True

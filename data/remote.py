"""Where shards lie: a local folder, or a URL read through fsspec and a bounded local cache."""

import fcntl
import hashlib
import os
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

import numpy as np

from videopoet.data.faults import ShardFault
from videopoet.data.files import whole_or_nothing

MAX_OPEN = 256  # files a reader keeps open
STREAMED = 1 << 23  # bytes asked for at a time where a shard is streamed
REMEDY = "build or copy it again"
Result = TypeVar("Result")


@dataclass(frozen=True, kw_only=True)
class Patience:
    """How long a failing or slow storage is asked again: `attempts` times, waiting twice as long after each."""

    attempts: int = 4
    first_wait: float = 0.5  # seconds
    longest_wait: float = 20.0  # seconds
    timeout: float = 120.0  # seconds that one answer of a remote storage may take

    def ask(self, name: str, work: Callable[[], Result], limited: bool) -> Result:
        """What `work` returns. Raises ShardFault naming the shard `name`: "vanished" at once, "storage" in the end."""
        wait, error = self.first_wait, None
        for attempt in range(self.attempts):
            if attempt:
                time.sleep(min(wait, self.longest_wait))
                wait *= 2
            try:
                return _within(self.timeout, work) if limited else work()
            except ShardFault:
                raise
            except FileNotFoundError as missing:
                raise ShardFault(f"{name}: is missing; {REMEDY}", shard=name, reason="vanished") from missing
            except Exception as failed:  # stores raise what they like
                error = failed
        said = f"{type(error).__name__}: {error}".strip(": ")
        raise ShardFault(
            f"{name}: the storage failed {self.attempts} times ({said}); see that it can be reached, or raise "
            "data.init_args.storage.patience",
            shard=name,
            reason="storage",
        ) from error


def _within(seconds: float, work: Callable[[], Result]) -> Result:
    """What `work` returns or raises; TimeoutError if that takes longer. A call that hangs is left behind in its thread."""
    outcome: list[Any] = []

    def run() -> None:
        try:
            outcome.append((True, work()))
        except Exception as error:
            outcome.append((False, error))

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(seconds)
    if not outcome:
        raise TimeoutError(f"no answer in {seconds:g} s")
    good, value = outcome[0]
    if not good:
        raise value
    return value


@dataclass(frozen=True, kw_only=True)
class Storage:
    """How shards are read where they lie on another machine.

    cache: folder for shards that were fetched; by default `$XDG_CACHE_HOME/videopoet/shards`, or `~/.cache/...`.
    cache_bytes: most that it holds; the shards used longest ago give way. It may be shared by processes and runs.
    A folder of shards that is larger than the cache is read sample by sample instead, one request each.
    """

    cache: str | None = None
    cache_bytes: int = 100 << 30
    patience: Patience = field(default_factory=Patience)

    def open(self, folder: str | os.PathLike) -> "Files":
        """The files of a folder or URL. Raises ValueError with the line to install where its kind needs a package."""
        url = os.fspath(folder)
        if url.startswith("file:"):
            url = url.removeprefix("file:").removeprefix("//")
        if "://" not in url:
            return LocalFiles(Path(url), self.patience)
        return RemoteFiles(url.rstrip("/"), self)


class Files(ABC):
    """The files of one folder, by name. Everything that fails raises a ShardFault that names the file."""

    @abstractmethod
    def where(self, name: str) -> str:
        """Path or URL of a file, for messages."""

    @abstractmethod
    def read(self, name: str) -> bytes | None:
        """A whole small file; None where there is none."""

    @abstractmethod
    def local(self, name: str, size: int) -> Path | None:
        """A path where the file lies now; None where it is only read in pieces. `size` is what the manifest says."""

    @abstractmethod
    def pread(self, name: str, size: int, start: int, length: int) -> np.ndarray:
        """uint8 (length,) from byte `start` on, for the caller to keep. Shorter where the file ends before."""

    @abstractmethod
    def stream(self, name: str) -> BinaryIO:
        """The file, to be read once from its start to its end."""

    def plan(self, total: int) -> None:  # noqa: B027 - only remote files care
        """Be told how many bytes the shards have in all, before any is read."""

    def close(self) -> None:  # noqa: B027
        """Let go of what is open; a later read opens it again."""


class LocalFiles(Files):
    """A folder of this machine or of a mounted file system; safe to share with forked processes."""

    def __init__(self, folder: Path, patience: Patience):
        self.folder, self.patience = folder, patience
        self._open: dict[str, int] = {}  # name -> file descriptor

    def where(self, name: str) -> str:
        return str(self.folder / name)

    def read(self, name: str) -> bytes | None:
        path = self.folder / name
        return path.read_bytes() if path.is_file() else None

    def local(self, name: str, size: int) -> Path:
        return self.folder / name

    def pread(self, name: str, size: int, start: int, length: int) -> np.ndarray:
        try:  # the ordinary case without the cost of a closure
            return self._pread(name, start, length)
        except OSError:
            self._forget(name)
            return self.patience.ask(self.where(name), lambda: self._pread(name, start, length), limited=False)

    def _pread(self, name: str, start: int, length: int) -> np.ndarray:
        if name not in self._open:
            while len(self._open) >= MAX_OPEN:
                os.close(self._open.pop(next(iter(self._open))))
            self._open[name] = os.open(self.folder / name, os.O_RDONLY)
        content, got = np.empty(length, np.uint8), 0
        while got < length:
            more = os.preadv(self._open[name], [content[got:] if got else content], start + got)
            if not more:
                return content[:got]
            got += more
        return content

    def stream(self, name: str) -> BinaryIO:
        return self.patience.ask(self.where(name), lambda: (self.folder / name).open("rb"), limited=False)

    def _forget(self, name: str) -> None:
        if name in self._open:
            os.close(self._open.pop(name))

    def close(self) -> None:
        while self._open:
            os.close(self._open.popitem()[1])

    def __del__(self) -> None:
        if hasattr(self, "_open"):
            self.close()

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_open": {}}  # descriptors mean nothing in another process


class RemoteFiles(Files):
    """A folder behind a URL that fsspec knows: http, https, s3, gs, memory and more."""

    def __init__(self, url: str, storage: Storage):
        self.url, self.storage, self.patience = url, storage, storage.patience
        root = storage.cache or Path(os.environ.get("XDG_CACHE_HOME", "~/.cache"), "videopoet", "shards")
        self._cache = Cache(Path(root).expanduser(), storage.cache_bytes, self.patience)
        self._folder = hashlib.sha256(url.encode()).hexdigest()[:16]
        self._pieces = False  # whether shards are read in pieces, not fetched whole
        self._store: tuple[int, Any, str] | None = None  # process, file system, path: none survives a fork
        self._fs()  # a missing package is found now, not in a worker

    def where(self, name: str) -> str:
        return f"{self.url}/{name}"

    def plan(self, total: int) -> None:
        self._pieces = total > self.storage.cache_bytes

    def read(self, name: str) -> bytes | None:
        try:
            return self._ask(name, lambda fs, path: fs.cat_file(path))
        except ShardFault as fault:
            if fault.reason == "vanished":
                return None
            raise

    def local(self, name: str, size: int) -> Path | None:
        if self._pieces:
            return None

        def download(temporary: Path) -> None:
            self._ask(name, lambda fs, path: fs.get_file(path, str(temporary)))

        return self._cache.fetch(f"{self._folder}/{name}", self.where(name), size, download)

    def pread(self, name: str, size: int, start: int, length: int) -> np.ndarray:
        if self._pieces:
            length = max(0, min(length, size - start))
            found = self._ask(name, lambda fs, path: fs.cat_file(path, start=start, end=start + length))
            if len(found) == size > length:  # a server that does not know ranges
                found = found[start : start + length]
            return np.frombuffer(bytearray(found), np.uint8)
        for _ in range(3):  # another process may make room between finding a shard and opening it
            path = self.local(name, size)
            try:
                return LocalFiles(path.parent, self.patience)._pread(path.name, start, length)
            except FileNotFoundError:
                continue
        raise ShardFault(
            f"{self.where(name)}: gave way in the cache before it was read; raise storage.cache_bytes",
            shard=self.where(name),
            reason="storage",
        )

    def stream(self, name: str) -> BinaryIO:
        return self._ask(name, lambda fs, path: fs.open(path, "rb", block_size=STREAMED))

    def _ask(self, name: str, work: Callable[[Any, str], Result]) -> Result:
        def run() -> Result:
            fs, root = self._fs()
            return work(fs, f"{root}/{name}")

        return self.patience.ask(self.where(name), run, limited=True)

    def _fs(self) -> tuple[Any, str]:
        import fsspec

        if self._store is None or self._store[0] != os.getpid():
            protocol = self.url.partition("://")[0]
            try:
                kind = fsspec.get_filesystem_class(protocol)
                fs = kind(skip_instance_cache=True)
            except ImportError as error:
                raise ValueError(f"{self.url}: {error}. pip install 'videopoet-open[remote]'") from None
            except ValueError as error:
                raise ValueError(f"{self.url}: {error}; give a folder, or a URL of http, https, s3 or gs") from None
            self._store = (os.getpid(), fs, kind._strip_protocol(self.url))
        return self._store[1], self._store[2]

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_store": None}


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

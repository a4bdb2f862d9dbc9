"""Where shards lie: a local folder, or a URL read through fsspec and a bounded local cache."""

import hashlib
import os
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

import numpy as np

from videopoet.data.cache import Cache
from videopoet.data.faults import ShardFault
from videopoet.data.patience import Patience

MAX_OPEN = 256  # files a reader keeps open
STREAMED = 1 << 23  # bytes asked for at a time where a shard is streamed
Result = TypeVar("Result")


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

    def expect(self, name: str, start: int, length: int) -> None:  # noqa: B027 - only local files can
        """Be told what is read next."""

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

    def expect(self, name: str, start: int, length: int) -> None:
        try:
            os.posix_fadvise(self._descriptor(name), start, length, os.POSIX_FADV_WILLNEED)
        except (OSError, AttributeError):  # reading it will say; not every system has it
            return

    def _descriptor(self, name: str) -> int:
        if name not in self._open:
            while len(self._open) >= MAX_OPEN:
                os.close(self._open.pop(next(iter(self._open))))
            self._open[name] = os.open(self.folder / name, os.O_RDONLY)
        return self._open[name]

    def _pread(self, name: str, start: int, length: int) -> np.ndarray:
        descriptor, content, got = self._descriptor(name), np.empty(length, np.uint8), 0
        while got < length:
            more = os.preadv(descriptor, [content[got:] if got else content], start + got)
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

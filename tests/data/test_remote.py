"""Shards behind a URL: the same samples through a bounded cache that processes share."""

import functools
import http.server
import multiprocessing
import os
import pickle
import shutil
import sys
import threading
import time

import fsspec
import pytest
from test_shards import clip, same, write

from videopoet.data.cache import Cache, _locked
from videopoet.data.faults import ShardFault
from videopoet.data.patience import Patience
from videopoet.data.remote import Storage
from videopoet.data.schema import MANIFEST, Clip
from videopoet.data.shards import ShardReader

HURRY = Patience(attempts=2, first_wait=0.01, timeout=5)
COUNT = 7


@pytest.fixture
def local(tmp_path):
    write(tmp_path / "shards", count=COUNT)
    return tmp_path / "shards"


@pytest.fixture
def memory(local):
    """The folder in fsspec's memory."""
    fs = fsspec.filesystem("memory")
    fs.put(f"{local}/", "/bucket/shards/", recursive=True)
    yield "memory://bucket/shards"
    fs.rm("/bucket", recursive=True)


class Server:
    """A web server on loopback that counts what it is asked for."""

    def __init__(self, folder):
        self.asked = asked = []

        class Handler(http.server.SimpleHTTPRequestHandler):
            def do_GET(self):
                asked.append(self.path)
                super().do_GET()

            def log_message(self, *_):
                pass

        handler = functools.partial(Handler, directory=str(folder))
        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        self.url = f"http://127.0.0.1:{self.server.server_port}/shards"

    def fetched(self, suffix):
        return [path for path in self.asked if path.endswith(suffix)]


@pytest.fixture
def server(local):
    server = Server(local.parent)
    yield server
    server.server.shutdown()


def storage(tmp_path, cache_bytes=1 << 30, **how):
    return Storage(cache=str(tmp_path / "cache"), cache_bytes=cache_bytes, **{"patience": HURRY} | how)


def all_there(reader):
    return all(same(Clip.from_record(reader[i]), clip(i)) for i in (6, 0, 3, 2, 5, 1, 4))


def cached(tmp_path, suffix=".tar"):
    return [path for path in (tmp_path / "cache").rglob(f"*{suffix}") if ".part" not in path.name]


def sizes(local):
    return [path.stat().st_size for path in sorted(local.glob("*.tar"))]


# --- the same samples from everywhere


@pytest.mark.parametrize("kind", ["path", "file:", "file://", "memory", "http"])
def test_samples_are_the_same_wherever_they_lie(kind, local, memory, server, tmp_path):
    folder = {"path": local, "file:": f"file:{local}", "file://": f"file://{local}", "memory": memory,
              "http": server.url}[kind]  # fmt: skip
    reader = ShardReader(folder, "media", storage=storage(tmp_path))
    assert all_there(reader) and reader.having("audio") == ShardReader(local).having("audio")
    assert reader.identity == ShardReader(local).identity
    reader.verify()
    assert all_there(pickle.loads(pickle.dumps(reader)))


def test_a_shard_is_fetched_once(server, tmp_path):
    for _ in range(2):
        reader = ShardReader(server.url, storage=storage(tmp_path))
        assert all_there(reader) and all_there(reader)
    assert len(server.fetched(".tar")) == 3 and len(cached(tmp_path)) == 3


@pytest.mark.parametrize("with_index", [True, False])
def test_a_folder_larger_than_the_cache_is_read_in_pieces(local, tmp_path, with_index, memory):
    if not with_index:
        fsspec.filesystem("memory").rm("/bucket/shards/clips-000001.index")
    reader = ShardReader(memory, storage=storage(tmp_path, cache_bytes=sum(sizes(local)) - 1))
    if with_index:
        assert all_there(reader) and not cached(tmp_path)
    else:
        with pytest.raises(ShardFault, match=r"clips-000001.tar: larger than the cache and without an index"):
            reader[3]


def test_what_samples_have_is_known_before_they_are_fetched(server, tmp_path):
    reader = ShardReader(server.url, storage=storage(tmp_path))
    assert reader.having("audio") == [1, 2, 4, 5] and not server.fetched(".tar")


def test_a_server_without_ranges_still_gives_pieces(server, local, tmp_path):
    assert all_there(ShardReader(server.url, storage=storage(tmp_path, cache_bytes=1000)))


def test_an_index_that_is_not_there_is_made_in_the_cache(server, local, tmp_path):
    for path in local.glob("*.index"):
        path.unlink()
    assert all_there(ShardReader(server.url, storage=storage(tmp_path)))
    assert len(cached(tmp_path, ".index")) == 3 and not list(local.glob("*.index"))


# --- the cache


def put(content):
    return lambda path: path.write_bytes(content)


def test_the_cache_keeps_its_limit_and_what_was_used_last(tmp_path):
    cache = Cache(tmp_path / "cache", 250, HURRY)
    for name in ("a", "b"):
        cache.fetch(f"x/{name}.tar", name, 100, put(bytes(100)))
    cache.fetch("x/a.tar", "a", 100, None)  # used again
    cache.fetch("x/c.tar", "c", 100, put(bytes(100)))
    assert sorted(path.name for path in cached(tmp_path)) == ["a.tar", "c.tar"]
    with pytest.raises(ValueError, match=r"d has 300 bytes, the cache holds 250: raise storage.cache_bytes"):
        cache.fetch("x/d.tar", "d", 300, put(bytes(300)))


def test_an_open_file_that_gives_way_stays_readable(tmp_path):
    cache = Cache(tmp_path / "cache", 150, HURRY)
    with cache.fetch("x/a.tar", "a", 100, put(b"a" * 100)).open("rb") as file:
        cache.fetch("x/b.tar", "b", 100, put(b"b" * 100))
        assert [path.name for path in cached(tmp_path)] == ["b.tar"] and file.read() == b"a" * 100


def test_a_download_that_fails_leaves_nothing_but_room(tmp_path):
    cache = Cache(tmp_path / "cache", 150, HURRY)
    with pytest.raises(ShardFault, match="a: has 60 bytes, the manifest says 100 bytes") as caught:
        cache.fetch("x/a.tar", "a", 100, put(bytes(60)))
    assert caught.value.reason == "truncated"
    left = tmp_path / "cache" / "x"
    (left / "b.tar.room").write_bytes(bytes(140))  # of processes that were killed
    (left / ".b.1-2.part.tar").write_bytes(bytes(50))
    cache.fetch("x/b.tar", "b", 100, put(bytes(100)))
    assert sorted(path.name for path in left.iterdir() if path.suffix != ".lock") == ["b.tar"]


def test_room_is_not_given_back_while_another_counts(tmp_path):
    cache, downloading, go_on = Cache(tmp_path / "cache", 150, HURRY), threading.Event(), threading.Event()

    def download(path):
        downloading.set()
        assert go_on.wait(30)
        path.write_bytes(bytes(100))

    fetching = threading.Thread(target=cache.fetch, args=("x/a.tar", "a", 100, download))
    fetching.start()
    assert downloading.wait(30)
    with _locked(tmp_path / "cache" / "cache.lock"):  # as one who counts holds it
        go_on.set()
        while not cached(tmp_path):
            time.sleep(0.001)
        time.sleep(0.05)
        assert (tmp_path / "cache" / "x" / "a.tar.room").exists()
    fetching.join()
    assert not (tmp_path / "cache" / "x" / "a.tar.room").exists()


def _fetch(folder, queue, number):
    cache, most = Cache(folder, 350, Patience(timeout=60)), 0
    for i in range(30):
        name = (i * 7 + number * 3) % 6

        def download(path, name=name):
            queue.put(("asked", name))
            path.write_bytes(bytes([name]) * 100)
            time.sleep(0.002)

        for _ in range(20):
            try:
                content = cache.fetch(f"x/{name}.tar", str(name), 100, download).read_bytes()
                break
            except FileNotFoundError:  # another made room: the reader asks again, too
                continue
        assert content == bytes([name]) * 100, "never a part of a file"
        held = 0
        for path in (folder / "x").iterdir():
            try:
                held += path.stat().st_size if path.suffix == ".tar" and ".part" not in path.name else 0
            except FileNotFoundError:
                continue
        most = max(most, held)
    queue.put(("most", most))


def test_processes_share_a_cache_within_its_limit(tmp_path):
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    workers = [context.Process(target=_fetch, args=(tmp_path / "cache", queue, n)) for n in range(3)]
    for worker in workers:
        worker.start()
    ended = []
    while len(ended) < 3:
        kind, value = queue.get(timeout=60)
        ended += [value] if kind == "most" else []
    for worker in workers:
        worker.join()
        assert worker.exitcode == 0
    assert max(ended) <= 350


# --- what goes wrong


def test_a_shard_gone_from_the_server_is_named_by_its_url(server, local, tmp_path):
    reader = ShardReader(server.url, storage=storage(tmp_path), tolerant=True)
    (local / "clips-000001.tar").unlink()
    with pytest.raises(ShardFault, match=rf"{server.url}/clips-000001.tar: is missing") as caught:
        reader[3]
    assert caught.value.reason == "vanished" and same(Clip.from_record(reader[0]), clip(0))


def test_a_shard_cut_short_on_the_server_is_named(server, local, tmp_path):
    path = local / "clips-000001.tar"
    os.truncate(path, 3000)
    with pytest.raises(ShardFault, match=r"clips-000001.tar: has 3000 bytes, the manifest says") as caught:
        ShardReader(server.url, storage=storage(tmp_path))[3]
    assert caught.value.reason == "truncated"


def test_a_server_that_is_gone_is_asked_again_and_then_named(server, tmp_path):
    reader = ShardReader(server.url, storage=storage(tmp_path), tolerant=True)
    server.server.shutdown()
    server.server.server_close()
    with pytest.raises(ShardFault, match=r"clips-000000.tar: .*the storage failed 2 times") as caught:
        reader[0]
    assert caught.value.reason == "storage"


def test_a_url_without_shards_and_one_of_an_unknown_kind_are_refused(server, tmp_path):
    with pytest.raises(ValueError, match=r"/nothing: not a shard folder \(no manifest.json in it\)"):
        ShardReader(server.url.replace("shards", "nothing"), storage=storage(tmp_path))
    with pytest.raises(ValueError, match=r"gopher://x/y: .*give a folder, or a URL of http, https, s3 or gs"):
        ShardReader("gopher://x/y", storage=storage(tmp_path))


@pytest.mark.parametrize(("url", "package"), [("s3://bucket/shards", "s3fs"), ("gs://bucket/shards", "gcsfs")])
def test_a_missing_package_is_named_with_the_line_to_install(url, package, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, package, None)
    sys.modules["fsspec.registry"]._registry.pop(url.partition(":")[0], None)
    with pytest.raises(ValueError, match=rf"{url}: .*{package}.* pip install 'videopoet-open\[remote\]'"):
        ShardReader(url, storage=storage(tmp_path))


def test_a_manifest_cannot_name_files_elsewhere(local, tmp_path):
    text = (local / MANIFEST).read_text()
    (local / MANIFEST).write_text(text.replace("clips-000000.tar", "../clips-000000.tar"))
    shutil.copy(local / "clips-000000.tar", tmp_path)
    with pytest.raises(ValueError, match="is no plain file name"):
        ShardReader(local)

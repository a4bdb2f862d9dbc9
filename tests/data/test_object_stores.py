"""Shards in s3 and gs, read from stand-ins of both on loopback. Skipped where the stand-ins are not installed:
pip install s3fs gcsfs 'moto[server]' gcp-storage-emulator, beside the project."""

import os
import pickle
import socket

import fsspec
import pytest
from test_remote import all_there, cached, storage
from test_shards import clip, same, write

from videopoet.data.faults import ShardFault
from videopoet.data.schema import Clip
from videopoet.data.shards import ShardReader

pytestmark = pytest.mark.slow  # servers, and clients that are large to import


@pytest.fixture
def local(tmp_path):
    write(tmp_path / "shards", count=7)
    return tmp_path / "shards"


@pytest.fixture
def s3(local, monkeypatch):
    pytest.importorskip("s3fs")
    server = pytest.importorskip("moto.server").ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "any")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "any")
    fs = fsspec.filesystem("s3", skip_instance_cache=True)
    fs.makedirs("bucket", exist_ok=True)  # moto remembers it for the life of the process
    yield fs, "s3://bucket/deep/shards"
    server.stop()


@pytest.fixture
def gs(local, monkeypatch):
    emulator = pytest.importorskip("gcp_storage_emulator.server")
    monkeypatch.setenv("GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT", "false")  # read when gcsfs is first imported
    pytest.importorskip("gcsfs")
    monkeypatch.setitem(fsspec.config.conf, "gs", {"token": "anon"})  # as FSSPEC_GS_TOKEN=anon
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", f"http://127.0.0.1:{port}")
    server = emulator.create_server("127.0.0.1", port, in_memory=True, default_bucket="bucket")
    server.start()
    yield fsspec.filesystem("gs", skip_instance_cache=True), "gs://bucket/deep/shards"
    server.stop()


@pytest.fixture(params=["s3", "gs"])
def store(request, local):
    fs, url = request.getfixturevalue(request.param)
    for path in local.iterdir():
        fs.put_file(str(path), f"{url}/{path.name}")
    return fs, url


def test_samples_are_the_same_whole_in_pieces_and_in_other_processes(store, local, tmp_path):
    whole = ShardReader(store[1], "media", storage=storage(tmp_path))
    assert all_there(whole) and whole.identity == ShardReader(local).identity and len(cached(tmp_path)) == 3
    whole.verify()
    pieces = ShardReader(store[1], storage=storage(tmp_path / "pieces", cache_bytes=1000))
    assert all_there(pieces) and not cached(tmp_path / "pieces")
    assert all_there(pickle.loads(pickle.dumps(pieces)))
    child = os.fork()  # as a worker begins, after its parent has talked to the store
    if not child:
        os._exit(0 if same(Clip.from_record(pieces[5]), clip(5)) else 1)
    assert os.waitpid(child, 0)[1] == 0


def test_a_shard_gone_from_the_store_and_a_bucket_that_is_not_there_are_named(store, tmp_path):
    fs, url = store
    reader = ShardReader(url, storage=storage(tmp_path), tolerant=True)
    fs.rm_file(f"{url}/clips-000001.tar")
    with pytest.raises(ShardFault, match=rf"{url}/clips-000001.tar: is missing") as caught:
        reader[3]
    assert caught.value.reason == "vanished" and same(Clip.from_record(reader[0]), clip(0))
    for nothing in (url.replace("deep", "nothing"), url.replace("bucket", "nobucket")):
        with pytest.raises(ValueError, match=rf"{nothing}: not a shard folder \(no manifest.json in it\)"):
            ShardReader(nothing, storage=storage(tmp_path))

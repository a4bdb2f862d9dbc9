import io
import multiprocessing
import os
import pickle
import signal
import subprocess
import sys
import tarfile

import numpy as np
import pytest
import webdataset

from videopoet.data.index import Stamp, index_path, read_index
from videopoet.data.schema import MANIFEST, SCHEMA_VERSION, Clip, MediaManifest, TokenManifest, read_manifest
from videopoet.data.shards import ShardReader, ShardWriter

GEOMETRY = dict(fps=8.0, frames=5, height=4, width=4, sample_rate=16000)


def clip(number: int) -> Clip:
    rng = np.random.default_rng(number)
    return Clip(
        key=f"{number:06d}_0000",
        video=rng.integers(0, 256, (5, 4, 4, 3), dtype=np.uint8),
        audio=None if number % 3 == 0 else rng.integers(-100, 100, 10000, dtype=np.int16),
        captions=(f"clip {number}", "größer"),
        source={"file": f"{number}.mp4"},
    )


def write(folder, count=7, **how):
    with ShardWriter(folder, prefix="clips", **{"max_samples": 3} | how) as writer:
        for number in range(count):
            writer.write(f"{number:06d}_0000", clip(number).record())
        return writer.finish(MediaManifest(**GEOMETRY, rejected={"unreadable": 2}))


def same(a: Clip, b: Clip) -> bool:
    sound = a.audio is b.audio if a.audio is None or b.audio is None else np.array_equal(a.audio, b.audio)
    return np.array_equal(a.video, b.video) and sound and (a.key, a.captions, a.source) == (b.key, b.captions, b.source)


def test_every_sample_comes_back_from_any_place_in_any_order(tmp_path):
    manifest = write(tmp_path / "shards")
    reader = ShardReader(tmp_path / "shards", kind="media")
    assert len(reader) == 7 and [shard.samples for shard in manifest.shards] == [3, 3, 1]
    for index in (6, 0, 3, 2, 5, 1, 4):
        assert same(Clip.from_record(reader[index]), clip(index))
    assert reader.read(1, fields=("audio",)).keys() == {"__key__", "audio"}
    for outside in (7, -1):
        with pytest.raises(IndexError):
            reader[outside]
    reader.verify()


def test_the_tars_are_plain_webdataset(tmp_path):
    write(tmp_path / "shards")
    urls = sorted(map(str, (tmp_path / "shards").glob("*.tar")))
    found = list(webdataset.WebDataset(urls, shardshuffle=False).decode())
    assert [sample["__key__"] for sample in found] == [f"{number:06d}_0000" for number in range(7)]
    for number, sample in enumerate(found):
        expected = clip(number)
        np.testing.assert_array_equal(sample["video.npy"], expected.video)
        assert ("audio.npy" in sample) == (expected.audio is not None)
        assert tuple(sample["json"]["captions"]) == expected.captions


def test_equal_samples_give_equal_files(tmp_path):
    assert write(tmp_path / "a") == write(tmp_path / "b")


def test_max_bytes_closes_a_shard(tmp_path):
    manifest = write(tmp_path / "shards", max_samples=100, max_bytes=30_000)
    assert len(manifest.shards) > 1 and all(shard.bytes < 70_000 for shard in manifest.shards)


def test_manifests_round_trip(tmp_path):
    manifest = TokenManifest(
        **GEOMETRY,
        fingerprints={"visual": "ab", "audio": "cd"},
        visual_lattice=(2, 4, 4),
        visual_codebook_size=4096,
        audio_frames=25,
        audio_levels=4,
        audio_codebook_size=1024,
    )
    with ShardWriter(tmp_path / "tokens") as writer:
        writer.write("a", {"visual": np.zeros((2, 4, 4), np.uint32), "json": {"captions": []}})
        manifest = writer.finish(manifest)
    assert read_manifest(tmp_path / "tokens", "tokens") == manifest == ShardReader(tmp_path / "tokens").manifest
    assert manifest.num_samples == 1


@pytest.mark.parametrize("key", ["", "a.b", "a b", "a/b", "ä"])
def test_keys_webdataset_would_split_are_refused(tmp_path, key):
    with pytest.raises(ValueError, match="key"), ShardWriter(tmp_path / "shards") as writer:
        writer.write(key, clip(0).record())
    assert not list(tmp_path.iterdir())


def test_a_key_is_used_once(tmp_path):
    with pytest.raises(ValueError, match="twice"), ShardWriter(tmp_path / "shards") as writer:
        for _ in range(2):
            writer.write("a", clip(0).record())


def test_objects_are_refused(tmp_path):
    with pytest.raises(ValueError, match="array of numbers"), ShardWriter(tmp_path / "shards") as writer:
        writer.write("a", {"video": np.array([None])})


def test_a_failure_leaves_nothing_and_keeps_what_was_there(tmp_path):
    before = write(tmp_path / "shards")
    with pytest.raises(RuntimeError), ShardWriter(tmp_path / "shards", max_samples=1, overwrite=True) as writer:
        writer.write("a", clip(0).record())
        writer.write("b", clip(1).record())
        raise RuntimeError
    assert [path.name for path in tmp_path.iterdir()] == ["shards"]
    ShardReader(tmp_path / "shards").verify()
    assert read_manifest(tmp_path / "shards") == before


def test_a_killed_writer_leaves_nothing_that_opens(tmp_path):
    code = f"""
import numpy as np
from videopoet.data.shards import ShardWriter
with ShardWriter({str(tmp_path / "shards")!r}, max_samples=1) as writer:
    for key in "abc":
        writer.write(key, {{"video": np.zeros((2, 2), np.uint8)}})
    print("written", flush=True)
    time.sleep(60)
"""
    child = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
    assert child.stdout.readline() == b"written\n"
    child.send_signal(signal.SIGKILL)
    child.wait()
    assert not (tmp_path / "shards").exists()
    for folder in tmp_path.iterdir():
        with pytest.raises(ValueError, match="not a shard folder"):
            ShardReader(folder)
    write(tmp_path / "shards")  # and nothing stands in the way of the next run


def test_only_shard_folders_are_overwritten_and_only_if_asked(tmp_path):
    write(tmp_path / "shards")
    with pytest.raises(ValueError, match="already holds shards"):
        ShardWriter(tmp_path / "shards")
    assert write(tmp_path / "shards", count=2, overwrite=True).num_samples == len(ShardReader(tmp_path / "shards")) == 2
    (tmp_path / "holiday").mkdir()
    (tmp_path / "holiday" / "film.mp4").write_bytes(b"precious")
    with pytest.raises(ValueError, match="not a shard folder"):
        ShardWriter(tmp_path / "holiday", overwrite=True)
    assert (tmp_path / "holiday" / "film.mp4").exists()


# --- folders that are not what they should be


def test_foreign_folders_are_refused_with_the_cause(tmp_path):
    with pytest.raises(ValueError, match="no such folder"):
        ShardReader(tmp_path / "absent")
    with pytest.raises(ValueError, match=r"no manifest.json in it"):
        ShardReader(tmp_path)
    write(tmp_path / "shards")
    with pytest.raises(ValueError, match="kind 'media', expected tokens"):
        ShardReader(tmp_path / "shards", kind="tokens")
    path = tmp_path / "shards" / MANIFEST
    whole = path.read_text()
    for content, cause in [
        (whole.replace(f'"schema_version": {SCHEMA_VERSION}', '"schema_version": 99'), "version 99, .* up to"),
        (whole.replace('"media"', '"paintings"'), "kind 'paintings'"),
        (whole.replace('"fps"', '"speed"'), "not a whole media manifest"),
        (whole[:50], "not a manifest"),
        ("[]", "not a manifest"),
    ]:
        path.write_text(content)
        with pytest.raises(ValueError, match=cause) as caught:
            ShardReader(tmp_path / "shards")
        assert "\n" not in str(caught.value)


def test_truncated_or_missing_shards_are_named_at_once(tmp_path):
    write(tmp_path / "shards")
    path = tmp_path / "shards" / "clips-000001.tar"
    content = path.read_bytes()
    path.write_bytes(content[:-1000])
    with pytest.raises(ValueError, match=f"clips-000001.tar: has {len(content) - 1000} bytes, .* {len(content)} bytes"):
        ShardReader(tmp_path / "shards")
    path.unlink()
    with pytest.raises(ValueError, match=r"clips-000001.tar: is missing"):
        ShardReader(tmp_path / "shards")


def test_damage_is_named_with_shard_and_member(tmp_path):
    write(tmp_path / "shards")
    path = tmp_path / "shards" / "clips-000000.tar"
    content, index = bytearray(path.read_bytes()), index_path(path).read_bytes()
    with tarfile.open(path) as tar:
        second = tar.getmember("000001_0000.video.npy")

    damaged = content.copy()
    damaged[second.offset_data : second.offset_data + 6] = bytes(6)  # the array's magic
    path.write_bytes(damaged)
    reader = ShardReader(tmp_path / "shards")
    assert same(Clip.from_record(reader[0]), clip(0))
    with pytest.raises(ValueError, match=r"clips-000000.tar: member 000001_0000.video.npy is damaged"):
        reader[1]

    damaged = content.copy()
    damaged[second.offset : second.offset + 300] = bytes([255]) * 300  # its tar header
    path.write_bytes(damaged)
    assert same(Clip.from_record(ShardReader(tmp_path / "shards")[1]), clip(1)), "the index knows where it lies"
    index_path(path).unlink()
    with pytest.raises(ValueError, match=r"clips-000000.tar: damaged tar"):
        ShardReader(tmp_path / "shards")[0]

    damaged = content.copy()
    damaged[second.offset_data + second.size - 1] ^= 1  # one bit of one pixel
    path.write_bytes(damaged)
    index_path(path).write_bytes(index)
    for without_index in (False, True):
        with pytest.raises(ValueError, match=r"clips-000000.tar: content differs"):
            ShardReader(tmp_path / "shards").verify()
        cause = "content differs from the checksum" if without_index else "member 000001_0000.video.npy is damaged"
        with pytest.raises(ValueError, match=rf"clips-000000.tar: {cause}"):
            ShardReader(tmp_path / "shards")[1]
        index_path(path).unlink(missing_ok=True)


def test_pickles_in_a_shard_are_not_loaded(tmp_path):
    write(tmp_path / "shards", count=1)
    path = tmp_path / "shards" / "clips-000000.tar"
    buffer = io.BytesIO()
    np.save(buffer, np.array([{"a": 1}], dtype=object), allow_pickle=True)
    with tarfile.open(path, "w") as tar:
        info = tarfile.TarInfo("000000_0000.video.npy")
        info.size = len(buffer.getvalue())
        tar.addfile(info, io.BytesIO(buffer.getvalue()))
    shard, stamp = read_manifest(tmp_path / "shards").shards[0], Stamp.of(path)
    text = (tmp_path / "shards" / MANIFEST).read_text()
    text = text.replace(f'"bytes": {shard.bytes}', f'"bytes": {stamp.bytes}').replace(shard.sha256, stamp.sha256)
    (tmp_path / "shards" / MANIFEST).write_text(text)
    with pytest.raises(ValueError, match=r"000000_0000.video.npy is damaged"):
        ShardReader(tmp_path / "shards")[0]


def _read_all(reader, indices, queue):
    queue.put(all(same(Clip.from_record(reader[index]), clip(index)) for index in indices))


def test_a_pickled_reader_opens_its_own_files(tmp_path):
    write(tmp_path / "shards")
    reader = ShardReader(tmp_path / "shards")
    reader[0]
    copy = pickle.loads(pickle.dumps(reader))
    reader.close()
    assert same(Clip.from_record(copy[0]), clip(0)) and same(Clip.from_record(reader[4]), clip(4))


def test_forked_workers_share_a_reader_that_is_already_open(tmp_path):
    write(tmp_path / "shards")
    reader = ShardReader(tmp_path / "shards")
    reader[0]
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    workers = [context.Process(target=_read_all, args=(reader, [0, 6, 1, 5] * 20, queue)) for _ in range(2)]
    for worker in workers:
        worker.start()
    assert all(same(Clip.from_record(reader[index]), clip(index)) for index in [1, 0, 2] * 20)
    assert all(queue.get(timeout=60) for _ in workers)
    for worker in workers:
        worker.join()


# --- the index


def test_an_index_says_where_every_member_lies(tmp_path):
    manifest = write(tmp_path / "shards")
    for shard in manifest.shards:
        path = tmp_path / "shards" / shard.name
        rows = read_index(index_path(path), Stamp(bytes=shard.bytes, sha256=shard.sha256))
        with tarfile.open(path) as tar:
            for row in rows:
                key = row["key"].decode()
                for name in rows.dtype.names[1:]:
                    if row[name]["size"] < 0:
                        assert f"{key}.{name}" not in tar.getnames()
                        continue
                    info = tar.getmember(f"{key}.{name}")
                    assert (row[name]["offset"], row[name]["size"]) == (info.offset_data, info.size)
                assert row["video.npy"]["length"] == 5 * 4 * 4 * 3


def index_bytes(folder):
    return {path.name: path.read_bytes() for path in folder.glob("*.index")}


def test_an_index_is_made_where_there_is_none_and_made_anew_where_it_is_stale(tmp_path):
    write(tmp_path / "shards")
    whole = index_bytes(tmp_path / "shards")
    assert len(whole) == 3
    stale = [b"", b"{}\n", whole["clips-000001.index"], whole["clips-000000.index"][:-1], None]
    for content in stale:
        path = tmp_path / "shards" / "clips-000000.index"
        path.unlink() if content is None else path.write_bytes(content)
        reader = ShardReader(tmp_path / "shards")
        assert all(same(Clip.from_record(reader[i]), clip(i)) for i in range(7))
        assert index_bytes(tmp_path / "shards") == whole


def test_a_folder_that_was_copied_or_touched_keeps_its_index(tmp_path, monkeypatch):
    write(tmp_path / "shards")
    for path in (tmp_path / "shards").glob("*.tar"):
        os.utime(path, (1, 1))
    monkeypatch.setattr("videopoet.data.shards.scan", None)  # nothing is read again
    assert len(list(ShardReader(tmp_path / "shards"))) == 7


def test_a_folder_that_cannot_be_written_to_is_read(tmp_path, monkeypatch):
    write(tmp_path / "shards")
    for path in (tmp_path / "shards").glob("*.index"):
        path.unlink()

    def refuse(*_):
        raise PermissionError

    monkeypatch.setattr("videopoet.data.shards.write_index", refuse)
    reader = ShardReader(tmp_path / "shards")
    assert all(same(Clip.from_record(reader[i]), clip(i)) for i in range(7)) and not index_bytes(tmp_path / "shards")
    assert reader.having("audio") == [1, 2, 4, 5]


@pytest.mark.parametrize("dtype", ["<u1", ">u2", "<i8", "<f4", "?"])
@pytest.mark.parametrize("order", ["C", "F"])
def test_arrays_come_back_as_they_were_and_may_be_changed(tmp_path, dtype, order):
    arrays = {"a": np.asarray(np.arange(24).reshape(2, 3, 4), dtype, order=order), "b": np.zeros((0, 3), dtype)}
    arrays["c"] = np.array(3, dtype)
    with ShardWriter(tmp_path / "shards") as writer:
        writer.write("x", arrays)
        writer.finish(MediaManifest(**GEOMETRY))
    record = ShardReader(tmp_path / "shards")[0]
    for name, array in arrays.items():
        np.testing.assert_array_equal(record[name], array)
        assert record[name].dtype == array.dtype and record[name].flags.writeable

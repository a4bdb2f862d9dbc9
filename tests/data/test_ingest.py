import json

import numpy as np
import pytest
from media_samples import numbered, numbers, tone, write
from PIL import Image

from videopoet.data.ingest import build_shards
from videopoet.data.media import Media, read_media, write_media
from videopoet.data.schema import Clip
from videopoet.data.shards import ShardReader

SMALL = dict(frames=5, fps=8.0, size=16)


def clips(folder) -> list[Clip]:
    return [Clip.from_record(record) for record in ShardReader(folder, kind="media")]


@pytest.fixture
def folder(tmp_path):
    path = tmp_path / "videos"
    (path / "deep").mkdir(parents=True)
    return path


def test_clips_follow_each_other_without_gap_or_overlap(tmp_path, folder):
    write(folder / "a.mp4", numbered(13), audio=tone(13 / 8, onset=0.7))
    report = build_shards(folder, tmp_path / "out", **SMALL)
    first, second = clips(tmp_path / "out")
    assert (numbers(first.video), numbers(second.video)) == ([0, 1, 2, 3, 4], [5, 6, 7, 8, 9])
    assert (first.source["second"], second.source["second"]) == (0, 0.625)
    assert first.video.shape == (5, 16, 16, 3) and first.audio.dtype == np.int16
    whole = np.rint(read_media(folder / "a.mp4").audio[0] * 32767)
    np.testing.assert_array_equal(np.concatenate([first.audio, second.audio]), whole[:20000])
    assert (report.files, report.clips, report.clips_with_audio, report.rejected) == (1, 2, 2, ())


def test_mixed_folder_gives_every_clip_and_reports_every_refusal(tmp_path, folder):
    write(folder / "a.mp4", numbered(5), audio=tone(5 / 8))
    write(folder / "deep" / "b.mkv", numbered(6, 25, 33), codec="ffv1", pix_fmt="yuv420p10le")
    write(folder / "c.webm", numbered(5), codec="libvpx-vp9")
    write(folder / "d.MOV", numbered(5), rotation=90)
    write(folder / "e.gif", numbered(5), codec="gif", pix_fmt="gray")
    images = [Image.fromarray(frame) for frame in numbered(5)]
    images[0].save(folder / "f.webp", save_all=True, append_images=images[1:], duration=125)
    write(folder / "short.mp4", numbered(3))
    whole = write(folder / "cut.mp4", numbered(5)).read_bytes()
    (folder / "cut.mp4").write_bytes(whole[: len(whole) // 2])
    (folder / "empty.mp4").write_bytes(b"")
    write(folder / "song.mp4", None, audio=tone(1))
    (folder / "notes.md").write_text("not media")
    write(folder / "._hidden.mp4", numbered(5))

    report = build_shards(folder, tmp_path / "out", **SMALL)
    found = clips(tmp_path / "out")
    assert [clip.source["file"] for clip in found] == ["a.mp4", "c.webm", "d.MOV", "deep/b.mkv", "e.gif", "f.webp"]
    assert all(numbers(clip.video) == [0, 1, 2, 3, 4] for clip in found)
    assert [clip.audio is not None for clip in found] == [True] + [False] * 5
    reasons = {rejection.file: (rejection.kind, rejection.reason) for rejection in report.rejected}
    assert reasons.keys() == {"short.mp4", "cut.mp4", "empty.mp4", "song.mp4"}
    assert reasons["short.mp4"] == ("too short", "too short: 3 of 5 frames at 8 fps")
    assert "empty" in reasons["empty.mp4"][1] and "only sound" in reasons["song.mp4"][1]
    assert all(str(folder) not in reason and "\n" not in reason for _, reason in reasons.values())
    manifest = ShardReader(tmp_path / "out").manifest
    assert manifest.rejected == {"too short": 1, "unreadable": 3} and manifest.num_samples == report.clips == 6
    assert (report.files, report.clips_with_audio) == (10, 1)


def test_captions_come_from_sidecars_and_listing(tmp_path, folder):
    for name in ("a", "b", "c", "d", "e"):
        write(folder / f"{name}.mp4", numbered(5))
    (folder / "a.txt").write_text("  a red   ball \n\nit falls\n", encoding="utf-8")
    (folder / "b.json").write_text('{"caption": "größer", "seed": 7, "shape": {"kind": "square"}}', encoding="utf-8")
    (folder / "c.json").write_text('{"captions": ["one", "two", "one"]}')
    lines = [
        {"file": "d.mp4", "caption": "listed", "licence": "CC0"},
        {"file": "d.mp4", "captions": ["twice"]},
        {"file": "gone.mp4", "caption": "?"},
    ]
    (folder / "captions.jsonl").write_text("\n".join(map(json.dumps, lines)) + "\n\n")
    report = build_shards(folder, tmp_path / "out", **SMALL)
    found = {clip.source["file"]: clip for clip in clips(tmp_path / "out")}
    assert [found[f"{name}.mp4"].captions for name in "abcde"] == [
        ("a red ball", "it falls"),
        ("größer",),
        ("one", "two"),
        ("listed", "twice"),
        (),
    ]
    assert found["b.mp4"].source == {"file": "b.mp4", "second": 0.0, "seed": 7, "shape": {"kind": "square"}}
    assert found["d.mp4"].source["licence"] == "CC0"
    assert report.clips_with_captions == 4
    assert [(rejection.file, rejection.kind) for rejection in report.rejected] == [("gone.mp4", "missing")]


@pytest.mark.parametrize("content", ["{", "[1]", '{"caption": 3}', '{"captions": "text"}', b"\xff\xfe\x00"])
def test_a_broken_sidecar_is_a_reported_file_not_a_silent_clip(tmp_path, folder, content):
    write(folder / "a.mp4", numbered(5))
    write(folder / "b.mp4", numbered(5))
    (folder / "a.json").write_bytes(content if isinstance(content, bytes) else content.encode())
    report = build_shards(folder, tmp_path / "out", **SMALL)
    assert report.clips == 1 and [(r.file, r.kind) for r in report.rejected] == [("a.mp4", "captions")]


def test_a_broken_listing_names_its_line(tmp_path, folder):
    write(folder / "a.mp4", numbered(5))
    (folder / "captions.jsonl").write_text('{"file": "a.mp4", "caption": "x"}\n{"caption": "y"}\n')
    with pytest.raises(ValueError, match="line 2"):
        build_shards(folder, tmp_path / "out", **SMALL)


def test_damage_half_way_keeps_the_clips_before_it(tmp_path, folder):
    noise = np.random.default_rng(0).integers(0, 255, (40, 32, 32, 3), dtype=np.uint8)
    write_media(folder / "a.mp4", Media(video=noise, fps=8))
    content = (folder / "a.mp4").read_bytes()
    (folder / "a.mp4").write_bytes(content[: len(content) // 2])
    report = build_shards(folder, tmp_path / "out", **SMALL)
    assert 1 <= report.clips < 8 and [r.kind for r in report.rejected] == ["damaged"]
    assert f"after {report.clips} clips" in report.rejected[0].reason


def test_equal_folders_give_equal_shards_with_any_number_of_workers(tmp_path, folder):
    for number in range(5):
        write(folder / f"{number}.mp4", numbered(5 + number))
    (folder / "x.mp4").write_bytes(b"no video")
    reports = [
        build_shards(folder, tmp_path / f"out{workers}", **SMALL, samples_per_shard=2, workers=workers)
        for workers in (0, 1)
    ]
    assert reports[0] == reports[1]
    manifests = [ShardReader(tmp_path / f"out{workers}").manifest for workers in (0, 1)]
    assert manifests[0] == manifests[1] and len(manifests[0].shards) == 3


def test_clips_per_file_is_a_limit(tmp_path, folder):
    write(folder / "a.mp4", numbered(18))
    assert build_shards(folder, tmp_path / "out", **SMALL, clips_per_file=2).clips == 2


@pytest.mark.parametrize(("frames", "nearest"), [(16, "13 and 17"), (4, "1 and 5"), (0, "1 and 5"), (18, "17 and 21")])
def test_frames_must_fit_the_tokenizer(tmp_path, folder, frames, nearest):
    with pytest.raises(ValueError, match=f"1 \\+ 4k, not {frames}; the nearest are {nearest}"):
        build_shards(folder, tmp_path / "out", frames=frames)


def test_nothing_is_left_behind_when_nothing_can_be_built(tmp_path, folder):
    out = tmp_path / "out"
    with pytest.raises(ValueError, match="holds no media files"):
        build_shards(folder, out)
    with pytest.raises(ValueError, match="no such folder"):
        build_shards(folder / "absent", out)
    (folder / "a.mp4").write_bytes(b"")
    with pytest.raises(ValueError, match=r"none of 1 files gave a clip; the first, a.mp4: the file is empty"):
        build_shards(folder, out)
    assert [path.name for path in tmp_path.iterdir()] == ["videos"]


def test_the_same_again_does_nothing_and_anything_else_is_refused_before_any_work(tmp_path, folder):
    write(folder / "a.mp4", numbered(5))
    report = build_shards(folder, tmp_path / "out", **SMALL)
    before = (tmp_path / "out" / "manifest.json").stat().st_mtime_ns
    assert build_shards(folder, tmp_path / "out", **SMALL) == report
    assert (tmp_path / "out" / "manifest.json").stat().st_mtime_ns == before
    other = SMALL | {"fps": 4.0, "frames": 1}
    with pytest.raises(ValueError, match=r"already holds shards of other inputs or settings \(.*fps"):
        build_shards(folder, tmp_path / "out", **other)
    assert build_shards(folder, tmp_path / "out", **other, overwrite=True).clips == 3
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "videos"]
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("not shards")
    with pytest.raises(ValueError, match="is not a shard folder"):
        build_shards(folder, tmp_path / "mine", **SMALL, overwrite=True)

"""Listings with spans of files, and clips that begin anew with every shot: exact in time, in pictures and in sound."""

import json

import numpy as np
import pytest
from media_samples import numbered, numbers, tone, write
from PIL import Image

from videopoet.data.captions import read_listing
from videopoet.data.decoding import read_facts
from videopoet.data.ingest import build_shards, build_sound_shards
from videopoet.data.inputs import list_inputs
from videopoet.data.media import Media, read_media, stream_audio, stream_media
from videopoet.data.schema import Clip
from videopoet.data.shards import ShardReader
from videopoet.data.shots import FrameDifference, ShotDetector, between_cuts

SMALL = dict(frames=5, fps=8.0, size=16)


def clips(folder) -> list[Clip]:
    return [Clip.from_record(record) for record in ShardReader(folder, kind="media")]


def listing(path, lines):
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    return path


@pytest.fixture
def folder(tmp_path):
    path = tmp_path / "videos"
    path.mkdir()
    return path


CODECS = {"a.mp4": "libx264", "a.avi": "mpeg4", "a.mkv": "ffv1", "a.webm": "libvpx-vp9", "a.gif": "gif", "a.ts": "mpeg2video"}


@pytest.mark.parametrize("name", CODECS)
def test_decoding_from_a_second_on_shows_what_the_whole_file_shows_there(folder, name):
    formats = {"a.gif": {"pix_fmt": "gray"}, "a.ts": {"fps": 24}}.get(name, {})
    frames = np.repeat(numbered(19), 3, axis=0) if name == "a.ts" else numbered(19)  # MPEG-2 has no 8 fps
    path = write(folder / name, frames, codec=CODECS[name], **formats)
    whole = next(stream_media(path, fps=8.0)).video
    for start in (0.125, 0.5, 0.55, 1.0, 1.875):
        part = next(stream_media(path, fps=8.0, start=start, max_seconds=0.5)).video
        first = int(start * 8)
        np.testing.assert_array_equal(part, whole[first : first + 4]) if start * 8 == first else None
        assert numbers(part)[0] == first, "the picture on show at that second"


def test_the_sound_of_a_span_is_that_of_its_pictures(folder):
    sound = np.concatenate([tone(1.0), 0.3 * tone(1.0), 0 * tone(0.375)], axis=1)
    path = write(folder / "a.mkv", numbered(19), audio=sound, audio_codec="flac")
    whole = read_media(path)
    part = next(stream_media(path, start=0.75, max_seconds=1.0))
    assert numbers(part.video) == list(range(6, 14))
    np.testing.assert_allclose(part.audio, whole.audio[:, 12000:28000], atol=1e-4)
    pieces = list(stream_audio(path, seconds=0.3, start=0.75, end=1.75))
    assert [len(piece) for piece in pieces] == [4800, 4800, 4800, 1600]
    np.testing.assert_allclose(np.concatenate(pieces), whole.audio[0, 12000:28000], atol=1e-4)


def test_a_listing_takes_its_spans_and_nothing_else(tmp_path, folder):
    write(folder / "a.mp4", numbered(19), audio=tone(19 / 8))
    write(folder / "b.mp4", numbered(5))
    write(folder / "unlisted.mp4", numbered(5))
    (folder / "a.json").write_text('{"licence": "CC0"}')
    lines = [{"file": "a.mp4", "start": 1.0, "end": 1.7, "caption": "late"}, {"file": "b.mp4", "caption": "größer"},
             {"file": "a.mp4", "end": 1.3, "caption": "early", "url": "x"}, {"file": "gone.mp4", "start": 3},
             {"file": "a.mp4", "start": 1.0, "end": 1.7, "caption": "again"},
             {"file": "a.mp4", "start": 2.0, "end": 2.3}, {"file": "a.mp4", "start": 60}]  # fmt: skip
    report = build_shards(folder, tmp_path / "out", **SMALL, listing=listing(tmp_path / "list.jsonl", lines))
    found = clips(tmp_path / "out")
    assert [(clip.source["file"], clip.source["second"], clip.captions, numbers(clip.video)) for clip in found] == [
        ("a.mp4", 1.0, ("late", "again"), [8, 9, 10, 11, 12]),
        ("a.mp4", 0.0, ("early",), [0, 1, 2, 3, 4]),
        ("a.mp4", 0.625, ("early",), [5, 6, 7, 8, 9]),
        ("b.mp4", 0.0, ("größer",), [0, 1, 2, 3, 4]),
    ]
    assert found[1].source == {"file": "a.mp4", "second": 0.0, "url": "x", "licence": "CC0"}
    assert len({clip.key for clip in found}) == 4
    assert [(r.file, r.kind, r.second) for r in report.rejected] == [
        ("a.mp4", "too short", None), ("a.mp4", "unreadable", 60.0), ("gone.mp4", "missing", 3.0)]  # fmt: skip
    assert "no frame that decodes after 60 s" in report.rejected[1].reason


def test_a_folders_own_listing_may_hold_spans_beside_whole_files(tmp_path, folder):
    for name in "abc":
        write(folder / f"{name}.mp4", numbered(10))
    listing(folder / "captions.jsonl", [{"file": "b.mp4", "start": 0.625}, {"file": "c.mp4", "caption": "x"}])
    build_shards(folder, tmp_path / "out", **SMALL)
    assert [(c.source["file"], c.source["second"]) for c in clips(tmp_path / "out")] == [
        ("a.mp4", 0), ("a.mp4", 0.625), ("b.mp4", 0.625), ("c.mp4", 0), ("c.mp4", 0.625)]  # fmt: skip


@pytest.mark.parametrize("line", [{"start": 2, "end": 2}, {"start": -1}, {"end": "3"}, {"start": True}, {"start": 5, "end": 4}])
def test_a_span_that_holds_nothing_names_its_line(tmp_path, line):
    path = listing(tmp_path / "list.jsonl", [{"file": "a.mp4", "start": 0, "end": 1}, {"file": "a.mp4"} | line])
    with pytest.raises(ValueError, match=r"list.jsonl, line 2: "):
        read_listing(path)


def test_a_listing_with_a_byte_order_mark_and_one_of_nothing(tmp_path, folder):
    path = tmp_path / "list.jsonl"
    path.write_bytes(b"\xef\xbb\xbf" + b'{"file": "a.mp4"}\r\n\r\n')
    assert [entry.file for entry in list_inputs(folder, (".mp4",), path)] == ["a.mp4"]
    path.write_text("\n")
    for bad in (path, tmp_path / "none.jsonl"):
        with pytest.raises(ValueError, match=r"lists nothing|no such listing"):
            list_inputs(folder, (".mp4",), bad)


def test_spans_of_sounds(tmp_path, folder):
    write(folder / "a.mka", None, audio=tone(4.0, onset=2.0), audio_codec="flac")
    lines = [{"file": "a.mka", "start": 2.5, "end": 3.5, "caption": "hum"}, {"file": "a.mka", "end": 1.5}]
    report = build_sound_shards(folder, tmp_path / "out", seconds=0.5, listing=listing(tmp_path / "l.jsonl", lines))
    assert [(c.source["second"], c.captions) for c in clips(tmp_path / "out")] == [(2.5, ("hum",)), (3.0, ("hum",))]
    assert [rejection.kind for rejection in report.rejected] == ["silent"]


def test_pictures_are_clips_of_one_frame(tmp_path, folder):
    """A folder of images with captions beside them; the manifest says one frame."""
    modes = {"a.jpg": "RGB", "b.PNG": "RGBA", "c.webp": "RGB", "d.jpeg": "CMYK", "e.png": "L"}
    for number, (name, mode) in enumerate(modes.items()):
        Image.new("RGB", (40 + number, 30), (200, 60, 60)).convert(mode).save(folder / name)
    (folder / "a.txt").write_text("a red field")
    (folder / "broken.jpg").write_bytes(b"\xff\xd8\xff no")
    report = build_shards(folder, tmp_path / "out", frames=1, size=16)
    found = clips(tmp_path / "out")
    assert [clip.source["file"] for clip in found] == ["a.jpg", "b.PNG", "c.webp", "d.jpeg", "e.png"]
    assert all(clip.video.shape == (1, 16, 16, 3) and clip.audio is None for clip in found)
    assert all(np.abs(clip.video.mean((0, 1, 2)) - (200, 60, 60)).max() < 8 for clip in found[:3])
    assert found[0].captions == ("a red field",) and [r.file for r in report.rejected] == ["broken.jpg"]
    with pytest.raises(ValueError, match="none of"):  # of more than one frame, pictures are not looked for
        build_shards(folder, tmp_path / "clips", frames=5, size=16)


def test_facts_of_a_file_are_those_of_its_header(folder):
    facts = read_facts(write(folder / "a.mp4", numbered(16), audio=tone(2.0)))
    assert (facts.width, facts.height, facts.has_audio) == (32, 24, True) and abs(facts.seconds - 2) < 0.1
    facts = read_facts(write(folder / "a.mka", None, audio=tone(2.0), audio_codec="flac"))
    assert (facts.width, facts.height, facts.has_audio) == (None, None, True)
    (folder / "bad.mp4").write_bytes(b"no")
    with pytest.raises(ValueError, match=r"bad.mp4: cannot be read"):
        read_facts(folder / "bad.mp4")


# --- shots


class Marked(ShotDetector):
    """Frames whose first pixel is white begin a shot; it looks so far around, and checks that it may."""

    def __init__(self, context: int = 1):
        self._context = context

    @property
    def context(self) -> int:
        return self._context

    def __call__(self, video):
        return video[:, 0, 0, 0] == 255


def chunked(frames: int, cuts: set[int], chunk: int, rate: int = 16000, fps: float = 8.0):
    """Frame i holds the number i, except for the mark; sample j holds j."""
    video = np.zeros((frames, 2, 2, 3), np.uint8) + np.arange(frames, dtype=np.uint8)[:, None, None, None]
    for i in range(frames):
        video[i, 0, 0] = 255 if i in cuts else 0
    for first in range(0, frames, chunk):
        part = video[first : first + chunk]
        start = round(first / fps * rate)
        audio = np.arange(start, start + round(len(part) / fps * rate), dtype=np.float32)[None]
        yield Media(video=part, fps=fps, audio=audio, sample_rate=rate)


@pytest.mark.parametrize("context", [1, 4, 50])
@pytest.mark.parametrize("chunk", [1, 3, 5, 100])
@pytest.mark.parametrize(
    ("cuts", "starts", "short"),
    [(set(), [0, 5, 10, 15], []), ({0}, [0, 5, 10, 15], []), ({7}, [0, 7, 12, 17], []), ({5, 10}, [0, 5, 10, 15], []),
     ({3, 4, 9}, [4, 9, 14], [(0, 3), (3, 1)]), ({20}, [0, 5, 10, 15], [(20, 2)]), ({21}, [0, 5, 10, 15], [(21, 1)])],
)  # fmt: skip
def test_clips_begin_anew_with_every_shot_however_the_file_comes(cuts, starts, short, chunk, context):
    spans = list(between_cuts(chunked(22, cuts, chunk), Marked(context), 5))
    whole = [span for span in spans if span.video is not None]
    assert [span.start for span in whole] == starts
    assert [(span.start, span.frames) for span in spans if span.video is None] == short
    for span in whole:
        assert span.video[:, 1, 1, 0].tolist() == list(range(span.start, span.start + 5))
        assert span.audio[0] == span.start * 2000 and span.audio.shape == (10000,)


def test_sound_keeps_its_place_where_a_chunk_is_no_whole_number_of_samples():
    spans = list(between_cuts(chunked(60, {7}, 5, rate=11025, fps=7.0), Marked(), 5))
    for span in spans:
        exact = np.arange(len(span.audio)) + round(span.start / 7 * 11025)
        assert len(span.audio) == round(5 / 7 * 11025) and np.abs(span.audio - exact).max() <= 1


def scene(seed: int, frames: int, drift: float = 0.0) -> np.ndarray:
    """Smooth coloured clouds of natural contrast, 32 x 32, that drift by so many pixels a frame."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:32, : 32 + int(drift * frames) + 1] / 32
    waves = [np.sin(rng.uniform(1, 9) * x + rng.uniform(1, 9) * y + rng.uniform(0, 6)) for _ in range(9)]
    picture = rng.uniform(60, 190, 3) + 30 * np.stack([sum(waves[i::3]) for i in range(3)], axis=-1)
    video = np.stack([picture[:, int(drift * i) : int(drift * i) + 32] for i in range(frames)])
    return np.clip(video + rng.normal(0, 4, video.shape), 0, 255).astype(np.uint8)


@pytest.mark.parametrize("drift", [0.0, 2.0])
def test_a_cut_between_scenes_is_found_and_motion_is_none(drift):
    detector, found = FrameDifference(), 0
    for seed in range(0, 40, 2):
        cuts = detector(np.concatenate([scene(seed, 8, drift), scene(seed + 1, 8, drift)]))
        assert not cuts[:8].any() and not cuts[9:].any(), "noise and motion are no cuts"
        found += cuts[8]
    assert found >= 17, "of 20; two scenes may have the same colours in the same places"


def test_a_flash_and_a_small_new_object_are_no_cuts():
    video = scene(3, 12)
    video[6, 8:14, 8:14] = 255
    assert not FrameDifference()(video).any()


def test_shots_are_cut_from_files_with_their_sound(tmp_path, folder):
    video = np.concatenate([scene(0, 7), scene(1, 12)])
    write(folder / "a.mkv", video, codec="ffv1", pix_fmt="bgr0", audio=tone(19 / 8), audio_codec="flac")
    plain = build_shards(folder, tmp_path / "plain", **SMALL)
    report = build_shards(folder, tmp_path / "out", **SMALL, shots=FrameDifference())
    assert [clip.source["second"] for clip in clips(tmp_path / "plain")] == [0, 0.625, 1.25] and plain.clips == 3
    found = clips(tmp_path / "out")
    assert [clip.source["second"] for clip in found] == [0, 0.875, 1.5] and report.rejected == ()
    np.testing.assert_array_equal(found[0].audio, clips(tmp_path / "plain")[0].audio)
    with pytest.raises(ValueError, match=r"shots.* is now"):
        build_shards(folder, tmp_path / "out", **SMALL, shots=FrameDifference(least=9.0))

import weakref

import av
import numpy as np
import pytest
from av.video.reformatter import Colorspace
from media_samples import numbered, numbers, tone, write
from PIL import Image

from videopoet.data import media as media_module
from videopoet.data.bounce import Scene
from videopoet.data.channels import MIX_DOWN, EachChannel, MixDown
from videopoet.data.media import Media, read_audio, read_image, read_media, stream_media, write_chunks, write_media
from videopoet.data.transforms import ResizeCrop, audio_to_float, audio_to_int16, video_to_float, video_to_uint8


def onset(audio: np.ndarray, sample_rate: int) -> float:
    return np.argmax(np.abs(audio) > 0.2) / sample_rate


def coloured(count: int, height: int, width: int) -> np.ndarray:
    video = np.full((count, height, width, 3), 128, np.uint8)
    video[:, : height // 2, : width // 2] = (220, 40, 30)
    video[:, height // 2 :, width // 2 :] = (20, 90, 200)
    return video


# --- writing and reading back


@pytest.mark.parametrize(("height", "width"), [(24, 32), (25, 33), (1, 1)])
def test_round_trip_keeps_pictures_and_pads_odd_sizes_by_their_edge(tmp_path, height, width):
    video = coloured(5, height, width)
    write_media(tmp_path / "a.mp4", Media(video=video, fps=8))
    back = read_media(tmp_path / "a.mp4")
    padded = np.pad(video, ((0, 0), (0, height % 2), (0, width % 2), (0, 0)), mode="edge")
    assert back.video.shape == padded.shape and back.fps == 8 and back.audio is None
    # Flat parts keep their colour; edges between colours blur, chroma being stored at half resolution.
    error = np.abs(back.video.astype(int) - padded)
    assert np.median(error) <= 3 and error.mean() < 8


@pytest.mark.parametrize("fps", [8, 29.97, 12.5])
@pytest.mark.parametrize("sample_rate", [16000, 44100, 12345])
def test_sound_stays_with_the_picture_through_a_round_trip(tmp_path, fps, sample_rate):
    count = 17
    seconds = count / fps
    audio = tone(seconds, sample_rate, onset=seconds / 2, channels=2)
    write_media(tmp_path / "a.mp4", Media(video=numbered(count), fps=fps, audio=audio, sample_rate=sample_rate))
    back = read_media(tmp_path / "a.mp4", sample_rate=sample_rate, channels=EachChannel())
    assert back.fps == pytest.approx(fps, abs=0.01) and numbers(back.video) == list(range(count))
    assert back.audio.shape == (2, round(count / back.fps * sample_rate))
    assert onset(back.audio[0], sample_rate) == pytest.approx(seconds / 2, abs=0.002)
    assert np.abs(back.audio[:, : audio.shape[1]] - audio[:, : back.audio.shape[1]]).mean() < 0.05


def test_the_same_pictures_make_the_same_file(tmp_path):
    """Whatever the memory held before: with its macroblock tree x264 wrote this clip in 7 to 9 ways in 12 attempts."""
    video = Scene.sample(2).render(25, 8, 64).astype(np.float64)
    video[9:] = (video[9:] + np.roll(video[9:], 1, 1) + np.roll(video[9:], 1, 2) + np.roll(video[9:], 2, 1)) / 4
    rng, files = np.random.default_rng(0), set()
    for _ in range(12):
        held = [rng.bytes(int(rng.integers(1000, 100_000))) for _ in range(100)]  # freed memory is not zero then
        del held[::2]
        write_media(tmp_path / "a.mp4", Media(video=video.astype(np.uint8), fps=8.0))
        files.add((tmp_path / "a.mp4").read_bytes())
        del held
    assert len(files) == 1


def test_a_browser_can_play_what_is_written(tmp_path):
    write_media(tmp_path / "a.mp4", Media(video=numbered(5), fps=8, audio=tone(0.6)))
    with av.open(str(tmp_path / "a.mp4")) as container:
        video, audio = container.streams.video[0], container.streams.audio[0]
        assert (video.codec_context.name, video.pix_fmt, audio.codec_context.name) == ("h264", "yuv420p", "aac")
    content = (tmp_path / "a.mp4").read_bytes()
    assert content.index(b"moov") < content.index(b"mdat")


@pytest.mark.parametrize("sound", [True, False])
def test_a_video_written_in_chunks_is_the_same_file(tmp_path, sound):
    """Chunks come from a generator, each asked for when the one before is written."""
    scene, asked, given = Scene.sample(2), [], []
    video, audio = scene.render(25, 8, 32), scene.sound(25, 8)[None]
    write_media(tmp_path / "whole.mp4", Media(video=video, fps=8.0, audio=audio if sound else None))

    def chunks():
        for start, stop in ((0, 1), (1, 17), (17, 25)):
            asked.append(start)
            part = audio[:, start * 2000 : stop * 2000]
            assert all(chunk() is None for chunk in given[:-1]), "more than the chunk before is held"
            chunk = Media(video=video[start:stop].copy(), fps=8.0, audio=part if sound else None)
            given.append(weakref.ref(chunk.video))
            yield chunk
            del chunk

    write_chunks(tmp_path / "parts.mp4", chunks())
    assert asked == [0, 1, 17]
    assert (tmp_path / "parts.mp4").read_bytes() == (tmp_path / "whole.mp4").read_bytes()


@pytest.mark.parametrize(
    ("second", "cause"),
    [
        (Media(video=numbered(3, 16, 16), fps=8), "a chunk is 16 x 16 at 8 fps, the first was 32 x 24 at 8 fps"),
        (Media(video=numbered(3), fps=9), "at 9 fps, the first was"),
        (Media(video=numbered(3), fps=8, audio=tone(3 / 8)), "with 1 channels at 16000 Hz, the first was"),
        (Media(video=None, fps=8), "nothing to write"),
    ],
)
def test_chunks_that_do_not_fit_together_are_refused(tmp_path, second, cause):
    with pytest.raises(ValueError, match=cause):
        write_chunks(tmp_path / "a.mp4", [Media(video=numbered(3), fps=8), second])
    with pytest.raises(ValueError, match="nothing to write"):
        write_chunks(tmp_path / "a.mp4", [])
    assert not list(tmp_path.iterdir())


def test_a_failed_write_leaves_the_folder_as_it_was(tmp_path, monkeypatch):
    path = tmp_path / "a.mp4"
    path.write_bytes(b"before")
    calls = []

    def fails(*arguments):
        calls.append(arguments)
        if len(calls) == 3:
            raise OSError("disk full")
        return frame(*arguments)

    frame = media_module._frame
    monkeypatch.setattr(media_module, "_frame", fails)
    with pytest.raises(ValueError, match=r"cannot be written \(disk full\)"):
        write_media(path, Media(video=numbered(5), fps=8))
    assert [p.name for p in tmp_path.iterdir()] == ["a.mp4"] and path.read_bytes() == b"before"


@pytest.mark.parametrize(
    ("media", "cause"),
    [
        (Media(video=None, fps=8), "nothing to write"),
        (Media(video=numbered(3)[..., 0], fps=8), "t h w 3"),
        (Media(video=numbered(3)[:0], fps=8), "t h w 3"),
        (Media(video=numbered(3), fps=0), "fps"),
        (Media(video=numbered(3), fps=8, audio=tone(1)[0]), "audio"),
        (Media(video=numbered(3), fps=8, audio=tone(1, channels=6)), "audio"),
    ],
)
def test_wrong_arrays_are_refused(tmp_path, media, cause):
    with pytest.raises(ValueError, match=cause):
        write_media(tmp_path / "a.mp4", media)
    assert not list(tmp_path.iterdir())


# --- time


def test_lower_rate_takes_the_picture_on_show(tmp_path):
    write(tmp_path / "a.mp4", numbered(12), fps=12)
    assert numbers(read_media(tmp_path / "a.mp4", fps=8).video) == [0, 1, 3, 4, 6, 7, 9, 10]


def test_higher_rate_repeats(tmp_path):
    write(tmp_path / "a.mp4", numbered(4), fps=8)
    assert numbers(read_media(tmp_path / "a.mp4", fps=16).video) == [0, 0, 1, 1, 2, 2, 3, 3]


@pytest.mark.parametrize("suffix", ["mp4", "mkv"])
def test_variable_frame_rate_follows_the_frame_times(tmp_path, suffix):
    times = [0.0, 0.04, 0.3, 0.75, 0.8]
    path = write(tmp_path / f"a.{suffix}", numbered(5), times=times)
    shown = numbers(read_media(path, fps=8).video)
    #            0  125 250 375 500 625 750 (a picture that starts on the grid time is on show)
    assert shown[:7] == [0, 1, 1, 2, 2, 2, 3]


@pytest.mark.parametrize("suffix", ["mp4", "mkv", "webm", "avi", "gif", "mov"])
def test_own_rate_gives_every_frame_once(tmp_path, suffix):
    codec, pix_fmt = {"webm": ("libvpx-vp9", "yuv420p"), "avi": ("mjpeg", "yuvj420p"), "gif": ("gif", "gray")}.get(
        suffix, ("libx264", "yuv420p")
    )
    path = write(tmp_path / f"a.{suffix}", numbered(9), codec=codec, pix_fmt=pix_fmt, fps=10)
    back = read_media(path)
    assert numbers(back.video) == list(range(9)) and back.fps == pytest.approx(10, rel=0.02)


def test_animated_webp_follows_its_frame_times(tmp_path):
    images = [Image.fromarray(frame) for frame in numbered(3)]
    images[0].save(
        tmp_path / "a.webp", save_all=True, append_images=images[1:], duration=[250, 125, 375], lossless=True
    )
    assert numbers(read_media(tmp_path / "a.webp", fps=8).video) == [0, 0, 1, 2, 2, 2]


def test_sound_that_starts_late_is_preceded_by_silence(tmp_path):
    path = write(
        tmp_path / "a.mkv", numbered(8), audio=tone(0.5), audio_codec="pcm_s16le", audio_start=0.25, codec="ffv1"
    )
    audio = read_media(path).audio[0]
    assert len(audio) == 16000 and not audio[:3900].any() and not audio[12100:].any()
    assert onset(audio, 16000) == pytest.approx(0.25, abs=0.002)


def test_chunks_are_the_whole_cut_up(tmp_path):
    write_media(tmp_path / "a.mp4", Media(video=numbered(17), fps=8, audio=tone(17 / 8, onset=0.6)))
    whole = read_media(tmp_path / "a.mp4", fps=8)
    chunks = list(stream_media(tmp_path / "a.mp4", fps=8, chunk_frames=5))
    assert [len(chunk.video) for chunk in chunks] == [5, 5, 5, 2]
    np.testing.assert_array_equal(np.concatenate([chunk.video for chunk in chunks]), whole.video)
    np.testing.assert_array_equal(np.concatenate([chunk.audio for chunk in chunks], axis=1), whole.audio)


def test_max_seconds_is_the_head_of_the_whole_and_stops_decoding(tmp_path, monkeypatch):
    write_media(tmp_path / "a.mp4", Media(video=numbered(20, 64, 64), fps=8, audio=tone(20 / 8)))
    whole = read_media(tmp_path / "a.mp4")
    content = (tmp_path / "a.mp4").read_bytes()
    # What lies behind is never read: the file may end there.
    (tmp_path / "half.mp4").write_bytes(content[: len(content) * 3 // 4])
    for name in ("a.mp4", "half.mp4"):
        head = read_media(tmp_path / name, max_seconds=0.5)
        assert head.audio.shape == (1, 8000)
        np.testing.assert_array_equal(head.video, whole.video[:4])
        np.testing.assert_array_equal(head.audio, whole.audio[:, :8000])


# --- kinds of picture and sound


def test_rotation_metadata_is_applied(tmp_path):
    video = np.full((5, 24, 32, 3), 30, np.uint8)
    video[:, :8, 24:] = 220  # top right
    path = write(tmp_path / "a.mp4", video, rotation=90)
    content = path.read_bytes()
    start = content.index(b"tkhd") + 4 + 4 + 20 + 16  # version, five fields, reserved and layer
    a, b, _, c, d, _ = np.frombuffer(content[start : start + 24], ">i4") // 65536
    # QuickTime: (x, y) is shown at (a x + c y, b x + d y), x to the right and y down, measured from the centre.
    x, y = 1, -1
    right, down = a * x + c * y, b * x + d * y
    assert abs(a) == 0 and abs(b) == 1, "the sample must be turned by a quarter"
    frame = read_media(path).video[0, ..., 0]
    assert frame.shape == (32, 24)
    corner = frame[-6:, :] if down > 0 else frame[:6, :]
    corner = corner[:, -6:] if right > 0 else corner[:, :6]
    assert corner.mean() > 190 and frame.mean() < 80


@pytest.mark.parametrize(
    ("suffix", "codec", "pix_fmt"),
    [
        ("mkv", "ffv1", "yuv420p10le"),
        ("mkv", "ffv1", "gray"),
        ("mkv", "ffv1", "yuv444p16le"),
        ("mp4", "libx264", "yuvj420p"),
        ("mp4", "libx264", "yuv420p10le"),
    ],
)
def test_other_pixel_formats_become_rgb(tmp_path, suffix, codec, pix_fmt):
    path = write(tmp_path / f"a.{suffix}", numbered(5), codec=codec, pix_fmt=pix_fmt)
    assert numbers(read_media(path).video) == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("matrix", [Colorspace.ITU709, Colorspace.ITU601])
def test_colour_matrix_named_in_the_file_is_the_one_undone(tmp_path, matrix):
    video = coloured(3, 32, 32)
    with av.open(str(tmp_path / "a.mp4"), "w") as container:
        stream = container.add_stream("libx264", rate=8, options={"crf": "1"})
        stream.height, stream.width, stream.pix_fmt = 32, 32, "yuv444p"
        stream.codec_context.colorspace = {Colorspace.ITU709: 1, Colorspace.ITU601: 6}[matrix]  # ISO/IEC 23091-2
        for index, pixels in enumerate(video):
            frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
            frame = frame.reformat(format="yuv444p", dst_colorspace=matrix)
            frame.pts = index
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    assert np.abs(read_media(tmp_path / "a.mp4").video.astype(int) - video).max() <= 6


def test_odd_sized_source_keeps_its_size(tmp_path):
    assert read_media(write(tmp_path / "a.mkv", numbered(3, 25, 33), codec="ffv1")).video.shape == (3, 25, 33, 3)


def test_no_audio_track_is_none_not_silence(tmp_path):
    assert read_media(write(tmp_path / "a.mp4", numbered(3))).audio is None


@pytest.mark.parametrize(("layout", "channels"), [("stereo", 2), ("5.1", 6)])
@pytest.mark.parametrize("codec", ["flac", "pcm_s16le"])  # flac names its channels, PCM in Matroska only counts them
def test_mono_mix_keeps_the_level_of_what_all_channels_share(tmp_path, layout, channels, codec):
    audio = tone(1, channels=channels)
    path = write(tmp_path / "a.mkv", numbered(8), codec="ffv1", layout=layout, audio_codec=codec, audio=audio)
    mono = read_media(path).audio
    assert mono.shape == (1, 16000)
    np.testing.assert_allclose(mono[0], tone(1)[0], atol=1e-3)


@pytest.mark.parametrize("codec", ["flac", "pcm_s16le"])
def test_low_frequency_channel_is_left_out_of_the_mix(tmp_path, codec):
    audio = np.zeros((6, 16000), np.float32)
    audio[3] = tone(1)  # FL FR FC LFE BL BR
    path = write(tmp_path / "a.mkv", numbered(8), codec="ffv1", layout="5.1", audio_codec=codec, audio=audio)
    assert np.abs(read_media(path).audio).max() == 0
    audio[0] = tone(1)
    path = write(tmp_path / "b.mkv", numbered(8), codec="ffv1", layout="5.1", audio_codec=codec, audio=audio)
    assert np.abs(read_media(path).audio).max() > 0.05


def test_stereo_is_the_mean_or_both_channels(tmp_path):
    audio = np.concatenate([tone(1), 0.5 * tone(1)])
    audio[1, 8000:] = -audio[0, 8000:]
    path = write(tmp_path / "a.mkv", numbered(8), codec="ffv1", layout="stereo", audio_codec="pcm_s16le", audio=audio)
    mixed, kept = read_media(path), read_media(path, channels=EachChannel())
    np.testing.assert_allclose(mixed.audio, audio.mean(0, keepdims=True), atol=1e-4)
    assert np.abs(mixed.audio[0, 8000:]).max() < 1e-4, "opposite channels cancel"
    np.testing.assert_allclose(kept.audio, audio, atol=1e-4)
    assert MixDown() == MIX_DOWN and read_audio(path, channels=EachChannel()).audio.shape == (2, 16000)


def test_samples_beyond_full_scale_are_clipped(tmp_path):
    path = write(tmp_path / "a.mkv", numbered(8), codec="ffv1", audio_codec="pcm_f32le", audio=3 * tone(1))
    for back in (read_media(path), read_audio(path)):
        assert np.abs(back.audio).max() == 1.0


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_samples_that_are_no_numbers_are_refused(tmp_path, bad):
    audio = tone(1)
    audio[0, 9000] = bad
    path = write(tmp_path / "a.mkv", numbered(8), codec="ffv1", audio_codec="pcm_f32le", audio=audio)
    for read in (read_media, read_audio):
        with pytest.raises(ValueError, match="NaN or infinite") as caught:
            read(path)
        assert str(caught.value).startswith(f"{path}: ") and "\n" not in str(caught.value)


@pytest.mark.parametrize("source_rate", [8000, 22050, 48000])
def test_any_sample_rate_becomes_16_khz(tmp_path, source_rate):
    path = write(tmp_path / "a.mp4", numbered(8), audio=tone(1, source_rate, onset=0.5), sample_rate=source_rate)
    back = read_media(path)
    assert back.sample_rate == 16000 and back.audio.shape == (1, 16000)
    assert onset(back.audio[0], 16000) == pytest.approx(0.5, abs=0.002)
    assert read_media(path, sample_rate=None).sample_rate == source_rate


def test_audio_file_reads_as_sound_alone(tmp_path):
    path = write(tmp_path / "a.wav", None, audio=tone(0.5), audio_codec="pcm_s16le")
    back = read_audio(path)
    assert back.video is None
    np.testing.assert_allclose(back.audio, tone(0.5), atol=1e-4)
    with pytest.raises(ValueError, match="holds no video, only sound"):
        read_media(path)
    with pytest.raises(ValueError, match="has no audio track"):
        read_audio(write(tmp_path / "b.mp4", numbered(3)))


@pytest.mark.parametrize("suffix", ["png", "jpg", "webp", "bmp"])
def test_images_read_as_one_frame(tmp_path, suffix):
    image = np.full((25, 33, 3), (200, 60, 40), np.uint8)
    Image.fromarray(image).save(tmp_path / f"a.{suffix}")
    back = read_image(tmp_path / f"a.{suffix}")
    assert back.shape == image.shape and np.abs(back.astype(int) - image).max() <= 6
    assert len(read_media(tmp_path / f"a.{suffix}", fps=8).video) == 1


# --- bad input


def test_unreadable_files_are_one_line_with_the_cause(tmp_path):
    good = write(tmp_path / "good.mkv", numbered(5)).read_bytes()
    mp4 = write(tmp_path / "good.mp4", numbered(5)).read_bytes()
    contents = {
        "empty.mp4": b"",
        "text.mp4": b"hello " * 200,
        "no_index.mp4": mp4[: len(mp4) // 2],
        "cut.webm": good[:60],
        "cut.webp": b"RIFF\x00\x01\x00\x00WEBPVP8 ",
        "cut.png": b"\x89PNG\r\n\x1a\n",
    }
    for name, content in contents.items():
        (tmp_path / name).write_bytes(content)
    for name in [*contents, "absent.mp4", "."]:
        path = tmp_path / name
        for read in (read_media, read_image, read_audio):
            with pytest.raises(ValueError) as caught:
                read(path)
            assert str(caught.value).startswith(f"{path}: ") and "\n" not in str(caught.value)


def test_damage_half_way_raises_after_the_whole_chunks(tmp_path):
    noise = np.random.default_rng(0).integers(0, 255, (40, 32, 32, 3), dtype=np.uint8)
    write_media(tmp_path / "a.mp4", Media(video=noise, fps=8))
    content = (tmp_path / "a.mp4").read_bytes()
    (tmp_path / "a.mp4").write_bytes(content[: len(content) // 2])
    chunks = stream_media(tmp_path / "a.mp4", fps=8, chunk_frames=5)
    assert len(next(chunks).video) == 5
    with pytest.raises(ValueError, match="cannot be read"):
        list(chunks)


@pytest.mark.parametrize("fps", [0, -8, float("nan"), float("inf")])
def test_impossible_rates_are_refused(tmp_path, fps):
    with pytest.raises(ValueError, match="fps"):
        read_media(write(tmp_path / "a.mp4", numbered(3)), fps=fps)


# --- transforms


@pytest.mark.parametrize("shape", [(24, 36), (40, 16), (9, 64), (64, 64)])
def test_resize_crop_covers_keeps_proportion_and_centre(shape):
    height, width = shape
    video = np.zeros((1, height, width, 3), np.uint8)
    video[:, height // 4 : height - height // 4, width // 4 : width - width // 4] = 250
    resize = ResizeCrop(height=16, width=16)
    scaled = resize.scaled(height, width)
    assert min(scaled) == 16 and scaled[0] / scaled[1] == pytest.approx(height / width, rel=0.1)
    out = resize(video)[0, ..., 0].astype(int)
    assert out.shape == (16, 16)
    assert np.abs(out - out[::-1]).mean() < 3 and np.abs(out - out[:, ::-1]).mean() < 3


def test_shrinking_does_not_alias():
    checks = (np.indices((64, 64)).sum(0) % 2 * 255).astype(np.uint8)
    out = ResizeCrop(height=16, width=16)(np.repeat(checks[None, ..., None], 3, axis=3))
    assert np.abs(out.astype(int) - 127).max() <= 3


def test_decoding_to_a_size_turns_and_squares_pixels(tmp_path):
    path = write(tmp_path / "a.mp4", coloured(3, 24, 48), rotation=90)
    small = read_media(path, resize=ResizeCrop(height=16, width=8)).video
    assert small.shape == (3, 16, 8, 3)
    whole = read_media(path).video
    np.testing.assert_allclose(small.mean((0, 1, 2)), whole.mean((0, 1, 2)), atol=6)


def test_number_ranges_round_trip_exactly():
    video = np.arange(256, dtype=np.uint8).reshape(1, 16, 16, 1).repeat(3, 3)
    floats = video_to_float(video)
    assert floats.shape == (3, 1, 16, 16) and (floats.min(), floats.max()) == (-1, 1)
    np.testing.assert_array_equal(video_to_uint8(floats), video)
    audio = np.array([-32767, -1, 0, 1, 32767], np.int16)
    np.testing.assert_array_equal(audio_to_int16(audio_to_float(audio).numpy()), audio)
    np.testing.assert_array_equal(audio_to_int16(np.array([-2.0, 2.0])), [-32767, 32767])

"""Folders of sounds as shards: clips without pictures, of every awkward file; and training on them."""

import tracemalloc
import wave

import av
import lightning
import numpy as np
import pytest
import torch
from conftest import AUDIO, VISUAL
from media_samples import numbered, tone, write

from videopoet import component
from videopoet.cli import main
from videopoet.data.clips import ClipDataModule, ClipSchedule
from videopoet.data.ingest import build_shards, build_sound_shards
from videopoet.data.media import read_audio, stream_audio
from videopoet.data.schema import Clip
from videopoet.data.shards import ShardReader
from videopoet.tokenizers.audio.losses import AudioReconstructionLoss, MultiScaleMel
from videopoet.tokenizers.audio.training import AudioTokenizerTraining
from videopoet.tokenizers.visual.losses import PixelLoss
from videopoet.tokenizers.visual.training import VideoTokenizerTraining

RATE = 16000


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "sounds").mkdir()
    return tmp_path / "sounds"


def write_wav(path, audio: np.ndarray, sample_rate: int = RATE) -> None:
    """float (s,) -> 16-bit PCM."""
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(sample_rate)
        file.writeframes((np.clip(audio, -1, 1) * 32767).astype("<i2").tobytes())


def write_float_wav(path, audio: np.ndarray) -> None:
    """float32 PCM, which can hold NaN and samples beyond full scale."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("pcm_f32le", rate=RATE, layout="mono")
        frame = av.AudioFrame.from_ndarray(audio.astype(np.float32)[None], format="flt", layout="mono")
        frame.sample_rate = RATE
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))


def clips(folder) -> list[Clip]:
    reader = ShardReader(folder, "media")
    return [Clip.from_record(reader[index]) for index in range(len(reader))]


CODECS = {"a.wav": "pcm_s16le", "a.flac": "flac", "a.ogg": "libopus", "a.mp3": "libmp3lame", "a.g722": "g722",
          "a.opus": "libopus", "a.m4a": "aac"}  # fmt: skip


@pytest.mark.parametrize("name", CODECS)
def test_every_usual_format_gives_its_sound(tmp_path, folder, name):
    rate = 48000 if CODECS[name] == "libopus" else RATE
    sound = tone(3.0, rate)
    if CODECS[name] in ("pcm_s16le", "flac", "g722"):
        with av.open(str(folder / name), "w") as container:
            stream = container.add_stream(CODECS[name], rate=rate, layout="mono")
            frame = av.AudioFrame.from_ndarray((sound * 32767).astype(np.int16), format="s16", layout="mono")
            frame.sample_rate = rate
            container.mux(stream.encode(frame))
            container.mux(stream.encode(None))
    else:
        write(folder / name, None, audio=sound, sample_rate=rate, audio_codec=CODECS[name])
    report = build_sound_shards(folder, tmp_path / "out", seconds=1.0)
    assert report.clips == report.clips_with_audio == 3 and not report.rejected
    for clip in clips(tmp_path / "out"):
        assert clip.video is None and clip.audio.dtype == np.int16 and clip.audio.shape == (RATE,)
        spectrum = np.abs(np.fft.rfft(clip.audio.astype(float)))
        assert abs(int(spectrum.argmax()) - 440) <= 1, "Hz: the rate is right"
        assert 0.25 < clip.audio.std() / 32767 < 0.45


def test_clips_are_the_sound_piece_by_piece_with_its_rate_changed(tmp_path, folder):
    rng = np.random.default_rng(0)
    slow = np.repeat(rng.uniform(-0.5, 0.5, 800), 40)[: 4 * 8000]
    write_wav(folder / "a.wav", slow, 8000)
    (folder / "a.txt").write_text("steps of noise")
    build_sound_shards(folder, tmp_path / "out", seconds=0.75)
    whole = read_audio(folder / "a.wav").audio[0]
    made = clips(tmp_path / "out")
    assert [clip.source for clip in made] == [{"file": "a.wav", "second": 0.75 * i} for i in range(5)]
    assert all(clip.captions == ("steps of noise",) for clip in made)
    joined = np.concatenate([clip.audio for clip in made]) / 32767
    np.testing.assert_allclose(joined, whole[: len(joined)], atol=1e-4)


def test_ends_are_filled_up_where_worth_it(tmp_path, folder):
    for name, seconds in {"short": 0.1, "half": 1.5, "less": 1.4, "whole": 2.0}.items():
        write_wav(folder / f"{name}.wav", tone(seconds)[0])
    build_sound_shards(folder, tmp_path / "out", seconds=1.0)
    held = {}
    for clip in clips(tmp_path / "out"):
        loud = np.flatnonzero(np.abs(clip.audio) > 100)
        held.setdefault(clip.source["file"], []).append(round((loud[-1] + 1) / RATE, 2))
    assert held == {"half.wav": [1.0, 0.5], "less.wav": [1.0], "short.wav": [0.1], "whole.wav": [1.0, 1.0]}


HOSTILE = {
    "silence.wav": ("silent", "silent: 2.0 s below -80 dB"),
    "constant.wav": ("silent", "silent: 2.0 s below -80 dB but for a constant"),
    "click.wav": ("too short", "too short: 0.010 of 0.05 s"),
    "empty.wav": ("unreadable", "the file is empty"),
    "text.mp3": ("unreadable", "cannot be read"),
    "pictures.mp4": ("unreadable", "has no audio track"),
    "nan.wav": ("damaged", "after 1.47 s; re-encode the file, after 1 clips"),
}


def test_hostile_files_are_reported_and_skipped(tmp_path, folder):
    write_wav(folder / "silence.wav", np.zeros(2 * RATE))
    write_wav(folder / "constant.wav", np.full(2 * RATE, 0.5))
    write_wav(folder / "click.wav", tone(0.01)[0])
    (folder / "empty.wav").write_bytes(b"")
    (folder / "text.mp3").write_text("no sound")
    write(folder / "pictures.mp4", numbered(5))
    nan = tone(3.0)[0]
    nan[int(1.5 * RATE)] = np.nan
    write_float_wav(folder / "nan.wav", nan)
    report = build_sound_shards(folder, tmp_path / "out", seconds=1.0)
    found = {rejection.file: rejection for rejection in report.rejected}
    assert found.keys() == HOSTILE.keys() and report.clips == 1
    for name, (kind, reason) in HOSTILE.items():
        assert found[name].kind == kind and reason in found[name].reason, found[name]


def test_sound_beyond_full_scale_is_clipped_there(tmp_path, folder):
    write_float_wav(folder / "loud.wav", 6 * tone(1.0)[0])
    build_sound_shards(folder, tmp_path / "out", seconds=1.0)
    (clip,) = clips(tmp_path / "out")
    assert clip.audio.max() == 32767 and clip.audio.min() == -32767
    assert 0.7 < (np.abs(clip.audio) == 32767).mean() < 0.8, "3 sin x lies beyond 1 for 78 % of the time"


def test_silent_stretches_are_passed_over(tmp_path, folder):
    sound = np.concatenate([tone(1.0)[0], np.zeros(2 * RATE), tone(1.0)[0]])
    write_wav(folder / "a.wav", sound)
    build_sound_shards(folder, tmp_path / "out", seconds=1.0)
    assert [clip.source["second"] for clip in clips(tmp_path / "out")] == [0, 3]


def test_a_long_file_passes_through_in_little_memory(folder):
    """Two minutes, 7.7 MB as floats; a chunk is 0.06 MB. The memory does not know how long the file is."""
    write_wav(folder / "long.wav", np.tile(tone(60.0)[0], 2))
    tracemalloc.start()
    lengths = [len(chunk) for chunk in stream_audio(folder / "long.wav", seconds=1.0)]
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert lengths == [RATE] * 120
    assert peak < 1e6, f"{peak / 1e6:.1f} MB"


def test_limits_and_workers(tmp_path, folder):
    for name in "abc":
        write_wav(folder / f"{name}.wav", tone(4.0)[0])
    how = {"seconds": 1.0, "clips_per_file": 2}
    reports = [build_sound_shards(folder, tmp_path / f"out{workers}", **how, workers=workers) for workers in (0, 1)]
    assert reports[0] == reports[1] and reports[0].clips == 6
    manifests = [ShardReader(tmp_path / f"out{workers}").manifest for workers in (0, 1)]
    assert manifests[0] == manifests[1] and not manifests[0].has_video
    for seconds in (0.0, -1.0, float("nan")):
        with pytest.raises(ValueError, match=r"at least 0.05 s"):
            build_sound_shards(folder, tmp_path / "bad", seconds=seconds)


# --- on the way to a tokenizer


@pytest.fixture
def shards(tmp_path, folder):
    for number in range(4):
        write_wav(folder / f"{number}.wav", tone(0.5 + number / 4)[0])
    main(["shards", "build", str(folder), "--out", str(tmp_path / "out"), "--sound-seconds", "1.5"])
    return tmp_path / "out"


def test_batches_hold_sound_and_no_pixel(shards):
    batch = ClipSchedule(ShardReader(shards), samples_per_step=2)[0]
    assert batch.video.shape == (2, 3, 1, 0, 0) and batch.audio.shape == (2, 1, 24000) and batch.audio.std() > 0.1
    with pytest.raises(ValueError, match="holds sound alone, there are no images"):
        ClipSchedule(ShardReader(shards), samples_per_step=2, image_batch_ratio=0.5)


def test_an_audio_tokenizer_trains_on_them(shards):
    model = AudioTokenizerTraining(
        component.instantiate(AUDIO), AudioReconstructionLoss(MultiScaleMel(windows=(256,))), segment=8000
    )
    t = lightning.Trainer(
        accelerator="cpu", max_steps=2, logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False,
    )  # fmt: skip
    t.fit(model, ClipDataModule(str(shards), batch_size=2, num_workers=0))
    assert t.global_step == 2 and torch.isfinite(t.callback_metrics["train/loss"])


def test_what_needs_pictures_says_so(shards, tmp_path, capsys):
    with pytest.raises(SystemExit):
        main(["tokenize", str(shards), "--out", str(tmp_path / "tokens")])
    assert "sound alone" in capsys.readouterr().err
    model = VideoTokenizerTraining(component.instantiate(VISUAL), PixelLoss())
    with pytest.raises(ValueError, match="the shards hold sound alone"):
        lightning.Trainer(accelerator="cpu", max_steps=1, logger=False, enable_checkpointing=False).fit(
            model, ClipDataModule(str(shards), batch_size=2, num_workers=0)
        )


def test_a_folder_of_sounds_gives_no_videos(tmp_path, folder):
    write_wav(folder / "a.wav", tone(1.0)[0])
    with pytest.raises(ValueError, match="holds no media files"):
        build_shards(folder, tmp_path / "out")

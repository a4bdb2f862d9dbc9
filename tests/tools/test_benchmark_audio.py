"""The audio benchmark runs from end to end, goes on where it stopped, and refuses what it cannot measure."""

import json
import subprocess
import sys
import wave
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from videopoet.evaluation.audio import SISDR
from videopoet.evaluation.audio_codecs import Opus
from videopoet.evaluation.audio_study import OPUS, Sound, Study, digest, tables
from videopoet.evaluation.rate_distortion import Point, curves
from videopoet.evaluation.reconstruction import Score
from videopoet.tokenizers.audio.codec import SoundStream

TOOLS = Path(__file__).parents[2] / "tools"
TINY = {"ratios": [4, 4], "num_filters": 4, "dimension": 8, "num_residual_layers": 0, "num_lstm_layers": 0, "levels": 2,
        "codebook_size": 32}  # fmt: skip


@pytest.fixture
def tool(monkeypatch):
    monkeypatch.syspath_prepend(str(TOOLS))
    import benchmark_audio

    yield benchmark_audio
    for name in ("benchmark_audio", "benchmark_tokenizer"):
        sys.modules.pop(name, None)


@pytest.fixture
def codec(tmp_path) -> Path:
    """A YAML that names a small untrained codec."""
    path = tmp_path / "tiny.yaml"
    path.write_text(yaml.safe_dump({"class_path": "videopoet.tokenizers.audio.codec.SoundStream", "init_args": TINY}))
    return path


def write(path: Path, samples: np.ndarray, rate: int = 16_000, **sidecar) -> Path:
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes((samples * 32767).astype("<i2").tobytes())
    if sidecar:
        path.with_suffix(".json").write_text(json.dumps(sidecar))
    return path


def tone(samples: int, turns: float = 0.02) -> np.ndarray:
    return 0.4 * np.sin(2 * np.pi * turns * np.arange(samples)) * (np.arange(samples) % 4000 < 3000)


@pytest.fixture
def sounds(tmp_path) -> Path:
    """Two kinds, another rate and length, a sidecar without kind, and silence."""
    folder = tmp_path / "sounds"
    folder.mkdir()
    write(folder / "a.wav", tone(8000), kind="speech", captions=["a"])
    write(folder / "b.wav", tone(11_025, 0.03), rate=22_050, kind="music")
    write(folder / "c.wav", np.zeros(8000), kind="music")
    return folder


def run(tool, *arguments) -> None:
    tool.main([str(argument) for argument in arguments])


def test_quick_runs_whole_and_says_what_it_is(tmp_path, codec):
    command = [
        sys.executable,
        TOOLS / "benchmark_audio.py",
        "--quick",
        "--codec",
        f"tiny={codec}",
        "--out",
        tmp_path / "o",
    ]
    result = subprocess.run([str(part) for part in command], capture_output=True, text=True, timeout=280)
    assert result.returncode == 0, result.stderr
    page = (tmp_path / "o" / "table.md").read_text()
    assert (
        "not to be quoted" in page and "### generated: 3 sounds, 6 s" in page and "| tiny | encode | encodec," in page
    )
    rows = [json.loads(line) for line in (tmp_path / "o" / "speed.jsonl").read_text().splitlines()]
    assert len(rows) == 4 and all(row["cpu_s"] > 0 for row in rows)
    ours, peer = rows[0], rows[1]
    assert ours["parameters"] == peer["parameters"] and ours["seconds"] == peer["seconds"]


def test_tables_are_by_kind_and_over_all_and_silence_is_left_out(tool, tmp_path, sounds, codec):
    out = tmp_path / "out"
    run(tool, sounds, "--only", "quality", "--codec", f"tiny={codec}", "--opus", 12_000, "--out", out)
    page = (out / "table-quality.md").read_text()
    assert "### speech: 1 sounds, 0 s" in page and "### music: 1" in page and "### all: 2" in page
    assert "silent, left out: c" in page and "--quick" not in page.partition("\n")[2]
    report = json.loads((out / "report.json").read_text())
    assert report["sounds"] == {"a": ["speech", 8000], "b": ["music", 8000]}
    line = report["curves"]["all"]["tiny"]
    assert [p["quality"] for p in line] == ["1 of 2 levels", "2 of 2 levels"]
    assert [p["bpp"] for p in line] == pytest.approx([5 / 16, 10 / 16])
    assert {"si_sdr", "mel_distance", "spectral_convergence"} == set(line[0]["scores"])


def test_a_second_run_takes_what_it_has_but_not_another_decoders(tool, tmp_path, sounds, codec):
    arguments = [sounds, "--only", "quality", "--codec", f"tiny={codec}", "--opus", 12_000, "--out", tmp_path / "out"]
    run(tool, *arguments)
    points = tmp_path / "out" / "points.jsonl"
    first, report = points.read_text(), (tmp_path / "out" / "report.json").read_text()
    points.write_text(first + '{"key": "cut off')
    run(tool, *arguments)
    assert points.read_text() == first + '{"key": "cut off'
    assert (tmp_path / "out" / "report.json").read_text() == report

    torch.manual_seed(0)
    one = SoundStream(**TINY)
    before = digest(one)
    with torch.no_grad():
        one.decoder.model[-1].conv.conv.bias.add_(1)
    assert digest(one) != before


def test_a_training_config_stands_for_its_untrained_tokenizer(tool, tmp_path):
    path = tmp_path / "config.yaml"
    spec = {"class_path": "videopoet.tokenizers.audio.codec.SoundStream", "init_args": TINY}
    path.write_text(yaml.safe_dump({"model": {"class_path": "x", "init_args": {"tokenizer": spec}}}))
    tokenizer, found = tool.load_codec(path)
    assert found == spec and tokenizer.levels == 2 and not tokenizer.training
    assert digest(tokenizer) == digest(tool.load_codec(path)[0])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda folder: folder, "no sounds in"),
        (lambda folder: folder / "none.wav", "no such file"),
        (lambda folder: write(folder / "s.wav", np.zeros(4000)), "all 1 sounds are silent"),
        (lambda folder: (folder / "t.wav").write_text("text") and folder, "cannot be read"),
    ],
)
def test_what_cannot_be_measured_is_one_line(tool, tmp_path, codec, capsys, make, message):
    folder = tmp_path / "given"
    folder.mkdir()
    with pytest.raises(SystemExit):
        run(tool, make(folder), "--only", "quality", "--codec", codec, "--out", tmp_path / "out")
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1


def test_nan_in_a_file_is_named_with_the_file(tool, tmp_path, codec, capsys):
    import struct

    data = np.full(4000, np.nan, "<f4").tobytes()
    head = struct.pack("<4sI4s4sIHHIIHH4sI", b"RIFF", 36 + len(data), b"WAVE", b"fmt ", 16, 3, 1, 16_000, 64_000, 4, 32,
                       b"data", len(data))  # fmt: skip
    (tmp_path / "nan.wav").write_bytes(head + data)
    with pytest.raises(SystemExit):
        run(tool, tmp_path / "nan.wav", "--only", "quality", "--codec", codec, "--out", tmp_path / "out")
    assert "nan.wav: sound holds NaN" in capsys.readouterr().err


@pytest.mark.parametrize("text", ["[]", "class_path: videopoet.tokenizers.quantizers.lookup_free.LookupFreeQuantizer",
                                  "model: {init_args: {}}"])  # fmt: skip
def test_a_yaml_that_names_no_codec_says_what_is_needed(tool, tmp_path, text):
    (tmp_path / "x.yaml").write_text(text)
    with pytest.raises(ValueError, match=r"names no AudioTokenizer|cannot be built"):
        tool.load_codec(tmp_path / "x.yaml")


@pytest.mark.filterwarnings("ignore:.*weight_norm")  # the package's
@pytest.mark.parametrize("more", [{}, {"num_lstm_layers": 1, "num_residual_layers": 2}])
def test_the_peer_computes_what_ours_computes(tool, more):
    torch.manual_seed(0)
    ours = SoundStream(**TINY | more).eval()
    peer = tool.encodec_model(ours, TINY | more)
    audio = torch.from_numpy(tone(800)).float()[None, None]
    with torch.no_grad():
        codes, ((theirs, _),) = ours.encode(audio), peer.encode(audio)
        assert torch.equal(codes, theirs.movedim(1, 2)) and len(codes.unique()) > 2
        torch.testing.assert_close(ours.decode(codes), peer.decode([(theirs, None)]).clamp(-1, 1))


def test_without_sounds_it_says_what_to_give(tool, tmp_path, capsys):
    with pytest.raises(SystemExit):
        run(tool, "--out", tmp_path / "out")
    assert "--quick, or --only speed" in capsys.readouterr().err


def point(codec: str, bpp: float, value: float) -> Point:
    score = Score(metric="si_sdr", unit="dB", higher_is_better=True, by_frame=(), overall=value)
    return Point(codec=codec, quality=f"q{bpp}", clip="x", bpp=bpp, file_bpp=None, encode_seconds=0.0, decode_seconds=0.0,
                 scores={"si_sdr": score})  # fmt: skip


def test_rates_that_opus_has_stand_side_by_side_and_others_do_not():
    opus = [point(OPUS, 0.25 * 2**i, 2.0 * i) for i in range(4)]  # 4, 8, 16, 32 kbit/s at 16 kHz
    ours = [point("ours", 0.125, 1.0), point("ours", 0.5, 5.0)]
    text = tables(curves([*opus, *ours], ["x"]), ["ours"], 16_000)
    assert "| ours, 8.00 kbit/s | 5.00 |\n| Opus there | 2.00 |" in text and "ours, 2.00" not in text
    assert "the least that Opus sent is 4.00 kbit/s" in tables(curves([*opus, ours[0]], ["x"]), ["ours"], 16_000)


def test_the_study_measures_what_the_codec_gave_back(tmp_path):
    sound = Sound(name="x", kind="speech", audio=torch.from_numpy(tone(16_000)).float())
    study = Study(tmp_path, 16_000)
    study.add_opus(sound, Opus(bit_rate=16_000))
    coded = Opus(bit_rate=16_000).code(sound.audio, 16_000)
    (found,) = study.points
    assert found.bpp == coded.bits / 16_000 and found.codec == OPUS
    assert found.scores["si_sdr"] == SISDR()(sound.audio, coded.audio)

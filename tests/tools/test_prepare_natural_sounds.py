"""Natural sounds out of packages: found, cut, captioned and split by source."""

import gzip
import importlib.util
import json
import struct
import sys
import wave
from pathlib import Path

import numpy as np
import pytest

from videopoet.data.captions import read_sidecars
from videopoet.data.media import read_audio

SCRIPT = Path(__file__).parents[2] / "tools" / "prepare_natural_sounds.py"


@pytest.fixture(scope="module")
def tool():
    spec = importlib.util.spec_from_file_location("prepare_natural_sounds", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def noise(seconds: float, rate: int = 16_000, level: float = 0.2) -> np.ndarray:
    return level * np.random.default_rng(0).standard_normal(round(seconds * rate)).clip(-3, 3).astype(np.float32)


def wav(path: Path, samples: np.ndarray, rate: int = 16_000) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes((samples * 32767).clip(-32767, 32767).astype("<i2").tobytes())


def resource_file(files: dict[str, bytes]) -> bytes:
    """A Qt resource file (version 3) of one folder "set" with these files."""
    names, places, body = b"", {}, b""
    for name in ("", "set", *files):
        places[name] = len(names)
        names += struct.pack(">HI", len(name), 0) + name.encode("utf-16-be")

    def folder(name: str, count: int, first: int) -> bytes:
        return struct.pack(">IH2IQ", places[name], 2, count, first, 0)

    tree = folder("", 1, 1) + folder("set", len(files), 2)
    for name, content in files.items():
        tree += struct.pack(">IHHHIQ", places[name], 0, 0, 0, len(body), 0)
        body += struct.pack(">I", len(content)) + content
    head = struct.pack(">4s4II", b"qres", 3, 24, 24 + len(tree), 24 + len(tree) + len(body), 0)
    return head + tree + body + names


@pytest.fixture
def unpacked(tmp_path) -> Path:
    """Packages as they are unpacked: a voice with transcripts, samples by family, a resource file, a long track."""
    root = tmp_path / "unpacked"
    voice = root / "usr/share/asterisk/sounds/en_US_f_Allison"
    for name, seconds in (("hello", 2.0), ("digits/one", 0.4), ("beep", 2.0), ("long", 12.5), ("unwritten", 2.0)):
        wav(voice / f"{name}.g722", noise(seconds))
    text = "; a comment\nhello: Hello,  you.\ndigits/one: one\nbeep: [a tone]\nlong: A long text.\nabsent: no file\n"
    document = root / "usr/share/doc/asterisk-core-sounds-en/core-sounds-en.txt.gz"
    document.parent.mkdir(parents=True)
    document.write_bytes(gzip.compress(("\ufeff" + text).encode()))
    samples = root / "usr/share/sonic-pi/samples"
    wav(samples / "perc_bell2.wav", noise(1.5, 44_100), 44_100)
    (samples / "perc_bell2.wav").rename(samples / "perc_bell2.flac")
    wav(samples / "ambi_hum.wav", noise(1.5, level=1e-4))
    (samples / "ambi_hum.wav").rename(samples / "ambi_hum.flac")
    wav(tmp_path / "x.wav", noise(3.0, 44_100), 44_100)
    sound = (tmp_path / "x.wav").read_bytes()
    rcc = root / "usr/share/gcompris-qt/rcc/memory-sound.rcc"
    rcc.parent.mkdir(parents=True)
    rcc.write_bytes(resource_file({"LRRain_in_garden_01_LA_cut.ogg": sound, "LRDoorbell.ogg": sound, "note.txt": b"x"}))
    return root


def cut(tool, unpacked: Path, out: Path, *more: str) -> dict[str, dict]:
    tool.main(["--out", str(out), "--unpacked", str(unpacked), *more])
    return {entry["name"]: entry for entry in json.loads((out / "corpus.json").read_text())["sources"]}


def test_speech_carries_its_transcript_only_whole_and_only_where_it_is_speech(tool, unpacked, tmp_path):
    cuts = cut(tool, unpacked, tmp_path / "s", "--kinds", "speech")
    clips = {path.stem: path for path in (tmp_path / "s" / "train").glob("*.wav")}
    assert set(clips) == {f"voice-allison-en-{name}" for name in ("hello-000000", "long-000000", "long-010000")}
    captions = {stem: read_sidecars(path).texts for stem, path in clips.items()}
    assert captions["voice-allison-en-hello-000000"] == ("Hello, you.",)
    assert captions["voice-allison-en-long-000000"] == ()
    assert cuts["voice-allison-en"]["captioned"] == 1 and cuts["voice-allison-en"]["left_out"] == 1
    assert read_sidecars(clips["voice-allison-en-hello-000000"]).extra["kind"] == "speech"
    assert cuts["voice-allison-en"]["seconds"] == pytest.approx(14.5, abs=0.01)


def test_effects_are_resampled_named_and_on_their_sides_and_silence_is_left_out(tool, unpacked, tmp_path):
    cuts = cut(tool, unpacked, tmp_path / "s", "--kinds", "effects")
    found = {path.parent.name + "/" + path.stem: read_sidecars(path).texts for path in (tmp_path / "s").rglob("*.wav")}
    assert found == {
        "test/sonic-perc-misc-perc_bell2-000000": ("percussion bell2",),
        "test/gcompris-memory-test-Rain_in_garden_01_LA_cut-000000": ("rain in garden",),
        "test/gcompris-memory-test-Doorbell-000000": ("doorbell",),
    }
    assert cuts["sonic-ambi-elec-glitch-mehackit-vinyl"]["clips"] == 0
    assert cuts["sonic-perc-misc"]["source_rate"] == 44_100
    with wave.open(str(tmp_path / "s/test/sonic-perc-misc-perc_bell2-000000.wav")) as file:
        assert (file.getframerate(), file.getnchannels(), file.getnframes()) == (16_000, 1, 24_000)


def test_the_sources_own_rate_is_kept_on_request(tool, unpacked, tmp_path):
    cut(tool, unpacked, tmp_path / "s", "--kinds", "effects", "--sample-rate", "0")
    kept = read_audio(tmp_path / "s/test/gcompris-memory-test-Doorbell-000000.wav", sample_rate=None)
    assert (kept.sample_rate, kept.audio.shape) == (44_100, (1, 132_300))


def test_no_source_gives_more_than_allowed(tool, unpacked, tmp_path):
    cuts = cut(tool, unpacked, tmp_path / "s", "--seconds", "2", "--train-seconds", "3", "--kinds", "speech")
    assert cuts["voice-allison-en"]["clips"] == 2


def test_a_second_run_does_nothing_and_other_options_need_another_folder(tool, unpacked, tmp_path, capsys):
    out = tmp_path / "s"
    cut(tool, unpacked, out)
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*.wav")}
    cut(tool, unpacked, out)
    assert before == {path: path.stat().st_mtime_ns for path in out.rglob("*.wav")}
    with pytest.raises(SystemExit):
        tool.main(["--out", str(out), "--unpacked", str(unpacked), "--seconds", "4"])
    assert "choose another folder" in capsys.readouterr().err


def test_missing_packages_are_named_with_the_command_that_brings_them(tool, tmp_path, capsys):
    tool.main(["--list", "--unpacked", str(tmp_path)])
    listed = capsys.readouterr().out
    assert "apt-get download sonic-pi-samples && dpkg-deb -x sonic-pi-samples_*.deb FOLDER" in listed
    with pytest.raises(SystemExit):
        tool.main(["--out", str(tmp_path / "s"), "--kinds", "music"])
    assert "--list" in capsys.readouterr().err


def test_no_voice_artist_or_family_is_on_both_sides(tool):
    sides: dict[str, set[str]] = {}
    for source in tool.SOURCES:
        speaker = source.name.split("-")[1] if source.name.startswith("voice-") else None
        for owner in (speaker, *(source.name.split("-")[1:] if source.name.startswith("sonic-") else ())):
            if owner:
                sides.setdefault(owner, set()).add(source.split)
    assert len(sides) > 12 and all(len(splits) == 1 for splits in sides.values())
    assert {(s.kind, s.split) for s in tool.SOURCES} == {(k, s) for k in tool.KINDS for s in ("train", "test")}
    assert len({source.name for source in tool.SOURCES}) == len(tool.SOURCES)


def test_resource_files_are_walked_and_others_refused(tool):
    files = {"a.ogg": b"one", "b.ogg": b"", "c.ogg": b"three"}
    assert dict(tool.qt_resources(resource_file(files))) == {f"/set/{name}": content for name, content in files.items()}
    with pytest.raises(ValueError, match="qres"):
        list(tool.qt_resources(b"RIFF" + bytes(40)))


def test_a_written_wav_is_what_went_in_and_loud_samples_are_clamped(tool, tmp_path):
    samples = noise(1.0, level=0.5)
    tool.write_wav(tmp_path / "b.wav", samples, 16_000)
    assert np.abs(read_audio(tmp_path / "b.wav").audio[0] - samples.clip(-1, 1)).max() < 1e-4

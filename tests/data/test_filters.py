"""Filters: what each lets through and refuses, counted by kind, the same on the command line and in YAML."""

import json

import numpy as np
import pytest
from media_samples import numbered, tone, write

from videopoet.cli import main
from videopoet.commands.steps import filters_of, known, shots_of
from videopoet.data import filters as module
from videopoet.data.captions import Caption
from videopoet.data.decoding import Facts
from videopoet.data.filters import (
    CaptionLength,
    Filter,
    Filters,
    MaxSilence,
    MinDuration,
    MinSide,
    UniqueKey,
    normalised,
    silent_share,
)
from videopoet.data.ingest import build_shards, build_sound_shards
from videopoet.data.inputs import Input
from videopoet.data.schema import Clip
from videopoet.data.shards import ShardReader
from videopoet.data.shots import FrameDifference

SMALL = dict(frames=5, fps=8.0, size=16)
RATE = 16000


@pytest.fixture
def folder(tmp_path):
    path = tmp_path / "videos"
    path.mkdir()
    return path


def facts(width=64, height=48, seconds=2.0):
    return Facts(width=width, height=height, seconds=seconds, has_audio=False)


@pytest.mark.parametrize(
    ("step", "taken", "refused"),
    [(MinSide(pixels=48), [facts(), facts(48, 999), facts(None, None)], [facts(47, 999), facts(999, 47)]),
     (MinDuration(seconds=2), [facts(), facts(seconds=None)], [facts(seconds=1.99), facts(seconds=0.0)])],
)  # fmt: skip
def test_facts_decide_at_their_limits(step, taken, refused):
    assert all(step(fact) is None for fact in taken) and all(isinstance(step(fact), str) for fact in refused)


def test_silence_is_measured_in_windows():
    loud, faint = (np.rint(32767 * amplitude * tone(1.0)[0]).astype(np.int16) for amplitude in (1, 0.001))
    sound = np.concatenate([loud, faint, 0 * loud, 0 * loud])
    assert silent_share(sound, RATE, -60.0) == pytest.approx(0.75, abs=0.02)
    assert silent_share(sound, RATE, -80.0) == pytest.approx(0.5, abs=0.02)
    assert silent_share(loud[:7], RATE, -60.0) in (0.0, 1.0), "less than a window is one"
    clip = Clip(key="", video=None, audio=sound)
    assert MaxSilence(share=0.8)(clip, RATE) is None and "75 % is silent" in MaxSilence(share=0.7)(clip, RATE)
    assert "no sound" in MaxSilence(share=0.9)(Clip(key="", video=None, audio=None), RATE)


@pytest.mark.parametrize(
    ("captions", "left"),
    [(("a red ball", "ball", "a b c d e f"), ("a red ball",)), (("ball",), None), ((), None), (("one two",), ("one two",))],
)
def test_captions_of_another_length_are_dropped_and_an_input_left_with_none(captions, left):
    caption, refusal = Filters(steps=(CaptionLength(fewest=2, most=5),)).of_caption(Caption(texts=captions))
    assert (refusal is None) == (left is not None) and (left is None or caption.texts == left)
    assert refusal is None or refusal[0] == "caption length"


def test_captions_may_be_absent_where_none_is_required():
    step = Filters(steps=(CaptionLength(fewest=2, required=False),))
    assert step.of_caption(Caption())[1] is None and step.of_caption(Caption(texts=("x",)))[1] is not None


@pytest.mark.parametrize(
    "same",
    [("Red_Ball.mp4", "red ball (1).mp4", "a/RED-BALL copy.webm"), ("x_480p", "x 1080p", "X_640x480"),
     ("gro\u0308ße", "GRÖSSE")],
)  # fmt: skip
def test_copies_have_one_key(same):
    assert len({normalised(name.rpartition("/")[2].partition(".")[0]) for name in same}) == 1


@pytest.mark.parametrize("other", [("ball1", "ball2"), ("copycat", "cat"), ("v480", "v"), ("clip_0001", "clip_0002")])
def test_other_names_have_other_keys(other):
    assert len({normalised(name) for name in other}) == 2


def test_of_near_duplicates_the_first_in_the_list_is_taken(tmp_path):
    def entry(file, start=0.0, text="", **extra):
        return Input(file=file, start=start, caption=Caption(texts=(text,) if text else (), extra=extra), bytes=1)

    inputs = [entry("a.mp4", text="A dog runs."), entry("b/A (1).mp4", text="a dog, runs"), entry("a.mp4", 3.0, url="u"),
              entry("c.mp4", 3.0, url="U"), entry("---.mp4"), entry("___.mp4")]  # fmt: skip
    for of, refused in {"file": [1], "caption": [1], "url": [3], "nothing": []}.items():
        left, rejected = Filters(steps=(UniqueKey(of=of),)).of_list(tmp_path, inputs)
        assert [inputs.index(entry) for entry in left] == [i for i in range(6) if i not in refused]
        assert [(r.file, r.kind) for r in rejected] == [(inputs[i].file, "duplicate") for i in refused]


ALL = ["MinSide:pixels=24", "MinDuration:seconds=0.6", "MaxSilence:share=0.5", "CaptionLength:fewest=2,most=9", "UniqueKey"]


@pytest.fixture
def mixed(folder):
    """One good file of two clips, the second silent, and one file for each filter to refuse; captions in sidecars."""
    sound = np.concatenate([tone(0.625), np.zeros((1, 10000), np.float32)], axis=1)
    write(folder / "good.mkv", numbered(10), audio=sound, audio_codec="flac")
    write(folder / "Good (1).mkv", numbered(5), audio=tone(0.625), audio_codec="flac")
    write(folder / "narrow.mp4", numbered(5, 40, 16), audio=tone(0.625))
    write(folder / "brief.mp4", numbered(4), audio=tone(0.5))
    write(folder / "mute.mp4", numbered(5))
    write(folder / "wordless.mp4", numbered(5), audio=tone(0.625))
    for path in list(folder.iterdir()):
        path.with_suffix(".txt").write_text("word" if path.stem == "wordless" else "some words here\nx\n")
    return folder


def test_each_refusal_is_counted_by_its_kind(mixed, tmp_path):
    report = build_shards(mixed, tmp_path / "out", **SMALL, filters=filters_of(ALL))
    (clip,) = (Clip.from_record(record) for record in ShardReader(tmp_path / "out"))
    assert (clip.source, clip.captions) == ({"file": "Good (1).mkv", "second": 0.0}, ("some words here",))
    assert report.reasons == {"brief": 1, "caption length": 1, "duplicate": 1, "silent": 1, "small": 1}
    assert ShardReader(tmp_path / "out").manifest.rejected == report.reasons
    assert {r.file: r.kind for r in report.rejected} == {
        "good.mkv": "duplicate", "narrow.mp4": "small", "brief.mp4": "brief", "mute.mp4": "silent",
        "wordless.mp4": "caption length"}  # fmt: skip
    assert report.files == 6


def test_a_clip_is_refused_by_itself_and_workers_and_ranks_agree(mixed, tmp_path):
    steps = filters_of(["MaxSilence:share=0.5"])
    reports = [build_shards(mixed, tmp_path / f"{n}", **SMALL, filters=steps, files_per_shard=2, workers=n) for n in (0, 2)]
    assert reports[0] == reports[1] and reports[0].rejected == reports[1].rejected
    refused = [(r.file, r.second) for r in reports[0].rejected if r.kind == "silent"]
    assert refused == [("good.mkv", 0.625), ("mute.mp4", 0.0)]
    keys = [record["__key__"] for record in ShardReader(tmp_path / "0")]
    assert len(keys) == len(set(keys)) == reports[0].clips == 4


def test_filters_of_sounds(tmp_path, folder):
    write(folder / "a.flac", None, audio=tone(2.0, onset=1.4), audio_codec="flac")
    with pytest.raises(ValueError, match=r"none of 1 files gave a clip; the first, a.flac: 40 % is silent"):
        build_sound_shards(folder, tmp_path / "out", seconds=1.0, filters=(MaxSilence(share=0.3), MinSide(pixels=900)))


# --- by name and by YAML


def test_names_and_yaml_say_the_same(tmp_path):
    spec = [{"class_path": "videopoet.data.filters.MinSide", "init_args": {"pixels": 24}},
            {"class_path": "videopoet.data.filters.UniqueKey"}]  # fmt: skip
    (tmp_path / "f.yaml").write_text(json.dumps(spec))
    assert filters_of([str(tmp_path / "f.yaml")]) == filters_of(["MinSide:pixels=24", "UniqueKey"])
    assert filters_of(["MinSide:pixels=24", "UniqueKey"]) == (MinSide(pixels=24), UniqueKey(of="file"))
    assert filters_of(["CaptionLength:fewest=3,required=false"]) == (CaptionLength(fewest=3, required=False),)
    assert shots_of("FrameDifference:least=9.5") == FrameDifference(least=9.5) and shots_of(None) is None
    (tmp_path / "s.yaml").write_text("class_path: videopoet.data.shots.FrameDifference\ninit_args: {least: 0.5}")
    assert shots_of(str(tmp_path / "s.yaml")) == FrameDifference(least=0.5)


def test_a_class_of_ones_own_by_its_path(tmp_path, monkeypatch):
    (tmp_path / "my_steps.py").write_text(
        "from dataclasses import dataclass\nfrom typing import ClassVar\nfrom videopoet.data.filters import FactsFilter\n"
        "@dataclass(frozen=True, kw_only=True)\nclass Wide(FactsFilter):\n    ratio: float\n    kind: ClassVar[str] = 'wide'\n"
        "    def __call__(self, facts):\n        return 'no' if facts.width < self.ratio * facts.height else None\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    (step,) = filters_of(["my_steps.Wide:ratio=1.5"])
    assert step(facts(64, 48)) == "no" and step(facts(96, 48)) is None


@pytest.mark.parametrize(
    ("word", "said"),
    [("MinSides:pixels=3", "no Filter MinSides; there are MinSide, MinDuration"), ("MinSide:pixel=3", "pixel"),
     ("MinSide:pixels=wide", "pixels"), ("MinSide", "pixels"), ("nowhere.yaml", "no file at"), ("no_module.X", "no_module"),
     ("FrameDifference", "no Filter FrameDifference"), ("list.yaml", "list of class_path"), ("{.yaml", "is not YAML")],
)  # fmt: skip
def test_what_cannot_be_a_filter_is_refused_with_what_there_is(tmp_path, monkeypatch, word, said):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "list.yaml").write_text("[1, 2]")
    (tmp_path / "{.yaml").write_text("{")
    with pytest.raises(ValueError, match=said) as error:
        filters_of([word])
    assert "\n" not in str(error.value)


def test_every_filter_there_is_can_be_asked_for():
    assert known(module, Filter) == ["MinSide", "MinDuration", "MaxSilence", "CaptionLength", "UniqueKey"]


def test_the_command_reports_by_kind_and_says_where_the_list_is(mixed, tmp_path, capsys):
    words = [word for step in ALL for word in ("--filter", step)]
    main(["shards", "build", str(mixed), "--out", str(tmp_path / "out"), "--frames", "5", "--size", "16", *words])
    said = capsys.readouterr().out
    assert "skipped mute.mp4 at 0 s: has no sound" in said and "1 clips of 6 files" in said and "5 skipped" in said
    assert [line.split() for line in said.splitlines() if line.startswith("  ")] == [
        ["brief", "1"], ["caption", "length", "1"], ["duplicate", "1"], ["silent", "1"], ["small", "1"]]  # fmt: skip
    lines = (tmp_path / "out" / "rejected.jsonl").read_text().splitlines()
    assert json.loads(lines[0])["kind"] == "duplicate" and len(lines) == 5

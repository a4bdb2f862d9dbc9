"""Loaders on miniature replicas of the datasets, quirks included, and the plans of samples over them."""

import json
import random
from dataclasses import replace

import numpy as np
import pytest
from replicas import kinetics600, msrvtt, scene_file, ssv2, ucf101

from videopoet.evaluation.clip_rules import AtStart, ClipRule, UniformFrames
from videopoet.evaluation.detectors.surrogates import RandomConv3d
from videopoet.evaluation.folder import PromptedVideos, VideoFolder
from videopoet.evaluation.imagenet import ImageNetClasses
from videopoet.evaluation.kinetics600 import Kinetics600
from videopoet.evaluation.msrvtt import MSRVTT
from videopoet.evaluation.plans import (
    CaptionsPerRepeat,
    ClassPrompts,
    EachVideo,
    EveryCaption,
    OneRandomCaption,
    SplitWords,
    WrittenPrompts,
)
from videopoet.evaluation.protocol import read_protocol
from videopoet.evaluation.readings import Seen
from videopoet.evaluation.resize import Resize
from videopoet.evaluation.round_trip import Jpeg
from videopoet.evaluation.runner import plan
from videopoet.evaluation.ssv2 import SSv2
from videopoet.evaluation.study import Item, Run, Study
from videopoet.evaluation.ucf101 import UCF101
from videopoet.evaluation.views import Source, View


@pytest.fixture(scope="module")
def vtt(tmp_path_factory):
    return msrvtt(tmp_path_factory.mktemp("vtt"))


def test_msrvtt_keeps_every_caption_and_names_what_is_missing(vtt):
    found = MSRVTT().read(vtt)
    by_key = {e.key: e for e in found.entries}
    assert sorted(by_key) == ["video7010", "video7011", "video7012"]
    assert found.missing == ("video7013",)
    assert [len(by_key[k].captions) for k in sorted(by_key)] == [19, 2, 2]
    assert len(set(by_key["video7011"].captions)) == 1, "equal captions count twice"
    assert any("1 of 4 videos are missing" in c for c in found.complaints)
    assert any("4 videos instead of 2990" in c for c in found.complaints)
    assert len(found.sources["videodatainfo_2017.json"]) == 64


def test_msrvtt_split_by_number_and_alone(vtt, tmp_path):
    other = msrvtt(tmp_path / "no_split", videos=1, split=False)
    assert [e.key for e in MSRVTT(videos=None).read(other).entries] == ["video7010"]
    annotations = json.loads((other / "videodatainfo_2017.json").read_text())
    for video in annotations["videos"]:
        video["split"] = "validate"
    (other / "test_videodatainfo.json").write_text(json.dumps(annotations))
    assert [e.key for e in MSRVTT(videos=None).read(other).entries] == ["video7010"], "a file of the test set alone"
    with pytest.raises(ValueError, match=r"holds none of test_videodatainfo.json.*put MSR-VTT's annotations there"):
        MSRVTT().read(vtt / "TestVideo")


def test_ucf101_finds_files_whatever_their_case(tmp_path):
    folder = ucf101(tmp_path / "ucf")
    # The replica writes mp4 files; the lists say avi: a file is found by its stem.
    found = UCF101(split="train").read(folder)
    assert not found.missing and [e.label for e in found.entries] == ["ApplyEyeMakeup"] * 2 + ["HandstandPushups"]
    assert len(UCF101(split="all").read(folder).entries) == 4
    assert "3 videos instead of 9537" in UCF101(split="train", videos=9537).read(folder).complaints[0]


def test_kinetics600_and_ssv2(tmp_path):
    k600 = Kinetics600().read(kinetics600(tmp_path / "k600"))
    assert {e.key: e.label for e in k600.entries} == {"-abcDEF_12_000012_000022": "cooking, sausages",
                                                      "xyz_000000_000010": "playing tennis"}  # fmt: skip
    assert k600.missing == ("gone_000003_000013",)
    labelled = SSv2(videos=3).read(ssv2(tmp_path / "ssv2"))
    assert labelled.entries[0].captions == ("holding potato next to vicks vaporub bottle",)
    assert labelled.entries[0].label == "Holding something next to something" and not labelled.complaints


def test_folders_and_classes(tmp_path):
    scene_file(tmp_path / "a b.mp4", 0)
    (tmp_path / "prompts.csv").write_text('video,prompt\na b,"oil, on canvas"\na b,clay\nlost,x\n')
    found = PromptedVideos().read(tmp_path)
    assert found.entries[0].captions == ("oil, on canvas", "clay") and found.missing == ("lost",)
    assert [e.key for e in VideoFolder().read(tmp_path).entries] == ["a b.mp4"]
    (tmp_path / "LOC_synset_mapping.txt").write_text("n01440764 tench, Tinca tinca\nn01443537 goldfish\n")
    classes = ImageNetClasses().read(tmp_path)
    assert [e.label for e in classes.entries] == [
        "tench",
        "goldfish",
    ] and "2 classes instead of 1000" in classes.complaints[0]


def test_plans(vtt):
    entries = MSRVTT().read(vtt).entries
    every = EveryCaption()(entries)
    assert [w.number for w in every] == list(range(23)) and len({w.prompt for w in every}) < 23
    assert EveryCaption(count=5)(entries) == every[:5]
    one = OneRandomCaption(seed=1)(entries)
    shuffled = list(entries)
    random.Random(0).shuffle(shuffled)
    again = {w.entry.key: w.prompt for w in OneRandomCaption(seed=1)(shuffled)}
    assert again == {w.entry.key: w.prompt for w in one}, "the order of the file changes no choice"
    picked = {OneRandomCaption(seed=s)(entries[-1:])[0].prompt for s in range(20)}
    assert len(picked) > 1, "the seed does"
    repeats = CaptionsPerRepeat(repeats=3, count=2, seed=0)(entries)
    assert len(repeats) == 6 and all(len({w.entry.key for w in repeats[2 * r : 2 * r + 2]}) == 2 for r in range(3))


def test_rounds_of_videos_have_clips_of_their_own(vtt):
    wishes = EachVideo(count=7, seed=0)(MSRVTT().read(vtt).entries)
    assert len({w.source_key for w in wishes}) == 7 and len({w.entry.key for w in wishes}) == 3
    assert [w.draw for w in wishes] == [0, 0, 0, 1, 1, 1, 2]


def test_prompts_of_classes(tmp_path):
    entries = UCF101(split="all").read(ucf101(tmp_path)).entries
    balanced = ClassPrompts(count=5)(entries)
    assert [w.prompt for w in balanced] == ["apply eye makeup", "handstand pushups"] * 2 + ["apply eye makeup"]
    drawn = ClassPrompts(count=40, balanced=False, seed=3)(entries)
    assert drawn == ClassPrompts(count=40, balanced=False, seed=3)(entries)
    assert len({w.prompt for w in drawn}) == 2
    assert SplitWords()("YoYo") == "yo yo" and SplitWords(template="a photo of a {}")("tench") == "a photo of a tench"
    written = tmp_path / "prompts.json"
    written.write_text(json.dumps({"ApplyEyeMakeup": "A woman applies eye makeup."}))
    with pytest.raises(ValueError, match="no prompt for the class HandstandPushups"):
        ClassPrompts(count=2, wording=WrittenPrompts(file=str(written)))(entries)


def test_written_prompts_lie_in_the_folder_of_the_data(tmp_path, monkeypatch):
    """Beside the lists, not in the folder of a class, and wherever the command is called."""
    folder = ucf101(tmp_path / "ucf")
    said = {"ApplyEyeMakeup": "A woman applies eye makeup.", "HandstandPushups": "A man does pushups on his hands."}
    (folder / "prompts.json").write_text(json.dumps(said))
    monkeypatch.chdir(tmp_path)
    protocol = read_protocol("ucf101_zero_shot")
    protocol = replace(protocol, plan=ClassPrompts(count=3, wording=WrittenPrompts(file="prompts.json")))
    _, wishes, _ = plan(protocol, Run(data=folder, work=tmp_path / "work", allow_partial=True))
    assert [w.prompt for w in wishes] == [*said.values(), "A woman applies eye makeup."]


def test_the_real_clip_has_the_rules_rate_and_the_sound_of_its_span(tmp_path):
    path = scene_file(tmp_path / "a.mp4", 0)  # 24 frames at 10 per second
    rule = ClipRule(frames=4, fps=5.0, offset=AtStart())
    clip = Source(frames=rule, sound=True, sample_rate=16000, resize=Resize(height=16, width=16)).read(path, "a")
    assert clip.video.shape == (4, 16, 16, 3) and clip.video.dtype == np.uint8
    assert clip.fps == 5.0 and clip.audio.shape == (1, 12800), "0.8 s"
    assert Source(frames=ClipRule(frames=4, stride=2)).read(path, "a").fps == 5.0
    assert Source(frames=rule, fps=8.0).read(path, "a").fps == 8.0
    with pytest.raises(ValueError, match="24 frames, the clip spans 30"):
        Source(frames=ClipRule(frames=30)).read(path, "a")


def test_features_are_kept_by_network_rule_and_bytes():
    item = Item(key="a", content="1", load=lambda: None)
    readings = [Seen(detector=RandomConv3d(seed=seed), view=view) for seed in (0, 1)
                for view in (View(), View(frames=UniformFrames(frames=4)), View(storage=Jpeg()))]  # fmt: skip
    keys = {Study.key_of(None, r, i) for r in readings for i in (item, Item(key="a", content="2", load=lambda: None))}
    assert len(keys) == 12
    assert Study.key_of(None, readings[0], item) == Study.key_of(None, Seen(detector=RandomConv3d(seed=0)), item)

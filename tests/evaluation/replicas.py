"""Miniature replicas of public datasets as their publishers lay them out, with scenes of the built-in world as videos."""

import json
from pathlib import Path

from videopoet.data.bounce import Scene
from videopoet.data.media import Media, write_media


def scene_file(
    path: Path, seed: int, *, frames: int = 24, fps: float = 10.0, size: int = 32, sound: bool = True
) -> Path:
    """One scene as a video file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    scene = Scene.sample(seed)
    audio = scene.sound(frames, fps)[None] if sound else None
    write_media(path, Media(video=scene.render(frames, fps, size), fps=fps, audio=audio), crf=4)
    return path


def msrvtt(folder: Path, *, videos: int = 3, split: bool = True) -> Path:
    """`videos` test videos with two captions each, one more that is missing, and a training video.

    The first has 19 captions; the second has one caption twice; sentences and videos stand in no order.
    """
    said, sentences = [], []
    for i in range(videos + 1):
        name = f"video{7010 + i}"
        entry = {"id": 7010 + i, "video_id": name, "category": 3, "url": "https://www.youtube.com/watch?v=abc",
                 "start time": 0.5, "end time": 2.5, "unknown": [1]}  # fmt: skip
        said.append(entry | ({"split": "test"} if split else {}))
        captions = list(dict.fromkeys(c for seed in range(i, 400) for c in Scene.sample(seed).captions()))[:19]
        captions = captions if i == 0 else [captions[0]] * 2 if i == 1 else captions[:2]
        sentences += [{"sen_id": 100 * i + k, "video_id": name, "caption": c} for k, c in enumerate(captions)]
        if i < videos:
            scene_file(folder / "TestVideo" / f"{name}.mp4", i)
    said.append({"id": 5, "video_id": "video5", "split": "train", "start time": 0.0, "end time": 1.0})
    sentences.append({"sen_id": 1, "video_id": "video5", "caption": "of the training split"})
    path = folder / "videodatainfo_2017.json"
    path.write_text(json.dumps({"info": {}, "videos": said[::-1], "sentences": sentences[::-1]}), encoding="utf-8")
    return folder


def ucf101(folder: Path) -> Path:
    """Two classes, three training clips and one test clip, one of which no archive spells as the lists do."""
    lists = folder / "ucfTrainTestlist"
    lists.mkdir(parents=True)
    (lists / "classInd.txt").write_bytes(b"1 ApplyEyeMakeup\r\n2 HandstandPushups\r\n")
    (lists / "trainlist01.txt").write_text(
        "ApplyEyeMakeup/v_ApplyEyeMakeup_g08_c01.avi 1\nApplyEyeMakeup/v_ApplyEyeMakeup_g08_c02.avi 1\n"
        "HandstandPushups/v_HandStandPushups_g09_c01.avi 2\n")  # fmt: skip
    (lists / "testlist01.txt").write_text("ApplyEyeMakeup/v_ApplyEyeMakeup_g01_c01.avi\n")
    names = ("ApplyEyeMakeup/v_ApplyEyeMakeup_g08_c01", "ApplyEyeMakeup/v_ApplyEyeMakeup_g08_c02",
             "HandstandPushups/v_HandstandPushups_g09_c01", "ApplyEyeMakeup/v_ApplyEyeMakeup_g01_c01")  # fmt: skip
    for i, name in enumerate(names):
        scene_file(folder / "UCF-101" / f"{name}.mp4", i)  # the lists say .avi: files are found by their stems
    return folder


def kinetics600(folder: Path) -> Path:
    """Two clips in folders with blanks in their names, one that has left the net."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "validate.csv").write_text(
        'label,youtube_id,time_start,time_end,split\n"cooking, sausages",-abcDEF_12 ,12,22,validate\n'
        "playing tennis,xyz,0,10,validate\nswimming,gone,3,13,validate\n")  # fmt: skip
    scene_file(folder / "cooking sausages" / "-abcDEF_12_000012_000022.mp4", 1)
    scene_file(folder / "playing tennis" / "xyz_000000_000010.mp4", 2)
    return folder


def ssv2(folder: Path) -> Path:
    """Three videos, one of which is no video."""
    folder.mkdir(parents=True, exist_ok=True)
    labels = [{"id": "78687", "label": "holding potato next to vicks vaporub bottle",
               "template": "Holding [something] next to [something]", "placeholders": ["potato", "vicks vaporub bottle"]},
              {"id": "3", "label": "x", "template": "Doing [something]", "placeholders": ["x"]},
              {"id": "4", "label": "doing y", "template": "Doing [something]", "placeholders": ["y"]}]  # fmt: skip
    (folder / "something-something-v2-validation.json").write_text(json.dumps(labels))
    scene_file(folder / "20bn" / "78687.mp4", 3)
    scene_file(folder / "20bn" / "4.mp4", 4)
    (folder / "20bn" / "3.webm").write_bytes(b"not a video")
    return folder

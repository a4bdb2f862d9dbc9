"""Importers on miniature replicas of the datasets, quirks included: what they list is what `shards build` then reads."""

import csv
import hashlib
import importlib.util
import json
import sys
from pathlib import Path

import pytest
from PIL import Image

from videopoet.data.annotations import msrvtt_split_of
from videopoet.data.importers import Files, Item, seconds, write_listings
from videopoet.data.ingest import build_shards
from videopoet.data.labels import FieldLabel
from videopoet.data.schema import Clip
from videopoet.data.shards import ShardReader

TOOLS = Path(__file__).parents[2] / "tools"
sys.path.append(str(TOOLS.parent / "tests" / "data"))
from media_samples import numbered, numbers, write  # noqa: E402


def tool(name: str):
    spec = importlib.util.spec_from_file_location(f"prepare_{name}", TOOLS / f"prepare_{name}.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def imported(name: str, out: Path, *words) -> dict[str, list[dict]]:
    """Run a tool; its listings by split."""
    module = tool(name)
    module.run(module.parser().parse_args([*map(str, words), "--out", str(out)]))
    return {path.stem: [json.loads(line) for line in path.read_text().splitlines()] for path in sorted(out.glob("*.jsonl"))}


def clips(videos: Path, listing: Path, out: Path, frames: int = 5) -> tuple[list[Clip], dict[str, int]]:
    """What `shards build` makes of a listing, and what it rejects."""
    report = build_shards(videos, out, frames=frames, fps=8.0, size=16, listing=listing)
    return [Clip.from_record(record) for record in ShardReader(out)], report.reasons


def missing(out: Path) -> list[str]:
    path = out / "missing.txt"
    return path.read_text().splitlines() if path.exists() else []


@pytest.fixture
def videos(tmp_path):
    path = tmp_path / "videos"
    path.mkdir()
    return path


# --- MSR-VTT


def vtt_video(number: int, split: str | None = None, url: str = "") -> dict:
    entry = {"id": number, "video_id": f"video{number}", "category": 3, "url": url, "start time": 0.5, "end time": 1.25}
    return entry | ({"split": split} if split is not None else {})


def vtt_file(path: Path, videos: list[dict], captions: list[tuple[int, str, str]]) -> Path:
    """With a byte order mark, as some mirrors have it, and the sentences in no order."""
    sentences = [{"sen_id": i, "video_id": video, "caption": text} for i, video, text in captions]
    content = {"info": {"year": "2016"}, "videos": videos, "sentences": sentences[::-1]}
    path.write_text(json.dumps(content, ensure_ascii=False), encoding="utf-8-sig")
    return path


def test_msrvtt(videos, tmp_path, capsys):
    write(videos / "video0.mp4", numbered(5))
    (videos / "deep").mkdir()
    write(videos / "deep" / "video7010.avi", numbered(5), codec="mpeg4")
    (videos / "video7011.mp4").write_bytes(b"not a video")
    write(videos / "abcDEF-_123.mkv", numbered(16), codec="ffv1")
    train = vtt_file(tmp_path / "train_val_videodatainfo.json",
                     [vtt_video(0, "train"), vtt_video(6513, "validate", "https://www.youtube.com/watch?v=abcDEF-_123&t=3"),
                      vtt_video(1, "train")],
                     [(5, "video0", "a man  is\n talking"), (2, "video0", "two men"), (9, "video0", "two men"),
                      (11, "video6513", "größe, “quoted”"), (12, "video1", "x")])  # fmt: skip
    test = vtt_file(tmp_path / "test_videodatainfo.json", [vtt_video(7010), vtt_video(7011, "test"), vtt_video(0, "train")],
                    [(1, "video7010", "a dog"), (3, "video7011", "a cat"), (4, "video0", "two men")])  # fmt: skip
    out = tmp_path / "out"
    found = imported("msrvtt", out, "--annotations", train, "--videos", videos)
    assert found["train"] == [{"file": "video0.mp4", "captions": ["two men", "a man is talking"], "video_id": "video0",
                               "category": 3, "url": "", "url_span": [0.5, 1.25]}]  # fmt: skip
    assert found["validate"][0]["start"] == 0.5 and found["validate"][0]["end"] == 1.25, "of the whole YouTube video"
    assert missing(out) == ["train\tvideo1"]
    report = json.loads((out / "import.json").read_text())
    assert report["splits"] == {"train": {"clips": 1, "captions": 2, "missing": 1},
                                "validate": {"clips": 1, "captions": 1, "missing": 0}}  # fmt: skip
    assert report["annotations"] == {train.name: hashlib.sha256(train.read_bytes()).hexdigest()}
    made, _ = clips(videos, out / "validate.jsonl", tmp_path / "shards")
    assert [numbers(clip.video) for clip in made] == [[4, 5, 6, 7, 8]] and made[0].captions == ("größe, “quoted”",)
    assert "| train | 1 | 2 | 1 |" in capsys.readouterr().out

    both = imported("msrvtt", tmp_path / "both", "--annotations", train, test, "--videos", videos)
    assert {split: [line["file"] for line in lines] for split, lines in both.items()} == {
        "train": ["video0.mp4"], "validate": ["abcDEF-_123.mkv"], "test": ["deep/video7010.avi", "video7011.mp4"]}  # fmt: skip
    made, reasons = clips(videos, tmp_path / "both" / "test.jsonl", tmp_path / "test")
    assert [clip.source["video_id"] for clip in made] == ["video7010"] and reasons == {"unreadable": 1}


def test_msrvtt_1k_a_and_what_it_refuses(videos, tmp_path):
    write(videos / "video7020.mp4", numbered(5))
    table = tmp_path / "MSRVTT_JSFUSION_test.csv"
    table.write_text('key,vid_key,video_id,sentence\nret0,msr7020,video7020,"a, b and ""c"""\nret1,msr1,video1,none\n')
    found = imported("msrvtt", tmp_path / "out", "--annotations", table, "--videos", videos)
    assert found == {"1k-A": [{"file": "video7020.mp4", "captions": ['a, b and "c"'], "video_id": "video7020"}]}
    bad = {"other.json": ({"a": 1}, "not MSR-VTT's"),
           "split.json": ({"videos": [{"video_id": "clip9"}], "sentences": []}, "clip9: split '' is none of")}  # fmt: skip
    for name, (content, said) in bad.items():
        (tmp_path / name).write_text(json.dumps(content))
        with pytest.raises(ValueError, match=said):
            imported("msrvtt", tmp_path / "bad", "--annotations", tmp_path / name, "--videos", videos)
    (tmp_path / "none.json").write_text(json.dumps({"videos": [vtt_video(5)], "sentences": []}))
    with pytest.raises(ValueError, match="holds none of the 1 videos"):
        imported("msrvtt", tmp_path / "bad", "--annotations", tmp_path / "none.json", "--videos", videos)
    assert not list((tmp_path / "bad").glob("*.jsonl")), "whole or nothing"


@pytest.mark.parametrize(
    ("number", "split"), [(0, "train"), (6512, "train"), (6513, "validate"), (7009, "validate"), (7010, "test"), (9999, "test")]
)
def test_msrvtt_splits_by_number(number, split):
    assert msrvtt_split_of(vtt_video(number)) == split


# --- UCF-101


def test_ucf101(videos, tmp_path):
    lists = tmp_path / "ucfTrainTestlist"
    lists.mkdir()
    (lists / "classInd.txt").write_bytes(b"1 ApplyEyeMakeup\r\n37 HandstandPushups\r\n101 YoYo\r\n")
    (lists / "trainlist01.txt").write_bytes(b"ApplyEyeMakeup/v_ApplyEyeMakeup_g08_c01.avi 1\r\n"
                                            b"HandstandPushups/v_HandStandPushups_g09_c02.avi 37\r\n\r\n")  # fmt: skip
    (lists / "testlist01.txt").write_text("YoYo/v_YoYo_g01_c01.avi\nYoYo/v_YoYo_g01_c02.avi\n")
    for name in ("ApplyEyeMakeup/v_ApplyEyeMakeup_g08_c01", "HandstandPushups/v_HandstandPushups_g09_c02",
                 "YoYo/v_YoYo_g01_c01"):  # fmt: skip
        (videos / name).parent.mkdir(exist_ok=True)
        write(videos / f"{name}.avi", numbered(5), codec="mpeg4")
    out = tmp_path / "out"
    found = imported("ucf101", out, "--videos", videos, "--lists", lists)
    assert [line["label"] for line in found["train"]] == ["ApplyEyeMakeup", "HandstandPushups"]
    assert found["test"] == [{"file": "YoYo/v_YoYo_g01_c01.avi", "captions": ["yo yo"], "label": "YoYo", "class": 101,
                              "group": 1}]  # fmt: skip
    assert found["train"][1]["file"] == "HandstandPushups/v_HandstandPushups_g09_c02.avi", "whatever the case"
    assert missing(out) == ["test\tYoYo/v_YoYo_g01_c02.avi"]
    made, _ = clips(videos, out / "train.jsonl", tmp_path / "shards")
    assert [clip.captions for clip in made] == [("apply eye makeup",), ("handstand pushups",)]
    assert [clip.source["class"] for clip in made] == [1, 37]
    (lists / "testlist01.txt").write_text("YoYo/v_YoYo_g01_c01.avi 1\n")
    with pytest.raises(ValueError, match="is no clip of one of the 3 classes"):
        imported("ucf101", out, "--videos", videos, "--lists", lists)


# --- Kinetics-600


def test_kinetics600(videos, tmp_path):
    (videos / "hula hooping").mkdir()
    write(videos / "hula hooping" / "-a_B0123456_000004_000014.mp4", numbered(5))
    write(videos / "_whole45678.mkv", numbered(18), codec="ffv1")
    write(videos / "_WHOLE45678.mkv", numbered(3), codec="ffv1")  # another video: ids mind the case
    train = tmp_path / "train.csv"
    train.write_bytes(b'\xef\xbb\xbflabel,youtube_id,time_start,time_end,split,is_cc\r\n'
                      b'hula hooping,-a_B0123456,4,14,train,0\r\n'
                      b'"bouncing, ""high"" (not low)",_whole45678,1,2,train,1\r\n\r\n'
                      b'gone,zzzzzzzzzzz,0,10,train,0\r\n')  # fmt: skip
    test = tmp_path / "test.csv"
    test.write_text("youtube_id,time_start,time_end,split\n_whole45678,0,0.625,test\n")
    out = tmp_path / "out"
    found = imported("kinetics600", out, "--annotations", train, test, "--videos", videos)
    assert [line.get("start") for line in found["train"]] == [None, 1.0]
    assert missing(out) == ["train\tzzzzzzzzzzz_000000_000010"]
    assert found["test"] == [{"file": "_whole45678.mkv", "start": 0.0, "end": 0.625, "captions": [], "label": "",
                              "youtube_id": "_whole45678"}]  # fmt: skip
    made, reasons = clips(videos, out / "train.jsonl", tmp_path / "shards")
    assert [(clip.captions, numbers(clip.video)) for clip in made] == [
        (("hula hooping",), [0, 1, 2, 3, 4]), (('bouncing, "high" (not low)',), [8, 9, 10, 11, 12])]  # fmt: skip
    assert not reasons
    (tmp_path / "val.json").write_text(json.dumps({"_whole45678": {"annotations": {"label": "x", "segment": [0.5, 1.5]},
                                                                   "subset": "validation"}}))  # fmt: skip
    found = imported("kinetics600", tmp_path / "json", "--annotations", tmp_path / "val.json", "--videos", videos)
    assert [(line["start"], line["captions"]) for line in found["validate"]] == [(0.5, ["x"])]
    (tmp_path / "bad.csv").write_text("label,time_start,time_end\nx,0,1\n")
    with pytest.raises(ValueError, match="no column 'youtube_id' among label"):
        imported("kinetics600", tmp_path / "bad", "--annotations", tmp_path / "bad.csv", "--videos", videos)


# --- Something-Something v2


def test_ssv2(videos, tmp_path):
    for name in ("78687", "3", "42326"):
        write(videos / f"{name}.webm", numbered(5), codec="libvpx-vp9")
    train = tmp_path / "something-something-v2-train.json"
    train.write_text(json.dumps([
        {"id": "78687", "label": "holding potato next to vicks vaporub bottle",
         "template": "Holding [something] next to [something]", "placeholders": ["potato", "vicks vaporub bottle"]},
        {"id": 3, "template": "Moving [part] of [something]", "placeholders": ["lid [small]"]},
        {"id": "99", "label": "gone", "template": "Gone", "placeholders": []}]))  # fmt: skip
    (tmp_path / "test.json").write_text('[{"id": "42326"}, {"id": "3"}]')
    (tmp_path / "test-answers.csv").write_text("42326;Pretending to put something onto something\n")
    out = tmp_path / "out"
    words = ("--labels", train, tmp_path / "test.json", "--test-answers", tmp_path / "test-answers.csv", "--videos", videos)
    found = imported("ssv2", out, *words)
    assert found["train"] == [
        {"file": "78687.webm", "captions": ["holding potato next to vicks vaporub bottle"], "id": "78687",
         "label": "Holding something next to something", "placeholders": ["potato", "vicks vaporub bottle"]},
        {"file": "3.webm", "captions": ["Moving lid [small] of something"], "id": "3", "label": "Moving part of something",
         "placeholders": ["lid [small]"]}]  # fmt: skip
    assert [(line["captions"], line.get("label")) for line in found["test"]] == [
        (["Pretending to put something onto something"],) * 1 + ("Pretending to put something onto something",), ([], None)]
    assert missing(out) == ["train\t99"]
    made, _ = clips(videos, out / "train.jsonl", tmp_path / "shards")
    assert made[0].source["placeholders"] == ["potato", "vicks vaporub bottle"] and len(made) == 2
    (tmp_path / "labels.json").write_text('{"Holding something": "0"}')
    for name, said in (("labels.json", "the name says neither"), ("train.json", "no such file")):
        with pytest.raises(ValueError, match=said):
            imported("ssv2", out, "--labels", tmp_path / name, "--videos", videos)
    (tmp_path / "train.json").write_text('{"Holding something": "0"}')
    with pytest.raises(ValueError, match="not a list of objects with an id"):
        imported("ssv2", out, "--labels", tmp_path / "train.json", "--videos", videos)


# --- WebVid, Panda-70M


def test_webvid(videos, tmp_path):
    (videos / "001_051").mkdir()
    (videos / "002_052").mkdir()
    write(videos / "001_051" / "7.mp4", numbered(5))
    write(videos / "002_052" / "7.mp4", numbered(6))
    table = tmp_path / "results_10M_train.csv"
    table.write_bytes('\ufeffvideoid,contentUrl,duration,page_dir,name\r\n'
                      '7,https://x/7_preview.mp4,PT00H00M18S,002_052,"Aerial, ""slow""\nview of größe"\r\n'
                      '8,https://x/8.mp4,PT00H00M05S,001_051,Missing one\r\n'.encode())  # fmt: skip
    out = tmp_path / "out"
    found = imported("csv", out, "--tables", table, "--videos", videos)
    assert found == {"results_10M_train": [{"file": "002_052/7.mp4", "captions": ['Aerial, "slow" view of größe'], "id": "7",
                                            "url": "https://x/7_preview.mp4"}]}  # fmt: skip
    assert missing(out) == ["results_10M_train\t001_051/8"]
    made, _ = clips(videos, out / "results_10M_train.jsonl", tmp_path / "shards")
    assert len(made) == 1 and made[0].captions == ('Aerial, "slow" view of größe',)


def test_panda(videos, tmp_path):
    write(videos / "--SaHeTEmoE.mkv", numbered(18), codec="ffv1")
    write(videos / "zzzzzzzzzz0_1.mp4", numbered(5))
    table = tmp_path / "panda70m.csv"
    rows = [
        ["--SaHeTEmoE", "https://www.youtube.com/watch?v=--SaHeTEmoE",
         "[['0:00:00.250', '0:00:01.000'], ['0:00:01.000', '0:00:02.000']]",
         """['A man, with "blue" hair', "It's a dog"]""", "[0.5, 0.41]"],
        ["zzzzzzzzzz0", "u", "[['0:00:00', '0:00:09'], ['0:00:09', '0:00:10']]", "['gone', 'cut already']", "[0.6, 0.7]"],
    ]  # fmt: skip
    with table.open("w", newline="") as file:
        csv.writer(file).writerows([["videoID", "url", "timestamp", "caption", "matching_score"], *rows])
    out = tmp_path / "out"
    found = imported("csv", out, "--tables", table, "--videos", videos)["panda70m"]
    assert [(line["file"], line.get("start"), line.get("end"), line["captions"], line["score"]) for line in found] == [
        ("--SaHeTEmoE.mkv", 0.25, 1.0, ['A man, with "blue" hair'], 0.5), ("--SaHeTEmoE.mkv", 1.0, 2.0, ["It's a dog"], 0.41),
        ("zzzzzzzzzz0_1.mp4", None, None, ["cut already"], 0.7)]  # fmt: skip
    made, _ = clips(videos, out / "panda70m.jsonl", tmp_path / "shards")
    assert [numbers(clip.video)[0] for clip in made] == [2, 8, 0] and missing(out) == ["panda70m\tzzzzzzzzzz0_0"]
    best = imported("csv", tmp_path / "best", "--tables", table, "--videos", videos, "--min-score", "0.43")["panda70m"]
    assert [line["score"] for line in best] == [0.5, 0.7]
    for cell, said in ((2, "entries of caption for 1 spans"), (3, "is no list")):
        broken = [list(rows[0])]
        broken[0][cell] = "[['0:00:00', '0:00:01']]" if cell == 2 else "['unfinished"
        with table.open("w", newline="") as file:
            csv.writer(file).writerows([["videoID", "url", "timestamp", "caption", "matching_score"], *broken])
        with pytest.raises(ValueError, match=rf"panda70m.csv, row 1: .*{said}"):
            imported("csv", tmp_path / "bad", "--tables", table, "--videos", videos)


def test_a_table_of_ones_own(videos, tmp_path):
    write(videos / "a.mkv", numbered(18), codec="ffv1")
    table = tmp_path / "mine.tsv"
    table.write_text("Clip File\tWhat\tfrom\tto\na.mkv\ta ball\t00:01\t2.5\na.mkv\tall of it\t\t\n")
    words = ["--column", "path=Clip File", "--column", "caption=what", "--column", "start=from", "--column", "end=to"]
    found = imported("csv", tmp_path / "out", "--tables", table, "--videos", videos, *words)
    assert [(line.get("start"), line.get("end"), line["captions"]) for line in found["mine"]] == [
        (1.0, 2.5, ["a ball"]), (None, None, ["all of it"])]  # fmt: skip
    with pytest.raises(ValueError, match="--column what=x: say one of id, path"):
        imported("csv", tmp_path / "out", "--tables", table, "--videos", videos, "--column", "what=x")
    table.write_text("caption\tz\nx\ty\n")
    with pytest.raises(ValueError, match=r"mine.tsv, row 1: no id, path or url among caption, z"):
        imported("csv", tmp_path / "out", "--tables", table, "--videos", videos)
    table.write_text("id,caption\n1,a,b\n")
    with pytest.raises(ValueError, match=r"line 2: 3 fields, the heading has 2"):
        imported("csv", tmp_path / "out", "--tables", table.rename(tmp_path / "long.csv"), "--videos", videos)


# --- images with captions


@pytest.fixture
def pictures(videos):
    for name in ("a.jpg", "b.png", "deep/c.webp", "bare.jpg"):
        (videos / name).parent.mkdir(exist_ok=True)
        Image.new("RGB", (24, 20), (90, 90, 200)).save(videos / name)
    (videos / "broken.jpg").write_bytes(b"\xff\xd8 no")
    return videos


def test_images_beside_their_captions(pictures, tmp_path):
    (pictures / "a.txt").write_text("a blue field\n")
    (pictures / "b.json").write_text('{"caption": "another", "status": "success", "width": 24}')
    (pictures / "deep" / "c.json").write_text("{")
    (pictures / "broken.txt").write_text("not to be seen")
    out = tmp_path / "out"
    found = imported("image_text", out, "--images", pictures)
    assert [line["file"] for line in found["images"]] == ["a.jpg", "b.png", "broken.jpg", "deep/c.webp"]
    made, reasons = clips(pictures, out / "images.jsonl", tmp_path / "shards", frames=1)
    assert [clip.captions for clip in made] == [("a blue field",), ("another",)] and made[0].video.shape == (1, 16, 16, 3)
    assert reasons == {"captions": 1, "unreadable": 1}
    every = imported("image_text", tmp_path / "all", "--images", pictures, "--uncaptioned")
    assert [line["file"] for line in every["images"]] == ["a.jpg", "b.png", "bare.jpg", "broken.jpg", "deep/c.webp"]


def test_images_with_a_table_lines_or_coco(pictures, tmp_path):
    table, lines, coco = (tmp_path / name for name in ("metadata.csv", "metadata.jsonl", "captions_val2017.json"))
    table.write_text('\ufefffile_name,text\na.jpg,"one, two"\na.jpg,three\ndeep/c.webp,four\ngone.jpg,five\nbare.jpg,\n')
    lines.write_text('{"file_name": "a.jpg", "text": ["one, two", "three"]}\n\n{"image": "deep/c.webp", "caption": "four"}\n')
    coco.write_text(json.dumps({"images": [{"id": 9, "file_name": "a.jpg"}, {"id": 4, "file_name": "c.webp"}],
                                "annotations": [{"image_id": 9, "caption": "one, two\n"}, {"image_id": 4, "caption": "four"},
                                                {"image_id": 9, "caption": "three"},
                                                {"image_id": 7, "caption": "?"}]}))  # fmt: skip
    for path in (table, lines, coco):
        out = tmp_path / path.suffix
        found = imported("image_text", out, "--images", pictures, "--captions", path)
        assert found["images"] == [{"file": "a.jpg", "captions": ["one, two", "three"]},
                                   {"file": "deep/c.webp", "captions": ["four"]}]  # fmt: skip
        assert missing(out) == (["images\tgone.jpg"] if path is table else [])
    coco.write_text("[]")
    with pytest.raises(ValueError, match="not in COCO's format"):
        imported("image_text", tmp_path / "bad", "--images", pictures, "--captions", coco)


# --- what they share


@pytest.mark.parametrize(
    ("text", "expected"),
    [("12", 12), ("12.5", 12.5), (3, 3), ("0:00:02.085", 2.085), ("01:05", 65), ("1:00:00", 3600), ("PT00H00M18S", 18),
     ("PT1M2.5S", 62.5)],
)  # fmt: skip
def test_times_as_datasets_write_them(text, expected):
    assert seconds(text) == expected


@pytest.mark.parametrize("text", ["", "soon", "1:2:3:4", "PT", "-"])
def test_what_is_no_time_is_refused(text):
    with pytest.raises(ValueError, match="is no time"):
        seconds(text)


def test_files_are_found_by_the_end_of_their_path(videos):
    for name in ("x/a/1.mp4", "x/b/1.mp4", "1.5.webm", ".hidden.mp4"):
        (videos / name).parent.mkdir(parents=True, exist_ok=True)
        (videos / name).touch()
    files = Files(videos)
    assert files.find(["b/1"]) == files.find(["c/1", "b/1.mp4"]) == "x/b/1.mp4" and files.find(["1"]) == "x/a/1.mp4"
    assert files.find(["c/1"]) is None and files.find(["/b/1"]) is None and files.find(["1.5"]) == "1.5.webm"
    assert list(files) == ["1.5.webm", "x/a/1.mp4", "x/b/1.mp4"] and files.find([".hidden"]) is None
    with pytest.raises(ValueError, match="holds no file named like"):
        Files(videos, suffixes=(".flac",))


def test_a_second_import_leaves_nothing_of_the_first(videos, tmp_path):
    (videos / "a.mp4").touch()
    items = [Item(split="s", names=("a",)), Item(split="s", names=("b",))]
    write_listings(items, Files(videos), tmp_path / "out")
    assert missing(tmp_path / "out") == ["s\tb"]
    write_listings(items[:1], Files(videos), tmp_path / "out")
    assert missing(tmp_path / "out") == []


@pytest.mark.parametrize("name", ["msrvtt", "ucf101", "kinetics600", "ssv2", "csv", "image_text"])
def test_help_has_an_example_that_goes_on_to_shards(name, capsys):
    with pytest.raises(SystemExit):
        tool(name).parser().parse_args(["--help"])
    said = capsys.readouterr().out
    assert f"python tools/prepare_{name}.py" in said and "videopoet shards build" in said


def test_the_label_of_a_listing_is_a_class_to_train_on():
    assert FieldLabel()({"label": "YoYo", "file": "a.avi"}) == "YoYo" and FieldLabel(field="class")({"class": 3}) == "3"
    assert FieldLabel()({"label": ""}) is FieldLabel()({}) is None

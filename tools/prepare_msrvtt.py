"""MSR-VTT's annotations -> listings for `videopoet shards build`.

    python tools/prepare_msrvtt.py --annotations videodatainfo_2017.json --videos MSRVTT/videos --out out/msrvtt
    videopoet shards build MSRVTT/videos --listing out/msrvtt/train.jsonl --out out/msrvtt/shards/train

Takes any of the published files, alone or together: train_val_videodatainfo.json, test_videodatainfo.json,
videodatainfo_2017.json, MSRVTT_data.json, and MSRVTT_JSFUSION_test.csv, whose thousand videos become the split "1k-A". A
video's split is what its entry says, and where it says nothing, what its number says: train below 6513, validate below
7010, test from there on. Videos are looked for as video7010.mp4 (any suffix, any folder), then by the YouTube id in their
url, of which the stated span is taken. Equal captions of a video count once.
"""

import argparse
import re
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import parse_qs, urlparse

from videopoet.commands.safely import run_safely
from videopoet.data.importers import Files, Item, one_line, read_json, read_table, summary, write_listings

SPLITS = {"train": "train", "validate": "validate", "val": "validate", "validation": "validate", "test": "test"}
FIRST = {"test": 7010, "validate": 6513, "train": 0}  # number of the first video of each


def split_of(video: dict) -> str:
    """By the entry's own word, else by the video's number; ValueError where neither says it."""
    said = str(video.get("split", "")).strip().lower()
    if said in SPLITS:
        return SPLITS[said]
    number = re.fullmatch(r"video(\d+)", str(video["video_id"]))
    if said or number is None:
        raise ValueError(f"{video['video_id']}: split {said!r} is none of train, validate and test")
    return next(split for split, first in FIRST.items() if int(number[1]) >= first)


def items(path: Path) -> Iterator[Item]:
    """Every video of one annotation file with all its captions."""
    if path.suffix.lower() == ".csv":
        for row in read_table(path, ("video_id", "sentence")):
            yield Item(split="1k-A", names=(row["video_id"],), captions=(one_line(row["sentence"]),),
                       extra={"video_id": row["video_id"]})  # fmt: skip
        return
    content = read_json(path)
    if not isinstance(content, dict) or not {"videos", "sentences"} <= content.keys():
        raise ValueError(f'{path}: not MSR-VTT\'s annotations, which hold "videos" and "sentences"')
    captions: dict[str, list[tuple[int, str]]] = {}
    for sentence in content["sentences"]:
        entry = (sentence.get("sen_id", 0), one_line(sentence["caption"]))
        captions.setdefault(sentence["video_id"], []).append(entry)
    for video in content["videos"]:
        name, url = video["video_id"], video.get("url", "")
        youtube = parse_qs(urlparse(url).query).get("v", [])
        texts = [text for _, text in sorted(captions.get(name, [])) if text]
        extra = {"video_id": name, "category": video.get("category"), "url": url,
                 "url_span": [video.get("start time"), video.get("end time")]}  # fmt: skip
        yield Item(split=split_of(video), names=(name,), captions=tuple(dict.fromkeys(texts)), uncut=tuple(youtube[:1]),
                   start=video.get("start time"), end=video.get("end time"), extra=extra)  # fmt: skip


def run(a: argparse.Namespace) -> None:
    files = Files(a.videos)
    found = {(item.split, item.names): item for path in a.annotations for item in items(path)}  # some files overlap
    splits = write_listings(found.values(), files, a.out, a.annotations)
    print(summary(splits, files, a.out))


def parser() -> argparse.ArgumentParser:
    root = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    root.add_argument(
        "--annotations", type=Path, nargs="+", required=True, metavar="FILE", help="JSON files, or the CSV"
    )
    root.add_argument("--videos", type=Path, required=True, metavar="DIR")
    root.add_argument("--out", type=Path, required=True, metavar="DIR", help="gets a listing a split and import.json")
    root.set_defaults(run=run)
    return root


if __name__ == "__main__":
    run_safely(parser().parse_args(), [])

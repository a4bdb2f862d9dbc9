#!/usr/bin/env python3
"""A folder of captioned clips -> the same clips laid out as MSR-VTT's test set, to try `videopoet evaluate msrvtt` on.

    python tools/prepare_natural_clips.py --out out/natural
    python tools/prepare_miniature_msrvtt.py out/natural/test out/natural/train --out out/miniature
    videopoet evaluate msrvtt --data out/miniature --stand-in clip=conse,i3d=transnetv2 --allow-partial --out out/miniature.json

Writes TestVideo/video7010.mp4 ... and test_videodatainfo.json with the keys of the published file, "start time" and "end time"
with their spaces. Clips without a caption are left out. Files are links where the disk allows it. Nothing that is measured on
it compares with MSR-VTT's numbers: the report says so.
"""

import argparse
import json
import os
import shutil
from pathlib import Path

from videopoet.commands.safely import run_safely
from videopoet.data.captions import read_sidecars
from videopoet.data.files import whole_or_nothing
from videopoet.data.inputs import media_files
from videopoet.data.media import read_media

FIRST = 7010  # number of the first test video


def run(a: argparse.Namespace) -> None:
    clips = [(folder / name) for folder in a.clips for name in media_files(folder, (".mp4",))]
    said = {path: read_sidecars(path).texts for path in clips}
    kept = [path for path in clips if said[path]][: a.limit]
    if not kept:
        raise ValueError(f"none of {len(clips)} clips has a caption: clip.txt or clip.json beside clip.mp4 holds it")
    out = a.out / "TestVideo"
    if out.exists():
        raise ValueError(f"{out} is there already: name another --out, or remove it")
    out.mkdir(parents=True)
    videos, sentences = [], []
    for number, path in enumerate(kept, start=FIRST):
        name, media = f"video{number}", read_media(path)
        link(path, out / f"{name}.mp4")
        videos.append({"id": number, "video_id": name, "category": 0, "url": path.name, "split": "test",
                       "start time": 0.0, "end time": len(media.video) / media.fps})  # fmt: skip
        for caption in said[path]:
            sentences.append({"sen_id": len(sentences), "video_id": name, "caption": caption})
    info = {"description": "captioned clips in MSR-VTT's form; not MSR-VTT"}
    with whole_or_nothing(a.out / "test_videodatainfo.json") as part:
        part.write_text(
            json.dumps({"info": info, "videos": videos, "sentences": sentences}, indent=1), encoding="utf-8"
        )
    print(f"{len(videos)} clips with {len(sentences)} captions in {a.out}")


def link(path: Path, to: Path) -> None:
    try:
        os.link(path.resolve(), to)
    except OSError:  # another disk, or one without links
        shutil.copyfile(path, to)


def parser() -> argparse.ArgumentParser:
    root = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    root.add_argument(
        "clips", type=Path, nargs="+", metavar="DIR", help="mp4 files with .json or .txt captions beside them"
    )
    root.add_argument(
        "--out", type=Path, required=True, metavar="DIR", help="gets TestVideo/ and test_videodatainfo.json"
    )
    root.add_argument("--limit", type=int, metavar="N", help="the first N captioned clips only")
    root.set_defaults(run=run)
    return root


if __name__ == "__main__":
    run_safely(parser().parse_args(), [])

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
from pathlib import Path

from videopoet.commands.safely import run_safely
from videopoet.data.annotations import msrvtt_items as items
from videopoet.data.importers import Files, summary, write_listings


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

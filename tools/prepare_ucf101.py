"""UCF-101's folders and its train/test lists -> listings for `videopoet shards build`.

    python tools/prepare_ucf101.py --videos UCF-101 --lists ucfTrainTestlist --split 1 --out out/ucf101
    videopoet shards build UCF-101 --listing out/ucf101/train.jsonl --out out/ucf101/shards/train --frames 17 --fps 25

The caption of a clip is its class in words (ApplyEyeMakeup: "apply eye makeup"); `label` and `class` (from 1, as in
classInd.txt) stand beside it. Files are found whatever the case of their letters: the lists and the archive do not agree
on "HandStandPushups".
"""

import argparse
from pathlib import Path

from videopoet.commands.safely import run_safely
from videopoet.data.annotations import ucf101_classes as classes
from videopoet.data.annotations import ucf101_items as items
from videopoet.data.importers import Files, summary, write_listings


def run(a: argparse.Namespace) -> None:
    files, numbers = Files(a.videos, ignore_case=True), classes(a.lists / "classInd.txt")
    paths = {split: a.lists / f"{split}list{a.split:02d}.txt" for split in ("train", "test")}
    found = (item for split, path in paths.items() for item in items(path, split, numbers))
    splits = write_listings(found, files, a.out, [*paths.values(), a.lists / "classInd.txt"])
    print(summary(splits, files, a.out))


def parser() -> argparse.ArgumentParser:
    root = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    root.add_argument("--videos", type=Path, required=True, metavar="DIR", help="the folder of 101 folders")
    root.add_argument(
        "--lists", type=Path, required=True, metavar="DIR", help="the folder of classInd.txt, trainlist01.txt"
    )
    root.add_argument("--split", type=int, choices=(1, 2, 3), default=1, help="which of the three splits (default 1)")
    root.add_argument(
        "--out", type=Path, required=True, metavar="DIR", help="gets train.jsonl, test.jsonl, import.json"
    )
    root.set_defaults(run=run)
    return root


if __name__ == "__main__":
    run_safely(parser().parse_args(), [])

"""Kinetics-600's (400's, 700's) annotations -> listings for `videopoet shards build`.

    python tools/prepare_kinetics600.py --annotations train.csv validate.csv --videos k600 --out out/kinetics600
    videopoet shards build k600 --listing out/kinetics600/train.jsonl --out out/kinetics600/shards/train

Reads the CSVs (label, youtube_id, time_start, time_end, split; lists of the test set may lack the label) and the JSON
files of the same content. A clip is looked for as ID_000012_000022.mp4, as most copies name it, in any folder; then as
ID.mp4, the whole video, of which the span from time_start to time_end is taken. The caption is the label.
"""

import argparse
from pathlib import Path

from videopoet.commands.safely import run_safely
from videopoet.data.annotations import kinetics_items as items
from videopoet.data.importers import Files, summary, write_listings


def run(a: argparse.Namespace) -> None:
    files = Files(a.videos)
    splits = write_listings((item for path in a.annotations for item in items(path)), files, a.out, a.annotations)
    print(summary(splits, files, a.out))


def parser() -> argparse.ArgumentParser:
    root = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    root.add_argument("--annotations", type=Path, nargs="+", required=True, metavar="FILE", help="CSV or JSON files")
    root.add_argument("--videos", type=Path, required=True, metavar="DIR")
    root.add_argument("--out", type=Path, required=True, metavar="DIR", help="gets a listing a split and import.json")
    root.set_defaults(run=run)
    return root


if __name__ == "__main__":
    run_safely(parser().parse_args(), [])

"""Kinetics-600's (400's, 700's) annotations -> listings for `videopoet shards build`.

    python tools/prepare_kinetics600.py --annotations train.csv validate.csv --videos k600 --out out/kinetics600
    videopoet shards build k600 --listing out/kinetics600/train.jsonl --out out/kinetics600/shards/train

Reads the CSVs (label, youtube_id, time_start, time_end, split; lists of the test set may lack the label) and the JSON
files of the same content. A clip is looked for as ID_000012_000022.mp4, as most copies name it, in any folder; then as
ID.mp4, the whole video, of which the span from time_start to time_end is taken. The caption is the label.
"""

import argparse
from collections.abc import Iterator
from pathlib import Path

from videopoet.commands.safely import run_safely
from videopoet.data.importers import Files, Item, one_line, read_json, read_table, seconds, summary, write_listings

SPLITS = {"training": "train", "val": "validate", "validation": "validate", "testing": "test"}


def rows(path: Path) -> Iterator[dict]:
    """label ("" where held out), youtube_id, time_start, time_end, split of every clip of a file."""
    if path.suffix.lower() != ".json":
        for row in read_table(path, ("youtube_id", "time_start", "time_end")):
            yield {"label": "", "split": path.stem} | row
        return
    for name, entry in read_json(path).items():
        said = entry.get("annotations", {})
        start, end = said.get("segment", (None, None))
        if start is None:
            raise ValueError(f"{path}: {name} has no segment")
        yield {"label": said.get("label", ""), "youtube_id": name, "time_start": start, "time_end": end,
               "split": entry.get("subset", path.stem)}  # fmt: skip


def items(path: Path) -> Iterator[Item]:
    """Every clip of a file."""
    for row in rows(path):
        name, start, end = row["youtube_id"], seconds(row["time_start"]), seconds(row["time_end"])
        label, split = one_line(row["label"]), row["split"].strip().lower() or path.stem
        cut = f"{name}_{int(start):06d}_{int(end):06d}"
        yield Item(split=SPLITS.get(split, split), names=(cut,), uncut=(name,), start=start, end=end,
                   captions=(label,) if label else (), extra={"label": label, "youtube_id": name})  # fmt: skip


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

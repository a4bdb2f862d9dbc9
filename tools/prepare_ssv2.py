"""Something-Something v2's labels -> listings for `videopoet shards build`.

    python tools/prepare_ssv2.py --labels train.json validation.json --videos 20bn-something-something-v2 --out out/ssv2
    videopoet shards build 20bn-something-something-v2 --listing out/ssv2/train.jsonl --out out/ssv2/shards/train --fps 12

Takes the files under either name (something-something-v2-train.json or train.json); the file's name says the split. The
caption is the sentence with its objects ("holding potato next to vicks vaporub bottle"), `label` the class ("Holding
something next to something"), `placeholders` the objects. The test set has no labels but those of --test-answers (`id;
class` a line), which are then caption and label.
"""

import argparse
from pathlib import Path

from videopoet.commands.safely import run_safely
from videopoet.data.annotations import ssv2_items as items
from videopoet.data.importers import Files, read_lines, summary, write_listings


def run(a: argparse.Namespace) -> None:
    answers = {}
    for line in read_lines(a.test_answers) if a.test_answers else ():
        name, _, label = line.partition(";")
        answers[name.strip()] = label.strip()
    files = Files(a.videos)
    paths = [*a.labels, *([a.test_answers] if a.test_answers else [])]
    splits = write_listings((item for path in a.labels for item in items(path, answers)), files, a.out, paths)
    print(summary(splits, files, a.out, " --fps 12"))


def parser() -> argparse.ArgumentParser:
    root = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    root.add_argument(
        "--labels", type=Path, nargs="+", required=True, metavar="FILE", help="train, validation, test JSON"
    )
    root.add_argument("--test-answers", type=Path, metavar="FILE", help="test-answers.csv: the classes of the test set")
    root.add_argument("--videos", type=Path, required=True, metavar="DIR", help="the folder of .webm files")
    root.add_argument("--out", type=Path, required=True, metavar="DIR", help="gets a listing a split and import.json")
    root.set_defaults(run=run)
    return root


if __name__ == "__main__":
    run_safely(parser().parse_args(), [])

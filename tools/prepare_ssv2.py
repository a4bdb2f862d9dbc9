"""Something-Something v2's labels -> listings for `videopoet shards build`.

    python tools/prepare_ssv2.py --labels train.json validation.json --videos 20bn-something-something-v2 --out out/ssv2
    videopoet shards build 20bn-something-something-v2 --listing out/ssv2/train.jsonl --out out/ssv2/shards/train --fps 12

Takes the files under either name (something-something-v2-train.json or train.json); the file's name says the split. The
caption is the sentence with its objects ("holding potato next to vicks vaporub bottle"), `label` the class ("Holding
something next to something"), `placeholders` the objects. The test set has no labels but those of --test-answers (`id;
class` a line), which are then caption and label.
"""

import argparse
import re
from collections.abc import Iterator
from pathlib import Path

from videopoet.commands.safely import run_safely
from videopoet.data.importers import Files, Item, one_line, read_json, read_lines, summary, write_listings


def split_of(path: Path) -> str:
    """train, validation or test, by the name of the file."""
    found = [split for word, split in (("train", "train"), ("val", "validation"), ("test", "test"))
             if word in path.stem.lower()]  # fmt: skip
    if len(found) != 1:
        raise ValueError(f"{path}: the name says neither train nor validation nor test")
    return found[0]


def sentence(template: str, placeholders: list[str]) -> str:
    """The template with its objects in place of [something]; as many as there are."""
    objects = iter(placeholders)
    return re.sub(r"\[[^\]]*\]", lambda match: next(objects, match[0].strip("[]")), template)


def items(path: Path, answers: dict[str, str]) -> Iterator[Item]:
    """Every video of a file."""
    split, content = split_of(path), read_json(path)
    if not isinstance(content, list) or not all(isinstance(entry, dict) and "id" in entry for entry in content):
        raise ValueError(f"{path}: not a list of objects with an id, as the labels of Something-Something v2 are")
    for entry in content:
        name = str(entry["id"])
        template, objects = entry.get("template", ""), entry.get("placeholders") or []
        label = one_line(template.replace("[", "").replace("]", "")) or answers.get(name, "")
        caption = one_line(entry.get("label") or (sentence(template, objects) if template else label))
        extra = {"id": name, "label": label, "placeholders": objects} if label else {"id": name}
        yield Item(split=split, names=(name,), captions=(caption,) if caption else (), extra=extra)


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

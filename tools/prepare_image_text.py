"""Images with captions -> a listing for `videopoet shards build --frames 1`.

    python tools/prepare_image_text.py --images pictures --out out/pictures                     # a.jpg beside a.txt or a.json
    python tools/prepare_image_text.py --images pictures --captions metadata.csv --out out/pictures     # file_name, text
    python tools/prepare_image_text.py --images val2017 --captions captions_val2017.json --out out/coco # COCO's format
    videopoet shards build pictures --listing out/pictures/images.jsonl --frames 1 --out out/pictures/shards

Captions come from sidecars (as img2dataset leaves them: a.txt, a.json), or from a CSV, TSV or JSON Lines file with a
column of names (file_name, file, path, image) and one of texts (text, caption), or from COCO's JSON. Several captions of
an image go together. Images without any caption are left out, unless --uncaptioned.
"""

import argparse
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from videopoet.commands.safely import run_safely
from videopoet.data.captions import read_sidecars
from videopoet.data.cutters import IMAGE_SUFFIXES
from videopoet.data.importers import Files, Item, one_line, read_json, read_lines, read_table, summary, write_listings

SUFFIXES = (*IMAGE_SUFFIXES, ".webp")
NAMES, TEXTS = ("file_name", "file", "path", "image", "filename"), ("text", "caption", "captions")
SPLIT = "images"


def pairs(path: Path) -> Iterator[tuple[str, str]]:
    """Name of an image and one of its captions."""
    kind = path.suffix.lower()
    if kind == ".json":
        content = read_json(path)
        if not isinstance(content, dict) or not {"images", "annotations"} <= content.keys():
            raise ValueError(f'{path}: not in COCO\'s format, which holds "images" and "annotations"')
        names = {image["id"]: image["file_name"] for image in content["images"]}
        for annotation in content["annotations"]:
            if annotation["image_id"] in names:
                yield names[annotation["image_id"]], annotation["caption"]
        return
    rows = map(json.loads, read_lines(path)) if kind == ".jsonl" else read_table(path)
    for number, row in enumerate(rows, start=1):
        name = next((row[column] for column in NAMES if row.get(column)), None)
        texts = next((row[column] for column in TEXTS if row.get(column)), [])
        if name is None:
            raise ValueError(f"{path}, row {number}: none of the columns {', '.join(NAMES)} among {', '.join(row)}")
        for text in [texts] if isinstance(texts, str) else texts:
            yield name, text


def items(files: Files, captions: Path | None) -> Iterator[Item]:
    """Every image that is there, or that a file of captions names."""
    if captions is None:
        for name in files:
            try:
                texts = read_sidecars(files.folder / name).texts
            except ValueError:  # taken all the same: `shards build` says what is wrong with it
                texts = ("?",)
            yield Item(split=SPLIT, names=(name,), captions=texts)
        return
    gathered: dict[str, list[str]] = {}
    for name, text in pairs(captions):
        gathered.setdefault(name, []).append(one_line(text))
    for name, texts in gathered.items():
        yield Item(split=SPLIT, names=(name,), captions=tuple(filter(None, texts)))


def run(a: argparse.Namespace) -> None:
    files = Files(a.images, SUFFIXES)
    found = (item for item in items(files, a.captions) if item.captions or a.uncaptioned)
    if a.captions is None:  # `shards build` reads the sidecars again: the listing only says which images to take
        found = (replace(item, captions=()) for item in found)
    splits = write_listings(found, files, a.out, [a.captions] if a.captions else [])
    print(summary(splits, files, a.out, " --frames 1"))


def parser() -> argparse.ArgumentParser:
    root = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    root.add_argument("--images", type=Path, required=True, metavar="DIR")
    root.add_argument(
        "--captions", type=Path, metavar="FILE", help="CSV, TSV, JSON Lines or COCO's JSON (default: sidecars)"
    )
    root.add_argument("--uncaptioned", action="store_true", help="take images without captions too")
    root.add_argument("--out", type=Path, required=True, metavar="DIR", help="gets images.jsonl and import.json")
    root.set_defaults(run=run)
    return root


if __name__ == "__main__":
    run_safely(parser().parse_args(), [])

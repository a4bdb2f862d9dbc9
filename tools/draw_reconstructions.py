"""Draw what tokenizers make of clips: originals above, a line of each tokenizer below.

python tools/draw_reconstructions.py SHARDS --out reconstructions.png
python tools/draw_reconstructions.py SHARDS --tokenizer a.safetensors --tokenizer b.safetensors --out both.png
"""

import argparse
from pathlib import Path

from PIL import Image

from videopoet import component
from videopoet.commands.corpus import positive
from videopoet.commands.safely import run_safely
from videopoet.data.files import whole_or_nothing
from videopoet.data.shards import ShardReader
from videopoet.evaluation.reconstruction_sheet import sheet, spread
from videopoet.pipeline import SHIPPED
from videopoet.tokenizers.visual.autoencoder import VideoTokenizer


def run(a: argparse.Namespace) -> None:
    """Read, rebuild, draw."""
    if a.out.suffix.lower() != ".png":
        raise ValueError(f"--out is {a.out}: the picture is a .png")
    files = a.tokenizer or [SHIPPED / "visual.safetensors"]
    picture = sheet(
        [component.load(file, VideoTokenizer) for file in files], spread(ShardReader(a.shards, "media"), a.clips)
    )
    with whole_or_nothing(a.out) as part:
        Image.fromarray(picture).save(part, "PNG", optimize=True)
    print(f"{a.out}: originals, then {', '.join(map(str, files))}")


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("shards", type=Path, help="media shards, made by 'videopoet shards build'")
    parser.add_argument(
        "--tokenizer", type=Path, action="append", metavar="FILE", help="may be repeated (default: the shipped)"
    )
    parser.add_argument("--clips", type=positive, default=8)
    parser.add_argument("--out", type=Path, default=Path("reconstructions.png"))
    parser.set_defaults(run=run)
    run_safely(parser.parse_args(arguments), [])


if __name__ == "__main__":
    main()

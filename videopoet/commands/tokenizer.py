"""`videopoet tokenizer encode | decode | inspect`: video files <-> token files, and what is in them."""

import argparse
import math
from pathlib import Path

from videopoet.commands.corpus import positive
from videopoet.commands.sample import best_device


def add(commands) -> None:
    tokenizer = commands.add_parser(
        "tokenizer",
        help="video files <-> token files (.vpt)",
        description="Turn a video into the codes of a visual tokenizer, a few kilobytes per second, and back.",
    )
    actions = tokenizer.add_subparsers(title="actions", metavar="ACTION", required=True)
    encode = actions.add_parser(
        "encode",
        help="a video -> a token file",
        description="Encode the pictures of any video file, of any size and length, in constant memory. Sound is left out.",
        epilog="example: videopoet tokenizer encode clip.mp4 --out clip.vpt --coder adaptive",
    )
    encode.add_argument("video", type=Path, metavar="VIDEO")
    encode.add_argument("--out", type=Path, required=True, metavar="FILE", help="file to write, .vpt")
    encode.add_argument("--coder", choices=("packed", "static", "adaptive"), default="packed",
                        help="packed: plain bits; static: frequencies stored in the file; adaptive: frequencies learnt on "
                        "the way, smallest for most videos (default packed)")  # fmt: skip
    encode.add_argument(
        "--size", type=positive, help="pixels per side after resize and centre crop (default: the video's)"
    )
    encode.add_argument("--fps", type=float, help="frames per second (default: the video's)")
    encode.add_argument("--seconds", type=float, help="only so much of the video (default: all)")
    shared(encode)
    encode.set_defaults(run=run_encode)

    decode = actions.add_parser(
        "decode",
        help="a token file -> an mp4",
        description="Decode a token file with the tokenizer that made it, in constant memory.",
        epilog="example: videopoet tokenizer decode clip.vpt --out clip.mp4",
    )
    decode.add_argument("tokens", type=Path, metavar="FILE")
    decode.add_argument("--out", type=Path, required=True, metavar="FILE", help="file to write, .mp4")
    shared(decode)
    decode.set_defaults(run=run_decode)

    inspect = actions.add_parser(
        "inspect",
        help="what a token file or a tokenizer's file holds",
        epilog="example: videopoet tokenizer inspect clip.vpt",
    )
    inspect.add_argument("file", type=Path, metavar="FILE", help=".vpt, or the .safetensors of a visual tokenizer")
    inspect.set_defaults(run=run_inspect)


def shared(parser: argparse.ArgumentParser) -> None:
    """Arguments of both directions."""
    parser.add_argument("--tokenizer", type=Path, metavar="FILE", help="visual tokenizer (default: the shipped one)")
    parser.add_argument(
        "--tile", type=positive, metavar="PIXELS", help="give the network tiles of so many pixels a side"
    )
    parser.add_argument(
        "--overlap", type=int, default=64, metavar="PIXELS", help="shared by neighbouring tiles (default 64)"
    )


def tiles_of(arguments: argparse.Namespace):
    from videopoet.tokenizers.visual.tiling import Tiles

    return None if arguments.tile is None else Tiles(size=arguments.tile, overlap=arguments.overlap)


def load(file: Path | None):
    """The tokenizer of a file, or the shipped one, on the best device."""
    from videopoet import component
    from videopoet.pipeline import SHIPPED
    from videopoet.tokenizers.visual.autoencoder import VideoTokenizer

    return component.load(file or SHIPPED / "visual.safetensors", VideoTokenizer).to(best_device())


def check_out(out: Path, suffix: str) -> None:
    """Before any work: raises ValueError where the file could not be written."""
    if out.suffix.lower() != suffix:
        raise ValueError(f"this writes {suffix} files, --out is {out}")
    if not out.parent.is_dir():
        raise ValueError(f"the folder of --out {out} does not exist: make it first")


def run_encode(arguments: argparse.Namespace) -> None:
    from videopoet.data.progress import bar
    from videopoet.data.transforms import ResizeCrop
    from videopoet.token_file import encode_video

    a = arguments
    check_out(a.out, ".vpt")
    if a.seconds is not None and not a.seconds > 0:
        raise ValueError(f"--seconds is {a.seconds}: give more than 0")
    resize = None if a.size is None else ResizeCrop(height=a.size, width=a.size)
    tokenizer = load(a.tokenizer)
    with bar("frames", total=None) as advance:
        header = encode_video(a.video, a.out, tokenizer, coder=a.coder, fps=a.fps, resize=resize,
                              max_seconds=a.seconds, tiles=tiles_of(a), progress=advance)  # fmt: skip
    size = a.out.stat().st_size
    frames, height, width = header.size
    print(
        f"{a.out}: {frames} frames of {width} x {height} as {_times(header.lattice)} codes, "
        f"{size / 1000:.1f} kB, {8 * size / math.prod(header.size):.4f} bits per pixel"
    )


def run_decode(arguments: argparse.Namespace) -> None:
    from videopoet.data.progress import bar
    from videopoet.token_file import decode_video
    from videopoet.tokenizers.token_file.container import TokenReader

    a = arguments
    check_out(a.out, ".mp4")
    frames = TokenReader(a.tokens).header.size[0]
    tokenizer = load(a.tokenizer)
    with bar("frames", total=frames) as advance:
        header = decode_video(a.tokens, a.out, tokenizer, tiles=tiles_of(a), progress=advance)
    print(f"{a.out}: {frames} frames of {header.size[2]} x {header.size[1]}")


def run_inspect(arguments: argparse.Namespace) -> None:
    from videopoet.tokenizers.token_file.container import MAGIC

    if not arguments.file.is_file():
        raise ValueError(f"no file at {arguments.file}")
    with arguments.file.open("rb") as file:
        is_tokens = file.read(len(MAGIC)) == MAGIC
    rows = (
        token_facts(arguments.file) if is_tokens or arguments.file.suffix == ".vpt" else tokenizer_facts(arguments.file)
    )
    width = max(map(len, rows))
    print("\n".join(f"{name:<{width}}  {value}" for name, value in rows.items()))


def token_facts(path: Path) -> dict[str, str]:
    """What a token file holds, as lines of text."""
    from videopoet.tokenizers.token_file.container import TokenReader
    from videopoet.tokenizers.token_file.statistics import statistics

    reader = TokenReader(path)
    header, facts = reader.header, statistics(reader)
    frames, height, width = header.size
    bits, pixels = 8 * reader.file_bytes, math.prod(header.size)
    used = "not counted" if facts.codes_used is None else f"{facts.codes_used} of {header.codebook_size}"
    return {
        "video": f"{frames} frames of {width} x {height} at {float(header.fps):.5g} fps, {float(header.seconds):.2f} s",
        "codes": f"{_times(header.lattice)} = {header.num_codes}, stride {_times(header.stride)}",
        "codebook": f"{header.codebook_size}, {header.bits} bits per code, {header.bit_order}",
        "file": f"{reader.file_bytes} bytes, {float(bits / header.seconds) / 1000:.2f} kbit/s",
        "bits per pixel": f"{bits / pixels:.5f} ({header.num_codes * header.bits / pixels:.5f} for plain codes)",
        "coder": f"{header.coder}, {8 * reader.payload_bytes / header.num_codes:.2f} of {header.bits} bits per code",
        "entropy": f"{facts.bit_entropy:.2f} bits per code if bits were independent",
        "codes used": used,
        "codes that change": f"{100 * facts.changed:.1f} % from one latent frame to the next",
        "tokenizer": header.fingerprint,
    }


def tokenizer_facts(path: Path) -> dict[str, str]:
    """What a tokenizer's file holds, as lines of text."""
    from videopoet import component
    from videopoet.token_file import can_stream
    from videopoet.tokenizers.token_file.bits import bits_needed
    from videopoet.tokenizers.visual.autoencoder import VideoTokenizer

    tokenizer = component.load(path, VideoTokenizer)
    parts = {name: part for name, part in tokenizer.named_children()}
    counts = {name: sum(p.numel() for p in part.parameters()) for name, part in parts.items()}
    size, lead = tokenizer.codebook_size, tokenizer.encoder.rule.lead
    bits_per_pixel = bits_needed(size) / math.prod(tokenizer.stride)
    rows = {name: f"{type(part).__name__}, {counts[name]:,} parameters" for name, part in parts.items()}
    return rows | {
        "parameters": f"{sum(counts.values()):,}",
        "stride": f"{_times(tokenizer.stride)} (frames, rows, columns); {lead or ''}{' + ' if lead else ''}"
        f"{tokenizer.stride[0]}k frames",
        "codebook": f"{size}, {bits_needed(size)} bits per code",
        "bits per pixel": f"{bits_per_pixel:.5f} in a long video, before entropy coding",
        "causal": f"{'yes' if tokenizer.causal else 'no'}; {'streams' if can_stream(tokenizer) else 'takes whole clips'}",
        "file": f"{path.stat().st_size / 1e6:.1f} MB",
        "fingerprint": tokenizer.fingerprint,
    } | {name: str(value) for name, value in tokenizer.metadata.items()}  # fmt: skip


def _times(numbers) -> str:
    return " x ".join(map(str, numbers))

"""`videopoet world | shards build | text-model | tokenize`: from scenes or files to token shards."""

import argparse
from pathlib import Path

from videopoet.commands.sample import best_device
from videopoet.conditions.registry import CONDITIONS, conditions_of


def add(commands) -> None:
    world = commands.add_parser("world", help="write scenes of the built-in world as mp4 files with captions")
    world.add_argument("out", type=Path, metavar="DIR")
    world.add_argument("--num-scenes", type=int, default=1000)
    world.add_argument("--seed", type=int, default=0, help="seed of the first scene; the others count up from it")
    world.add_argument("--split", choices=("train", "heldout"), default="train")
    world.add_argument("--size", type=int, default=64, help="pixels per side (default 64)")
    world.add_argument("--workers", type=int, default=1, help="processes")
    world.set_defaults(run=run_world)

    shards = commands.add_parser("shards", help="media files -> shards")
    build = shards.add_subparsers(metavar="build", required=True).add_parser(
        "build",
        help="cut clips from a folder of media files",
        description="Walk a folder of mp4, mov, mkv, webm, gif and animated webp files, read captions from sidecar .txt "
        "or .json files or one captions.jsonl, and write clips as WebDataset tars with a manifest. A file that cannot "
        "be used is reported and skipped. With --sound-seconds the clips are sound alone, of sound files (wav, flac, ogg, "
        "mp3, ...) and videos.",
        epilog="example: videopoet shards build MY_VIDEOS --out shards --frames 17 --fps 8 --size 64",
    )
    build.add_argument("folder", type=Path, metavar="DIR")
    build.add_argument("--out", type=Path, required=True, metavar="DIR")
    build.add_argument("--frames", type=int, default=17, help="frames per clip, 1 + 4k (default 17)")
    build.add_argument("--fps", type=float, default=8.0, help="frames per second of the clips (default 8)")
    build.add_argument("--size", type=int, default=64, help="pixels per side after resize and centre crop (default 64)")
    build.add_argument("--sample-rate", type=int, default=16000, help="Hz (default 16000)")
    build.add_argument("--sound-seconds", type=float, metavar="S", help="clips of sound alone, so many seconds each")
    build.add_argument("--clips-per-file", type=positive, help="at most so many clips of one file")
    build.add_argument("--workers", type=int, default=0, help="processes (default 0: in this one)")
    build.add_argument("--overwrite", action="store_true", help="replace shards that are there")
    build.set_defaults(run=run_build)

    text = commands.add_parser(
        "text-model",
        help="train a SentencePiece model on the captions of media shards",
        epilog="example: videopoet text-model out/world/shards/train --out out/world/text.model --vocabulary-size 512",
    )
    text.add_argument("shards", type=Path, metavar="DIR")
    text.add_argument("--out", type=Path, required=True, metavar="FILE")
    text.add_argument("--vocabulary-size", type=int, default=512)
    text.set_defaults(run=run_text_model)

    tokenize = commands.add_parser(
        "tokenize",
        help="media shards -> token shards",
        description="Encode every clip once with both tokenizers. The token shards carry the tokenizers' fingerprints.",
        epilog="example: videopoet tokenize shards --out tokens",
    )
    tokenize.add_argument("shards", type=Path, metavar="DIR")
    tokenize.add_argument("--out", type=Path, required=True, metavar="DIR")
    tokenize.add_argument("--visual", type=Path, metavar="FILE", help="visual tokenizer (default: the shipped one)")
    tokenize.add_argument("--audio", type=Path, metavar="FILE", help="audio tokenizer (default: the shipped one)")
    tokenize.add_argument(
        "--condition",
        action="append",
        default=[],
        metavar="NAME",
        help=f"also make this condition stream, for the tasks that read it: {', '.join(CONDITIONS)}, all, or a YAML file "
        "of NAME: {class_path, init_args}; may be repeated (default: none)",
    )
    tokenize.add_argument("--batch-size", type=positive, default=32)
    tokenize.add_argument(
        "--precision",
        choices=("fp32", "bf16"),
        default="fp32",
        help="arithmetic of the visual encoder; bf16 is faster and changes a few codes in a thousand (default: fp32)",
    )
    tokenize.add_argument("--overwrite", action="store_true", help="replace shards that are there")
    tokenize.set_defaults(run=run_tokenize)


def positive(text: str) -> int:
    """Argparse type of a count that is at least 1."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text} is not a whole number of at least 1")
    return int(text)


def run_world(arguments: argparse.Namespace) -> None:
    from videopoet.data.bounce_files import write_world

    a = arguments
    write_world(a.out, a.num_scenes, a.seed, a.split, size=a.size, workers=a.workers)
    print(f"{a.num_scenes} scenes in {a.out}\nnext: videopoet shards build {a.out} --out DIR")


def run_build(arguments: argparse.Namespace) -> None:
    from videopoet.data.ingest import build_shards, build_sound_shards

    a = arguments
    how = {name: getattr(a, name) for name in ("sample_rate", "clips_per_file", "overwrite", "workers")}
    if a.sound_seconds is None:
        report = build_shards(a.folder, a.out, frames=a.frames, fps=a.fps, size=a.size, **how)
        following = f"videopoet tokenize {a.out} --out DIR"
    else:
        report = build_sound_shards(a.folder, a.out, seconds=a.sound_seconds, **how)
        following = f"videopoet fit -c configs/tokenizer/soundstream.yaml --data.init_args.shards={a.out}"
    for rejection in report.rejected:
        print(f"skipped {rejection.file}: {rejection.reason}")
    print(
        f"{report.clips} clips of {report.files} files in {a.out}, {report.clips_with_audio} with sound, "
        f"{report.clips_with_captions} with captions; {len(report.rejected)} files skipped\n"
        f"next: {following}"
    )


def run_text_model(arguments: argparse.Namespace) -> None:
    from videopoet.data.shards import ShardReader
    from videopoet.tokenizers.text.sentencepiece import train_sentencepiece

    reader = ShardReader(arguments.shards, "media")
    captions = (c for i in range(len(reader)) for c in reader.read(i, fields=("json",))["json"]["captions"])
    pieces = train_sentencepiece(captions, arguments.out, arguments.vocabulary_size)
    print(
        f"{pieces} pieces in {arguments.out}\nnext: name it in the language model's YAML as text_encoder.sentencepiece"
    )


def run_tokenize(arguments: argparse.Namespace) -> None:
    from videopoet import component
    from videopoet.pipeline import SHIPPED
    from videopoet.token_shards import tokenize_shards
    from videopoet.tokenizers.audio.tokenizer import AudioTokenizer
    from videopoet.tokenizers.visual.autoencoder import VideoTokenizer

    a = arguments
    conditions = conditions_of(a.condition)
    visual = component.load(a.visual or SHIPPED / "visual.safetensors", VideoTokenizer).to(best_device())
    audio = component.load(a.audio or SHIPPED / "audio.safetensors", AudioTokenizer).to(best_device())
    manifest = tokenize_shards(a.shards, a.out, visual, audio, conditions=conditions, batch_size=a.batch_size,
                               precision=a.precision, overwrite=a.overwrite)  # fmt: skip
    t, h, w = manifest.visual_lattice
    print(
        f"{manifest.num_samples} clips in {a.out}: {t} x {h} x {w} visual codes of {manifest.visual_codebook_size}, "
        f"{manifest.audio_frames} x {manifest.audio_levels} audio codes of {manifest.audio_codebook_size}; "
        f"conditions: {', '.join(conditions) or 'none'}\n"
        f"next: videopoet fit -c configs/demo/lm.yaml --data.init_args.tokens={a.out}, with a text model of your captions "
        "(videopoet text-model) or from the shipped model: see README, 'From a folder of videos to a model'"
    )

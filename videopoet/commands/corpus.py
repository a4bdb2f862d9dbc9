"""`videopoet world | shards build | text-model | tokenize`: from scenes or files to token shards."""

import argparse
import itertools
from pathlib import Path

from videopoet.conditions.registry import CONDITIONS, conditions_of

SHOWN = 20  # rejections that are printed


def add(commands) -> None:
    for command in (add_world, add_build, add_text_model, add_tokenize):
        command(commands)


def add_world(commands) -> None:
    world = commands.add_parser("world", help="write scenes of the built-in world as mp4 files with captions")
    world.add_argument("out", type=Path, metavar="DIR")
    world.add_argument("--num-scenes", type=int, default=1000)
    world.add_argument("--seed", type=int, default=0, help="seed of the first scene; the others count up from it")
    world.add_argument("--split", choices=("train", "heldout"), default="train")
    world.add_argument("--size", type=int, default=64, help="pixels per side (default 64)")
    world.add_argument("--workers", type=int, default=1, help="processes")
    world.set_defaults(run=run_world)


def add_build(commands) -> None:
    shards = commands.add_parser("shards", help="media files -> shards")
    build = shards.add_subparsers(metavar="build", required=True).add_parser(
        "build",
        help="cut clips from a folder of media files",
        description="Walk a folder of mp4, mov, mkv, webm, gif and animated webp files (with --frames 1 also jpg, png, ...), "
        "read captions from sidecar .txt or .json files or one captions.jsonl, and write clips as WebDataset tars with a "
        "manifest. With --sound-seconds the clips are sound alone, of sound files (wav, flac, ogg, mp3, ...) and videos. A "
        "file that cannot be used is skipped; rejected.jsonl beside the shards says which and why. The same command again "
        "goes on where a killed one stopped. Under torchrun or srun each process builds its share of the shards.",
        epilog="example: videopoet shards build MY_VIDEOS --out shards --frames 17 --fps 8 --size 64 --workers 4",
    )
    build.add_argument("folder", type=Path, metavar="DIR")
    build.add_argument("--out", type=Path, required=True, metavar="DIR")
    build.add_argument("--listing", type=Path, metavar="FILE",
                       help="take just the files or spans of files of this .jsonl, as tools/prepare_*.py write it")  # fmt: skip
    build.add_argument("--frames", type=int, default=17, help="frames per clip, 1 + 4k (default 17)")
    build.add_argument("--fps", type=float, default=8.0, help="frames per second of the clips (default 8)")
    build.add_argument("--size", type=int, default=64, help="pixels per side after resize and centre crop (default 64)")
    build.add_argument("--sample-rate", type=int, default=16000, help="Hz (default 16000)")
    build.add_argument("--sound-seconds", type=float, metavar="S", help="clips of sound alone, so many seconds each")
    build.add_argument("--clips-per-file", type=positive, help="at most so many clips of one file")
    build.add_argument("--shots", metavar="NAME", help="begin clips anew at cuts: FrameDifference, or a YAML file with the "
                       "class_path of another detector (default: clips may hold cuts)")  # fmt: skip
    build.add_argument("--filter", action="append", default=[], metavar="NAME:FIELD=VALUE,...",
                       help="leave out what does not pass: MinSide:pixels=240, MinDuration:seconds=2, "
                       "MaxSilence:share=0.5, CaptionLength:fewest=3,most=60, UniqueKey:of=caption, or a YAML file of "
                       "class_path and init_args; may be repeated")  # fmt: skip
    build.add_argument(
        "--files-per-shard", type=positive, default=64, help="files that make a shard, at most (default 64)"
    )
    _scale(build, "0: in this one")
    build.set_defaults(run=run_build)


def add_text_model(commands) -> None:
    text = commands.add_parser(
        "text-model",
        help="train a SentencePiece model on the captions of media shards",
        epilog="example: videopoet text-model out/world/shards/train --out out/world/text.model --vocabulary-size 512",
    )
    text.add_argument("shards", type=Path, metavar="DIR")
    text.add_argument("--out", type=Path, required=True, metavar="FILE")
    text.add_argument("--vocabulary-size", type=int, default=512)
    text.set_defaults(run=run_text_model)


def add_tokenize(commands) -> None:
    tokenize = commands.add_parser(
        "tokenize",
        help="media shards -> token shards",
        description="Encode every clip once with both tokenizers. The token shards carry the tokenizers' fingerprints. The "
        "same command again goes on where a killed one stopped. Under torchrun or srun each process encodes its share of the "
        "shards, on the GPU of its local rank.",
        epilog="example: torchrun --nproc-per-node 8 -m videopoet.cli tokenize shards --out tokens --precision bf16",
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
    tokenize.add_argument(
        "--samples-per-shard", type=positive, default=4096, help="clips that make a shard (default 4096)"
    )
    _scale(tokenize, "0: in this one, with all its threads; without a launcher, workers share out the GPUs there are")
    tokenize.set_defaults(run=run_tokenize)


def _scale(command: argparse.ArgumentParser, zero: str) -> None:
    command.add_argument("--workers", type=int, default=0, help=f"processes (default {zero})")
    command.add_argument("--overwrite", action="store_true", help="replace shards of other inputs or settings")


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
    from videopoet.commands.steps import filters_of, shots_of
    from videopoet.data.ingest import build_shards, build_sound_shards
    from videopoet.data.work import Place

    a, place = arguments, Place.here()
    how = {name: getattr(a, name) for name in
           ("sample_rate", "clips_per_file", "listing", "overwrite", "workers", "files_per_shard")}  # fmt: skip
    how |= {"filters": filters_of(a.filter), "place": place}
    if a.sound_seconds is None:
        report = build_shards(a.folder, a.out, frames=a.frames, fps=a.fps, size=a.size, shots=shots_of(a.shots), **how)
        following = f"videopoet tokenize {a.out} --out DIR"
    elif a.shots is not None:
        raise ValueError("--shots looks at pictures, --sound-seconds makes clips without: leave one out")
    else:
        report = build_sound_shards(a.folder, a.out, seconds=a.sound_seconds, **how)
        following = f"videopoet fit -c configs/tokenizer/soundstream.yaml --data.init_args.shards={a.out}"
    if report is None:
        print(_waiting(place, a.out))
        return
    print_rejected(report)
    print(
        f"{report.clips} clips of {report.files} files in {a.out}, {report.clips_with_audio} with sound, "
        f"{report.clips_with_captions} with captions; {sum(report.reasons.values())} skipped\n"
        f"next: {following}"
    )


def print_rejected(report) -> None:
    """The first of what was skipped, each with its reason, and how many there are of each kind."""
    from videopoet.data.rejections import REJECTED, read_rejected

    for rejection in itertools.islice(read_rejected(report.folder), SHOWN):
        at = "" if rejection.second is None else f" at {rejection.second:g} s"
        print(f"skipped {rejection.file}{at}: {rejection.reason}")
    if sum(report.reasons.values()) > SHOWN:
        print(f"... and more, all in {report.folder / REJECTED}")
    if report.reasons:
        width = max(map(len, report.reasons))
        print("\n".join(f"  {kind:{width}} {count:8}" for kind, count in report.reasons.items()))


def _waiting(place, out: Path) -> str:
    return (f"rank {place.rank} of {place.ranks}: its share of {out} is done. The rank that is done last writes the manifest; "
            "if one was killed, run the same command again")  # fmt: skip


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
    from videopoet.data.work import Place
    from videopoet.pipeline import SHIPPED
    from videopoet.token_shards import tokenize_shards
    from videopoet.tokenizers.audio.tokenizer import AudioTokenizer
    from videopoet.tokenizers.visual.autoencoder import VideoTokenizer

    a, place = arguments, Place.here()
    conditions = conditions_of(a.condition)
    devices = devices_of(place, a.workers)
    visual = component.load(a.visual or SHIPPED / "visual.safetensors", VideoTokenizer)
    audio = component.load(a.audio or SHIPPED / "audio.safetensors", AudioTokenizer)
    if not a.workers:
        visual, audio = visual.to(devices[0]), audio.to(devices[0])
    manifest = tokenize_shards(a.shards, a.out, visual, audio, conditions=conditions, batch_size=a.batch_size,
                               samples_per_shard=a.samples_per_shard, precision=a.precision, overwrite=a.overwrite,
                               workers=a.workers, devices=devices, place=place)  # fmt: skip
    if manifest is None:
        print(_waiting(place, a.out))
        return
    t, h, w = manifest.visual_lattice
    print(
        f"{manifest.num_samples} clips in {a.out}: {t} x {h} x {w} visual codes of {manifest.visual_codebook_size}, "
        f"{manifest.audio_frames} x {manifest.audio_levels} audio codes of {manifest.audio_codebook_size}; "
        f"conditions: {', '.join(conditions) or 'none'}\n"
        f"next: videopoet fit -c configs/demo/lm.yaml --data.init_args.tokens={a.out}, with a text model of your captions "
        "(videopoet text-model) or from the shipped model: see README, 'From a folder of videos to a model'"
    )


def devices_of(place, workers: int) -> list[str]:
    """Where a rank's processes encode: its own GPU if a launcher started it, else all GPUs there are for its workers."""
    import torch

    count = torch.cuda.device_count()
    if not count:
        return ["cpu"]
    if place.ranks > 1 or not workers:
        return [f"cuda:{place.local_rank % count}"]  # SLURM may show each of its ranks one GPU only
    return [f"cuda:{i}" for i in range(count)]

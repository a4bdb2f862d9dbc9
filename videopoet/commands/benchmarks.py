"""`videopoet benchmark NAME`: the videos of a public benchmark, named and counted as its own code reads them."""

import argparse
import json
from dataclasses import asdict
from pathlib import Path

from videopoet.commands.drawing import draw_of, sampling_arguments
from videopoet.commands.sample import load_model

EXAMPLE = {
    "vbench": "--prompts VBench_full_info.json --model out/mine/model --out out/vbench",
    "vbench-i2v": "--prompts vbench2_i2v_full_info.json --images crop/1-1 --model out/mine/model --out out/vbench_i2v",
    "vbench-2": "--prompts VBench2_full_info.json --samples out/flat --out out/vbench2",
    "evalcrafter": "--prompts prompt700.txt --model out/mine/model --out out/evalcrafter",
    "fetv": "--prompts fetv_data.json --model out/mine/model --out out/fetv --folder mine",
    "t2v-compbench": "--prompts prompts --model out/mine/model --out out/compbench",
}


def add(commands) -> None:
    from videopoet.evaluation.exporters.registry import BENCHMARKS

    benchmark = commands.add_parser(
        "benchmark",
        help="write the videos of a public benchmark exactly as it reads them: VBench, EvalCrafter, FETV, ...",
        description="Sample the prompts of a benchmark, or name samples that are there, as its own code reads them. A run "
        "that was cut short goes on; RANK and WORLD_SIZE (torchrun) share it among processes.",
    )
    names = benchmark.add_subparsers(title="benchmarks", metavar="BENCHMARK", required=True)
    for name, kind in BENCHMARKS.items():
        words = kind.__doc__.split("\n\n")[0]
        parser = names.add_parser(
            name,
            help=" ".join(words.split()),
            description=" ".join(kind.__doc__.split()),
            epilog=f"example: videopoet benchmark {name} {EXAMPLE[name]}",
        )
        arguments(parser, kind)


def arguments(parser: argparse.ArgumentParser, kind) -> None:
    """The arguments of one benchmark, and what runs it."""
    parser.add_argument("--prompts", type=Path, required=True, metavar="PATH", help=f"the benchmark's {kind.reads}")
    parser.add_argument(
        "--out", type=Path, required=True, metavar="DIR", help="folder to write; its videos/ is the result"
    )
    source = parser.add_mutually_exclusive_group()
    source.add_argument("--model", type=Path, metavar="DIR", help="folder of a model (default: the shipped one)")
    source.add_argument("--samples", type=Path, metavar="DIR", help="folder of samples that are there, not to be made")
    source.add_argument("--check", action="store_true", help="make nothing: compare DIR with what the benchmark reads")
    parser.add_argument(
        "--allow-partial", action="store_true", help="take a prompt file of other than published counts"
    )
    parser.add_argument("--dry-run", action="store_true", help="say what would be made, and make nothing")
    if kind.known_dimensions:
        parser.add_argument("--dimension", action="append", default=[], metavar="NAME", help="only this; repeatable")
    if kind.task == "image-to-video":
        parser.add_argument("--images", type=Path, metavar="DIR", help="folder of the benchmark's images")
    if kind.name == "vbench":
        parser.add_argument("--per-dimension", action="store_true", help="a folder for each dimension")
        parser.add_argument(
            "--flickering", type=int, default=5, metavar="N", help="videos of temporal_flickering: 5, 25"
        )
    if kind.name == "fetv":
        parser.add_argument(
            "--folder", default="videopoet", metavar="NAME", help="the model's folder (default videopoet)"
        )
    if kind.name == "t2v-compbench":
        parser.add_argument(
            "--per-category", type=int, default=100, metavar="N", help="prompts of each: 100, or 200 in v2"
        )
    parser.add_argument("--rewrites", type=Path, metavar="JSON", help="{prompt: what the model is given in its place}")
    parser.add_argument("--truncate", action="store_true", help="cut prompts that are too long for the model")
    parser.add_argument("--batch", type=int, default=16, metavar="N", help="videos made at one time (default 16)")
    parser.add_argument("--seed", type=int, default=0, help="video number i is drawn from seed + i (default 0)")
    sampling_arguments(parser)
    parser.set_defaults(run=lambda namespace: run(namespace, kind))


def run(namespace: argparse.Namespace, kind) -> None:
    """Plan, make what is missing, compare."""
    benchmark = benchmark_of(namespace, kind)
    samples = benchmark.plan(namespace.prompts, allow_partial=namespace.allow_partial)
    files = sum(len(sample.paths) for sample in samples)
    print(f"{kind.name}: {len(samples)} videos in {files} files")
    if namespace.dry_run:
        return
    if not namespace.check and not make(namespace, benchmark, samples):
        return  # others still write: the last one, or --check, compares
    report(benchmark, samples, namespace.out)


def benchmark_of(namespace: argparse.Namespace, kind):
    """The benchmark that the arguments describe."""
    knobs = {"dimensions": tuple(dict.fromkeys(getattr(namespace, "dimension", [])))}
    if kind.name == "vbench":
        knobs |= {"per_dimension": namespace.per_dimension, "num_flickering": namespace.flickering}
    if kind.name == "fetv":
        knobs["model"] = namespace.folder
    if kind.name == "t2v-compbench":
        knobs["per_category"] = namespace.per_category
    return kind(**knobs)


def make(namespace: argparse.Namespace, benchmark, samples) -> bool:
    """This process' share; whether all videos are there now."""
    from videopoet.data.progress import bar
    from videopoet.evaluation.exporters.export import Shard, export, is_done, share
    from videopoet.evaluation.exporters.log import finished

    shard = Shard.of_environment()
    source = source_of(namespace, benchmark)
    total = len(share(len(samples), source.batch, shard))
    with bar(f"{benchmark.name} {shard.rank + 1}/{shard.world_size}", total) as advance:
        made = export(
            benchmark,
            namespace.prompts,
            samples,
            source,
            namespace.out,
            seed=namespace.seed,
            shard=shard,
            progress=advance,
        )
    done = finished(namespace.out)
    left = sum(not is_done(namespace.out, sample, done) for sample in samples)
    print(f"{made} made now, {len(samples) - left} of {len(samples)} there")
    return left == 0


def source_of(namespace: argparse.Namespace, benchmark):
    """The model or folder the videos come from."""
    from videopoet.evaluation.exporters.sources import FolderSource, ModelSource

    if namespace.samples is not None:
        return FolderSource(folder=namespace.samples)
    if namespace.batch < 1:
        raise ValueError(f"--batch is {namespace.batch}: at least 1 is needed")
    rewrites = rewrites_of(namespace.rewrites)
    poet, draw = load_model(namespace.model), draw_of(namespace)
    parts = {"visual": poet.visual, "audio": poet.audio, "lm": poet.model}
    drawn = repr(poet.drawn_as(benchmark.task, draw))
    described = {"model": {name: part.fingerprint for name, part in parts.items()}, "draw": drawn}
    return ModelSource(
        poet=poet,
        task=benchmark.task,
        images=getattr(namespace, "images", None),
        batch=namespace.batch,
        how={"draw": draw},
        described=described,
        rewrites=rewrites,
        fits=lambda text: poet.model.text([text]),
        truncate=namespace.truncate,
    )


def rewrites_of(path: Path | None) -> dict[str, str]:
    """Prompt -> longer prompt."""
    from videopoet.evaluation.exporters.benchmark import read_json

    if path is None:
        return {}
    rewrites = read_json(path)
    if not isinstance(rewrites, dict) or not all(isinstance(text, str) and text for text in rewrites.values()):
        raise ValueError(f"{path}: needs an object of prompt: text")
    return rewrites


def report(benchmark, samples, out: Path) -> None:
    """Compare, print, write `check.json`; ValueError where the benchmark would not find what it wants."""
    from videopoet.data.progress import bar
    from videopoet.evaluation.exporters.check import check

    with bar("checking", sum(len(sample.paths) for sample in samples)) as advance:
        findings = check(benchmark, samples, out, progress=advance)
    for shape, count in findings.shapes.items():
        print(f"{count} of {shape}")
    for note in findings.notes:
        print(f"note: {note}")
    for fault in findings.wrong[:20]:
        print(f"wrong: {fault}")
    if (out / "videos").is_dir():  # beside the videos, never among them
        (out / "check.json").write_text(
            json.dumps(asdict(findings), indent=2, ensure_ascii=False) + "\n", encoding="utf-8"
        )
    if findings.wrong:
        raise ValueError(f"{out}: {len(findings.wrong)} faults, {findings.found} of {findings.expected} files are there; "
                         f"first: {findings.wrong[0]}")  # fmt: skip
    print(f"{out}: all {findings.expected} files are there, and nothing else")

"""What do tokens say about a video? One small classifier over pixels and over the codes of each tokenizer, in one table.

    python tools/run_probe.py                                            # the built-in world: what does the object do?
    python tools/run_probe.py --quick
    python tools/run_probe.py --tokenizer lfq=visual.safetensors --tokenizer vq=magvit3d.safetensors --seeds 3
    python tools/run_probe.py --train SHARDS --test SHARDS --label folder    # of `videopoet shards build ONE_FOLDER_PER_CLASS`

Every variant is configs/probe/*.yaml with the same network, samples, order, steps and seeds; only the embedding differs:
patches of pixels, bits of lookup-free codes, or codebook vectors (of the tokenizer, not learned). A tokenizer's own kind
says which. Test samples are other scenes of the same world, or the shards of --test; they choose nothing, neither steps
nor settings. Results are kept in --out/results.jsonl: a run that was cut off goes on with what is missing.
"""

import argparse
import json
import statistics
import time
from dataclasses import asdict, dataclass
from pathlib import Path

from videopoet import component
from videopoet.commands.corpus import positive
from videopoet.commands.safely import run_safely
from videopoet.commands.sample import best_device
from videopoet.data.bounce_files import write_world_shards
from videopoet.data.labelled import LabelledSamples
from videopoet.data.labels import BounceLabel, FolderLabel
from videopoet.data.shards import ShardReader
from videopoet.evaluation.probe import accuracy_interval, majority_accuracy
from videopoet.evaluation.report import command, machine, markdown
from videopoet.pipeline import SHIPPED
from videopoet.token_shards import tokenize_shards
from videopoet.tokenizers.audio.tokenizer import AudioTokenizer
from videopoet.tokenizers.quantizers.lookup_free import LookupFreeQuantizer
from videopoet.tokenizers.visual.autoencoder import VideoTokenizer
from videopoet.training.cli import fit

CONFIGS = Path(__file__).resolve().parents[1] / "configs" / "probe"
FIRST_TEST_SEED = 1_000_000  # test scenes, apart from those of training and from the held-out combinations
EMBEDDING = "--model.init_args.probe.init_args.embedding.init_args"


@dataclass(frozen=True, kw_only=True)
class Variant:
    """One way to show a clip to the probe."""

    name: str
    what: str  # for the table
    config: str
    train: Path
    test: Path
    arguments: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Result:
    """One training."""

    variant: str
    what: str
    seed: int
    settings: str
    accuracy: float  # on all test samples
    loss: float  # training cross-entropy of the last logged step, nats
    parameters: int  # trained ones
    seconds: float


def variants(a: argparse.Namespace, clips: dict[str, Path]) -> list[Variant]:
    """Pixels, and every tokenizer after its codes are written."""
    found = [Variant(name="pixels", what="pixels, patches of 4x8x8", config="pixels", **clips)]
    for text in a.tokenizer or [f"lfq={SHIPPED / 'visual.safetensors'}"]:
        name, _, path = text.rpartition("=")
        name = name or Path(path).stem
        tokenizer = component.load(path, VideoTokenizer)
        tokens = {part: _tokens(folder, a.out / name / part, tokenizer) for part, folder in clips.items()}
        size = tokenizer.codebook_size
        if isinstance(tokenizer.quantizer, LookupFreeQuantizer):
            bits = size.bit_length() - 1
            found.append(Variant(name=f"{name} bits", what=f"{bits} bits of lookup-free codes", config="bits", **tokens,
                                 arguments=(f"{EMBEDDING}.num_bits={bits}",)))  # fmt: skip
        else:
            found.append(Variant(name=f"{name} codebook", what=f"codebook vectors of {size} codes", config="codebook",
                                 **tokens, arguments=(f"{EMBEDDING}.tokenizer={path}",)))  # fmt: skip
    return found


def _tokens(clips: Path, out: Path, tokenizer: VideoTokenizer) -> Path:
    if (out / "manifest.json").is_file():
        made_by = ShardReader(out, "tokens").manifest.fingerprints["visual"]
        if made_by != tokenizer.fingerprint:
            raise ValueError(f"{out} holds codes of another tokenizer, {made_by}: choose another --out, or remove it")
        return out
    audio = component.load(SHIPPED / "audio.safetensors", AudioTokenizer)  # shards want one; silent clips do not use it
    tokenize_shards(clips, out, tokenizer.to(best_device()), audio, batch_size=16)
    return out


def train(
    variant: Variant, seed: int, a: argparse.Namespace, lattice: tuple[int, int, int], num_classes: int
) -> Result:
    """One training by `videopoet fit`, and the accuracy on the test samples after the last step."""
    rule = "FolderLabel" if a.label == "folder" else "BounceLabel"
    arguments = [
        *("-c", str(CONFIGS / f"{variant.config}.yaml")),
        f"--seed_everything={seed}",
        f"--data.init_args.seed={seed}",
        f"--data.init_args.shards={variant.train}",
        f"--data.init_args.validation_shards={variant.test}",
        f"--data.init_args.label=videopoet.data.labels.{rule}",
        *([] if a.label == "folder" else [f"--data.init_args.label.init_args.attribute={a.label}"]),
        f"--data.init_args.batch_size={a.batch_size}",
        f"--model.init_args.probe.init_args.num_classes={num_classes}",
        f"--model.init_args.probe.init_args.lattice={list(lattice)}",
        f"--model.init_args.probe.init_args.layers={a.layers}",
        f"--model.init_args.probe.init_args.heads={a.heads}",
        f"{EMBEDDING}.width={a.width}",
        f"--model.init_args.learning_rate={a.learning_rate}",
        f"--trainer.max_steps={a.steps}",
        f"--trainer.val_check_interval={a.steps}",
        "--trainer.num_sanity_val_steps=0",
        "--trainer.log_every_n_steps=1",
        f"--trainer.logger.init_args.save_dir={a.out / 'logs'}",
        "--trainer.enable_model_summary=false",
        *variant.arguments,
    ]
    start = time.perf_counter()
    run = fit(arguments)
    metrics = run.trainer.callback_metrics
    parameters = sum(p.numel() for p in run.model.parameters() if p.requires_grad)
    return Result(variant=variant.name, what=variant.what, seed=seed, settings=_settings(a), parameters=parameters,
                  accuracy=float(metrics["validation/accuracy"]), loss=float(metrics["train/loss"]),
                  seconds=time.perf_counter() - start)  # fmt: skip


def _settings(a: argparse.Namespace) -> str:
    chosen = (
        "steps",
        "batch_size",
        "width",
        "layers",
        "heads",
        "learning_rate",
        "label",
        "train_scenes",
        "test_scenes",
        "size",
    )
    return json.dumps({name: getattr(a, name) for name in chosen} | {"shards": [str(a.train), str(a.test)]})


def run(a: argparse.Namespace) -> None:
    """Data, trainings, table."""
    if (a.train is None) != (a.test is None):
        raise ValueError("--train and --test belong together: name both, or neither for the built-in world")
    if a.label == "folder" and a.train is None:
        raise ValueError("--label folder needs --train and --test: shards of a folder with one folder per class")
    a.out.mkdir(parents=True, exist_ok=True)
    clips = {"train": a.train or a.out / "clips" / "train", "test": a.test or a.out / "clips" / "test"}
    if a.train is None:
        write_world_shards(clips["train"], a.train_scenes, 0, a.size)
        write_world_shards(clips["test"], a.test_scenes, FIRST_TEST_SEED, a.size)
    label = FolderLabel() if a.label == "folder" else BounceLabel(attribute=a.label)
    samples = {part: LabelledSamples(folder, label) for part, folder in clips.items()}
    manifest = samples["train"].manifest
    lattice = (1 + (manifest.frames - 1) // 4, manifest.height // 8, manifest.width // 8)
    file = a.out / "results.jsonl"
    known = [Result(**json.loads(line)) for line in file.read_text().splitlines()] if file.is_file() else []
    results = []
    for variant in variants(a, clips):
        for seed in range(a.seeds):
            wanted = (variant.name, variant.what, seed, _settings(a))
            result = next((r for r in known if (r.variant, r.what, r.seed, r.settings) == wanted), None)
            if result is None:
                print(f"{variant.name}, seed {seed}: {a.steps} steps")
                result = train(variant, seed, a, lattice, len(samples["train"].names()))
                with file.open("a") as out:
                    out.write(json.dumps(asdict(result)) + "\n")
            results.append(result)
    page = report(results, samples, a)
    (a.out / "table.md").write_text(page + "\n")
    print(f"\n{page}\n\nin {a.out}: table.md, results.jsonl")


def report(results: list[Result], samples: dict[str, LabelledSamples], a: argparse.Namespace) -> str:
    """The table with what it takes to read it."""
    train_counts, test_counts = samples["train"].counts(), samples["test"].counts()
    classes, number = samples["train"].names(), test_counts.total()
    rows = [
        ["always the commonest class", "", "", "", f"{100 * majority_accuracy(train_counts, test_counts):.1f}", "", ""]
    ]
    for name in dict.fromkeys(r.variant for r in results):
        these = [r for r in results if r.variant == name]
        accuracy = [r.accuracy for r in these]
        low, high = accuracy_interval(min(1.0, statistics.fmean(accuracy)), number)
        spread = f" ± {100 * statistics.stdev(accuracy):.1f}" if len(these) > 1 else ""
        rows.append([name, these[0].what, f"{these[0].parameters / 1e6:.2f} M", str(len(these)),
                     f"{100 * statistics.fmean(accuracy):.1f}{spread}", f"{100 * low:.1f} to {100 * high:.1f}",
                     f"{statistics.fmean(r.seconds for r in these):.0f}"])  # fmt: skip
    columns = ["probe on", "input", "parameters", "seeds", "top-1 on test, %", "95 % interval", "seconds"]
    facts = (f"{len(classes)} classes ({', '.join(classes[:8])}), {train_counts.total()} training and {number} test clips "
             f"of {samples['train'].manifest.frames} x {samples['train'].manifest.height} x {samples['train'].manifest.width}; "
             f"{a.steps} steps of {a.batch_size}, width {a.width}, {a.layers} layers.")  # fmt: skip
    quick = ["--quick: to see that it runs; not to be quoted"] if a.quick else []
    return "\n\n".join([facts, f"`{command()}`", machine(), *quick, markdown(columns, rows, left=2)])


def parser() -> argparse.ArgumentParser:
    root = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    root.add_argument("--out", type=Path, default=Path("out/probe"), metavar="DIR")
    root.add_argument(
        "--tokenizer", action="append", metavar="[NAME=]FILE", help="may be repeated (default: the shipped one)"
    )
    root.add_argument(
        "--train", type=Path, metavar="SHARDS", help="media shards (default: scenes of the built-in world)"
    )
    root.add_argument("--test", type=Path, metavar="SHARDS")
    root.add_argument("--label", choices=("motion", "shape", "colour", "size", "folder"), default="motion")
    root.add_argument(
        "--train-scenes", type=positive, default=4000, help="of the built-in world; three in four have a label"
    )
    root.add_argument("--test-scenes", type=positive, default=1000)
    root.add_argument("--size", type=positive, default=64, help="pixels per side of the built-in world (default 64)")
    root.add_argument("--steps", type=positive, default=1000)
    root.add_argument("--batch-size", type=positive, default=32)
    root.add_argument("--width", type=positive, default=128)
    root.add_argument("--layers", type=positive, default=4)
    root.add_argument("--heads", type=positive, default=4)
    root.add_argument("--learning-rate", type=float, default=1e-3)
    root.add_argument("--seeds", type=positive, default=1, help="trainings of every variant")
    root.add_argument("--quick", action="store_true", help="few scenes, few steps, a smaller probe")
    root.set_defaults(run=run)
    return root


def main(arguments: list[str] | None = None) -> None:
    a = parser().parse_args(arguments)
    if a.quick:
        a.train_scenes, a.test_scenes, a.steps = min(a.train_scenes, 200), min(a.test_scenes, 80), min(a.steps, 120)
        a.batch_size, a.width, a.layers = min(a.batch_size, 16), min(a.width, 64), min(a.layers, 2)
    run_safely(a, [])


if __name__ == "__main__":
    main()

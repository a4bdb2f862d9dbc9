"""What each kind of task adds: the mixture's parts trained under one budget (in the manner of VideoPoet's Table 1).

    python tools/run_task_ablation.py --out out/task_ablation
    python tools/run_task_ablation.py --quick --out DIR --tokens DIR --text-model FILE     # a few steps

Rows: text-to-video alone, self-supervised tasks (what needs no text: prediction, painting, sound), or all tasks, each
without and with UL2's denoisers. A row is configs/mixture/base.yaml with the weights of the other tasks at 0, a smaller
network trained from scratch, and the same number of steps and of tokens a step. Each is measured by `videopoet evaluate
bounce` on every task, also on those that it was not trained on. Rows that are trained are kept in --out.
"""

import argparse
import json
import time
from pathlib import Path

import yaml

from videopoet import component
from videopoet.commands.corpus import positive
from videopoet.commands.safely import run_safely
from videopoet.data.schema import read_manifest
from videopoet.evaluation.bounce import evaluate
from videopoet.evaluation.report import command, machine, markdown
from videopoet.pipeline import SHIPPED, VideoPoet
from videopoet.training.cli import fit
from videopoet.training.export import portable

CONFIG = Path(__file__).resolve().parents[1] / "configs" / "mixture" / "base.yaml"
SELF_SUPERVISED = (
    *("unconditional", "frame-prediction", "frame-interpolation", "inpainting-central", "inpainting-dynamic"),
    *("outpainting-central", "outpainting-vertical", "outpainting-horizontal", "outpainting-dynamic"),
    *("video-to-audio", "audio-to-video", "audio-visual-continuation"),
)
MEASURED = ("text-to-video", "image-to-video", "frame-prediction", "inpainting-central", "outpainting-central",
            "stylization", "video-to-audio", "audio-to-video")  # fmt: skip


def rows(tasks: dict[str, dict]) -> dict[str, list[str]]:
    """Row -> names of its tasks among those of the mixture."""
    denoisers = [name for name in tasks if name.startswith("denoise")]
    kinds = {
        "text-to-video": ["text-to-video"],
        "self-supervised": list(SELF_SUPERVISED),
        "all": [name for name in tasks if name not in denoisers],
    }
    return {**kinds, **{f"{name} + UL2": [*names, *denoisers] for name, names in kinds.items()}}


def run(a: argparse.Namespace) -> None:
    """Trainings, measurements, table."""
    a.out.mkdir(parents=True, exist_ok=True)
    tasks = yaml.safe_load(CONFIG.read_text(encoding="utf-8"))["data"]["init_args"]["tasks"]
    names = ("steps", "tokens_per_batch", "width", "layers", "seed", "tokens")
    settings, wanted = {name: str(getattr(a, name)) for name in names}, rows(tasks)
    files = {name: a.out / f"{name.replace(' ', '')}.safetensors" for name in wanted}
    for number, (name, kept) in enumerate(wanted.items(), 1):
        if not trained(files[name], settings):
            print(f"[{number}/{len(wanted)}] training {name}: {len(kept)} tasks, {a.steps} steps", flush=True)
            train(a, tasks, kept, files[name], settings)
    done = []
    for number, (name, kept) in enumerate(wanted.items(), 1):
        print(f"[{number}/{len(wanted)}] measuring {name}", flush=True)
        done.append(measure(a, name, kept, files[name]))
        (a.out / "rows.json").write_text(json.dumps(done, indent=1) + "\n")
    page = report(done, a)
    (a.out / "table.md").write_text(page + "\n")
    print(f"\n{page}\n\nin {a.out}: rows.json, table.md")


def trained(file: Path, settings: dict) -> bool:
    return file.is_file() and component.load(file).metadata["settings"] == settings


def train(a: argparse.Namespace, tasks: dict[str, dict], kept: list[str], file: Path, settings: dict) -> None:
    """One row by `videopoet fit`. Its file says how all tasks and streams are made, those too that it did not train on."""
    start = time.perf_counter()
    model, data = "--model.init_args.model.init_args", "--data.init_args"
    fitted = fit([
        *("-c", str(CONFIG)),
        f"--seed_everything={a.seed}",
        f"{model}.transformer.init_args.width={a.width}",
        f"{model}.transformer.init_args.layers={a.layers}",
        f"{model}.io.init_args.width={a.width}",
        f"{model}.text_encoder.init_args.sentencepiece={a.text_model}",
        *(f"{data}.tasks.{name}.weight=0" for name in tasks if name not in kept),
        f"{data}.tokens={a.tokens}",
        f"{data}.validation_tokens={a.tokens}",
        *(f"{data}.tokenizers.{name}={SHIPPED / name}.safetensors" for name in ("visual", "audio")),
        "--trainer.limit_val_batches=0",
        "--trainer.num_sanity_val_steps=0",
        f"{data}.tokens_per_batch={a.tokens_per_batch}",
        f"--trainer.default_root_dir={a.out}",
        f"--trainer.max_steps={a.steps}",
        "--trainer.logger=false",
        "--trainer.enable_model_summary=false",
        "--trainer.enable_checkpointing=false",
        "--trainer.callbacks=[]",
    ])  # fmt: skip
    spec = portable(fitted.config.fit.model.as_dict()["init_args"]["model"])
    manifest = read_manifest(a.tokens, "tokens")
    facts = fitted.model.metadata | {
        "tasks": {name: share.task.spec() for name, share in fitted.datamodule.shares.items()},
        "streams": manifest.streams,
        "settings": settings,
        "seconds": time.perf_counter() - start,
    }
    component.save(file, spec, fitted.model.model.state_dict(), facts, half=False)


def measure(a: argparse.Namespace, name: str, kept: list[str], file: Path) -> dict:
    """The held-out scenes of every measured task."""
    parts = [component.load(path) for path in (SHIPPED / "visual.safetensors", SHIPPED / "audio.safetensors", file)]
    poet, found = VideoPoet(*parts), {}
    for task in MEASURED:
        measured = evaluate(poet, task, a.n, seed=a.seed)[0]
        found[task] = {"right": measured["attribute_accuracy"], "ceiling": measured["ceiling"],
                       "floor": measured["floor"], "trained": task in kept}  # fmt: skip
    parameters = sum(p.numel() for p in poet.model.parameters())
    return {"row": name, "seconds": parts[-1].metadata["seconds"], "parameters": parameters, "tasks": found}


def report(done: list[dict], a: argparse.Namespace) -> str:
    """A page with the table and how it was made."""
    ceilings = {task: found["ceiling"] for task, found in done[0]["tasks"].items()}
    columns = ["trained on", *(f"{task} (of {100 * ceiling:.0f})" for task, ceiling in ceilings.items())]
    cells = [
        [row["row"], *(f"{100 * t['right']:.1f}" + ("" if t["trained"] else "*") for t in row["tasks"].values())]
        for row in done
    ]
    cells.append(["(floor)", *(f"{100 * t['floor']:.1f}" for t in done[0]["tasks"].values())])
    return "\n".join([
        "# What each kind of task adds",
        "",
        f"Attributes right in percent (ceiling in the head), {a.n} held-out scenes of the built-in world a task; floor: what "
        "is given with another scene's clip for what is made, see `evaluation/bounce.py`; * the row was "
        f"not trained on the task. Each row: {done[0]['parameters'] / 1e6:.1f} M parameters (width {a.width}, {a.layers} "
        f"layers) from scratch, {a.steps} steps of {a.tokens_per_batch} tokens, seed {a.seed}. A toy: nothing here is a result "
        "of the paper.",
        "",
        markdown(columns, cells),
        "",
        f"{machine()}; training took {sum(row['seconds'] for row in done) / 60:.0f} minutes in all. `{command()}`",
    ])  # fmt: skip


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__.split("\n\n")[0],
        epilog="example: python tools/run_task_ablation.py --out out/task_ablation",
    )
    parser.set_defaults(run=run)
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder of the results")
    parser.add_argument("--tokens", type=Path, default=Path("out/world/tokens_all/train"), metavar="DIR",
                        help="token shards with all conditions (default: those of configs/mixture/base.yaml)")  # fmt: skip
    parser.add_argument("--text-model", type=Path, default=Path("out/world/text.model"), metavar="FILE",
                        help="SentencePiece model of the captions")  # fmt: skip
    parser.add_argument("--steps", type=positive, default=1200, help="of every row (default 1200)")
    parser.add_argument("--tokens-per-batch", type=positive, default=4000, help="(default 4000)")
    parser.add_argument("--width", type=positive, default=128, help="of the network (default 128)")
    parser.add_argument("--layers", type=positive, default=4, help="of the network (default 4)")
    parser.add_argument("--n", type=positive, default=32, help="held-out scenes per task (default 32)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--quick", action="store_true", help="3 steps and 1 scene: does it run?")
    a = parser.parse_args(arguments)
    if a.quick:
        a.steps, a.n, a.width, a.layers, a.tokens_per_batch = 3, 1, 32, 1, 1200
    for path in (a.tokens, a.text_model):
        if not path.exists():
            parser.error(f"nothing at {path}: see the header of configs/mixture/base.yaml")
    run_safely(a, [])


if __name__ == "__main__":
    main()

"""Loss and accuracy against compute: three sizes of the language model, tokens in proportion to size (VideoPoet, Fig. 8).

    python tools/run_scaling.py --out out/scaling
    python tools/run_scaling.py --quick --out out/scaling_quick         # a few steps: does it run?

Every size is trained from scratch on the mixture of configs/demo/lm.yaml, about a quarter of the steps on its first stage,
on `--tokens-per-parameter` tokens for every weight of its trunk. Measured are nats per predicted token on validation clips
and, by `videopoet evaluate bounce`, the attributes of text-to-video that the oracle reads right on held-out scenes, both
against the operations that training took (videopoet/training/flops.py). A size that is done stands in --out/sizes.jsonl and
is not trained again; one that was cut off goes on from its checkpoint. Beside it: scaling.json, scaling.md, scaling.svg.
"""

import argparse
import json
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from videopoet import component
from videopoet.commands.corpus import positive
from videopoet.commands.safely import run_safely
from videopoet.data.schedule import CYCLE
from videopoet.evaluation.bounce import evaluate
from videopoet.evaluation.report import command, machine, markdown
from videopoet.evaluation.svg_plot import Panel, draw
from videopoet.pipeline import SHIPPED, VideoPoet
from videopoet.sequence import IGNORE
from videopoet.training.cli import FitCLI, fit
from videopoet.training.export import portable
from videopoet.training.numbers import Numbers

CONFIG = Path(__file__).resolve().parents[1] / "configs" / "demo" / "lm.yaml"
CHECKPOINT_EVERY = 200  # steps
TASK = "text-to-video"


@dataclass(frozen=True, kw_only=True)
class Size:
    """A trunk. The learning rate falls as the width grows; batches are smaller than the demo's, and so is the rate at 256."""

    width: int
    layers: int
    heads: int = 4

    @property
    def name(self) -> str:
        return f"{self.width} x {self.layers}"

    @property
    def weights(self) -> int:
        """About: four matrices of attention and three of the gated MLP, whose inner width is 8/3."""
        return 12 * self.width**2 * self.layers

    @property
    def learning_rate(self) -> float:
        return 1.0e-3 * 256 / self.width


def size_of(said: str) -> Size:
    """`96x4`: width and layers."""
    width, _, layers = said.partition("x")
    return Size(width=int(width), layers=int(layers))


SIZES = (Size(width=48, layers=2), Size(width=64, layers=3), Size(width=96, layers=3))
QUICK = (Size(width=16, layers=1), Size(width=32, layers=1), Size(width=48, layers=1))


@dataclass(frozen=True, kw_only=True)
class Point:
    """A size that was trained and measured. loss: nats per predicted token. accuracy, ceiling: shares of attributes."""

    size: str
    settings: str
    parameters: int  # of the trunk
    steps: int
    tokens: int
    flops: float
    loss: float
    accuracy: float
    ceiling: float
    seconds: float  # of training


def run(a: argparse.Namespace) -> None:
    """Whatever size is missing, then the table and the plot."""
    a.out.mkdir(parents=True, exist_ok=True)
    file, points = a.out / "sizes.jsonl", []
    settings = json.dumps({name: str(getattr(a, name)) for name in (
        "tokens", "validation", "tokens_per_parameter", "tokens_per_batch", "least_steps", "n", "seed")})  # fmt: skip
    known = [Point(**json.loads(line)) for line in file.read_text().splitlines()] if file.is_file() else []
    for number, size in enumerate(a.sizes, 1):
        point = next((p for p in known if (p.size, p.settings) == (size.name, settings)), None)
        if point is None:
            print(f"[{number}/{len(a.sizes)}] {size.name}: {steps_of(size, a)} steps", flush=True)
            point = train_and_measure(size, settings, a)
            with file.open("a") as out:
                out.write(json.dumps(asdict(point)) + "\n")
        points.append(point)
    page = report(points, a)
    (a.out / "scaling.json").write_text(json.dumps([asdict(p) for p in points], indent=1) + "\n")
    (a.out / "scaling.md").write_text(page + "\n")
    (a.out / "scaling.svg").write_text(plot(points))
    print(f"\n{page}\n\nin {a.out}: sizes.jsonl, scaling.json, scaling.md, scaling.svg")


def steps_of(size: Size, a: argparse.Namespace) -> int:
    return max(a.least_steps, round(a.tokens_per_parameter * size.weights / a.tokens_per_batch))


def first_steps(steps: int) -> int:
    """Of the first stage, mostly images: about a quarter, in whole cycles of the schedule."""
    return round(steps / 4 / CYCLE) * CYCLE


def train(size: Size, a: argparse.Namespace) -> FitCLI:
    """By `videopoet fit`, from the checkpoint of a run that was cut off, if there is one."""
    model, data, steps = "--model.init_args.model.init_args", "--data.init_args", steps_of(size, a)
    folder = a.out / f"{size.width}_{size.layers}"
    saving = {"dirpath": str(folder), "every_n_train_steps": CHECKPOINT_EVERY, "save_last": True, "save_top_k": 0,
              "enable_version_counter": False}  # fmt: skip
    checkpoint = {"class_path": "lightning.pytorch.callbacks.ModelCheckpoint", "init_args": saving}
    last = folder / "last.ckpt"
    return fit([
        *("-c", str(CONFIG)),
        f"--seed_everything={a.seed}",
        f"--model.init_args.learning_rate={size.learning_rate}",
        f"--model.init_args.warmup_steps={max(1, min(100, steps // 10))}",
        f"{model}.transformer.init_args.width={size.width}",
        f"{model}.transformer.init_args.layers={size.layers}",
        f"{model}.transformer.init_args.heads={size.heads}",
        f"{model}.io.init_args.width={size.width}",
        f"{model}.text_encoder.init_args.width={size.width // 2}",
        f"{model}.text_encoder.init_args.sentencepiece={a.text_model}",
        f"{data}.tokens={a.tokens}",
        f"{data}.validation_tokens={a.validation}",
        *(f"{data}.tokenizers.{name}={SHIPPED / name}.safetensors" for name in ("visual", "audio")),
        f"{data}.tokens_per_batch={a.tokens_per_batch}",
        f"{data}.num_validation_batches={a.validation_batches}",
        f"{data}.first_steps={first_steps(steps)}",
        f"{data}.num_workers=0",
        f"{data}.seed={a.seed}",
        f"--trainer.default_root_dir={folder}",
        f"--trainer.max_steps={steps}",
        "--trainer.limit_val_batches=0",
        "--trainer.num_sanity_val_steps=0",
        "--trainer.val_check_interval=null",
        "--trainer.logger=false",
        "--trainer.enable_model_summary=false",
        f"--trainer.callbacks={json.dumps([checkpoint])}",
        *([f"--ckpt_path={last}"] if last.is_file() else []),
    ])  # fmt: skip


def train_and_measure(size: Size, settings: str, a: argparse.Namespace) -> Point:
    start = time.perf_counter()
    fitted = train(size, a)
    seconds = time.perf_counter() - start
    module, numbers = fitted.model, next(c for c in fitted.trainer.callbacks if isinstance(c, Numbers))
    model = module.model.eval().float()
    path = a.out / f"{size.width}_{size.layers}.safetensors"
    spec = portable(fitted.config.fit.model.as_dict()["init_args"]["model"])
    component.save(path, spec, model.state_dict(), module.metadata, half=False)
    poet = VideoPoet(
        *(component.load(SHIPPED / f"{name}.safetensors") for name in ("visual", "audio")), component.load(path)
    )
    found = evaluate(poet, TASK, a.n, seed=a.seed)[0]
    return Point(
        size=size.name, settings=settings, parameters=sum(p.numel() for p in model.transformer.parameters()),
        steps=fitted.trainer.global_step, tokens=numbers.total_tokens, flops=float(numbers.total_flops),
        loss=validation_loss(model, fitted.datamodule), accuracy=found["attribute_accuracy"], ceiling=found["ceiling"],
        seconds=seconds,
    )  # fmt: skip


@torch.inference_mode()
def validation_loss(model, data) -> float:
    """Nats per predicted token over the validation batches of every task, the same for every size."""
    nats, count = 0.0, 0
    for batch in data.val_dataloader():
        predicted = int((batch.targets != IGNORE).sum())
        nats, count = (
            nats + float(model.loss(batch.to(next(model.parameters()).device)).total) * predicted,
            count + predicted,
        )
    return nats / count


def plot(points: list[Point]) -> str:
    """Loss on two logarithmic axes, accuracy over the logarithm of the compute."""
    x = "training FLOPs"
    losses = [(p.flops, p.loss, p.size) for p in points]
    right = [(p.flops, 100 * p.accuracy, p.size) for p in points]
    level = (100 * points[0].ceiling, "round trip of the true clips")
    return draw([
        Panel(title="validation loss, nats per token", x_label=x, y_label="", points=losses, log_y=True),
        Panel(title=f"{TASK}: attributes right, %", x_label=x, y_label="", points=right, level=level),
    ])  # fmt: skip


def report(points: list[Point], a: argparse.Namespace) -> str:
    """A page with the table and how it was made."""
    columns = [
        "width x layers",
        "trunk",
        "steps",
        "tokens",
        "FLOPs",
        "loss, nats",
        "attributes right, %",
        "training, s",
    ]
    cells = [[p.size, f"{p.parameters / 1e6:.2f} M", str(p.steps), f"{p.tokens / 1e6:.2f} M", f"{p.flops:.2e}",
              f"{p.loss:.3f}", f"{100 * p.accuracy:.1f}", f"{p.seconds:.0f}"] for p in points]  # fmt: skip
    return "\n\n".join([
        "# Loss and accuracy against compute",
        f"{a.tokens_per_parameter:g} tokens for every weight of the trunk, batches of {a.tokens_per_batch} tokens, one mixture "
        f"(configs/demo/lm.yaml, about a quarter of the steps on its first stage), seed {a.seed}. Loss: mean over all "
        f"predicted tokens of validation clips. Attributes: {TASK}, {a.n} held-out scenes of the built-in world (the true "
        f"clips after a round trip through the tokenizers: {100 * points[0].ceiling:.1f} %). A toy in the manner of "
        "VideoPoet's Fig. 8; nothing here is a result of the paper.",
        *(["--quick: to see that it runs; not to be quoted"] if a.quick else []),
        markdown(columns, cells),
        f"{machine()}; `{command()}`",
    ])  # fmt: skip


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.set_defaults(run=run)
    world = Path("out/world")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder of the results")
    parser.add_argument("--tokens", type=Path, default=world / "tokens/train", metavar="DIR", help="to train on")
    parser.add_argument("--validation", type=Path, default=world / "tokens/validation", metavar="DIR", help="others")
    parser.add_argument("--text-model", type=Path, default=world / "text.model", metavar="FILE", help="SentencePiece")
    parser.add_argument(
        "--tokens-per-parameter", type=float, default=5, metavar="R", help="of the trunk (default 5)"
    )
    parser.add_argument("--tokens-per-batch", type=positive, default=1000, help="(default 1000)")
    parser.add_argument("--validation-batches", type=positive, default=4, help="of every task (default 4)")
    parser.add_argument("--n", type=positive, default=32, help="held-out scenes (default 32)")
    parser.add_argument("--seed", type=int, default=0)
    said = " ".join(f"{size.width}x{size.layers}" for size in SIZES)
    parser.add_argument("--sizes", type=size_of, nargs="+", default=SIZES, metavar="WxL", help=f"(default {said})")
    parser.add_argument("--quick", action="store_true", help="tiny networks, 3 steps, 1 scene")
    a = parser.parse_args(arguments)
    a.sizes, a.least_steps = (QUICK, 3) if a.quick else (a.sizes, 1)
    if a.quick:
        a.tokens_per_parameter, a.tokens_per_batch, a.n, a.validation_batches = 0.001, 1200, 1, 1
    for path in (a.tokens, a.validation, a.text_model):
        if not path.exists():
            parser.error(f"nothing at {path}: the README says how the built-in world is made and tokenised")
    run_safely(a, [])


if __name__ == "__main__":
    main()

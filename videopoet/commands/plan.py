"""`videopoet plan`: memory, operations and hours of a training before it is started."""

import argparse
import json
from pathlib import Path


def add(commands) -> None:
    plan = commands.add_parser(
        "plan",
        help="what a training of the language model will take: memory per GPU, FLOPs, hours, and what fits",
        description="Builds the config's model without memory and measures a step of it. Neither shards nor tokenizers nor "
        "a GPU are needed. Arguments of 'videopoet fit', as --model.init_args.model.init_args.io.init_args.width=512, "
        "are laid over the config. docs/planning.md says what is counted.",
        epilog="example: videopoet plan -c configs/lm/8b.yaml --gpus 64",
    )
    plan.add_argument(
        "-c", "--config", type=Path, action="append", required=True, metavar="FILE", help="may be repeated"
    )
    plan.add_argument("--gpus", type=int, default=1, help="GPUs in all (default 1)")
    plan.add_argument("--gpu", default="h100", metavar="NAME", help="their kind: peak and memory of it (default h100)")
    plan.add_argument("--memory", type=float, metavar="GB", help="memory of a GPU, in place of its kind's")
    plan.add_argument("--peak", type=float, metavar="TFLOPS", help="16-bit peak of a GPU, in place of its kind's")
    plan.add_argument("--utilisation", type=float, default=0.4, metavar="SHARE", help="of the peak (default 0.4)")
    plan.add_argument("--tokens", type=float, metavar="N", help="tokens to train on, as 58e9, in place of max_steps")
    plan.add_argument(
        "--lattice", type=int, nargs=3, metavar=("T", "H", "W"), help="of a clip (default: of the shards, or 5 16 16)"
    )
    plan.add_argument("--audio-frames", type=int, metavar="N", help="of a clip (default: of the shards, or 106)")
    plan.add_argument("--audio-levels", type=int, metavar="K", help="where the config does not say (default 1)")
    plan.add_argument("--fast-dev-run", action="store_true", help="one forward and backward pass of every task as well")
    plan.add_argument("--json", action="store_true", help="print JSON in place of tables")
    plan.set_defaults(run=run_plan, passes_rest=True)


def run_plan(arguments: argparse.Namespace, rest: list[str]) -> None:
    from rich.console import Console

    from videopoet.planning.config import read_config
    from videopoet.planning.report import print_plan, print_steps

    a, console = arguments, Console(width=150, highlight=False)
    config = read_config(a.config, rest)
    plan, steps = make(config, a)
    if a.json:
        print(json.dumps(plan.to_json() | {"fast_dev_run": steps}, indent=2))
        return
    print_plan(plan, console)
    if steps:
        print_steps(steps, console)


def make(config: dict, a: argparse.Namespace):
    """The plan, and with --fast-dev-run what a step of every task took."""
    from functools import partial

    from videopoet.planning import plan as p
    from videopoet.planning.config import build_mixture, build_model, mixture_settings, places
    from videopoet.planning.report import dev_run

    machine = machine_of(a)
    if a.gpus < 1 or not 0 < a.utilisation <= 1:
        raise ValueError(f"--gpus {a.gpus} must be at least 1, --utilisation {a.utilisation} in (0, 1]")
    trainer = config.get("trainer", {})
    precision, accumulate = str(trainer.get("precision", "32-true")), trainer.get("accumulate_grad_batches", 1)
    model = build_model(config)
    mixture = build_mixture(config, model, a.lattice and tuple(a.lattice), a.audio_frames, a.audio_levels,
                            batches=a.gpus * accumulate)  # fmt: skip
    found = places(mixture)
    if not a.tokens and trainer.get("max_steps", -1) < 1:
        raise ValueError("the config has no trainer.max_steps: give --tokens")
    peak = machine.peak * (0.5 if precision.startswith("32") else 1)
    speed = a.gpus * peak * a.utilisation
    work = p.count_work(model, found, a.gpus * accumulate, trainer.get("max_steps"), a.tokens, speed)
    task = p.heaviest(found)
    number, strategies = strategies_of(trainer)
    rows = p.tabulate(partial(build_model, config), found[task], machine, a.gpus, precision, strategies, accumulate)
    recompute = model.transformer.recompute
    configured = next(r for r in rows if r.strategy == strategies[number] and r.recompute == recompute)
    plan = p.Plan(
        machine=machine, gpus=a.gpus, precision=precision, accumulate=accumulate, utilisation=a.utilisation,
        tokens_per_batch=mixture.tokens_per_step, parameters=p.count_parameters(model), lengths=mixture.lengths,
        measured_on=task, work=work, rows=rows, configured=configured,
        refused=refusal(mixture_settings(config), a.gpus, accumulate),
        advice=p.advise(rows, configured, mixture.tokens_per_step, max(mixture.lengths.values())),
    )  # fmt: skip
    return plan, dev_run(model, found, precision) if a.fast_dev_run else {}


def refusal(settings: dict, gpus: int, accumulation: int) -> str:
    """Why `videopoet fit` would not begin on so many GPUs: it cannot share a step out. Empty where it can."""
    from videopoet.data.steps import share_out

    try:
        share_out(settings.get("tokens_per_step"), settings.get("tokens_per_batch", 8192), "tokens", settings.get("parts"),
                  world_size=gpus, accumulation=accumulation)  # fmt: skip
    except ValueError as error:
        return str(error)
    return ""


def machine_of(a: argparse.Namespace):
    """The GPU the arguments name. Raises ValueError for a kind that is not known and not described."""
    from videopoet.planning.plan import MACHINES, Machine

    known = MACHINES.get(a.gpu.lower())
    if known is None and None in (a.memory, a.peak):
        raise ValueError(f"no numbers of '{a.gpu}': there are {', '.join(MACHINES)}; or give --memory and --peak")
    memory = known.memory if a.memory is None else a.memory * 1e9
    return Machine(name=a.gpu, peak=known.peak if a.peak is None else a.peak * 1e12, memory=memory)


def strategies_of(trainer: dict):
    """Number of the strategy that a trainer's settings name, and all of them, with buckets as it has them.

    Raises ValueError for one whose memory is not known.
    """
    from dataclasses import replace

    from videopoet.planning.memory import REDUCE_BUCKET, STRATEGIES

    said = trainer.get("strategy", "auto")
    said, options = (said.get("class_path", ""), said.get("init_args") or {}) if isinstance(said, dict) else (said, {})
    stage, offload = 0, False
    if "deepspeed" in said.lower():
        digits = [int(c) for c in said if c.isdigit()]  # Lightning's names: deepspeed_stage_3_offload
        stage = digits[0] if digits else options.get("stage", 2)
        offload = "offload" in said or bool(options.get("offload_optimizer"))
    elif said != "auto" and "ddp" not in said.lower():
        raise ValueError(f"no plan for trainer.strategy {said}: plans are of DDP and DeepSpeed")
    bucket, views = options.get("bucket_size", REDUCE_BUCKET), stage > 0 or options.get("gradient_as_bucket_view", False)
    number = next(i for i, s in enumerate(STRATEGIES) if (s.stage, s.offload) == (stage, offload and stage > 1))
    return number, [replace(s, bucket=bucket, views=views) for s in STRATEGIES]

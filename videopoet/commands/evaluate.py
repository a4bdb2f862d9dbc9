"""`videopoet evaluate bounce`: held-out scenes and an oracle."""

import argparse
import json
import time
from pathlib import Path

from videopoet.commands.sample import best_device, draw_of, sampling_arguments, token_bar


def add(commands) -> None:
    evaluate = commands.add_parser("evaluate", help="measure a model")
    bounce = evaluate.add_subparsers(title="protocols", metavar="PROTOCOL", required=True).add_parser(
        "bounce",
        help="accuracy of every attribute on held-out scenes of the built-in world",
        description="Sample held-out prompts and let the oracle read the answers; the ceiling is the oracle on the true "
        "clips after a round trip through the tokenizers.",
        epilog="example: videopoet evaluate bounce --task text-to-video --n 64 --out report.json",
    )
    bounce.add_argument(
        "--task", action="append", help="one task; may be repeated (default: all the model was trained on)"
    )
    bounce.add_argument("--n", type=int, default=64, help="held-out scenes per task (default 64)")
    bounce.add_argument("--model", type=Path, metavar="DIR", help="folder of a model (default: the shipped one)")
    bounce.add_argument("--out", type=Path, help="write the report as JSON")
    bounce.add_argument("--seed", type=int, default=0)
    sampling_arguments(bounce)
    bounce.set_defaults(run=run)


def run(namespace: argparse.Namespace) -> None:
    from rich.console import Console

    from videopoet.evaluation.bounce import table
    from videopoet.pipeline import SHIPPED, VideoPoet, check_task

    if namespace.out is not None and not namespace.out.parent.is_dir():
        raise ValueError(f"the folder of --out {namespace.out} does not exist: make it first")
    poet = VideoPoet.from_pretrained(namespace.model or SHIPPED).to(best_device())
    tasks = namespace.task or list(poet.tasks)
    for task in tasks:
        check_task(task, poet.tasks)
    reports = {task: trial(poet, task, namespace.n, namespace.seed, draw_of(namespace))[0] for task in tasks}
    Console(width=140).print(table(reports))
    if namespace.out is not None:
        namespace.out.write_text(json.dumps({key(task): report for task, report in reports.items()}, indent=2) + "\n")
        print(f"report in {namespace.out}")


def trial(poet, task: str, n: int, seed: int, draw) -> tuple[dict, list, list]:
    """One task with a progress bar; the report also says how long it took and how fast tokens came."""
    from videopoet.evaluation.bounce import evaluate

    tokens, start = 0, time.perf_counter()
    with token_bar(task) as show:

        def progress(count: int) -> None:
            nonlocal tokens
            tokens += count
            show(count)

        report, scenes, media = evaluate(poet, task, n, seed=seed, draw=draw, progress=progress)
    seconds = time.perf_counter() - start
    return report | {"seconds": seconds, "tokens": tokens, "tokens_per_second": tokens / seconds}, scenes, media


def key(task: str) -> str:
    """Name of a task in reports."""
    return task.replace("-", "_")

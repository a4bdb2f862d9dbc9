"""`videopoet evaluate PROTOCOL`: bounce (held-out scenes and an oracle), prefix (is an image the head of a video?), and the
published protocols."""

import argparse
import json
import time
from pathlib import Path

from videopoet.commands import evaluate_protocol
from videopoet.commands.drawing import draw_of, sampling_arguments
from videopoet.commands.progress import token_bar
from videopoet.commands.sample import load_model


def add(commands) -> None:
    evaluate = commands.add_parser("evaluate", help="measure a model, as published protocols do; compare reports")
    protocols = evaluate.add_subparsers(title="protocols", metavar="PROTOCOL", required=True, dest="protocol",
                                        action=evaluate_protocol.ByNameOrPath)  # fmt: skip
    add_bounce(protocols)
    add_prefix(protocols)
    evaluate_protocol.add(protocols)


def add_bounce(protocols) -> None:
    bounce = protocols.add_parser(
        "bounce",
        help="accuracy of every attribute on held-out scenes of the built-in world",
        description="Sample held-out prompts and let the oracle read the answers; the ceiling is the oracle on the true "
        "clips after a round trip through the tokenizers.",
        epilog="example: videopoet evaluate bounce --task text-to-video --n 64 --out report.json",
    )
    bounce.add_argument(
        "--task",
        action="append",
        help="one task; may be repeated (default: all the model was trained on that have a trial)",
    )
    bounce.add_argument("--n", type=int, default=64, help="held-out scenes per task (default 64)")
    bounce.add_argument(
        "--model", type=Path, metavar="DIR", help="folder of a model, or a checkpoint (default: shipped)"
    )
    bounce.add_argument("--out", type=Path, help="write the report as JSON")
    bounce.add_argument("--report", type=Path, metavar="JSON", help="write a report that `evaluate compare` reads")
    bounce.add_argument("--seed", type=int, default=0)
    sampling_arguments(bounce)
    bounce.set_defaults(run=run_bounce)


def add_prefix(protocols) -> None:
    prefix = protocols.add_parser(
        "prefix",
        help="whether text-to-image is the first frame of text-to-video: same tokens, same logits",
        description="Sample both tasks from one prompt and seed and compare every draw, its logits and the pixels. "
        "An error where they differ.",
        epilog='example: videopoet evaluate prefix --prompt "a small red circle falls on a plain dark background"',
    )
    prefix.add_argument("--prompt", required=True, help="what is to be seen and heard")
    prefix.add_argument(
        "--model", type=Path, metavar="DIR", help="folder of a model, or a checkpoint (default: shipped)"
    )
    prefix.add_argument("--seed", type=int, default=0)
    sampling_arguments(prefix)
    prefix.set_defaults(run=run_prefix)


def run_prefix(namespace: argparse.Namespace) -> None:
    from videopoet.evaluation.prefix import compare

    poet = load_model(namespace.model)
    report = compare(poet, namespace.prompt, seed=namespace.seed, draw=draw_of(namespace))
    print(f"draws that make the image: {report.draws}, the same in the video: {report.equal_draws}")
    print(f"largest difference of their logits: {report.logits_difference:.1e}")
    print(f"largest difference of image and first frame: {report.pixels_difference} of 255")
    if not report.holds:
        raise ValueError("text-to-image is not the first frame of text-to-video in this model")


def run_bounce(namespace: argparse.Namespace) -> None:
    from rich.console import Console

    from videopoet.evaluation.bounce import TRIALS, table
    from videopoet.pipeline import check_task

    for what, path in (("--out", namespace.out), ("--report", namespace.report)):
        evaluate_protocol.check_folder(what, path)
    poet = load_model(namespace.model)
    tasks = namespace.task or [task for task in poet.tasks if task in TRIALS]
    for task in tasks:
        check_task(task, poet.tasks)
    reports = {}
    for task in tasks:
        reports[task] = trial(poet, task, namespace.n, namespace.seed, draw_of(namespace))[0]
        if namespace.out is not None:  # after every task: what is measured is kept, whatever comes
            namespace.out.write_text(json.dumps({key(name): report for name, report in reports.items()}, indent=2) + "\n")
    Console(width=140).print(table(reports))
    if namespace.out is not None:
        print(f"report in {namespace.out}")
    if namespace.report is not None:
        from videopoet.evaluation.report_file import write_report
        from videopoet.evaluation.report_of_bounce import report_of_bounce
        from videopoet.pipeline import SHIPPED

        model, draw = namespace.model or SHIPPED, draw_of(namespace)
        how = {"draw": draw, "guidance": poet.guidance, "seed": namespace.seed}
        write_report(namespace.report, report_of_bounce(reports, model=model, **how))
        print(f"report in {namespace.report}")


def trial(poet, task: str, n: int, seed: int, draw) -> tuple[dict, list, list]:
    """One task with a progress bar; the report also says how long it took and how fast tokens came."""
    from videopoet.evaluation.bounce import evaluate

    tokens, start = 0, time.perf_counter()
    with token_bar(task, n * poet.num_tokens(task)) as show:

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

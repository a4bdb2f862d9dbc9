"""`videopoet demo`: everything the shipped model does, as files to look at."""

import argparse
import html
import json
import platform
import time
from importlib.metadata import version
from pathlib import Path

from videopoet.commands.evaluate import key, trial
from videopoet.commands.sample import load_model

SHOWN = 3  # clips written per task


def add(commands) -> None:
    demo = commands.add_parser(
        "demo",
        help="sample and measure every task of the shipped model; write videos, a report and a page",
        epilog="example: videopoet demo --out out/demo",
    )
    demo.add_argument("--out", type=Path, default=Path("out/demo"), metavar="DIR")
    demo.add_argument("--n", type=int, default=16, help="held-out scenes measured per task (default 16)")
    demo.add_argument("--model", type=Path, metavar="DIR", help="folder of a model, or a checkpoint (default: shipped)")
    demo.add_argument("--task", action="append", help="one task; may be repeated (default: all that have a trial)")
    demo.add_argument("--seed", type=int, default=0)
    demo.set_defaults(run=run)


def run(namespace: argparse.Namespace) -> None:
    from rich.console import Console

    from videopoet.evaluation.bounce import TRIALS, table
    from videopoet.pipeline import DEFAULT_DRAW, check_task

    if namespace.n < 1:
        raise ValueError(f"--n is {namespace.n}: at least 1 scene is needed")
    start, out = time.perf_counter(), namespace.out
    out.mkdir(parents=True, exist_ok=True)
    poet = load_model(namespace.model)
    reports, clips = {}, []
    tasks = namespace.task or [task for task in poet.tasks if task in TRIALS]
    for task in tasks:
        check_task(task, poet.tasks)
    for number, task in enumerate(tasks, 1):
        print(f"[{number}/{len(tasks)}] {task}: {namespace.n} held-out scenes", flush=True)
        reports[task], scenes, media = trial(poet, task, namespace.n, namespace.seed, DEFAULT_DRAW)
        clips += write_clips(out, task, scenes, media)
    contact_sheet(out / "contact_sheet.png", clips)
    report = {key(task): report for task, report in reports.items()}
    report |= {"seconds": time.perf_counter() - start, "versions": versions(), "model": facts(poet)}
    (out / "report.json").write_text(json.dumps(report, indent=2) + "\n")
    (out / "index.html").write_text(page(reports, clips), encoding="utf-8")
    Console(width=140).print(table(reports))
    print(f"{len(clips)} clips, contact_sheet.png and report.json in {out}, in {report['seconds']:.0f} s")
    print(f"next: open {out / 'index.html'} in a browser, or make your own:")
    print('  .venv/bin/videopoet sample text-to-video --prompt "a big blue square drifts to the left on a plain light '
          'background" --out mine.mp4')  # fmt: skip


def write_clips(out: Path, task: str, scenes: list, media: list) -> list[dict]:
    """The first clips of a task as files: mp4, or png for pictures."""
    from videopoet.commands.sample import write

    clips = []
    for i, (scene, made) in enumerate(list(zip(scenes, media))[:SHOWN]):
        name = f"{key(task)}_{i}{'.png' if len(made.video) == 1 else '.mp4'}"
        write(out / name, made)
        clips.append({"task": task, "file": name, "prompt": scene.captions()[0], "media": made})
    return clips


def contact_sheet(path: Path, clips: list[dict], scale: int = 2, columns: int = 9) -> None:
    """One row per clip: its frames in order, under its task and prompt."""
    import numpy as np
    from PIL import Image, ImageDraw

    side, line = clips[0]["media"].video.shape[1] * scale, 16
    sheet = Image.new("RGB", (columns * side, len(clips) * (side + line)), "white")
    for row, clip in enumerate(clips):
        video = clip["media"].video
        top = row * (side + line)
        ImageDraw.Draw(sheet).text((4, top + 2), f"{clip['task']}: {clip['prompt']}", fill="black")
        for column, i in enumerate(np.linspace(0, len(video) - 1, min(columns, len(video))).round().astype(int)):
            frame = Image.fromarray(video[i]).resize((side, side), Image.Resampling.NEAREST)
            sheet.paste(frame, (column * side, top + line))
    sheet.save(path)


def page(reports: dict[str, dict], clips: list[dict]) -> str:
    """A page of prompts beside playing videos, without scripts or anything from elsewhere."""
    from videopoet.evaluation.bounce import TRIALS

    rows = []
    for clip in clips:
        source = html.escape(clip["file"])
        if source.endswith(".png"):
            view = f'<img src="{source}" width="192" height="192" alt="">'
        else:
            view = f'<video src="{source}" width="192" height="192" controls autoplay muted loop playsinline></video>'
        given = TRIALS[clip["task"]].given
        said = html.escape(f"({given}) {clip['prompt']}" if given else clip["prompt"])
        rows.append(f"<tr><td>{view}</td><td>{clip['task']}</td><td>{said}</td></tr>")
    scores = "".join(
        f"<tr><td>{task}</td><td>{100 * r['attribute_accuracy']:.1f} %</td><td>{100 * r['ceiling']:.1f} %</td>"
        f"<td>{r['n']}</td></tr>"
        for task, r in reports.items()
    )
    return f"""<!doctype html>
<html lang="en"><meta charset="utf-8"><title>VideoPoet in the open</title>
<style>
body {{ font: 16px system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem }}
td, th {{ padding: .4rem 1rem; text-align: left }}
img, video {{ image-rendering: pixelated; display: block }}
</style>
<h1>VideoPoet in the open</h1>
<p>Made by the shipped model from scenes of combinations it never saw in training. Unmute a video to hear it.</p>
<table><tr><th>task</th><th>attributes right</th><th>tokenizers' ceiling</th><th>scenes</th></tr>{scores}</table>
<table><tr><th></th><th>task</th><th>given</th></tr>{"".join(rows)}</table>
</html>
"""


def versions() -> dict[str, str]:
    names = ("videopoet-open", "torch", "lightning", "transformers", "encodec", "av", "numpy")
    return {"python": platform.python_version()} | {name: version(name) for name in names}


def facts(poet) -> dict:
    """Which model it was."""
    parts = {"visual": poet.visual, "audio": poet.audio, "lm": poet.model}
    return {
        name: {"fingerprint": part.fingerprint, "parameters": sum(p.numel() for p in part.parameters())}
        for name, part in parts.items()
    }

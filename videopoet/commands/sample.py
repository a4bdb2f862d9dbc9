"""`videopoet sample TASK`: one sub-command per task with that task's own arguments. `tools/sample_*.py` call `script`."""

import argparse
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from videopoet.commands.safely import run_safely

PROMPT = "a small red circle falls and rebounds on a plain dark background"


@dataclass(frozen=True, kw_only=True)
class Command:
    """The command line of one task: which of prompt, image and video it takes."""

    task: str
    help: str
    prompt: bool = False
    image: bool = False
    video: bool = False
    suffix: str = ".mp4"

    def example(self) -> str:
        given = (
            [f'--prompt "{PROMPT}"'] * self.prompt
            + ["--image first.png"] * self.image
            + ["--video in.mp4"] * self.video
        )
        return f"example: videopoet sample {self.task} {' '.join(given)} --out x{self.suffix}"


COMMANDS = (
    Command(task="text-to-video", help="a sentence -> a video with sound", prompt=True),
    Command(
        task="text-to-image",
        help="a sentence -> a picture, the first frame of text-to-video",
        prompt=True,
        suffix=".png",
    ),
    Command(task="image-to-video", help="a picture and a sentence -> a video with sound", prompt=True, image=True),
    Command(task="frame-prediction", help="a video -> the same video and the frames that follow", video=True),
    Command(task="video-to-audio", help="a video -> its first clip (17 frames) with sound", video=True),
)


def add(commands) -> None:
    sample = commands.add_parser("sample", help="make a video, picture or sound")
    tasks = sample.add_subparsers(title="tasks", metavar="TASK", required=True)
    for command in COMMANDS:
        names = {"aliases": ["continuation"]} if command.task == "frame-prediction" else {}
        parser = tasks.add_parser(
            command.task, help=command.help, description=command.help, epilog=command.example(), **names
        )
        arguments(parser, command)


def arguments(parser: argparse.ArgumentParser, command: Command) -> None:
    """The arguments of one task, and what runs it."""
    if command.prompt:
        parser.add_argument("--prompt", required=not command.image, default="", help="what is to be seen and heard")
        parser.add_argument("--negative-prompt", default="", metavar="TEXT", help="what guidance leads away from")
    if command.image:
        parser.add_argument("--image", required=True, help="picture file: the first frame")
    if command.video:
        parser.add_argument("--video", required=True, help="video file")
    parser.add_argument("--out", type=Path, required=True, help=f"file to write, {command.suffix}")
    parser.add_argument("--model", type=Path, metavar="DIR", help="folder of a model (default: the shipped one)")
    parser.add_argument("--seed", type=int, default=0, help="same seed, same result (default 0)")
    sampling_arguments(parser)
    parser.set_defaults(run=lambda namespace: run(namespace, command))


def sampling_arguments(parser: argparse.ArgumentParser) -> None:
    """How tokens are drawn. A value may change over the sample: 1.1:0.8 goes straight from the first to the second."""
    add = parser.add_argument_group("drawing tokens (A:B changes from A to B over the sample)").add_argument
    add("--temperature", type=value, metavar="T", help="above 1 more varied, below 1 safer")
    add("--top-k", type=value, metavar="K", help="draw from the k likeliest tokens only")
    add("--top-p", type=value, metavar="P", help="draw from the likeliest tokens that make up this probability")
    add("--guidance", type=value, metavar="S", help="how strongly the prompt is followed; 1 is none")
    add(
        "--visual-guidance",
        type=value,
        metavar="S",
        help="how strongly a given picture or video is followed; 1 is none",
    )
    add("--audio-guidance", type=value, metavar="S", help="how strongly a given sound is followed; 1 is none")


def value(text: str):
    """A number, or A:B."""
    from videopoet.sampling.schedules import Linear

    try:
        start, *end = (float(part) for part in text.split(":"))
    except ValueError:
        raise argparse.ArgumentTypeError(f"'{text}' is neither a number nor two as in 1.1:0.8") from None
    if len(end) > 1:
        raise argparse.ArgumentTypeError(f"'{text}' has {len(end) + 1} numbers: give one, or two as in 1.1:0.8")
    return Linear(start=start, end=end[0]) if end else start


def draw_of(namespace: argparse.Namespace):
    """The `Draw` the arguments describe; what is not named stays as the default."""
    from videopoet.pipeline import DEFAULT_DRAW
    from videopoet.sampling.rules import Draw, Temperature, TopK, TopP

    a = namespace
    filters = (Temperature(value=a.temperature),) if a.temperature is not None else DEFAULT_DRAW.filters
    filters += (TopK(k=a.top_k),) if a.top_k is not None else ()
    filters += (TopP(p=a.top_p),) if a.top_p is not None else ()
    scales = {"text": a.guidance, "visual": a.visual_guidance, "audio": a.audio_guidance}
    named = {condition: scale for condition, scale in scales.items() if scale is not None}
    return Draw(filters=filters, guidance=replace(DEFAULT_DRAW.guidance, **named))


def run(namespace: argparse.Namespace, command: Command) -> None:
    """Read what is given, generate, write the file."""
    from videopoet.pipeline import SHIPPED, VideoPoet, check_task
    from videopoet.sampling.request import Request

    check_out(namespace.out, command)
    draw = draw_of(namespace)
    poet = VideoPoet.from_pretrained(namespace.model or SHIPPED).to(best_device())
    check_task(command.task, poet.tasks)
    request = Request(
        prompt=getattr(namespace, "prompt", ""),
        negative_prompt=getattr(namespace, "negative_prompt", ""),
        image=poet.read_image(namespace.image) if command.image else None,
        video=poet.read_video(namespace.video) if command.video else None,
    )
    with token_bar(command.task) as progress:
        media = poet.generate(command.task, [request], draw=draw, seed=namespace.seed, progress=progress)[0]
    write(namespace.out, media)
    count = "1 frame" if len(media.video) == 1 else f"{len(media.video)} frames"
    print(f"{namespace.out}: {count} of {media.video.shape[2]} x {media.video.shape[1]}", end="")
    print(f", {media.audio.shape[-1] / media.sample_rate:.2f} s of sound" if media.audio is not None else "")


def check_out(out: Path, command: Command) -> None:
    """Before any work: raises ValueError where the file could not be written."""
    if out.suffix.lower() != command.suffix:
        raise ValueError(f"{command.task} writes {command.suffix} files, --out is {out}")
    if not out.parent.is_dir():
        raise ValueError(f"the folder of --out {out} does not exist: make it first")


def write(path: Path, media) -> None:
    """A picture as png, anything else as mp4; whole or not at all."""
    from PIL import Image

    from videopoet.data.files import whole_or_nothing
    from videopoet.data.media import write_media

    if path.suffix.lower() != ".png":
        return write_media(path, media)
    with whole_or_nothing(path) as part:
        Image.fromarray(media.video[0]).save(part, "PNG")


def best_device() -> str:
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


class token_bar:
    """A progress bar in tokens with tokens per second; the block receives what `VideoPoet.generate` calls `progress`."""

    def __init__(self, description: str):
        from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

        rate = TextColumn("{task.completed:.0f} tokens, {task.fields[rate]:.0f}/s")
        self.bar = Progress(TextColumn("{task.description}"), BarColumn(), rate, TimeElapsedColumn(), transient=True)
        self.task = self.bar.add_task(description, total=None, rate=0.0)

    def __enter__(self) -> Callable[[int], None]:
        self.bar.start()
        return self.advance

    def advance(self, tokens: int) -> None:
        task = self.bar.tasks[self.task]
        self.bar.update(self.task, advance=tokens, rate=(task.completed + tokens) / max(task.elapsed or 0.0, 1e-3))

    def __exit__(self, *exception) -> None:
        self.bar.stop()


def script(task: str) -> None:
    """The command line of `tools/sample_<task>.py`: the same function as `videopoet sample <task>`."""
    command = next(c for c in COMMANDS if c.task == task)
    example = command.example().replace(f"videopoet sample {task}", f"python tools/sample_{task.replace('-', '_')}.py")
    parser = argparse.ArgumentParser(description=command.help, epilog=example)
    arguments(parser, command)
    run_safely(parser.parse_args(), [])

"""`videopoet sample TASK`: one sub-command per task with that task's own arguments. `tools/sample_*.py` call `script`."""

import argparse
from dataclasses import dataclass
from pathlib import Path

from videopoet.commands import long_video
from videopoet.commands.drawing import draw_of, ranking_arguments, ranking_of, sampling_arguments
from videopoet.commands.progress import token_bar
from videopoet.commands.safely import run_safely

PROMPT = "a small red circle falls and rebounds on a plain dark background"


@dataclass(frozen=True, kw_only=True)
class Command:
    """The command line of one task: which of prompt, image, video and sound it takes.

    names_class: the prompt is the name of a class, no sentence to rank candidates by.
    hears: the sound of the video is read too.
    """

    task: str
    help: str
    prompt: bool = False
    image: bool = False
    video: bool = False
    audio: bool = False
    names_class: bool = False
    hears: bool = False
    suffix: str = ".mp4"

    def example(self) -> str:
        given = (
            ["--prompt bounce" if self.names_class else f'--prompt "{PROMPT}"'] * self.prompt
            + ["--image first.png"] * self.image
            + ["--video in.mp4"] * self.video
            + ["--audio in.wav"] * self.audio
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
    Command(task="unconditional", help="nothing -> a video with sound"),
    Command(task="frame-interpolation", help="a video's first and last frame -> the frames between them", video=True),
    Command(task="inpainting-central", help="a video, its middle hidden -> the whole picture", video=True),
    Command(task="inpainting-dynamic", help="a video, a moving rectangle hidden -> the whole picture", video=True),
    Command(task="outpainting-central", help="the middle of a video -> the whole picture", video=True),
    Command(task="outpainting-vertical", help="the middle columns of a video -> the whole picture", video=True),
    Command(task="outpainting-horizontal", help="the middle rows of a video -> the whole picture", video=True),
    Command(task="outpainting-dynamic", help="a moving strip of a video -> the whole picture", video=True),
    Command(task="stylization", help="a video's motion and depth and a sentence -> a video", prompt=True, video=True),
    Command(
        task="stylization-of-image",
        help="a video's motion and depth, a first frame and a sentence -> a video",
        prompt=True,
        image=True,
        video=True,
    ),
    Command(task="audio-to-video", help="a sound -> a video to it", audio=True),
    Command(task="audio-to-image", help="a sound -> a picture of what makes it", audio=True, suffix=".png"),
    Command(
        task="audio-visual-continuation",
        help="a video's last frame and its sound -> both go on",
        video=True,
        hears=True,
    ),
    Command(task="class-to-video", help="the name of a class -> a video", prompt=True, names_class=True),
    Command(
        task="class-frame-prediction",
        help="a video and the name of its class -> the video and the frames that follow",
        prompt=True,
        names_class=True,
        video=True,
    ),
    Command(task="denoise-r", help="a video, short runs of its tokens hidden -> the video (UL2's R)", video=True),
    Command(task="denoise-s", help="a video, the end of its tokens hidden -> the video (UL2's S)", video=True),
    Command(task="denoise-x", help="a video, long runs of its tokens hidden -> the video (UL2's X)", video=True),
    Command(task="denoise-frames", help="a video, some latent frames hidden -> the video", video=True),
    Command(task="denoise-blocks", help="a video, some blocks of its tokens hidden -> the video", video=True),
    Command(task="denoise-audio", help="a sound, runs of its tokens hidden -> the sound", audio=True),
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
    long_video.add(tasks)


def arguments(parser: argparse.ArgumentParser, command: Command) -> None:
    """The arguments of one task, and what runs it."""
    given_arguments(parser, command)
    parser.add_argument("--out", type=Path, required=True, help=f"file to write, {command.suffix}")
    parser.add_argument(
        "--model", type=Path, metavar="DIR", help="folder of a model, or a checkpoint (default: shipped)"
    )
    parser.set_defaults(run=lambda namespace: run(namespace, command))


def given_arguments(parser: argparse.ArgumentParser, command: Command, *, needed: bool = True) -> None:
    """What one task is given, and how it draws. needed: whether its files must be named, or may come from elsewhere."""
    if command.prompt:
        parser.add_argument("--prompt", required=not command.image, default="", help="what is to be seen and heard")
        parser.add_argument("--negative-prompt", default="", metavar="TEXT", help="what guidance leads away from")
    if command.image:
        parser.add_argument("--image", required=needed, help="picture file: the first frame")
    if command.video:
        parser.add_argument("--video", required=needed, help="video file")
    if command.audio:
        parser.add_argument("--audio", required=needed, help="file with sound: wav, mp3, mp4, ...")
    parser.add_argument("--seed", type=int, default=0, help="same seed, same result (default 0)")
    if command.prompt and not command.names_class:
        ranking_arguments(parser)
    sampling_arguments(parser, text=command.prompt, visual=command.image or command.video,
                       audio=command.audio or command.hears)  # fmt: skip


def run(namespace: argparse.Namespace, command: Command) -> None:
    """Read what is given, generate, write the file."""
    check_out(namespace.out, command.suffix, command.task)
    how = how_of(namespace)
    poet = load_model(namespace.model)
    request = request_of(namespace, poet)
    candidates = how.get("num_candidates", 1)
    with token_bar(command.task, candidates * poet.num_tokens(command.task, [request])) as progress:
        media = poet.generate(command.task, [request], **how, progress=progress)[0]
    write(namespace.out, media)
    print(f"{namespace.out}: {', '.join(contents(media))}")


def contents(media) -> list[str]:
    """What is in a media, in words."""
    said = []
    if media.video is not None:
        t, h, w, _ = media.video.shape
        said.append(f"{t} frame{'s' * (t > 1)} of {w} x {h}")
    if media.audio is not None:
        said.append(f"{media.audio.shape[-1] / media.sample_rate:.2f} s of sound")
    return said


def load_model(folder: Path | None):
    """The model in a folder, or the shipped one, on the best device."""
    from videopoet.pipeline import SHIPPED, VideoPoet

    return VideoPoet.from_pretrained(folder or SHIPPED).to(best_device())


def request_of(namespace: argparse.Namespace, poet):
    """The request that the arguments make; what they do not name stays empty."""
    from videopoet.sampling.request import Request

    readers = {"image": poet.read_image, "video": poet.read_video, "audio": poet.read_audio}
    paths = {name: getattr(namespace, name, None) for name in readers}
    files = {name: readers[name](path) for name, path in paths.items() if path is not None}
    texts = {name: getattr(namespace, name, "") for name in ("prompt", "negative_prompt")}
    return Request(**texts, **files)


def how_of(namespace: argparse.Namespace) -> dict:
    """How `VideoPoet.generate` draws and ranks, and from which seed."""
    return {"draw": draw_of(namespace), "seed": namespace.seed, **ranking_of(namespace)}


def check_out(out: Path, suffix: str, task: str) -> None:
    """Before any work: raises ValueError where the file could not be written."""
    if out.suffix.lower() != suffix:
        raise ValueError(f"{task} writes {suffix} files, --out is {out}")
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


def script(task: str) -> None:
    """The command line of `tools/sample_<task>.py`: the same function as `videopoet sample <task>`."""
    command = next(c for c in COMMANDS if c.task == task)
    example = command.example().replace(f"videopoet sample {task}", f"python tools/sample_{task.replace('-', '_')}.py")
    parser = argparse.ArgumentParser(description=command.help, epilog=example)
    arguments(parser, command)
    run_safely(parser.parse_args(), [])

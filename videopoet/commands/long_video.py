"""`videopoet sample long-video`: any length, prompts that change on the way, written to the file as it is made."""

import argparse
from pathlib import Path

from videopoet.commands.drawing import draw_of, ranking_arguments, ranking_of, sampling_arguments
from videopoet.commands.progress import token_bar
from videopoet.commands.safely import run_safely

HELP = "one or more sentences -> a video with sound of any length, whose prompt changes on the way"
EXAMPLE = (
    'videopoet sample long-video --prompt "a small red circle bounces off the walls on a plain dark background" '
    '--prompt "a small red circle stands still on a plain dark background" --seconds 20 --out long.mp4'
)


def add(tasks) -> None:
    """Beside the other tasks of `videopoet sample`."""
    arguments(tasks.add_parser("long-video", help=HELP, description=HELP, epilog=f"example: {EXAMPLE}"))


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--prompt", action="append", default=[], help="what is to be seen and heard; again for each scene that follows"
    )
    start = parser.add_mutually_exclusive_group()
    start.add_argument("--image", help="picture file to begin with")
    start.add_argument("--video", help="video file to go on from; it is the head of the result")
    parser.add_argument("--seconds", type=float, default=20.0, help="length of the whole (default 20)")
    parser.add_argument(
        "--refresh", type=float, metavar="SECONDS",
        help="begin the prompt again from the last frame so often, against drift (default: it begins once)",
    )  # fmt: skip
    parser.add_argument("--silent", action="store_true", help="no sound")
    parser.add_argument("--out", type=Path, required=True, help="file to write, .mp4")
    parser.add_argument(
        "--model", type=Path, metavar="DIR", help="folder of a model, or a checkpoint (default: shipped)"
    )
    parser.add_argument("--seed", type=int, default=0, help="same seed, same result (default 0)")
    ranking_arguments(parser)
    sampling_arguments(parser)
    parser.set_defaults(run=run)


def run(namespace: argparse.Namespace) -> None:
    """Make the video and write every piece as it comes."""
    from videopoet.commands.sample import check_out, load_model
    from videopoet.data.media import Media, write_chunks
    from videopoet.long_video import num_tokens, plan, stream

    check_out(namespace.out, ".mp4", "a long video")
    draw, ranking = draw_of(namespace), ranking_of(namespace)
    poet = load_model(namespace.model)
    start = None
    if namespace.image is not None:
        start = Media(video=poet.read_image(namespace.image)[None], fps=poet.geometry.fps)
    elif namespace.video is not None:
        start = poet.read_video(namespace.video)
    given = 0 if start is None else len(start.video)
    fps, refresh = poet.geometry.fps, namespace.refresh
    steps = plan(poet, namespace.prompt, round(namespace.seconds * fps) - given, started=given > 0,
                 refresh=None if refresh is None else round(refresh * fps))  # fmt: skip
    sound = not namespace.silent
    silent = given if start is not None and start.audio is None else 0
    total = num_tokens(poet, steps, started=silent, sound=sound, num_candidates=namespace.candidates)
    frames = samples = 0
    with token_bar(f"{len(steps)} steps", total) as progress:

        def counted(chunks):
            nonlocal frames, samples
            for chunk in chunks:
                frames += len(chunk.video)
                samples += 0 if chunk.audio is None else chunk.audio.shape[1]
                yield chunk

        write_chunks(namespace.out, counted(stream(
            poet, namespace.prompt, namespace.seconds, start=start, sound=sound, refresh=refresh,
            seed=namespace.seed, draw=draw, ranking=ranking, progress=progress,
        )))  # fmt: skip
    heard = f", {samples / poet.geometry.sample_rate:.2f} s of sound" if samples else ""
    print(f"{namespace.out}: {frames} frames, {frames / fps:.2f} s, in {len(steps)} steps{heard}")


def script() -> None:
    """The command line of `tools/sample_long_video.py`."""
    example = EXAMPLE.replace("videopoet sample long-video", "python tools/sample_long_video.py")
    parser = argparse.ArgumentParser(description=HELP, epilog=f"example: {example}")
    arguments(parser)
    run_safely(parser.parse_args(), [])

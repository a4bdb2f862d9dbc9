"""A long video through `videopoet tokenizer encode` and `decode`: memory after the first minute and at the end.

    python tools/benchmark_long_video.py                     # an hour: 28,800 frames of 64 x 64 pixels at 8 fps
    python tools/benchmark_long_video.py --minutes 5 --tokenizer my/visual.safetensors --out out/long.json

The video is scenes of the built-in world, one after the other. Each direction runs in a process of its own, from file to
file; printed are the peak of its resident memory (Linux) once the first minute is through and at the end, CPU seconds, and
frames per CPU second with the time to start left out. What grows by more than a few MiB between the two holds on to frames:
an hour as floats is 1.4 GB. Measured with the shipped tokenizer on a busy Xeon with AMX, one thread: encode 306 MiB after the
first minute, 310 at the end, 219 frames per CPU second; decode 382, 386 and 179.
"""

import argparse
import json
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

from benchmark_tokenizer import memory

FPS, SIDE, SCENE_FRAMES = 8, 64, 40


def scenes(frames: int) -> Iterator:
    """uint8 (t, h, w, 3) in chunks of a scene, `frames` in all."""
    from videopoet.data.bounce import Scene

    for start in range(0, frames, SCENE_FRAMES):
        yield Scene.sample(start // SCENE_FRAMES).render(min(SCENE_FRAMES, frames - start), FPS, SIDE)


def write(frames: int, video: str) -> dict:
    from videopoet.data.media import Media, write_chunks

    def chunks(progress) -> Iterator[Media]:
        return (Media(video=part, fps=FPS) for part in _counted(scenes(frames), progress))

    return measured(frames, lambda progress: write_chunks(video, chunks(progress)))


def encode(frames: int, video: str, tokens: str, tokenizer: str) -> dict:
    from videopoet.commands.tokenizer import load
    from videopoet.token_file import encode_video

    model = load(Path(tokenizer))
    return measured(frames, lambda progress: encode_video(video, tokens, model, progress=progress))


def decode(frames: int, tokens: str, video: str, tokenizer: str) -> dict:
    from videopoet.commands.tokenizer import load
    from videopoet.token_file import decode_video

    model = load(Path(tokenizer))
    return measured(frames, lambda progress: decode_video(tokens, video, model, progress=progress))


def measured(frames: int, run) -> dict:
    """Runs `run(progress)` and reads this process's peak memory when the first minute's frames are done, and at the end."""
    seen, first_minute, start = 0, None, time.process_time()

    def progress(count: int) -> None:
        nonlocal seen, first_minute
        seen += count
        if first_minute is None and seen >= min(60 * FPS, frames):
            first_minute = memory("VmHWM")

    run(progress)
    cpu = time.process_time() - start
    if seen != frames:
        raise ValueError(f"{seen} of {frames} frames came through: see `videopoet tokenizer inspect`")
    return {"frames": seen, "first_minute_mib": first_minute, "end_mib": memory("VmHWM"), "cpu_s": cpu,
            "frames_per_cpu_s": seen / cpu}  # fmt: skip


def _counted(chunks: Iterator, progress) -> Iterator:
    for chunk in chunks:
        yield chunk
        progress(len(chunk))


def alone(threads: int, function, *arguments) -> dict:
    """The result of a function in a fresh process."""
    with ProcessPoolExecutor(1, get_context("spawn"), initializer=_set_threads, initargs=(threads,)) as pool:
        return pool.submit(function, *arguments).result()


def _set_threads(threads: int) -> None:
    import torch

    torch.set_num_threads(threads)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=60.0, help="of video (default 60)")
    shipped = Path(__file__).resolve().parents[1] / "videopoet" / "shipped" / "visual.safetensors"
    parser.add_argument("--tokenizer", default=str(shipped), help="visual tokenizer (default: the shipped one)")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, help="write the numbers as JSON")
    options = parser.parse_args()
    frames, results = max(1, round(60 * FPS * options.minutes)), {}
    print(f"{frames} frames of {SIDE} x {SIDE} pixels, {options.threads} thread(s)")
    print(f"{'':8}{'MiB, 1st minute':>17}{'MiB, end':>10}{'CPU s':>9}{'frames/CPU s':>14}", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        video, tokens, back = (f"{folder}/{name}" for name in ("long.mp4", "long.vpt", "back.mp4"))
        for name, function, arguments in (
            ("write", write, (video,)),
            ("encode", encode, (video, tokens, options.tokenizer)),
            ("decode", decode, (tokens, back, options.tokenizer)),
        ):
            row = results[name] = alone(options.threads, function, frames, *arguments)
            print(f"{name:8}{row['first_minute_mib']:17.0f}{row['end_mib']:10.0f}{row['cpu_s']:9.1f}"
                  f"{row['frames_per_cpu_s']:14.1f}", flush=True)  # fmt: skip
        sizes = {name: Path(path).stat().st_size for name, path in (("mp4", video), ("vpt", tokens))}
    print(f"{sizes['mp4'] / 1e6:.2f} MB of mp4, {sizes['vpt'] / 1e6:.2f} MB of tokens")
    if options.out:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        options.out.write_text(json.dumps(results | {"bytes": sizes}, indent=1) + "\n")


if __name__ == "__main__":
    main()

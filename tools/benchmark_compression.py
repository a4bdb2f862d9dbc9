"""A tokenizer beside HEVC, VVC and AV1: bits per pixel against PSNR, SSIM, MS-SSIM and, with weights, learned distances.

    pip install imageio-ffmpeg matplotlib        # the encoders; the plot (optional)
    python tools/benchmark_compression.py out/natural/test --size 640x360 --out out/compression
    python tools/benchmark_compression.py clip.mp4 --quick

Every video gives its first --frames frames, at its own frame rate. Each codec codes them at several qualities; the
tokenizer has one rate, counted twice: its codes packed, and entropy-coded as in token files. What is counted and how
the encoders are set is written in `videopoet/evaluation/codecs.py`. Results lie in --out: `points.jsonl` (every clip,
codec and quality, frame by frame; a second run takes from there what it has), `report.json`, `table.md`, `curves.png`.

A learned distance is measured where its weights are: --perceptual FILE.yaml, a class of
`videopoet.tokenizers.visual.perceptual` by class_path, for example

    class_path: videopoet.tokenizers.visual.perceptual.LPIPS
    init_args:
      weight: 1.0
      network: {class_path: videopoet.tokenizers.visual.pretrained.AlexNet, init_args: {weights: alexnet.pth}}
"""

import argparse
import hashlib
import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import yaml

from videopoet import component
from videopoet.commands.safely import run_safely
from videopoet.commands.sample import best_device
from videopoet.data.cutters import MEDIA_SUFFIXES
from videopoet.data.inputs import media_files
from videopoet.data.media import read_image, stream_media
from videopoet.data.progress import bar
from videopoet.data.transforms import ResizeCrop
from videopoet.evaluation.codecs import ENCODERS, PIXEL_FORMATS, Coded, Ffmpeg, code_by_tokenizer, find_ffmpeg
from videopoet.evaluation.rate_distortion import Point, at_rate, bd_rate, curves, plot, point
from videopoet.evaluation.reconstruction import Metric, compare, learned_distance, mean_score, standard_metrics
from videopoet.evaluation.report import command, machine, markdown
from videopoet.pipeline import SHIPPED
from videopoet.tokenizers.visual.autoencoder import VideoTokenizer
from videopoet.tokenizers.visual.perceptual import Perceptual

STANDARD = ("x265", "vvenc", "svtav1")
QUICK_SIDE = 176  # pixels: the least with all five scales of MS-SSIM


@dataclass(frozen=True, kw_only=True)
class Clip:
    """The frames that are coded."""

    name: str
    video: np.ndarray  # uint8 t h w 3
    fps: float

    @property
    def digest(self) -> str:
        head = f"{self.video.shape} {self.fps:.6f} ".encode()
        return hashlib.sha256(head + self.video.tobytes()).hexdigest()


class Study:
    """The points of all clips, as they come in; those of an earlier run in the same folder are taken from there."""

    def __init__(self, out: Path, metrics: list[Metric]):
        self.metrics = metrics
        self.points: list[Point] = []
        self.failures: list[str] = []
        self._file = out / "points.jsonl"
        lines = self._file.read_text().splitlines() if self._file.is_file() else []
        self._known = {entry["key"]: Point.from_json(entry["point"]) for entry in map(_entry, lines) if entry}

    def add(self, clip: Clip, codec: str, quality: str, settings: str, code) -> None:
        """Code, measure and keep one point, unless it is known; a refusal is kept as a failure."""
        measured = [getattr(metric, "name", repr(metric)) for metric in self.metrics]
        key = hashlib.sha256(json.dumps([clip.digest, codec, quality, settings, measured]).encode()).hexdigest()
        if key not in self._known:
            try:
                coded: Coded = code()
            except ValueError as error:
                self.failures.append(f"{codec}, {quality}, {clip.name}: {error}")
                return
            found = point(codec, quality, clip.name, clip.video, coded, compare(clip.video, coded.video, self.metrics))
            with self._file.open("a") as file:
                file.write(json.dumps({"key": key, "point": found.to_json()}, allow_nan=False) + "\n")
            self._known[key] = found
        self.points.append(self._known[key])


def _entry(line: str) -> dict | None:
    try:
        return json.loads(line)
    except ValueError:  # the last line of a run that was cut off
        return None


def read_clips(paths: list[Path], a: argparse.Namespace) -> Iterator[Clip]:
    """The first frames of every video file, folders searched; ValueError for a file that cannot be read."""
    files = [path / name for path in paths if path.is_dir() for name in media_files(path, MEDIA_SUFFIXES)]
    files += [path for path in paths if not path.is_dir()]
    names = [path.name for path in files]
    for path in files[: a.clips]:
        chunks = stream_media(path, fps=None, audio=False, resize=_resize(path, a), chunk_frames=a.frames or None)
        media = next(chunks)
        name = path.name if names.count(path.name) == 1 else path.as_posix()
        yield Clip(name=name, video=media.video, fps=media.fps)


def _resize(path: Path, a: argparse.Namespace) -> ResizeCrop | None:
    if a.size:
        return ResizeCrop(height=a.size[1], width=a.size[0])
    if not a.short_side:
        return None
    height, width = read_image(path).shape[:2]
    scale = min(1.0, a.short_side / min(height, width))
    return ResizeCrop(height=round(height * scale), width=round(width * scale))


def run(a: argparse.Namespace) -> None:
    """The whole study; prints the tables and says where the files are."""
    ffmpeg = Ffmpeg(path=a.ffmpeg or find_ffmpeg(), chroma=a.chroma, quick=a.quick, timeout=a.timeout)
    libraries = ffmpeg.libraries()
    if a.list_encoders:
        for name, encoder in ENCODERS.items():
            print(f"{name:8} {encoder.name:16} {'here' if encoder.library in libraries else 'not in this ffmpeg'}")
        return
    if not a.video:
        raise ValueError("name at least one video file or folder, or --list-encoders")
    encoders = {name: ENCODERS[name] for name in a.encoder or STANDARD}
    tokenizers = dict(_tokenizer(text) for text in a.tokenizer or [str(SHIPPED / "visual.safetensors")])
    learned = [] if a.perceptual is None else [_learned(a.perceptual)]
    a.out.mkdir(parents=True, exist_ok=True)
    clips, ceilings = list(read_clips(a.video, a)), []
    height, width = (min(clip.video.shape[axis] for clip in clips) for axis in (1, 2))
    study = Study(a.out, [*standard_metrics(height, width), *learned])  # what the smallest has: one curve, one metric
    steps = sum(len(_qualities(encoder.qualities, a)) for encoder in encoders.values()) + len(tokenizers)
    with bar("codings", steps * len(clips)) as advance:
        for clip in clips:
            ceilings.append(compare(clip.video, ffmpeg.ceiling(clip.video), study.metrics))
            for tokenizer_name, tokenizer in tokenizers.items():
                _add_tokenizer(study, clip, tokenizer_name, tokenizer)
                advance(1)
            for encoder in encoders.values():
                for quality in _qualities(encoder.qualities, a):
                    settings = (
                        f"{ffmpeg.version} {ffmpeg.chroma} {encoder.arguments} {encoder.quick if a.quick else ''}"
                    )
                    study.add(clip, encoder.name, f"q {quality}", settings,
                              lambda c=clip, e=encoder, q=quality: ffmpeg.code(c.video, c.fps, e, q))  # fmt: skip
                    advance(1)
    _report(a, study, clips, ceilings, ffmpeg, list(tokenizers))


def _qualities(qualities: tuple[int, ...], a: argparse.Namespace) -> tuple[int, ...]:
    return qualities[1::2] if a.quick else qualities


def _tokenizer(text: str) -> tuple[str, VideoTokenizer]:
    name, _, path = text.rpartition("=")
    return name or f"tokenizer {Path(path).stem}", component.load(path, VideoTokenizer).to(best_device())


def _learned(path: Path) -> Metric:
    perceptual = component.instantiate(yaml.safe_load(path.read_text()))
    if not isinstance(perceptual, Perceptual):
        raise ValueError(f"{path} names a {type(perceptual).__name__}, expected a class of visual.perceptual")
    return learned_distance(perceptual)


def _add_tokenizer(study: Study, clip: Clip, name: str, tokenizer: VideoTokenizer) -> None:
    made: dict[str, Coded] = {}

    def code(coder: str) -> Coded:
        made.update(made or code_by_tokenizer(clip.video, tokenizer))
        return made[coder]

    for coder in ("packed", "adaptive"):
        label = name if coder == "packed" else f"{name}, entropy-coded"
        study.add(clip, label, "its codes", f"{tokenizer.fingerprint} {coder}", lambda c=coder: code(c))


def _report(
    a: argparse.Namespace, study: Study, clips: list[Clip], ceilings: list, ffmpeg: Ffmpeg, names: list[str]
) -> None:
    found = curves(study.points, [clip.name for clip in clips])
    ceiling = {name: mean_score([scores[name] for scores in ceilings]).overall for name in ceilings[0]}
    text = tables(found, ceiling, names)
    shapes = sorted({f"{c.video.shape[2]}x{c.video.shape[1]}, {len(c.video)} frames, {c.fps:g} fps" for c in clips})
    header = [f"{len(clips)} clips: {'; '.join(shapes[:4])}{' ...' if len(shapes) > 4 else ''}",
              f"`{command()}`", machine(), f"{ffmpeg.version}, {PIXEL_FORMATS[ffmpeg.chroma]}",
              *(["--quick: fast presets, for trying out; not to be quoted"] if a.quick else [])]  # fmt: skip
    page = "\n\n".join([*header, text, *(f"failed: {failure}" for failure in study.failures)])
    (a.out / "table.md").write_text(page + "\n")
    content = {"command": command(), "machine": machine(), "ffmpeg": ffmpeg.version, "chroma": ffmpeg.chroma,
               "quick": a.quick, "clips": {c.name: [*c.video.shape[:3], c.fps] for c in clips},
               "ceiling": {name: value if math.isfinite(value) else str(value) for name, value in ceiling.items()},
               "curves": {codec: [p.to_json() for p in line] for codec, line in found.items()},
               "failures": study.failures}  # fmt: skip
    (a.out / "report.json").write_text(json.dumps(content, indent=1, allow_nan=False) + "\n")
    drawn = plot(found, a.out / "curves.png", title=f"{len(clips)} clips", ceiling=ceiling)
    print(f"{page}\n\nin {a.out}: table.md, report.json, points.jsonl" + (
        ", curves.png" if drawn else "; no plot: pip install matplotlib"))  # fmt: skip


def tables(found: dict[str, list[Point]], ceiling: dict[str, float], tokenizers: list[str]) -> str:
    """Every point; every codec at the tokenizers' rates; and what each codec saves against the first."""
    metrics = list(dict.fromkeys(name for line in found.values() for p in line for name in p.scores))
    rows = [["colour conversion alone", "", "", "", *(_number(ceiling.get(m), m) for m in metrics), "", ""]]
    for codec, line in found.items():
        for p in line:
            file_bpp = "" if p.file_bpp is None else f"{p.file_bpp:.4f}"
            scores = [_number(p.scores[m].overall if m in p.scores else None, m) for m in metrics]
            rows.append([codec, p.quality, f"{p.bpp:.4f}", file_bpp, *scores,
                         f"{p.encode_seconds:.2f}", f"{p.decode_seconds:.2f}"])  # fmt: skip
    columns = ["codec", "quality", "bpp", "bpp with file", *metrics, "encode CPU s", "decode CPU s"]
    parts = [markdown(columns, rows, left=2)]
    codecs = [codec for codec in found if not codec.startswith(tuple(tokenizers))]
    rows = []
    for own in (codec for codec in found if codec not in codecs):
        p = found[own][0]
        rows.append(
            [f"{own}: {p.bpp:.4f} bpp", *(_number(p.scores[m].overall if m in p.scores else None, m) for m in metrics)]
        )
        rows += [[f"{c} there", *(_number(at_rate(found[c], m, p.bpp), m) for m in metrics)] for c in codecs]
    if rows:
        parts.append(markdown(["at the tokenizer's rate (blank: out of the codec's rates)", *metrics], rows))
    rows = [[c, *(_percent(bd_rate(found[codecs[0]], found[c], m)) for m in metrics)] for c in codecs[1:]]
    if rows:
        parts.append(markdown([f"BD-rate against {codecs[0]}", *metrics], rows))
    return "\n\n".join(parts)


def _number(value: float | None, metric: str) -> str:
    if value is None:
        return ""
    return f"{value:.2f}" if metric.startswith("psnr") else f"{value:.4f}"


def _percent(value: float | None) -> str:
    return "" if value is None else f"{value:+.1f} %"


def _size(text: str) -> tuple[int, int]:
    width, _, height = text.partition("x")
    if not (width.isdecimal() and height.isdecimal() and int(width) and int(height)):
        raise argparse.ArgumentTypeError(f"{text} is no WIDTHxHEIGHT such as 640x360")
    return int(width), int(height)


def parser() -> argparse.ArgumentParser:
    root = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    root.add_argument("video", type=Path, nargs="*", help="video files, or folders of them")
    root.add_argument("--out", type=Path, default=Path("out/compression"), metavar="DIR")
    root.add_argument(
        "--tokenizer", action="append", metavar="[NAME=]FILE", help="may be repeated (default: the shipped one)"
    )
    root.add_argument(
        "--encoder", choices=ENCODERS, action="append", help=f"may be repeated (default: {', '.join(STANDARD)})"
    )
    root.add_argument("--list-encoders", action="store_true", help="say which of them this ffmpeg has")
    root.add_argument("--frames", type=int, default=17, help="of every video; 0 for all (default 17)")
    root.add_argument("--clips", type=int, help="at most so many videos")
    root.add_argument("--size", type=_size, metavar="WxH", help="scale and crop to this size (default: as it is)")
    root.add_argument("--short-side", type=int, metavar="N", help="shrink to N pixels on the shorter side, same aspect")
    root.add_argument("--chroma", choices=PIXEL_FORMATS, default="4:2:0")
    root.add_argument("--perceptual", type=Path, metavar="YAML", help="a learned distance, see above")
    root.add_argument("--ffmpeg", metavar="FILE", help="another binary than that of imageio-ffmpeg")
    root.add_argument("--timeout", type=float, default=1800.0, help="seconds for one run of ffmpeg")
    root.add_argument(
        "--quick", action="store_true", help=f"two videos, {QUICK_SIDE} pixels, fast presets, fewer qualities"
    )
    root.set_defaults(run=run)
    return root


def main(arguments: list[str] | None = None) -> None:
    a = parser().parse_args(arguments)
    if a.quick:
        a.clips = min(a.clips or 2, 2)
        a.short_side = a.short_side or QUICK_SIDE
    run_safely(a, [])


if __name__ == "__main__":
    main()

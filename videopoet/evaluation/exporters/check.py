"""Is a folder of videos what the benchmark will read? Nothing missing, nothing beside, every file a video."""

import hashlib
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import av
from av.error import FFmpegError

from videopoet.evaluation.exporters.benchmark import Benchmark, Sample
from videopoet.evaluation.exporters.log import VIDEOS, finished
from videopoet.evaluation.exporters.names import look_alikes

LONG = 5.0  # seconds from which VBench wants its long evaluation


@dataclass(frozen=True, kw_only=True)
class Findings:
    """wrong: what would make the benchmark's number void, each a sentence; notes: what one should know."""

    expected: int
    found: int
    wrong: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    shapes: dict[str, int] = field(default_factory=dict)  # "17 frames of 64 x 64 at 8 fps" -> files


def check(
    benchmark: Benchmark, samples: Sequence[Sample], out: Path, *, progress: Callable[[int], None] | None = None
) -> Findings:
    """Compare the videos below `out` with what the benchmark reads, by name, and open each of them.

    `out` is an export, or any folder that has `videos/` or is it.
    """
    root = out / VIDEOS if (out / VIDEOS).is_dir() else out
    if not root.is_dir():
        raise ValueError(f"{root}: no such folder")
    expected = {path: sample for sample in samples for path in sample.paths}
    present = sorted(p.relative_to(root).as_posix() for p in root.rglob("*") if not p.is_dir())
    wrong, notes = compare_names(expected, present), list(benchmark.notes)
    log, shapes, copies = finished(out), Counter(), defaultdict(set)
    for path in (path for path in present if path in expected):
        sample, (shape, seconds, problem) = expected[path], look(root / path)
        if problem:
            wrong.append(f"{path!r} {problem}")
        else:
            shapes[shape] += 1
            if benchmark.name.startswith("vbench") and seconds >= LONG:
                wrong.append(f"{path!r} lasts {seconds:.2f} s, clips of {LONG:g} s and more are VBench-Long's")
        digest = hashlib.sha256((root / path).read_bytes()).hexdigest()
        row = log.get(sample.paths[0])
        if row is not None and row.get("sha256") != digest:
            wrong.append(f"{path!r} is not the file that was exported: its SHA-256 differs from the log's")
        copies[digest].add((sample.prompt, sample.index))
        if progress:
            progress(1)
    if again := [sorted(same) for same in copies.values() if len(same) > 1]:
        (prompt, index), (other, number) = again[0][:2]
        notes.append(
            f"{len(again)} videos stand for several samples, as number {index} of {prompt!r} and {number} of {other!r}"
        )
    if len(shapes) > 1:
        notes.append("not all videos are alike: " + "; ".join(f"{n} of {shape}" for shape, n in shapes.most_common()))
    for group in look_alikes(expected)[:3]:
        notes.append(
            f"{group[0]!r} and {group[1]!r} are one file on disks that take no note of case: do not copy there"
        )
    return Findings(expected=len(expected), found=len(present), wrong=wrong, notes=notes, shapes=dict(shapes))


def compare_names(expected: dict[str, Any], present: Sequence[str]) -> list[str]:
    """What is missing or beside. A name that differs in case or accents' form only is named together with its like."""
    missing, stray, wrong = sorted(set(expected) - set(present)), sorted(set(present) - set(expected)), []

    def folded(path: str) -> str:
        return unicodedata.normalize("NFC", path).casefold()

    near = {folded(path): path for path in stray}
    for path in missing:
        if like := near.get(folded(path)):
            wrong.append(f"{path!r} is missing, there is {like!r}: benchmarks compare letter by letter")
        else:
            wrong.append(f"{path!r} is missing")
    return wrong + [f"{path!r} is none of the benchmark's files" for path in stray]


def look(file: Path) -> tuple[str, float, str]:
    """What a video is like, its seconds, and what is wrong with it, if anything. Its first frame is decoded."""
    if file.is_symlink() and not file.exists():
        return "", 0.0, "is a link to nothing"
    if file.stat().st_size == 0:
        return "", 0.0, "is empty (0 bytes)"
    try:
        with av.open(str(file), metadata_errors="replace") as container:
            if not container.streams.video:
                return "", 0.0, "holds no picture"
            stream = container.streams.video[0]
            if next(container.decode(stream), None) is None:
                return "", 0.0, "holds no frame that decodes"
            fps = float(stream.average_rate or stream.base_rate or 0)
            frames = stream.frames or round(float((container.duration or 0) / av.time_base) * fps)
            shape = f"{frames} frames of {stream.width} x {stream.height} at {fps:g} fps"
            return shape, frames / fps if fps else 0.0, ""
    except (FFmpegError, OSError) as error:
        return "", 0.0, f"cannot be read ({getattr(error, 'strerror', None) or error})"

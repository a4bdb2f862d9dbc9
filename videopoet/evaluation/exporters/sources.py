"""Where the videos of an export come from: a model that makes them, or a folder of samples that are there."""

import os
import re
import shutil
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import av
from av.error import FFmpegError

from videopoet.data.captions import LISTING, read_listing, read_sidecars
from videopoet.data.media import read_image, read_media, write_media
from videopoet.evaluation.exporters.benchmark import Sample
from videopoet.evaluation.exporters.log import VIDEOS, finished, read_facts
from videopoet.evaluation.shortening import shortened
from videopoet.sampling.request import Request

SUFFIXES = (".mp4", ".mov", ".mkv", ".webm", ".gif", ".webp")
CRF = 10  # what VBench's own sampling script writes with: near lossless, and every reader takes it


class Source(ABC):
    """What puts the video of a sample into a file."""

    batch: int = 1

    @abstractmethod
    def facts(self) -> dict[str, Any]:
        """What the videos depend on, for the report and for refusing to mix two runs in one folder."""

    @abstractmethod
    def check(self, samples: Sequence[Sample]) -> None:
        """Before any work: raises ValueError where a sample cannot be made."""

    @abstractmethod
    def write(self, samples: Sequence[Sample], seed: int, files: Sequence[Path]) -> None:
        """Write consecutive samples; sample i of them is drawn from seed + i, alone or with others."""


@dataclass(kw_only=True)
class ModelSource(Source):
    """A model makes them. poet: a `VideoPoet`; task: text-to-video, or image-to-video with the folder `images`.

    how: what else `VideoPoet.generate` takes (`draw`, ...); described: the same as plain values, for the report.
    rewrites: prompt -> what the model is given in its place; the names stay.
    fits: raises ValueError for a text that the model cannot take whole. truncate: cut such a text at a word, so that it
    fits, instead of refusing it.
    """

    poet: Any
    task: str = "text-to-video"
    images: Path | None = None
    batch: int = 16
    how: dict[str, Any] = field(default_factory=dict)
    described: dict[str, Any] = field(default_factory=dict)
    rewrites: dict[str, str] = field(default_factory=dict)
    fits: Callable[[str], Any] = str
    truncate: bool = False

    def facts(self) -> dict[str, Any]:
        said = {
            "source": "model",
            "task": self.task,
            "rewritten_prompts": len(self.rewrites),
            "truncate": self.truncate,
        }
        return said | self.described

    def text(self, sample: Sample) -> str:
        """What the model is given for a sample. Raises ValueError where it cannot take it."""
        text = self.rewrites.get(sample.prompt, sample.prompt)
        try:
            self.fits(text)
        except ValueError as error:
            if not self.truncate:
                raise ValueError(f"{error}, or --truncate it ({text[:60]!r}...)") from None
            return shortened(text, self.fits)
        return text

    def check(self, samples: Sequence[Sample]) -> None:
        named = sorted({sample.image for sample in samples if sample.image})
        if named and self.images is None:
            raise ValueError(f"{len(named)} images are given by the benchmark: name their folder with --images")
        missing = [name for name in named if not (self.images / name).is_file()]
        if missing:
            raise ValueError(
                f"{self.images}: {len(missing)} of {len(named)} images are not there, first {missing[0]!r}"
            )
        prompts = {sample.prompt for sample in samples}
        if unknown := [prompt for prompt in self.rewrites if prompt not in prompts]:
            raise ValueError(f"{len(unknown)} rewritten prompts are none of the benchmark's, first {unknown[0]!r}")
        for sample in {sample.prompt: sample for sample in samples}.values():
            self.text(sample)

    def write(self, samples: Sequence[Sample], seed: int, files: Sequence[Path]) -> None:
        requests = [
            Request(
                prompt=self.text(sample),
                image=read_image(self.images / sample.image) if sample.image else None,
            )
            for sample in samples
        ]
        for media, file in zip(self.poet.generate(self.task, requests, seed=seed, **self.how), files, strict=True):
            write_media(file, media, crf=CRF)


@dataclass(frozen=True, kw_only=True)
class Made:
    """A video that is there. key: what it is called among its like; index: which of several of one prompt."""

    key: str
    prompt: str
    index: int
    path: Path


@dataclass(kw_only=True)
class FolderSource(Source):
    """Samples that are there. mp4 files of H.264 in yuv420p are linked (copied across disks), others written anew."""

    folder: Path

    def __post_init__(self):
        self._found = {(made.prompt, made.index): made.path for made in read_set(self.folder)}

    def facts(self) -> dict[str, Any]:
        return {"source": "folder", "folder": self.folder.name}

    def check(self, samples: Sequence[Sample]) -> None:
        missing = [sample for sample in samples if (sample.prompt, sample.index) not in self._found]
        if missing:
            first = missing[0]
            raise ValueError(
                f"{self.folder}: {len(missing)} of {len(samples)} samples are not there, first number {first.index} of "
                f"prompt {first.prompt!r}: name them 'prompt-0.mp4', 'prompt-1.mp4', ..., or list them in captions.jsonl"
            )

    def write(self, samples: Sequence[Sample], seed: int, files: Sequence[Path]) -> None:
        for sample, file in zip(samples, files, strict=True):
            path = self._found[sample.prompt, sample.index]
            if is_plain_mp4(path):
                link(path, file)
            else:
                write_media(file, read_media(path), crf=CRF)


def read_set(folder: Path) -> list[Made]:
    """The videos of a folder and its sub-folders with their prompts, sorted by name.

    A prompt is the file's caption (`captions.jsonl`, `clip.txt` or `clip.json`, whose "index" says which of several it
    is), or else its name without suffix and `-number`. Of an export, what its log says of every video that is there.
    Raises ValueError where there is none or two are one.
    """
    if not folder.is_dir():
        raise ValueError(f"{folder}: no such folder")
    if read_facts(folder) is not None:
        return _read_export(folder)
    spans, found, taken = read_listing(folder / LISTING), [], {}
    if parts := [name for name, start, end in spans if start or end is not None]:
        raise ValueError(f"{folder / LISTING} speaks of a part of {parts[0]}: samples are whole files")
    listing = {name: caption for (name, _, _), caption in spans.items()}
    for path in sorted(p for p in folder.rglob("*") if p.suffix.lower() in SUFFIXES and p.is_file()):
        relative = path.relative_to(folder)
        if any(part.startswith(".") for part in relative.parts):
            continue
        caption = listing.get(relative.as_posix()) or read_sidecars(path)
        named = re.fullmatch(r"(?s)(.*?)(?:-(\d{1,6}))?", path.stem)
        prompt = caption.texts[0] if caption.texts else named[1]
        index = caption.extra.get("index", int(named[2] or 0) if not caption.texts else 0)
        if not isinstance(index, int) or index < 0:
            raise ValueError(f'{path}: its "index" is {index!r}, a number from 0 is needed')
        if other := taken.get((prompt, index)):
            raise ValueError(f'{path} and {other} are both number {index} of prompt {prompt!r}: give them an "index"')
        taken[prompt, index] = path
        found.append(Made(key=relative.with_suffix("").as_posix(), prompt=prompt, index=index, path=path))
    if not found:
        raise ValueError(f"{folder}: no video in it ({', '.join(SUFFIXES)})")
    return found


def _read_export(folder: Path) -> list[Made]:
    found = [
        Made(key=key, prompt=row["prompt"], index=row["index"], path=folder / VIDEOS / key)
        for key, row in sorted(finished(folder).items())
        if (folder / VIDEOS / key).is_file()
    ]
    if not found:
        raise ValueError(f"{folder}: an export of which no video is there")
    return found


def is_plain_mp4(path: Path) -> bool:
    """Whether decord, OpenCV and browsers read it as it is: mp4 with H.264 in yuv420p. ValueError if unreadable."""
    try:
        with av.open(str(path), metadata_errors="replace") as container:
            if not container.streams.video:
                raise ValueError(f"{path}: holds no picture")
            codec = container.streams.video[0].codec_context
            return path.suffix == ".mp4" and codec.name == "h264" and codec.pix_fmt in ("yuv420p", "yuvj420p")
    except (FFmpegError, OSError) as error:
        raise ValueError(f"{path}: cannot be read ({getattr(error, 'strerror', None) or error})") from error


def link(path: Path, file: Path) -> None:
    """The same file under a second name; a copy where the disk has no such thing."""
    try:
        os.link(path.resolve(), file)
    except OSError:
        shutil.copyfile(path, file)

"""From a folder of ordinary media files to media shards."""

import os
from collections import Counter, deque
from collections.abc import Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import ClassVar

import numpy as np

from videopoet.data.captions import LISTING, Caption, read_listing, read_sidecars
from videopoet.data.media import stream_audio, stream_media
from videopoet.data.progress import bar
from videopoet.data.schema import Clip, MediaManifest
from videopoet.data.shards import ShardWriter
from videopoet.data.transforms import ResizeCrop, audio_to_int16

MEDIA_SUFFIXES = tuple(
    ".3gp .avi .flv .gif .m2ts .m4v .mkv .mov .mp4 .mpeg .mpg .mts .ogv .ts .webm .webp .wmv".split()
)
SOUND_SUFFIXES = tuple(".aac .aif .aiff .au .caf .flac .g722 .m4a .mp3 .oga .ogg .opus .wav .wma".split())
SHORTEST_SOUND = 0.05  # seconds
SILENCE = 1e-4  # standard deviation of the samples, -80 dB of full scale


@dataclass(frozen=True, kw_only=True)
class Rejection:
    """A file that gave no clips, or not all of its clips."""

    file: str  # relative to the folder
    kind: str  # "unreadable", "damaged", "too short", "captions", "missing": what the manifest counts
    reason: str


@dataclass(frozen=True, kw_only=True)
class Report:
    """What `build_shards` did."""

    files: int
    clips: int
    clips_with_audio: int
    clips_with_captions: int
    rejected: tuple[Rejection, ...]


@dataclass(frozen=True, kw_only=True)
class Cutter:
    """Cuts one file into consecutive, non-overlapping clips of `frames` frames at `fps`, `size` x `size` pixels."""

    frames: int
    fps: float
    size: int  # pixels
    sample_rate: int  # Hz
    clips_per_file: int | None = None
    suffixes: ClassVar[tuple[str, ...]] = MEDIA_SUFFIXES

    @property
    def geometry(self) -> dict[str, float]:
        """What the manifest says of every clip."""
        return {"fps": self.fps, "frames": self.frames, "height": self.size, "width": self.size}

    def __post_init__(self) -> None:
        if self.frames < 1 or self.frames % 4 != 1:
            below = max(1, (self.frames - 1) // 4 * 4 + 1)
            nearest = f"{below} and {below + 4}" if self.frames > 1 else "1 and 5"
            raise ValueError(f"frames must be 1 + 4k, not {self.frames}; the nearest are {nearest}")
        if not (self.fps > 0 and self.size > 0 and self.sample_rate > 0):
            raise ValueError(
                f"fps, size and sample rate must be positive, not {self.fps}, {self.size}, {self.sample_rate}"
            )

    def clips(self, folder: Path, name: str, key: str, listed: Caption) -> Iterator[Clip | Rejection]:
        """Clips of the file `folder / name`, their captions beside them, then at most one `Rejection`."""
        try:
            caption = read_sidecars(folder / name) + listed
        except ValueError as error:
            yield Rejection(file=name, kind="captions", reason=str(error))
            return
        resize = ResizeCrop(height=self.size, width=self.size)
        most = None if self.clips_per_file is None else self.clips_per_file * self.frames / self.fps
        chunks = stream_media(
            folder / name,
            fps=self.fps,
            sample_rate=self.sample_rate,
            resize=resize,
            chunk_frames=self.frames,
            max_seconds=most,
        )
        number = 0
        try:
            for media in chunks:
                if len(media.video) == self.frames:
                    yield Clip(
                        key=f"{key}_{number:04d}",
                        video=media.video,
                        audio=None if media.audio is None else audio_to_int16(media.audio[0]),
                        captions=caption.texts,
                        source=caption.extra | {"file": name, "second": round(number * self.frames / self.fps, 6)},
                    )
                    number += 1
                elif number == 0:
                    reason = f"too short: {len(media.video)} of {self.frames} frames at {self.fps:g} fps"
                    yield Rejection(file=name, kind="too short", reason=reason)
        except ValueError as error:
            yield _failure(folder, name, error, number)


@dataclass(frozen=True, kw_only=True)
class SoundCutter:
    """Cuts the sound of one file, mixed to mono, into consecutive clips of `seconds` without pictures.

    The end of a file is filled up with silence where it is half a clip or all there is. Clips that are silent throughout,
    or constant, are passed over. Sound beyond full scale is clipped there, as everywhere in this project.
    """

    seconds: float
    sample_rate: int  # Hz
    clips_per_file: int | None = None
    suffixes: ClassVar[tuple[str, ...]] = SOUND_SUFFIXES + MEDIA_SUFFIXES

    def __post_init__(self) -> None:
        if not (self.seconds >= SHORTEST_SOUND and self.sample_rate > 0):
            raise ValueError(
                f"clips must last at least {SHORTEST_SOUND:g} s at a positive sample rate, not {self.seconds:g} s at "
                f"{self.sample_rate} Hz"
            )

    @property
    def geometry(self) -> dict[str, float]:
        """What the manifest says of every clip: one frame of `seconds` without pixels."""
        return {"fps": 1 / self.seconds, "frames": 1, "height": 0, "width": 0}

    def clips(self, folder: Path, name: str, key: str, listed: Caption) -> Iterator[Clip | Rejection]:
        """Clips of the file `folder / name`, their captions beside them, then at most one `Rejection`."""
        length, number, heard = round(self.seconds * self.sample_rate), 0, 0  # samples, clips, samples
        try:
            caption = read_sidecars(folder / name) + listed
        except ValueError as error:
            yield Rejection(file=name, kind="captions", reason=str(error))
            return
        try:
            for audio in stream_audio(folder / name, seconds=self.seconds, sample_rate=self.sample_rate):
                second, heard = heard / self.sample_rate, heard + len(audio)
                whole = 2 * len(audio) >= length or not second
                if audio.std() > SILENCE and whole and heard >= SHORTEST_SOUND * self.sample_rate:
                    yield Clip(
                        key=f"{key}_{number:04d}",
                        video=None,
                        audio=audio_to_int16(np.pad(audio, (0, length - len(audio)))),
                        captions=caption.texts,
                        source=caption.extra | {"file": name, "second": round(second, 6)},
                    )
                    number += 1
                if number == self.clips_per_file:
                    return
        except ValueError as error:
            yield _failure(folder, name, error, number)
            return
        seconds = heard / self.sample_rate
        if seconds < SHORTEST_SOUND:
            reason = f"too short: {seconds:.3f} of {SHORTEST_SOUND:g} s"
            yield Rejection(file=name, kind="too short", reason=reason)
        elif not number:
            yield Rejection(file=name, kind="silent", reason=f"silent: {seconds:.1f} s below -80 dB but for a constant")


def _failure(folder: Path, name: str, error: ValueError, clips: int) -> Rejection:
    """What to report of a file that broke after so many clips."""
    cause = str(error).removeprefix(f"{folder / name}: ")
    reason = f"{cause}, after {clips} clips" if clips else cause
    return Rejection(file=name, kind="damaged" if clips else "unreadable", reason=reason)


def build_shards(
    folder: str | os.PathLike,
    out: str | os.PathLike,
    *,
    frames: int = 17,
    fps: float = 8.0,
    size: int = 64,
    sample_rate: int = 16000,
    clips_per_file: int | None = None,
    samples_per_shard: int = 512,
    overwrite: bool = False,
    workers: int = 0,
) -> Report:
    """Cut every media file under `folder` into clips and write them as shards to `out`.

    Files are taken in the order of their paths and clips in the order of time, with any number of `workers`
    (processes; 0 decodes in this one), so equal folders give equal shards. Sound has
    round(frames / fps * sample_rate) samples a clip. A file that cannot be used is reported and skipped; one that is
    damaged half way gives the clips before the damage.

    Raises ValueError if the folder holds no media, if no file gives a clip, or if `out` is in use.
    """
    cutter = Cutter(frames=frames, fps=fps, size=size, sample_rate=sample_rate, clips_per_file=clips_per_file)
    return _build(cutter, folder, out, samples_per_shard, overwrite, workers)


def build_sound_shards(
    folder: str | os.PathLike,
    out: str | os.PathLike,
    *,
    seconds: float = 2.125,
    sample_rate: int = 16000,
    clips_per_file: int | None = None,
    samples_per_shard: int = 512,
    overwrite: bool = False,
    workers: int = 0,
) -> Report:
    """`build_shards` for sound alone, from sound and video files: every clip has round(seconds * sample_rate) samples."""
    cutter = SoundCutter(seconds=seconds, sample_rate=sample_rate, clips_per_file=clips_per_file)
    return _build(cutter, folder, out, samples_per_shard, overwrite, workers)


def _build(
    cutter: Cutter | SoundCutter,
    folder: str | os.PathLike,
    out: str | os.PathLike,
    samples_per_shard: int,
    overwrite: bool,
    workers: int,
) -> Report:
    folder = Path(folder)
    names = media_files(folder, cutter.suffixes)
    listing = read_listing(folder)
    rejected = [
        Rejection(file=name, kind="missing", reason=f"listed in {LISTING} but not there")
        for name in sorted(listing)
        if not (folder / name).is_file()
    ]
    jobs = [(cutter, folder, name, f"{number:06d}", listing.get(name, Caption())) for number, name in enumerate(names)]
    with_audio = with_captions = 0
    with ShardWriter(out, prefix="clips", max_samples=samples_per_shard, overwrite=overwrite) as writer:
        for result in _run(jobs, workers):
            if isinstance(result, Rejection):
                rejected.append(result)
                continue
            with_audio += result.audio is not None
            with_captions += bool(result.captions)
            writer.write(result.key, result.record())
        if not writer.num_samples:
            first = f"{rejected[0].file}: {rejected[0].reason}"
            raise ValueError(f"{folder}: none of {len(names)} files gave a clip; the first, {first}")
        manifest = writer.finish(
            MediaManifest(
                **cutter.geometry,
                sample_rate=cutter.sample_rate,
                rejected=dict(sorted(Counter(rejection.kind for rejection in rejected).items())),
            )
        )
    return Report(
        files=len(names),
        clips=manifest.num_samples,
        clips_with_audio=with_audio,
        clips_with_captions=with_captions,
        rejected=tuple(rejected),
    )


def media_files(folder: Path, suffixes: tuple[str, ...] = MEDIA_SUFFIXES) -> list[str]:
    """Paths of the files with such names under `folder`, relative and sorted; ValueError if there are none."""
    if not folder.is_dir():
        raise ValueError(f"{folder}: {'is a file, not a folder' if folder.exists() else 'no such folder'}")
    names = []
    for parent, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        relative = Path(parent).relative_to(folder)
        names += [
            (relative / name).as_posix()
            for name in files
            if name.lower().endswith(suffixes) and not name.startswith(".")
        ]
    if not names:
        raise ValueError(f"{folder}: holds no media files (looked for {' '.join(suffixes)})")
    return sorted(names)


def _cut(job: tuple) -> list[Clip | Rejection]:
    cutter, *what = job
    return list(cutter.clips(*what))


def _run(jobs: list[tuple], workers: int) -> Iterator[Clip | Rejection]:
    with bar("files", total=len(jobs)) as advance:
        for results in _in_order(jobs, workers):
            yield from results
            advance(1)


def _in_order(jobs: list[tuple], workers: int) -> Iterator[Iterable[Clip | Rejection]]:
    if workers == 0:
        # Streams: a film of hours passes through without being held.
        yield from (cutter.clips(*what) for cutter, *what in jobs)
        return
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        waiting = deque()
        for job in jobs:
            waiting.append(pool.submit(_cut, job))
            if len(waiting) >= 4 * workers:  # bounds what finished files hold in memory
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()

"""From a folder of ordinary media files to media shards."""

import os
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field, is_dataclass, replace
from pathlib import Path
from typing import Any

from videopoet.data.building import Build, Plan, Totals
from videopoet.data.cutters import Cutter, SoundCutter, Taking
from videopoet.data.filters import Filter, Filters
from videopoet.data.inputs import (
    BYTES_PER_SHARD,
    FILES_PER_SHARD,
    Input,
    digest_records,
    list_inputs,
    units_of,
)
from videopoet.data.rejections import Rejection, read_rejected
from videopoet.data.schema import Clip, MediaManifest
from videopoet.data.shots import ShotDetector
from videopoet.data.work import Advance, Place, run_tasks

SAMPLES_PER_SHARD = 4096


@dataclass(frozen=True, kw_only=True)
class Report:
    """What `build_shards` did; of all ranks together, once all are done."""

    folder: Path = field(compare=False)
    files: int  # or spans of files
    clips: int
    clips_with_audio: int
    clips_with_captions: int
    reasons: dict[str, int]  # kind -> files, or clips and shots of them, that were not taken

    @property
    def rejected(self) -> tuple[Rejection, ...]:
        """Each of them, read from `rejected.jsonl`."""
        return tuple(read_rejected(self.folder))


@dataclass(frozen=True, kw_only=True)
class Scale:
    """How much lies in a shard, and who builds it.

    files_per_shard, bytes_per_shard: consecutive files that make one shard: at most so many, and about so many bytes.
    samples_per_shard: clips after which a further tar is begun all the same.
    workers: processes; 0 decodes in this one. place: this process among those that a launcher started.
    None of the last two changes what is built.
    """

    files_per_shard: int = FILES_PER_SHARD
    bytes_per_shard: int = BYTES_PER_SHARD
    samples_per_shard: int = SAMPLES_PER_SHARD
    workers: int = 0
    place: Place = field(default_factory=Place)

    def __post_init__(self) -> None:
        if min(self.files_per_shard, self.bytes_per_shard, self.samples_per_shard) < 1 or self.workers < 0:
            raise ValueError(f"a shard needs at least one of each, and workers 0 or more, not {self}")


def build_shards(
    folder: str | os.PathLike,
    out: str | os.PathLike,
    *,
    frames: int = 17,
    fps: float = 8.0,
    size: int = 64,
    sample_rate: int = 16000,
    clips_per_file: int | None = None,
    shots: ShotDetector | None = None,
    filters: tuple[Filter, ...] = (),
    listing: str | os.PathLike | None = None,
    overwrite: bool = False,
    **scale: Any,
) -> Report | None:
    """Cut every media file under `folder`, or every one that `listing` names, into clips and write them as shards to `out`.

    Files are taken in the order of their paths (of the listing) and clips in the order of time. Which files make a shard
    depends on the list of files alone, so equal folders give equal shards with any number of processes; what a killed
    build has finished is kept, and building again with equal inputs and settings does the rest, or nothing. Sound has
    round(frames / fps * sample_rate) samples a clip. A file that cannot be used, or that a filter refuses, is reported
    and skipped; one that is damaged half way gives the clips before the damage. `scale`: fields of `Scale`.

    Returns None where other ranks have not yet done their shares. Raises ValueError if the folder holds no media, if no
    file gives a clip, if `out` is in use, or was begun with other inputs or settings.
    """
    cutter = Cutter(frames=frames, fps=fps, size=size, sample_rate=sample_rate, clips_per_file=clips_per_file,
                    shots=shots)  # fmt: skip
    taking = Taking(cutter=cutter, filters=Filters(steps=tuple(filters)))
    return _build(taking, folder, out, listing, overwrite, Scale(**scale))


def build_sound_shards(
    folder: str | os.PathLike,
    out: str | os.PathLike,
    *,
    seconds: float = 2.125,
    sample_rate: int = 16000,
    clips_per_file: int | None = None,
    filters: tuple[Filter, ...] = (),
    listing: str | os.PathLike | None = None,
    overwrite: bool = False,
    **scale: Any,
) -> Report | None:
    """`build_shards` for sound alone, from sound and video files: every clip has round(seconds * sample_rate) samples."""
    cutter = SoundCutter(seconds=seconds, sample_rate=sample_rate, clips_per_file=clips_per_file)
    taking = Taking(cutter=cutter, filters=Filters(steps=tuple(filters)))
    return _build(taking, folder, out, listing, overwrite, Scale(**scale))


def _build(taking: Taking, folder: str | os.PathLike, out: str | os.PathLike, listing: str | os.PathLike | None,
           overwrite: bool, scale: Scale) -> Report | None:  # fmt: skip
    folder, cutter = Path(folder), taking.cutter
    listed = list_inputs(folder, cutter.suffixes, Path(listing) if listing is not None else None)
    inputs, planned = taking.filters.of_list(folder, listed)
    units = units_of(inputs, scale.files_per_shard, scale.bytes_per_shard)
    settings = {"taking": described(taking)} | {
        name: value for name, value in asdict(scale).items() if name not in ("workers", "place")
    }
    build = Build(
        out,
        Plan.of(settings, digest_records(folder, listed), len(listed), len(units)),
        MediaManifest(**cutter.geometry, sample_rate=cutter.sample_rate),
        prefix="clips",
        max_samples=scale.samples_per_shard,
        overwrite=overwrite,
    )
    if build.open():
        missing = build.missing(scale.place.mine(len(units)))
        tasks = ((unit, units[unit].start, [inputs[i] for i in units[unit]]) for unit in missing)
        total = sum(len(units[unit]) for unit in missing)
        run_tasks(Cutting(build=build, taking=taking, folder=folder), tasks, len(missing), workers=scale.workers,
                  title="files", total=total)  # fmt: skip
    totals = build.publish(_finished, planned)
    return totals and Report(
        folder=Path(out),
        files=sum(entry.bytes is not None for entry in listed),
        clips=totals.samples,
        clips_with_audio=totals.fields.get("audio", 0),
        clips_with_captions=totals.fields.get("captions", 0),
        reasons=totals.rejected,
    )


def _finished(manifest: MediaManifest, totals: Totals) -> MediaManifest:
    return replace(manifest, rejected=totals.rejected)


@dataclass(frozen=True, kw_only=True)
class Cutting:
    """The job of a process: units of inputs -> shards of clips."""

    build: Build
    taking: Taking
    folder: Path

    def start(self, worker: int) -> Callable[[tuple[int, int, list[Input]], Advance], None]:
        """Nothing is to be loaded."""
        return self._unit

    def _unit(self, task: tuple[int, int, list[Input]], advance: Advance) -> None:
        unit, first, inputs = task
        self.build.write(unit, self._items(first, inputs, advance))

    def _items(self, first: int, inputs: list[Input], advance: Advance) -> Iterator[tuple[str, dict] | Rejection]:
        for number, entry in enumerate(inputs, start=first):
            for found in self.taking(self.folder, entry, f"{number:06d}"):
                yield (found.key, found.record()) if isinstance(found, Clip) else found
            advance(1)


def described(value: Any) -> Any:
    """Frozen dataclasses, in each other and in tuples, as JSON can hold them, with the names of their classes.

    Raises ValueError for what cannot be told apart so.
    """
    if is_dataclass(value):
        name = f"{type(value).__module__}.{type(value).__qualname__}"
        return {"class": name} | {key: described(part) for key, part in vars(value).items()}
    if isinstance(value, tuple | list):
        return [described(part) for part in value]
    if isinstance(value, str | int | float | bool | None):
        return value
    raise ValueError(f"{value!r} cannot stand in a build's settings: filters and detectors are frozen dataclasses of "
                     "plain values")  # fmt: skip

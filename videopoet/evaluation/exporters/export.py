"""Writing the videos of a benchmark: resumable, shared among processes, never over what is there.

DIR/export.json          what was asked: benchmark, its knobs, the prompt file's hash, seed, model
DIR/made/00000.jsonl     one line per finished video, by the process that made it
DIR/videos/...           the videos, and nothing else: some benchmarks trip over any other file
"""

import hashlib
import json
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from videopoet.data.files import whole_or_nothing
from videopoet.evaluation.exporters.benchmark import Benchmark, Sample, fingerprint
from videopoet.evaluation.exporters.log import FACTS, LOG, VIDEOS, finished, read_facts
from videopoet.evaluation.exporters.names import folds, look_alikes
from videopoet.evaluation.exporters.sources import Source, link


@dataclass(frozen=True, kw_only=True)
class Shard:
    """Which of how many processes this is."""

    rank: int = 0
    world_size: int = 1

    def __post_init__(self):
        if not 0 <= self.rank < self.world_size:
            raise ValueError(f"process {self.rank} of {self.world_size}: numbers go from 0 to {self.world_size - 1}")

    @classmethod
    def of_environment(cls) -> "Shard":
        """As torchrun and others say in RANK and WORLD_SIZE; alone without them."""
        said = [os.environ.get(name, default) for name, default in (("RANK", "0"), ("WORLD_SIZE", "1"))]
        if not all(text.isdecimal() for text in said):
            raise ValueError(f"RANK={said[0]} and WORLD_SIZE={said[1]} are no numbers: set both or neither")
        return cls(rank=int(said[0]), world_size=int(said[1]))


def export(
    benchmark: Benchmark,
    prompts: Path,
    samples: Sequence[Sample],
    source: Source,
    out: Path,
    *,
    seed: int = 0,
    shard: Shard = Shard(),
    progress: Callable[[int], None] | None = None,
) -> int:
    """Write this process' share of `samples` below `out` and return how many were not there yet.

    Sample number i of the plan is drawn from seed + i, whoever makes it and with what others, so a run that was cut short
    or is shared among any number of processes gives the same videos. Raises ValueError where `out` holds anything of
    another run, and where the disk cannot tell two of the names apart.
    """
    source.check(samples)
    paths = [path for sample in samples for path in sample.paths]
    claim(out, facts_of(benchmark, prompts, samples, source, seed))
    if (alike := look_alikes(paths)) and folds(out):
        raise ValueError(f"{out}: this disk cannot tell {alike[0][0]!r} from {alike[0][1]!r}: write to one that can")
    done, made = finished(out), 0
    log = out / LOG / f"{shard.rank:05d}.jsonl"
    log.parent.mkdir(exist_ok=True)
    mine = share(len(samples), source.batch, shard)
    missing = [number for number in mine if not is_done(out, samples[number], done)]
    if progress:
        progress(len(mine) - len(missing))
    cut = log.is_file() and not log.read_bytes().endswith(b"\n")
    with log.open("a", encoding="utf-8") as file:
        file.write("\n" * cut)  # after a line that a stopped process left unfinished
        for first, last in runs(missing, source.batch):
            for row in write(out, samples[first:last], seed + first, source, shard):
                file.write(json.dumps(row, ensure_ascii=False) + "\n")
            file.flush()
            made += last - first
            if progress:
                progress(last - first)
    return made


def share(num_samples: int, batch: int, shard: Shard) -> list[int]:
    """The numbers of the samples that are this process': whole batches in turn."""
    return [number for number in range(num_samples) if number // batch % shard.world_size == shard.rank]


def write(out: Path, samples: Sequence[Sample], seed: int, source: Source, shard: Shard) -> Iterator[dict[str, Any]]:
    """Consecutive samples under all their names; one line of the log for each."""
    work = out / LOG / f"work-{shard.rank:05d}"  # short names, off the videos: whatever is left over harms nobody
    work.mkdir(exist_ok=True)
    files = [work / f"{number}.mp4" for number in range(len(samples))]
    for file in files:
        file.unlink(missing_ok=True)
    source.write(samples, seed, files)
    for number, (sample, file) in enumerate(zip(samples, files)):
        facts = {"bytes": file.stat().st_size, "sha256": hashlib.sha256(file.read_bytes()).hexdigest()}
        targets = [out / VIDEOS / path for path in sample.paths]
        for target in targets:
            target.parent.mkdir(parents=True, exist_ok=True)
            target.unlink(missing_ok=True)  # ours, but never logged: the process ended between the two
        os.replace(file, targets[0])
        for target in targets[1:]:
            link(targets[0], target)
        yield {"prompt": sample.prompt, "index": sample.index, "paths": sample.paths, "seed": seed + number} | facts
    work.rmdir()


def facts_of(
    benchmark: Benchmark, prompts: Path, samples: Sequence[Sample], source: Source, seed: int
) -> dict[str, Any]:
    """Everything the videos depend on."""
    return {
        "benchmark": benchmark.name,
        "options": {name: list(v) if isinstance(v, tuple) else v for name, v in asdict(benchmark).items()},
        "prompts_sha256": fingerprint(prompts),
        "videos": len(samples),
        "files": sum(len(sample.paths) for sample in samples),
        "seed": seed,
        "videopoet": version("videopoet-open"),
    } | source.facts()


def claim(out: Path, facts: dict[str, Any]) -> None:
    """Make `out` the place of this run, or find that it is already. Raises ValueError where it is another's."""
    out.mkdir(parents=True, exist_ok=True)
    known = read_facts(out)
    if known is None:
        if (out / VIDEOS).exists() and any((out / VIDEOS).iterdir()):
            raise ValueError(f"{out}: holds videos but no {FACTS}: name a new folder")
        with whole_or_nothing(out / FACTS) as temporary:
            temporary.write_text(json.dumps(facts, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
        return
    if differing := [name for name in (known | facts) if known.get(name) != facts.get(name)]:
        name = differing[0]
        raise ValueError(
            f"{out}: was begun with {name} {known.get(name)!r}, now it is {facts.get(name)!r}: name a new folder, or go on "
            "with the same"
        )


def is_done(out: Path, sample: Sample, done: dict[str, dict[str, Any]]) -> bool:
    """Whether a sample was finished, and its files are still there in full."""
    row = done.get(sample.paths[0])
    files = [out / VIDEOS / path for path in sample.paths]
    return row is not None and all(file.is_file() and file.stat().st_size == row.get("bytes") for file in files)


def runs(numbers: Sequence[int], batch: int) -> Iterator[tuple[int, int]]:
    """Stretches [first, last) of consecutive numbers, none across a multiple of `batch`: what is made at one time."""
    first = None
    for i, number in enumerate(numbers):
        first = number if first is None else first
        following = numbers[i + 1] if i + 1 < len(numbers) else None
        if following != number + 1 or following % batch == 0:
            yield first, number + 1
            first = None

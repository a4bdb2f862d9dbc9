"""How fast shards are read: samples/s and MB/s beside `tarfile`, which only reads, and beside `webdataset`.

    python tools/benchmark_data.py out/world/tokens/train --shard-samples 500 --out out/benchmark_data.json

Every contestant reads whole samples, in the same `DataLoader` with the same number of workers, and hands over 32 at a time;
all but `tarfile` decode them, and stack arrays of one kind as training does. A pass begins before workers are started, so
that all pay for that alike. Cold: the tars are dropped from the page cache before (posix_fadvise). The contestants take turns
within a round, and the ratio to `tarfile` is that of one round; the table shows the median round. First, the process's memory
at the start and at the end of many shuffled passes. `tarfile` and `webdataset` deal out shards to workers: --shard-samples
copies the samples into shards of one size first, so that none is idle. On a machine that others use, too, CPU seconds
(workers included) say more than seconds.
"""

import argparse
import itertools
import json
import os
import resource
import statistics
import tarfile
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import webdataset
from torch.utils.data import DataLoader, Dataset, IterableDataset, get_worker_info

from videopoet.data.order import sample_indices
from videopoet.data.shards import ShardReader, ShardWriter

BATCH = 32


class Batches(Dataset):
    """Item i is the samples of the i-th batch of one pass, in their order or shuffled over all shards."""

    def __init__(self, reader: ShardReader, seed: int | None):
        self.reader, self.seed = reader, seed

    def __len__(self) -> int:
        return -(-len(self.reader) // BATCH)

    def __getitem__(self, item: int) -> dict[str, list | np.ndarray]:
        start = item * BATCH
        count = min(BATCH, len(self.reader) - start)
        if self.seed is None:
            return stack([self.reader[index] for index in range(start, start + count)])
        indices = sample_indices(len(self.reader), self.seed, start, count)
        self.reader.expect(indices)  # as the schedules of training do
        return stack([self.reader[index] for index in indices])


def stack(samples: list[dict]) -> dict[str, list | np.ndarray]:
    """Samples by field, arrays of one shape as one array: a worker hands over few things instead of many."""
    columns = {name: [sample.get(name) for sample in samples] for name in samples[0]}
    return {name: np.stack(values) if all_alike(values) else values for name, values in columns.items()}


def all_alike(values: list) -> bool:
    return all(isinstance(value, np.ndarray) and value.shape == values[0].shape for value in values)


def paths(reader: ShardReader) -> list[Path]:
    """The tars of a local folder."""
    return [Path(reader.folder) / shard.name for shard in reader.manifest.shards]


class RawTars(IterableDataset):
    """The floor: every member read from start to end, nothing decoded; a sample is the list of its members' bytes."""

    def __init__(self, tars: list[Path]):
        self.tars = tars

    def __iter__(self) -> Iterator[list[list[bytes]]]:
        worker = get_worker_info()
        mine = self.tars if worker is None else self.tars[worker.id :: worker.num_workers]
        samples = itertools.chain.from_iterable(map(raw_samples, mine))
        while batch := list(itertools.islice(samples, BATCH)):
            yield batch


def raw_samples(path: Path) -> Iterator[list[bytes]]:
    with tarfile.open(path, "r:") as tar:
        for _, members in itertools.groupby(tar, lambda info: info.name.partition(".")[0]):
            yield [tar.extractfile(info).read() for info in members]


def read_tars(reader: ShardReader, workers: int, seed: int) -> Iterator[int]:
    """`tarfile` alone. Yields samples read, a batch after the other."""
    yield from batches_of(RawTars(paths(reader)), workers)


def batches_of(data: Dataset, workers: int) -> Iterator[int]:
    """Sizes of the batches that come out of the loader which all contestants have."""
    for batch in DataLoader(data, batch_size=None, num_workers=workers, collate_fn=_same):
        yield len(batch["__key__"] if isinstance(batch, dict) else batch)


def ours(seeded: bool) -> Callable[[ShardReader, int, int], Iterator[int]]:
    """The reader of this project, in order or shuffled over all shards."""

    def run(reader: ShardReader, workers: int, seed: int) -> Iterator[int]:
        fresh = ShardReader(reader.folder)
        yield from batches_of(Batches(fresh, seed if seeded else None), workers)

    return run


def theirs(shuffled: bool) -> Callable[[ShardReader, int, int], Iterator[int]]:
    """`webdataset`, in order or with its shards shuffled and a buffer of 1000 samples."""

    def run(reader: ShardReader, workers: int, seed: int) -> Iterator[int]:
        urls = [str(path) for path in paths(reader)]
        data = webdataset.WebDataset(urls, shardshuffle=len(urls) if shuffled else False, seed=seed, empty_check=False)
        data = data.shuffle(1000, initial=1000) if shuffled else data
        yield from batches_of(data.decode().batched(BATCH, collation_fn=stack, partial=True), workers)

    return run


def _same(batch):
    return batch


CONTESTANTS = {
    "tarfile": read_tars,
    "ours, in order": ours(False),
    "ours, shuffled": ours(True),
    "webdataset, in order": theirs(False),
    "webdataset, shuffled": theirs(True),
}


def make_cold(reader: ShardReader) -> None:
    """Ask the kernel to forget the tars. It may keep what others map."""
    for path in paths(reader):
        descriptor = os.open(path, os.O_RDONLY)
        os.fsync(descriptor)
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(descriptor)


def make_warm(reader: ShardReader) -> None:
    """Read every byte once."""
    for path in paths(reader):
        path.read_bytes()


def cpu_seconds() -> float:
    """Of this process and of workers that have ended."""
    return sum(
        use.ru_utime + use.ru_stime for use in map(resource.getrusage, (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    )


def measure(contestant, reader: ShardReader, workers: int, seed: int, most: int) -> tuple[float, float]:
    """Samples per second and per CPU second of one pass, of at most so many; starting and ending is part of it."""
    begun, begun_cpu, samples = time.perf_counter(), cpu_seconds(), 0
    run = contestant(reader, workers, seed)
    for count in run:
        samples += count
        if samples >= most:
            break
    run.close()  # ends the workers, whose CPU time counts then
    seconds = time.perf_counter() - begun
    return samples / seconds, samples / (cpu_seconds() - begun_cpu)


def rounds(reader: ShardReader, cold: bool, workers: int, a: argparse.Namespace) -> dict[str, dict[str, float]]:
    """Median speeds of every contestant, and median ratios to `tarfile` within a round."""
    speeds: dict[str, list[tuple[float, float]]] = {name: [] for name in CONTESTANTS if name in ("tarfile", *a.only)}
    for seed in range(a.rounds):
        for name in speeds:
            make_cold(reader) if cold else make_warm(reader)
            speeds[name].append(measure(CONTESTANTS[name], reader, workers, seed, a.samples))
    floor, results = speeds["tarfile"], {}
    for name, found in speeds.items():
        ratios = [(speed / base, each / least) for (speed, each), (base, least) in zip(found, floor)]
        medians = [statistics.median(column) for column in (*zip(*found), *zip(*ratios))]
        names = ("samples_per_second", "samples_per_cpu_second", "to_tarfile", "to_tarfile_cpu")
        results[name] = dict(zip(names, medians))
    return results


def resident() -> int:
    """Bytes of memory that this process has of its own: pages of mapped files not counted."""
    _, total, shared, *_ = map(int, Path("/proc/self/statm").read_text().split())
    return (total - shared) * os.sysconf("SC_PAGE_SIZE")


def long_run(reader: ShardReader, samples: int) -> dict[str, float]:
    """Memory at the start (after a tenth), at the end and at most, in MiB, of so many shuffled samples."""
    taken, found = 0, []
    for start in itertools.count(0, BATCH):
        for index in sample_indices(len(reader), 1, start, BATCH):
            reader[index]
        taken += BATCH
        if taken % (BATCH * 16) == 0 or taken >= samples:
            found.append((taken, resident() / 2**20))
        if taken >= samples:
            break
    early = next(memory for at, memory in found if at >= samples / 10)
    return {"samples": taken, "start_mib": early, "end_mib": found[-1][1], "most_mib": max(m for _, m in found)}


def table(results: list[dict], megabytes: float) -> str:
    """Markdown, one row per contestant; megabytes per sample, tar headers and padding included."""
    names = "contestant | cache | workers | samples/s | MB/s | to `tarfile` | samples/CPU s | to `tarfile`"
    lines = [f"| {names} |", "|---|---|---|---|---|---|---|---|"]
    for row in results:
        for name, found in row["contestants"].items():
            speed, ratio = found["samples_per_second"], found["to_tarfile"]
            where = f"{row['cache']} | {row['workers']}"
            cpu = f"{found['samples_per_cpu_second']:,.0f} | {found['to_tarfile_cpu']:.2f}"
            lines.append(f"| {name} | {where} | {speed:,.0f} | {speed * megabytes:,.1f} | {ratio:.2f} | {cpu} |")
    return "\n".join(lines)


def copy_of(reader: ShardReader, folder: Path, samples: int, fields: list[str] | None) -> ShardReader:
    """The same samples, or only so much of them, in shards of so many."""
    with ShardWriter(folder, prefix="part", max_samples=samples, max_bytes=1 << 40) as writer:
        for record in reader:
            key = record.pop("__key__")
            writer.write(key, {name: value for name, value in record.items() if fields is None or name in fields})
        writer.finish(reader.manifest)
    return ShardReader(folder)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("shards", type=Path, help="local folder of shards, of either kind")
    parser.add_argument("--workers", type=int, nargs="+", default=[0, 1, 2, 4])
    parser.add_argument("--caches", nargs="+", choices=("warm", "cold"), default=["warm", "cold"])
    parser.add_argument("--only", nargs="+", choices=CONTESTANTS, default=list(CONTESTANTS), help="beside tarfile")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--samples", type=int, default=10**9, help="at most so many of a pass")
    parser.add_argument("--shard-samples", type=int, metavar="N", help="copy into shards of N samples first")
    parser.add_argument("--fields", nargs="+", metavar="NAME", help="of the copied samples; all unless said otherwise")
    parser.add_argument("--long", type=int, default=200_000, help="samples of the run whose memory is watched")
    parser.add_argument("--out", type=Path, help="JSON to write")
    a = parser.parse_args()
    if a.fields and a.shard_samples is None:
        parser.error("--fields are of the copied samples: give --shard-samples too")
    reader = ShardReader(a.shards)
    with tempfile.TemporaryDirectory(dir=a.shards.parent, prefix=".benchmark") as folder:
        if a.shard_samples is not None:
            reader = copy_of(reader, Path(folder) / "shards", a.shard_samples, a.fields)
        compete(reader, a)


def compete(reader: ShardReader, a: argparse.Namespace) -> None:
    megabytes = sum(shard.bytes for shard in reader.manifest.shards) / 1e6 / len(reader)
    next(iter(reader))  # indexes are made once, not by each contestant
    list(reader.having("json"))
    memory = long_run(reader, a.long)
    print(f"memory over {memory['samples']} samples: {memory['start_mib']:.1f} MiB at the start, {memory['end_mib']:.1f} "
          f"at the end, {memory['most_mib']:.1f} at most")  # fmt: skip
    results = []
    for cache, workers in itertools.product(a.caches, a.workers):
        found = rounds(reader, cache == "cold", workers, a)
        results.append({"cache": cache, "workers": workers, "contestants": found})
        print(table(results[-1:], megabytes), flush=True)
    if a.out:
        a.out.parent.mkdir(parents=True, exist_ok=True)
        facts = {"shards": len(reader.manifest.shards), "samples": len(reader), "megabytes_per_sample": megabytes}
        a.out.write_text(json.dumps({"facts": facts, "results": results, "memory": memory}, indent=2) + "\n")


if __name__ == "__main__":
    main()

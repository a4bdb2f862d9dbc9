"""Speed and memory of the language model beside its peers, in one run.

    python tools/benchmark_lm.py --quick [--peer-python ENV/bin/python] [--out out/benchmark_lm.json]

Every contestant is a decoder-only transformer of one LLaMA-like shape (33.7 M parameters; 8 layers of width 512) with a
bidirectional prefix, in a process of its own. They take turns, so that a busy machine slows all of them alike; the first
turn warms up and is not counted. Reported are medians, in CPU seconds of the process over all threads, and tokens per
second of wall time beside them, which on a shared machine say little. Ratios are ours against the best peer of the same
dtype and table, above 1 where ours is better. A contestant whose prefix mask or cached decoding is wrong gets no numbers.

    train        forward and backward of the suffix's cross-entropy, no optimiser. float32; bfloat16 is autocast
    sample       prefill and greedy decoding with guidance as one doubled batch. float32; bfloat16 weights
    vocabulary   train at 2^18 ids in a small trunk: time, and peak of resident memory above what was there before
    length       train against sequence length, two layers, a quarter of the positions prefix: a plot with matplotlib

"of peak" is the rate of the floating-point operations that the step needs (no masked pair, no logits that nobody asked
for; `Shape.flops`) over that of a plain matrix product measured in the same turns. Ours normalises queries and keys,
which the peers do not. The peers are optional; transformers' Llama comes with this project. The others go into an
environment of their own, beside the same release of torch:

    python -m venv peers && peers/bin/pip install litgpt==0.5.13 torchtune==0.6.1 torchao==0.9.0 x-transformers==2.31.10
"""

import argparse
import ctypes
import json
import os
import statistics
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path

INSTALL = __doc__.rstrip().rpartition("\n")[2].strip()
PEERS = ("transformers Llama", "litgpt", "torchtune", "x-transformers")
TABLES = ("train", "sample", "vocabulary", "length")
DTYPES = ("float32", "bfloat16")
QUICK = {"dim": 256, "layers": 4, "heads": 4, "ffn": 704, "vocabulary": 4096, "seq": 768, "prefix": 192, "tokens": 32}
LARGE = {"vocabulary": 2**18, "layers": 2, "seq": 512, "prefix": 128, "tokens": 1}
QUICK_LARGE = LARGE | {"dim": 64, "heads": 1, "ffn": 176, "layers": 1, "seq": 128, "prefix": 32}
LENGTHS = (256, 512, 1024, 2048, 4096, 8192)


# --- in a contestant's process


def memory(field: str) -> float:
    """MiB of this process: VmRSS now, VmHWM at its peak. Linux only; nan elsewhere."""
    status = Path("/proc/self/status")
    lines = status.read_text().splitlines() if status.exists() else []
    return next((int(line.split()[1]) / 1024 for line in lines if line.startswith(field)), float("nan"))


def forget_peak() -> None:
    """Returns freed memory and starts the peak over, where the system allows it."""
    try:
        ctypes.CDLL(None).malloc_trim(0)
        Path("/proc/self/clear_refs").write_text("5")
    except (OSError, AttributeError):
        pass


def work(name: str, threads: int) -> None:
    """Answers lines `{"operation", "dtype", "shape"}` on standard input by lines of measurements, or by an error."""
    out, sys.stdout = sys.stdout, sys.stderr  # what libraries print is no answer
    warnings.filterwarnings("ignore")
    import torch
    from lm_contestants import BUILDERS, Shape, correctness, sample

    torch.set_num_threads(threads)
    contestant = shape = None

    def prepare(operation: str, dtype: torch.dtype) -> Callable[[], None]:
        tokens = torch.randint(
            0, shape.vocabulary, (shape.batch, shape.seq), generator=torch.Generator().manual_seed(0)
        )
        contestant.model.zero_grad(set_to_none=True)
        if operation == "train":
            contestant.model.train().to(torch.float32)
            autocast = torch.autocast("cpu", dtype, enabled=dtype != torch.float32)
            return lambda: autocast(contestant.train)(tokens)
        contestant.model.eval().to(dtype)
        return lambda: sample(contestant, tokens[:, : shape.prefix].repeat(2, 1), shape)

    def answer(order: dict) -> dict:
        nonlocal contestant, shape
        if shape != (wanted := Shape(**order["shape"])):
            contestant = None
            torch.manual_seed(0)
            contestant, shape = BUILDERS[name](wanted), wanted
        if order["operation"] == "check":
            parameters = sum(p.numel() for p in contestant.model.parameters())
            return correctness(contestant, shape) | {"parameters": parameters, "torch": torch.__version__}
        run = prepare(order["operation"], getattr(torch, order["dtype"]))
        forget_peak()
        resident, start, wall = memory("VmRSS"), time.process_time(), time.perf_counter()
        run()
        cpu, wall = time.process_time() - start, time.perf_counter() - wall
        return {"cpu_s": cpu, "wall_s": wall, "peak_mib": memory("VmHWM") - resident}

    for line in sys.stdin:
        try:
            result = answer(json.loads(line))
        except Exception as error:  # a peer's reason not to run, whatever it is
            result = {"error": f"{type(error).__name__}: {error}"[:300]}
        print(json.dumps(result), file=out, flush=True)


# --- in the main process


@dataclass(frozen=True)
class Rival:
    """A process that answers orders."""

    name: str
    process: subprocess.Popen

    @classmethod
    def start(cls, name: str, options) -> "Rival":
        ours = name.startswith("ours")
        python = sys.executable if ours or name == PEERS[0] else options.peer_python
        command = [python, __file__, "--work", name, "--threads", str(options.threads)]
        environment = dict(os.environ)
        if ours:
            environment["PYTHONPATH"] = str(Path(__file__).resolve().parents[1])
        return cls(name, subprocess.Popen(command, stdin=-1, stdout=-1, text=True, env=environment))

    def measure(self, operation: str, shape, dtype: str = "float32") -> dict:
        order = {"operation": operation, "dtype": dtype, "shape": asdict(shape)}
        try:
            print(json.dumps(order), file=self.process.stdin, flush=True)
            line = self.process.stdout.readline()
        except BrokenPipeError:
            line = ""
        return (
            json.loads(line)
            if line
            else {"error": f"exit status {self.process.wait()} (-9: no memory left? -15: ended by another)"}
        )

    def end(self) -> None:
        with suppress(BrokenPipeError):  # it may have ended by itself
            self.process.stdin.close()
        self.process.wait()


def admitted(rivals: list[Rival], shape) -> dict[Rival, dict]:
    """Those that run and are correct, and what they say of themselves; says why the others are not."""
    facts = {}
    for rival in rivals:
        said = rival.measure("check", shape)
        if "error" in said:
            print(f"{rival.name} is left out ({said['error'][:200]})")
        elif not said["correct"]:
            print(f"{rival.name} gets no numbers, it is wrong: {said}")
        else:
            facts[rival] = said
    return facts


def matmul(dtype: str, threads: int) -> float:
    """Floating-point operations per CPU second of one plain matrix product, by torch's way or by oneDNN's: the faster."""
    import torch

    from videopoet.models import onednn

    torch.set_num_threads(threads)
    a, b = torch.randn(2, 1024, 1024, dtype=getattr(torch, dtype)).unbind(0)

    def rate(product: Callable) -> float:
        product(a, b)
        start = time.process_time()
        for _ in range(8):
            product(a, b)
        return 8 * 2 * 1024**3 / (time.process_time() - start)

    return max(rate(torch.matmul), rate(onednn.matmul))


def contest(rivals, operation: str, shape, dtype: str, repeats: int, threads: int) -> tuple[dict, float]:
    """{name: median measurements} of rounds in which everybody runs once, the first not counted; the matmul's rate."""
    runs: dict[str, list[dict]] = {rival.name: [] for rival in rivals}
    rates = []
    for turn in range(repeats + 1):
        rates.append(matmul(dtype, threads))
        for rival in rivals:
            measured = rival.measure(operation, shape, dtype)
            if "error" in measured:
                if not turn:
                    print(f"{rival.name} cannot {operation} in {dtype} ({measured['error'][:150]})")
            elif turn:
                runs[rival.name].append(measured)
    medians = {n: {key: statistics.median(run[key] for run in rs) for key in rs[0]} for n, rs in runs.items() if rs}
    return medians, statistics.median(rates)


def best_peer(medians: dict[str, dict], key: str = "cpu_s") -> tuple[str | None, float]:
    peers = {name: numbers[key] for name, numbers in medians.items() if not name.startswith("ours")}
    return min(peers.items(), key=lambda pair: pair[1]) if peers else (None, float("nan"))


def table(title: str, rivals: dict[Rival, dict], operation: str, shape, options) -> list[dict]:
    """One operation in each dtype: prints rows and returns them."""
    rows, tokens = [], shape.batch * (shape.seq if operation == "train" else shape.tokens)
    print(f"\n{title}")
    print(
        f"{'':22}{'dtype':10}{'cache err.':>11}{'tok/CPU-s':>11}{'tok/s wall':>11}{'MiB':>8}{'x best peer':>12}{'of peak':>9}"
    )
    for dtype in DTYPES:
        medians, rate = contest(rivals, operation, shape, dtype, options.repeats, options.threads)
        peer, seconds = best_peer(medians)
        for rival, facts in rivals.items():
            if rival.name not in medians:
                continue
            row = {
                "table": operation,
                "contestant": rival.name,
                "dtype": dtype,
                "best_peer": peer,
                "shape": asdict(shape),
            }
            row |= medians[rival.name] | facts
            row |= {"tokens_per_cpu_s": tokens / row["cpu_s"], "tokens_per_s": tokens / row["wall_s"]}
            row |= {"ratio": seconds / row["cpu_s"], "matmul_flops_per_cpu_s": rate}
            if operation == "train":
                row["of_peak"] = shape.flops() / row["cpu_s"] / rate
            part = f"{row['of_peak']:.2f}" if "of_peak" in row else ""
            print(f"{rival.name:22}{dtype:10}{row['cache']:11.1e}{row['tokens_per_cpu_s']:11.1f}{row['tokens_per_s']:11.1f}"
                  f"{row['peak_mib']:8.0f}{row['ratio']:12.2f}{part:>9}", flush=True)  # fmt: skip
            rows.append(row)
    return rows


def vocabulary_table(rivals: list[Rival], shape, options) -> list[dict]:
    """One contestant after the other: the logits of all of them at once would not fit a small machine."""
    rows = {}
    for rival in rivals:
        medians, _ = contest([rival], "train", shape, "float32", 1, options.threads)
        rival.end()
        if rival.name in medians:
            head = {"table": "vocabulary", "contestant": rival.name, "dtype": "float32", "shape": asdict(shape)}
            rows[rival.name] = head | medians[rival.name]
    made = shape.seq - shape.prefix
    print(
        f"\nvocabulary: train, {shape.vocabulary} ids, {shape.layers} x {shape.dim}, {shape.prefix} + {made} positions"
    )
    print(f"{'':22}{'CPU s':>9}{'MiB':>9}{'x best peer':>12}{'x memory':>10}")
    (_, seconds), (_, mib) = best_peer(rows), best_peer(rows, "peak_mib")
    for name, row in rows.items():
        row |= {"ratio": seconds / row["cpu_s"], "memory_ratio": mib / max(row["peak_mib"], 1.0)}
        print(f"{name:22}{row['cpu_s']:9.2f}{row['peak_mib']:9.0f}{row['ratio']:12.2f}{row['memory_ratio']:10.2f}")
    return list(rows.values())


def length_table(rivals: list[Rival], lengths, shape, options) -> list[dict]:
    """Training's cost per token against sequence length."""
    rows = []
    print("\nlength: CPU microseconds per token of a training step, float32")
    print(f"{'positions':>10}" + "".join(f"{rival.name:>22}" for rival in rivals))
    for n in lengths:
        here = replace(shape, seq=n, prefix=n // 4)
        medians, _ = contest(rivals, "train", here, "float32", 1, options.threads)
        cost = {name: numbers["cpu_s"] / n * 1e6 for name, numbers in medians.items()}
        rows += [{"table": "length", "contestant": name, "positions": n, "cpu_us_per_token": us, "shape": asdict(here)}
                 for name, us in cost.items()]  # fmt: skip
        print(f"{n:10}" + "".join(f"{cost.get(rival.name, float('nan')):22.0f}" for rival in rivals), flush=True)
    return rows


def plot(rows: list[dict], path: Path) -> None:
    try:
        from matplotlib.figure import Figure
    except ImportError:
        print(f"no plot {path}: pip install matplotlib; the table above has the numbers")
        return
    figure = Figure(figsize=(6, 4), layout="constrained")
    axes = figure.subplots()
    for name in dict.fromkeys(row["contestant"] for row in rows):
        points = [(row["positions"], row["cpu_us_per_token"]) for row in rows if row["contestant"] == name]
        axes.plot(*zip(*points), marker="o", label=name)
    axes.set(xscale="log", yscale="log", xlabel="positions", ylabel="CPU microseconds per token, training")
    axes.minorticks_off()
    axes.set_xticks(sorted({row["positions"] for row in rows}), sorted({str(row["positions"]) for row in rows}, key=int))
    costs = sorted(row["cpu_us_per_token"] for row in rows)
    steps = [c for c in (100, 200, 500, 1000, 2000, 5000, 10000, 20000) if costs[0] / 2 < c < costs[-1] * 2]
    axes.set_yticks(steps, [str(c) for c in steps])
    axes.legend()
    figure.savefig(path, dpi=120)
    print(f"plot: {path}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a smaller shape, one repeat; under 2 CPU minutes")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1, help="1 by default: waiting threads burn CPU seconds too")
    parser.add_argument("--peer-python", default=sys.executable, help="Python of the environment that holds the peers")
    parser.add_argument("--peers", nargs="*", default=PEERS, choices=PEERS, metavar="PEER", help=", ".join(PEERS))
    parser.add_argument(
        "--compiled", action="store_true", help="ours with compiled blocks too (minutes; needs a C++ compiler)"
    )
    parser.add_argument("--only", nargs="+", default=TABLES, choices=TABLES, help="some of the tables")
    parser.add_argument("--shape", help="fields of the shape to change, as JSON (not of the vocabulary table's)")
    parser.add_argument("--lengths", type=int, nargs="+", help="positions of the length table")
    parser.add_argument("--out", type=Path, help="write all numbers as JSON, the plot beside it")
    parser.add_argument("--work", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.work:
        return work(options.work, options.threads)
    rows = compete(options)
    if options.out:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        options.out.write_text(json.dumps(rows, indent=1) + "\n")
        print(f"All numbers: {options.out}")
        plot([row for row in rows if row["table"] == "length"], options.out.with_suffix(".png"))


def compete(options) -> list[dict]:
    from lm_contestants import Shape

    changes = json.loads(options.shape or "{}")
    options.repeats = 1 if options.quick else options.repeats
    shape = Shape(**((QUICK if options.quick else {}) | changes))
    names = ["ours", *["ours, compiled"] * options.compiled, *options.peers]
    started = [Rival.start(name, options) for name in names]
    rivals, rows = admitted(started, shape), []
    if len(rivals) < len(started):
        print(f"To have the peers that are left out:\n  {INSTALL}\n  and --peer-python peers/bin/python")
    if "train" in options.only:
        title = f"train: {shape.prefix} + {shape.seq - shape.prefix} positions, {shape.layers} x {shape.dim}"
        rows += table(title, rivals, "train", shape, options)
    if "sample" in options.only:
        rows += table(f"sample: {shape.prefix} given, {shape.tokens} made, guided", rivals, "sample", shape, options)
    if "length" in options.only:
        lengths = options.lengths or (LENGTHS[:3] if options.quick else LENGTHS)
        two = [rival for rival in rivals if rival.name in ("ours", PEERS[0])]
        rows += length_table(two, lengths, replace(shape, layers=min(2, shape.layers)), options)
    if "vocabulary" in options.only:
        large = Shape(**(changes | (QUICK_LARGE if options.quick else LARGE)))
        variants = [Rival.start(name, options) for name in ("ours, by kind", "ours, 2 factors")]
        right = [*rivals, *admitted(variants[:1], large), *admitted(variants[1:], replace(large, vocabulary=2**10))]
        rows += vocabulary_table(right, large, options)
    else:
        for rival in rivals:
            rival.end()
    return rows


if __name__ == "__main__":
    main()

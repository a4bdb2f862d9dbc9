#!/usr/bin/env python3
"""Tr (S1 S2)^½, the costly part of FID and FVD: ours beside scipy's sqrtm and torchmetrics' eigenvalues, time and error.

example: python tools/benchmark_metrics.py --dims 400 2048 --out table.md

Every pair is S2 = T S1 T with T positive, for which the trace is Tr (T S1) whatever S1 is: the error column is the
difference from it, as a share of Tr S1 + Tr S2 (what a distance is off by). Cases: well-posed (condition 1e3),
ill-conditioned (1e12), rank-deficient (1,000 samples, or half of the dimension). Seconds are of the clock, the best of
--repeats, with as many threads as there are cores; OMP_NUM_THREADS=1 says what one does. sqrtm at d = 2,048 takes 10 s or
more a case.
"""

import argparse
import sys
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from videopoet.commands.safely import run_safely
from videopoet.evaluation.factors import factor, factor_of_features
from videopoet.evaluation.frechet import trace_of_root
from videopoet.evaluation.report import command, machine, markdown

CASES = ("well-posed", "ill-conditioned", "rank-deficient")


@dataclass(frozen=True, kw_only=True)
class Pair:
    """Two covariances, the features or factor they may be had from, and the exact trace of the root of their product."""

    a: Tensor
    b: Tensor
    samples: tuple[Tensor, Tensor] | None
    exact: float

    @property
    def traces(self) -> float:
        return float(self.a.trace() + self.b.trace())


def pair(case: str, d: int, seed: int = 0) -> Pair:
    generator = torch.Generator().manual_seed(seed)

    def rotation() -> Tensor:
        return torch.linalg.qr(torch.randn(d, d, dtype=torch.float64, generator=generator))[0]

    q = rotation()
    t = (q * torch.linspace(0.5, 2, d, dtype=torch.float64)) @ q.T
    t = (t + t.T) / 2
    samples = None
    if case == "rank-deficient":
        x = torch.randn(min(1000, d // 2), d, dtype=torch.float64, generator=generator)
        samples = x, x @ t
        a, b = (torch.cov(y.T) for y in samples)
    else:
        q = rotation()
        a = (q * torch.logspace(0, -3 if case == "well-posed" else -12, d, dtype=torch.float64)) @ q.T
        a = (a + a.T) / 2
        b = t @ a @ t
    return Pair(a=a, b=(b + b.T) / 2, samples=samples, exact=float((t * a).sum()))


def ours(given: Pair) -> float:
    if given.samples is not None:
        x, y = given.samples
        return trace_of_root(factor_of_features(x), given.b, lambda: factor_of_features(y)).value
    return trace_of_root(factor(given.a), given.b, lambda: factor(given.b)).value


def scipy_sqrtm(given: Pair) -> float:
    from scipy.linalg import sqrtm

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that the product is singular
        return float(np.trace(sqrtm((given.a @ given.b).numpy())).real)


def torchmetrics_eigenvalues(given: Pair) -> float:
    from torchmetrics.image.fid import _compute_fid

    zero = torch.zeros(len(given.a), dtype=torch.float64)
    return (given.traces - float(_compute_fid(zero, given.a, zero, given.b))) / 2


METHODS: dict[str, Callable[[Pair], float]] = {
    "ours": ours,
    "scipy.linalg.sqrtm": scipy_sqrtm,
    "torchmetrics": torchmetrics_eigenvalues,
}


def measured(method: Callable[[Pair], float], given: Pair, repeats: int, limit: float) -> tuple[float, float]:
    """Best seconds, and the error as a share of the traces; no repeats of what takes longer than `limit`."""
    best, value = float("inf"), float("nan")
    for _ in range(repeats):
        start = time.perf_counter()
        value = method(given)
        best = min(best, time.perf_counter() - start)
        if best > limit:
            break
    return best, abs(value - given.exact) * 2 / given.traces


def table(dims: list[int], cases: list[str], repeats: int, methods: list[str], limit: float = 5.0) -> str:
    rows = []
    for d in dims:
        for case in cases:
            given, own = pair(case, d), float("nan")
            for name in ("ours", *(name for name in methods if name != "ours")):
                seconds, error = measured(METHODS[name], given, repeats, limit)
                own = seconds if name == "ours" else own
                rows.append([f"{d}", case, name, f"{seconds:.3g}", f"{seconds / own:.1f}", f"{error:.0e}"])
                print("  ".join(rows[-1]), file=sys.stderr, flush=True)
    return markdown(["d", "case", "method", "seconds", "times ours", "error"], rows, left=3)


def run(arguments: argparse.Namespace) -> None:
    a = arguments
    if a.out is not None and not a.out.parent.is_dir():
        raise ValueError(f"the folder of --out {a.out} does not exist: make it first")
    if min(a.dims) < 8 or a.repeats < 1:
        raise ValueError(f"dimensions of at least 8 and at least one repeat, got {a.dims} and {a.repeats}")
    threads = f"{torch.get_num_threads()} thread{'s' if torch.get_num_threads() > 1 else ''}"
    text = f"`{command()}`, {machine()}, {threads}\n\n{table(a.dims, a.cases, a.repeats, a.methods)}\n"
    print(text)
    if a.out is not None:
        a.out.write_text(text, encoding="utf-8")


def parser() -> argparse.ArgumentParser:
    text = (__doc__ or "").strip().splitlines()
    root = argparse.ArgumentParser(description=text[0], epilog=text[2])
    root.add_argument("--dims", type=int, nargs="+", default=[400, 768, 1408, 2048], help="dimensions of the features")
    root.add_argument("--cases", nargs="+", choices=CASES, default=list(CASES))
    root.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS), help="ours is always measured")
    root.add_argument("--repeats", type=int, default=3)
    root.add_argument("--out", type=Path, metavar="FILE", help="write the table, markdown")
    root.set_defaults(run=run)
    return root


if __name__ == "__main__":
    run_safely(parser().parse_args(), [])

"""The pairs of the benchmark have the trace they are said to have, and the table says what was slower and what was wrong."""

import importlib.util
import sys
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def tool():
    spec = importlib.util.spec_from_file_location("benchmark_metrics", ROOT / "tools/benchmark_metrics.py")
    module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("case", ["well-posed", "ill-conditioned", "rank-deficient"])
def test_every_method_comes_near_the_exact_trace_and_ours_nearest(tool, case):
    given = tool.pair(case, 40)
    assert torch.equal(given.b, given.b.T)
    errors = {name: tool.measured(method, given, 1, 5.0)[1] for name, method in tool.METHODS.items()}
    assert errors["ours"] < 1e-14 and max(errors.values()) < 1e-6
    if case != "well-posed":
        assert min(errors["scipy.linalg.sqrtm"], errors["torchmetrics"]) > 1e4 * errors["ours"]


def test_the_table(tool, tmp_path):
    tool.run(tool.parser().parse_args(["--dims", "16", "--cases", "well-posed", "--out", str(tmp_path / "t.md")]))
    rows = [line for line in (tmp_path / "t.md").read_text().splitlines() if line.startswith("| 16")]
    assert [row.split("|")[3].strip() for row in rows] == ["ours", "scipy.linalg.sqrtm", "torchmetrics"]
    assert rows[0].split("|")[5].strip() == "1.0"
    tool.run(tool.parser().parse_args(["--dims", "16", "--methods", "torchmetrics", "--out", str(tmp_path / "t.md")]))
    rows = [line for line in (tmp_path / "t.md").read_text().splitlines() if line.startswith("| 16")]
    assert [row.split("|")[3].strip() for row in rows] == ["ours", "torchmetrics"] * 3
    with pytest.raises(ValueError, match="dimensions of at least 8"):
        tool.run(tool.parser().parse_args(["--dims", "4"]))

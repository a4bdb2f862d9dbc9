"""The benchmark of reading: every contestant reads every sample, and the report says what was measured."""

import importlib.util
import json
import sys
from pathlib import Path

import numpy as np
import pytest

from videopoet.data.schema import MediaManifest
from videopoet.data.shards import ShardReader, ShardWriter

COUNT = 70


@pytest.fixture(scope="module")
def tool():
    path = Path(__file__).parents[2] / "tools" / "benchmark_data.py"
    spec = importlib.util.spec_from_file_location("benchmark_data", path)
    module = importlib.util.module_from_spec(spec)
    sys.modules["benchmark_data"] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    folder = tmp_path_factory.mktemp("benchmark") / "shards"
    with ShardWriter(folder, max_samples=30) as writer:
        for i in range(COUNT):
            writer.write(f"{i:03d}", {"video": np.full((2, 2), i, np.uint8), "json": {"captions": []}})
        writer.finish(MediaManifest(fps=8.0, frames=1, height=2, width=2, sample_rate=16000))
    return folder


@pytest.mark.parametrize("workers", [0, 1, 2])
def test_every_contestant_reads_every_sample_once(tool, shards, workers):
    reader = ShardReader(shards)
    for name, contestant in tool.CONTESTANTS.items():
        assert sum(contestant(reader, workers, 0)) == COUNT, name


def test_the_report(tool, shards, tmp_path, monkeypatch, capsys):
    out = tmp_path / "deep" / "report.json"
    arguments = [str(shards), "--workers", "0", "--rounds", "1", "--long", "200", "--shard-samples", "20", "--out", str(out)]
    monkeypatch.setattr(sys, "argv", ["benchmark_data.py", *arguments])
    tool.main()
    report = json.loads(out.read_text())
    assert [row["cache"] for row in report["results"]] == ["warm", "cold"] and report["facts"]["samples"] == COUNT
    assert report["facts"]["shards"] == 4 and [path.name for path in shards.parent.iterdir()] == [shards.name]
    for row in report["results"]:
        assert set(row["contestants"]) == set(tool.CONTESTANTS)
        assert row["contestants"]["tarfile"]["to_tarfile"] == 1
        assert all(found["samples_per_second"] > 0 for found in row["contestants"].values())
    assert report["memory"]["end_mib"] > 0 and "| ours, shuffled | cold | 0 |" in capsys.readouterr().out

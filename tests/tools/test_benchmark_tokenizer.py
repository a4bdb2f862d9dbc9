"""The benchmark runs without its peers and says how to get them. What it measures is nobody's test."""

import json
import subprocess
import sys
from pathlib import Path

TOOL = Path(__file__).parents[2] / "tools" / "benchmark_tokenizer.py"


def test_quantizers_without_peers(tmp_path):
    out = tmp_path / "numbers.json"
    command = [sys.executable, str(TOOL), "--quick", "--only", "quantizer", "--out", str(out)]
    result = subprocess.run(command, capture_output=True, text=True, timeout=280)
    assert result.returncode == 0, result.stderr
    rows = {row["contestant"]: row for row in json.loads(out.read_text())}
    assert {"ours LFQ, joint entropy", "ours LFQ, 2 x 9 bits"} <= rows.keys()
    assert all(row["cpu_s"] > 0 and row["torch"] for row in rows.values())
    if "vector-quantize-pytorch LFQ" not in rows:
        assert "pip install" in result.stdout and "--peer-python" in result.stdout

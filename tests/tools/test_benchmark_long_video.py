"""The long-video benchmark goes from file to file and measures what it says; the hour itself is nobody's test."""

import json
import subprocess
import sys
from pathlib import Path

TOOL = Path(__file__).parents[2] / "tools" / "benchmark_long_video.py"


def test_a_short_long_video(tmp_path, shipped):
    """45 frames through the tiny tokenizer: not a whole number of latent frames, and less than a minute."""
    out, tokenizer = tmp_path / "numbers.json", shipped / "visual.safetensors"
    command = [sys.executable, str(TOOL), "--minutes", str(45 / 480), "--tokenizer", str(tokenizer), "--out", str(out)]
    result = subprocess.run(command, capture_output=True, text=True, timeout=280)
    assert result.returncode == 0, result.stderr
    numbers = json.loads(out.read_text())
    for name in ("write", "encode", "decode"):
        row = numbers[name]
        assert row["frames"] == 45 and row["cpu_s"] > 0
        assert row["end_mib"] >= row["first_minute_mib"] > 0 or row["end_mib"] != row["end_mib"]  # nan off Linux
    codes = -(-44 // 4) + 1
    assert numbers["bytes"]["vpt"] >= codes * 64 * 6 / 8

"""What lies in the folder of an export.

DIR/export.json          what was asked: benchmark, its knobs, the prompt file's hash, seed, model
DIR/made/00000.jsonl     one line per finished video, by the process that made it
DIR/videos/...           the videos, and nothing else: some benchmarks trip over any other file
"""

import json
from pathlib import Path
from typing import Any

FACTS, LOG, VIDEOS = "export.json", "made", "videos"


def read_facts(out: Path) -> dict[str, Any] | None:
    """`export.json`, or None where there is none."""
    if not (out / FACTS).is_file():
        return None
    try:
        facts = json.loads((out / FACTS).read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{out / FACTS}: not JSON ({error})") from None
    if not isinstance(facts, dict):
        raise ValueError(f"{out / FACTS}: is not what an export writes")
    return facts


def finished(out: Path) -> dict[str, dict[str, Any]]:
    """First path -> the log's last line about it. The last line of a process that was stopped may be cut: it is skipped."""
    rows = {}
    for log in sorted((out / LOG).glob("*.jsonl")):
        for line in log.read_text(encoding="utf-8", errors="replace").split("\n"):
            try:
                row = json.loads(line)
                rows[row["paths"][0]] = row
            except (ValueError, LookupError, TypeError):
                continue
    return rows

"""What every table of a study carries: the command, the machine, and itself as markdown."""

import os
import platform
import shlex
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path


def markdown(columns: Sequence[str], rows: Iterable[Sequence[str]], left: int = 1) -> str:
    """A markdown table; the first `left` columns are text, the others numbers set to the right."""
    rules = ["---" if i < left else "---:" for i in range(len(columns))]
    lines = [[*columns], rules, *([*row] for row in rows)]
    assert all(len(line) == len(columns) for line in lines)
    return "\n".join("| " + " | ".join(str(cell).replace("|", "/") for cell in line) + " |" for line in lines)


def machine() -> str:
    """The processor, how many of its cores this process may use, the GPU if there is one, Python and torch."""
    import torch

    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    parts = [_processor(), f"{cores} cores"]
    if torch.cuda.is_available():
        parts.append(torch.cuda.get_device_name())
    return ", ".join([*parts, f"Python {platform.python_version()}", f"torch {torch.__version__}"])


def command() -> str:
    """This process' command line, to be pasted; the program without its folder."""
    return shlex.join(["python", os.path.relpath(sys.argv[0]), *sys.argv[1:]])


def _processor() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        for line in cpuinfo.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()

"""The report of an evaluation: what was measured, of what, with what, and with which numbers it may be compared.

`compare` sets two reports side by side, measure by measure, and refuses each pair that differs in anything but the model
and the seed of its samples: another protocol, another network file, other counts, other videos.
"""

import json
import math
import platform
from collections.abc import Sequence
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from rich.table import Table

from videopoet.data.files import whole_or_nothing
from videopoet.evaluation.measures import Measured

FORMAT = "videopoet-evaluation-1"
PACKAGES = ("videopoet-open", "torch", "torchaudio", "numpy", "scipy", "av", "pillow", "opencv-python-headless", "transformers",
            "safetensors")  # fmt: skip


def versions() -> dict[str, str]:
    """Of Python and of every package that has a hand in a number."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "not installed"
    return found


def write_report(path: Path, report: dict[str, Any]) -> None:
    """JSON, whole or not at all; infinities become the texts "inf" and "-inf"."""
    with whole_or_nothing(path) as part:
        part.write_text(json.dumps(_finite(report), indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def read_report(path: Path) -> dict[str, Any]:
    """Raises ValueError for a file that is no report."""
    if not Path(path).is_file():
        raise ValueError(f"no report at {path}")
    try:
        report = json.loads(Path(path).read_text(encoding="utf-8"))
    except (ValueError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is not JSON ({error})") from None
    if not isinstance(report, dict) or report.get("format") != FORMAT:
        raise ValueError(f"{path} is no report of `videopoet evaluate`: write one with --out (bounce: --report)")
    return report


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _finite(item) for name, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in value]
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value


def as_record(found: Measured, reasons: Sequence[str]) -> dict[str, Any]:
    """A measure in a report: `comparable_to` is empty wherever there is a reason against it, and the reasons follow."""
    record = asdict(found)
    against = [*found.shortfalls, *reasons]
    if found.detector and found.detector["surrogate"]:
        against.append(f"{found.detector['name']} stands in for the published network")
    del record["shortfalls"]
    return record | {"comparable_to": [] if against else list(found.comparable_to), "not_comparable_because": against}


def table(report: dict[str, Any]) -> Table:
    """The measures of one report, for people."""
    of_all = report["complaints"]
    facts = [f"protocol {report['protocol']['hash']}, seed {report['samples']['seed']}", *of_all]
    if short := report["samples"].get("prompts_shortened"):
        facts.append(f"{short} prompts shortened to what the model reads")
    view = Table(title=f"{report['protocol']['name']}: {report['protocol']['title']}", caption="; ".join(facts))
    for name in ("measure", "value", "spread", "bias", "ceiling", "N", "comparable to"):
        view.add_column(name, justify="left" if name in ("measure", "comparable to") else "right", overflow="fold")
    for m in report["measures"]:
        sizes = ", ".join(f"{count} {name}" for name, count in m["n"].items())
        own = [reason for reason in m["not_comparable_because"] if reason not in of_all]
        against = "; ".join(own) or ("see below" if of_all else "no such number")
        why = "; ".join(m["comparable_to"]) or f"nothing published: {against}"
        view.add_row(f"{m['metric']} {arrow(m)}", number(m["value"]), *(number(m[k]) for k in ("spread", "bias", "ceiling")),
                     sizes, why)  # fmt: skip
    return view


def arrow(measure: dict[str, Any]) -> str:
    return "↑" if measure["higher_is_better"] else "↓"


def number(value: float | str | None) -> str:
    """Four digits, nothing for nothing."""
    return "" if value is None else value if isinstance(value, str) else f"{value:.4g}"


def differences(a: Any, b: Any, path: str = "") -> list[str]:
    """Where two plain values differ, as "measures.0.fake.frames: 16 against 8"."""
    if isinstance(a, dict) and isinstance(b, dict):
        inner = [] if set(a) == {"class_path", "init_args"} == set(b) and a["class_path"] == b["class_path"] else None
        keys = ["init_args"] if inner is not None else sorted(set(a) | set(b))
        step = (lambda key: path) if inner is not None else (lambda key: f"{path}.{key}".lstrip("."))
        return [d for key in keys for d in differences(a.get(key), b.get(key), step(key))]
    if isinstance(a, list) and isinstance(b, list) and len(a) == len(b):
        return [d for i, (x, y) in enumerate(zip(a, b)) for d in differences(x, y, f"{path}.{i}")]
    return [] if a == b else [f"{path.lstrip('.')}: {_short(a)} against {_short(b)}"]


def _short(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False) if isinstance(value, (dict, list)) else str(value)
    return text if len(text) <= 60 else text[:57] + "..."


def obstacles(a: dict[str, Any], b: dict[str, Any]) -> list[str]:
    """Why no number of two reports can be compared, whatever it is of."""
    if a["protocol"]["hash"] != b["protocol"]["hash"]:
        named = differences(a["protocol"]["spec"], b["protocol"]["spec"])
        more = f" and {len(named) - 4} more" if len(named) > 4 else ""
        return [f"the protocols differ: {'; '.join(named[:4])}{more}"]
    return [f"the data differ: {d}" for d in differences(a["data"], b["data"])[:4]]


def pair_obstacles(x: dict[str, Any], y: dict[str, Any]) -> list[str]:
    """Why two numbers of one metric cannot be compared."""
    found = []
    detectors = [m["detector"] or {} for m in (x, y)]
    if detectors[0].get("key") != detectors[1].get("key"):
        named = differences(*({k: v for k, v in d.items() if k not in ("key", "label")} for d in detectors))
        found.append(f"the networks differ: {'; '.join(named[:3])}")
    return found + [f"the counts differ: {d}" for d in differences(x["n"], y["n"])]


def compare(a: dict[str, Any], b: dict[str, Any]) -> tuple[list[tuple[dict, dict]], dict[str, list[str]]]:
    """Pairs of measures that may be compared, and for every other metric why it may not."""
    against = obstacles(a, b)
    measures = [{m["metric"]: m for m in report["measures"]} for report in (a, b)]
    pairs, refused = [], {}
    for name in dict.fromkeys([*measures[0], *measures[1]]):
        if name not in measures[0] or name not in measures[1]:
            refused[name] = ["only one of the reports has it", *against]
            continue
        x, y = (m[name] for m in measures)
        if why := against + pair_obstacles(x, y):
            refused[name] = why
        else:
            pairs.append((x, y))
    return pairs, refused


def comparison_table(pairs: Sequence[tuple[dict, dict]], names: tuple[str, str]) -> Table:
    """Value against value. A difference within the spreads of repeats is marked as such."""
    view = Table(title="compared under one protocol, network, data and counts")
    for name in ("measure", *names, "difference", "better", "beyond spread"):
        view.add_column(name, justify="left" if name == "measure" else "right", overflow="fold")
    for x, y in pairs:
        a, b = float(x["value"]), float(y["value"])
        spread = math.hypot(*(m["spread"] or m["details"].get("standard_error") or 0.0 for m in (x, y)))
        better = "same" if a == b else names[0] if (a > b) == x["higher_is_better"] else names[1]
        beyond = "unknown" if not spread else "yes" if abs(a - b) > 2 * spread else "no"
        view.add_row(f"{x['metric']} {arrow(x)}", number(a), number(b), number(b - a), better, beyond)
    return view

"""Measures of reports as SVG, without a drawing package: a panel for each metric, a bar for each report.

A bar carries its value and the spread of repeats or splits; dashed lines are the value that chance alone would give (bias)
and the most that the counts allow (ceiling). What was measured frame by frame is a line over the frames.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from typing import Any, Self

from videopoet.evaluation.report_file import arrow, number

WIDTH, HEIGHT, TOP, BOTTOM, LEFT, RIGHT = 260, 250, 40, 40, 46, 12  # pixels of a panel and of its margins
COLOURS = ("#1766a6", "#c2571a", "#3b8132", "#7a3e9d")
STYLE = "text{font:11px sans-serif;fill:#222}.t{font-weight:bold}.n{font-size:10px}"


def draw(reports: Sequence[dict[str, Any]], names: Sequence[str]) -> str:
    """An SVG of all metrics of the reports, side by side in rows of four."""
    metrics = list(dict.fromkeys(m["metric"] for report in reports for m in report["measures"]))
    panels = []
    for at, metric in enumerate(metrics):
        of_each = [next((m for m in report["measures"] if m["metric"] == metric), None) for report in reports]
        there = [(name, m, COLOURS[i % 4]) for i, (name, m) in enumerate(zip(names, of_each)) if m is not None]
        place = f"translate({at % 4 * WIDTH},{at // 4 * HEIGHT})"
        panels.append(f'<g transform="{place}">{_panel(metric, there)}</g>')
    rows = -(-len(metrics) // 4)
    size = f'width="{WIDTH * min(4, len(metrics))}" height="{HEIGHT * rows}"'
    ground = f'<rect {size} fill="#fff"/><style>{STYLE}</style>'
    return f'<svg xmlns="http://www.w3.org/2000/svg" {size}>{ground}{"".join(panels)}</svg>\n'


def _panel(metric: str, there: list[tuple[str, dict[str, Any], str]]) -> str:
    out = [_text(8, 16, f"{metric} {arrow(there[0][1])}", "t")]
    lines = [(name, [float(v) for v in m["details"].get("by_frame") or ()], colour) for name, m, colour in there]
    if all(values for _, values, _ in lines):
        return "".join(out + _curves(lines))
    return "".join(out + _bars(there))


def _bars(there: list[tuple[str, dict[str, Any], str]]) -> list[str]:
    marks = [(m[kind], kind) for _, m, _ in there[:1] for kind in ("bias", "ceiling") if m[kind] is not None]
    spans = [(float(m["value"]), float(m["spread"] or 0)) for _, m, _ in there]
    seen = [v + s * sign for v, s in spans for sign in (-1, 1)] + [float(v) for v, _ in marks] + [0.0]
    place = _Scale.of([v for v in seen if math.isfinite(v)], 0.0)
    step = (WIDTH - LEFT - RIGHT) / len(there)
    out = [place.axis()]
    for i, ((name, m, colour), (value, spread)) in enumerate(zip(there, spans)):
        middle = LEFT + (i + 0.5) * step
        out.append(_text(middle, HEIGHT - BOTTOM + 16, _short(name, len(there)), "n", "middle"))
        if not math.isfinite(value):
            out.append(_text(middle, place(0) - 6, number(m["value"]), "n", "middle"))
            continue
        top, foot = sorted((place(value), place(0)))
        out.append(f'<rect class="bar" x="{middle - step / 3:.1f}" y="{top:.2f}" width="{step / 1.5:.1f}" '
                   f'height="{foot - top:.2f}" fill="{colour}"/>')  # fmt: skip
        out.append(_text(middle, top - 5 - (place(0) - place(spread)), number(value), "n", "middle"))
        if spread:
            out.append(f'<path class="spread" d="M{middle:.1f},{place(value - spread):.2f}V{place(value + spread):.2f}" '
                       'stroke="#222" stroke-width="1.5"/>')  # fmt: skip
    for value, kind in marks:
        y = place(float(value))
        out.append(f'<path class="{kind}" d="M{LEFT},{y:.2f}H{WIDTH - RIGHT}" stroke="#777" stroke-dasharray="4 3"/>')
        out.append(_text(WIDTH - RIGHT, y - 3, kind, "n", "end"))
    return out


def _curves(lines: list[tuple[str, list[float], str]]) -> list[str]:
    finite = [v for _, values, _ in lines for v in values if math.isfinite(v)]
    if not finite:
        return [_text(LEFT, HEIGHT / 2, "no finite value")]
    place, most = _Scale.of(finite, min(finite)), max(len(values) for _, values, _ in lines)
    out = [place.axis(), _text(WIDTH - RIGHT, HEIGHT - 6, "frame", "n", "end")]
    for i, (name, values, colour) in enumerate(lines):
        x = [LEFT + (WIDTH - LEFT - RIGHT) * (k + 0.5) / most for k in range(len(values))]
        points = " ".join(f"{a:.1f},{place(b):.2f}" for a, b in zip(x, values) if math.isfinite(b))
        out.append(f'<polyline class="curve" points="{points}" fill="none" stroke="{colour}" stroke-width="1.5"/>')
        out.append(f'<circle cx="{LEFT + 4}" cy="{HEIGHT - BOTTOM + 13 + 12 * i}" r="4" fill="{colour}"/>')
        out.append(_text(LEFT + 12, HEIGHT - BOTTOM + 17 + 12 * i, name, "n"))
    return out


@dataclass(frozen=True)
class _Scale:
    """Value -> pixel; `base` is where bars stand."""

    base: float
    low: float
    high: float

    @classmethod
    def of(cls, values: list[float], base: float) -> Self:
        """A tenth of room above, and below where something reaches below the base."""
        low, high = min([base, *values]), max([base, *values])
        room = (high - low) / 10 or 1.0
        return cls(base, low - room * (low < base), high + room)

    def __call__(self, value: float) -> float:
        return HEIGHT - BOTTOM - (value - self.low) / (self.high - self.low) * (HEIGHT - BOTTOM - TOP)

    def axis(self) -> str:
        out = [f'<path d="M{LEFT},{TOP}V{HEIGHT - BOTTOM}H{WIDTH - RIGHT}" fill="none" stroke="#888"/>']
        marked = (self.base, (self.base + self.high) / 2, self.high)
        return "".join(out + [_text(LEFT - 5, self(v) + 4, f"{v:.3g}", "n", "end") for v in marked])


def _short(name: str, count: int) -> str:
    most = max(6, 34 // count)
    return name if len(name) <= most else name[: most - 1] + "…"


def _text(x: float, y: float, words: str, kind: str = "", anchor: str = "start") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" class="{kind}">{escape(words)}</text>'

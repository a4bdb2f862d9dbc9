"""Points over a logarithmic axis as SVG, without a drawing package."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

WIDTH, HEIGHT, MARGIN = 380, 280, 58  # pixels of a panel, and of the room for its words


@dataclass(frozen=True, kw_only=True)
class Panel:
    """Points (x, y) with a word each, joined in the order of x. x is logarithmic, y where `log_y` says so.

    level: a horizontal dashed line, and its word.
    """

    title: str
    x_label: str
    y_label: str
    points: Sequence[tuple[float, float, str]]
    log_y: bool = False
    level: tuple[float, str] | None = None


def draw(panels: Sequence[Panel]) -> str:
    """An SVG of the panels side by side. Raises ValueError for points that a logarithm has no place for."""
    drawn = "".join(f'<g transform="translate({i * WIDTH},0)">{_panel(panel)}</g>' for i, panel in enumerate(panels))
    size = f'width="{WIDTH * len(panels)}" height="{HEIGHT}"'
    style = "<style>text{font:11px sans-serif;fill:#222}.t{font-weight:bold}</style>"
    return f'<svg xmlns="http://www.w3.org/2000/svg" {size}><rect {size} fill="#fff"/>{style}{drawn}</svg>\n'


def _panel(panel: Panel) -> str:
    points = sorted(panel.points)
    xs, ys = [x for x, _, _ in points], [y for _, y, _ in points]
    if not points or min(xs) <= 0 or (panel.log_y and min(ys) <= 0):
        raise ValueError(f"'{panel.title}' cannot be drawn: a logarithmic axis needs positive numbers")
    levels = [] if panel.level is None else [panel.level[0]]
    place_x, ticks_x = _axis(xs, True, MARGIN, WIDTH - 18)
    place_y, ticks_y = _axis([*ys, *levels], panel.log_y, HEIGHT - MARGIN + 10, 30)
    left, right, top, bottom = MARGIN, WIDTH - 18, 30, HEIGHT - MARGIN + 10
    out = [f'<path d="M{left},{top}V{bottom}H{right}" fill="none" stroke="#888"/>', _text(left, 18, panel.title, "t")]
    out += [_text(place_x(x), bottom + 16, f"{x:.1e}", anchor="middle") for x in ticks_x]
    for y in ticks_y:
        out.append(f'<path d="M{left},{place_y(y):.1f}H{right}" stroke="#eee"/>')
        out.append(_text(left - 6, place_y(y) + 4, f"{y:.3g}", anchor="end"))
    out += [_text((left + right) / 2, bottom + 34, panel.x_label, anchor="middle"), _text(4, 18, panel.y_label)]
    if panel.level is not None:
        y = place_y(panel.level[0])
        out.append(f'<path d="M{left},{y:.1f}H{right}" stroke="#999" stroke-dasharray="4 3"/>')
        out.append(_text(left + 4, y - 4, panel.level[1]))
    line = " ".join(f"{place_x(x):.1f},{place_y(y):.1f}" for x, y, _ in points)
    out.append(f'<polyline points="{line}" fill="none" stroke="#1766a6" stroke-width="1.5"/>')
    for x, y, word in points:
        out.append(f'<circle cx="{place_x(x):.1f}" cy="{place_y(y):.1f}" r="4" fill="#1766a6"/>')
        at_right = place_x(x) > (left + right) / 2
        out.append(
            _text(place_x(x) + (-7 if at_right else 7), place_y(y) - 7, word, anchor="end" if at_right else "start")
        )
    return "".join(out)


def _axis(values: Sequence[float], log: bool, start: float, stop: float):
    """Value -> pixel, and the values that are written on the axis: its ends and two between."""
    to = math.log10 if log else float
    low, high = to(min(values)), to(max(values))
    room = (high - low) * 0.08 or 0.1
    low, high = low - room, high + room

    def place(value: float) -> float:
        return start + (to(value) - low) / (high - low) * (stop - start)

    between = [low + (high - low) * share for share in (0.1, 0.5, 0.9)]
    return place, [10**v if log else v for v in between]


def _text(x: float, y: float, words: str, kind: str = "", anchor: str = "start") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" class="{kind}">{escape(words)}</text>'

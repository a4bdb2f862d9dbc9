"""A mixture drawn for the terminal: sequences as numbered runs with mask and loss, and the share of every task."""

from collections import Counter
from dataclasses import dataclass
from itertools import pairwise

import torch
from rich.console import Group
from rich.table import Table
from rich.text import Text as Line

from videopoet.data.mixture import Mixture
from videopoet.sequence import IGNORE, Sequence
from videopoet.vocabulary import SENTINELS, Control, Modality

COLOURS = {Modality.CONTROL: "white", Modality.TEXT: "yellow", Modality.VISUAL: "cyan", Modality.AUDIO: "magenta"}
MANY = 14  # runs drawn of a sequence; of more, the first and the last


@dataclass(frozen=True, kw_only=True)
class Run:
    """Positions [start, stop) that are alike: one marker, or tokens of one stream in one part of the sequence."""

    start: int
    stop: int
    name: str
    modality: Modality
    causal: bool
    predicted: int  # of the positions' own tokens, how many carry loss
    shown: int
    block: int  # of the first position


def runs_of(sequence: Sequence) -> list[Run]:
    """The sequence's inputs as runs. A token carries loss where the position before it predicts it."""
    carries = torch.cat([torch.tensor([False]), (sequence.targets != IGNORE)[:-1]])
    causal = torch.cat([sequence.block[:1] > 0, sequence.block.diff() > 0])
    modality = sequence.modality.tolist()
    starts = [i for i in range(len(sequence)) if i == 0 or modality[i] == Modality.CONTROL
              or modality[i] != modality[i - 1] or causal[i] != causal[i - 1]]  # fmt: skip
    runs = []
    for start, stop in pairwise([*starts, len(sequence)]):
        kind = Modality(modality[start])
        runs.append(
            Run(
                start=start,
                stop=stop,
                name=_name(int(sequence.inputs[start]), kind),
                modality=kind,
                causal=bool(causal[start]),
                predicted=int(carries[start:stop].sum()),
                shown=int(sequence.shown[start:stop].sum()),
                block=int(sequence.block[start]),
            )
        )
    return runs


def _name(id: int, modality: Modality) -> str:
    if modality != Modality.CONTROL:
        return modality.name.lower()
    if id in SENTINELS:
        return f"<sentinel {id - SENTINELS[0]}>"
    return f"<{Control(id).name.lower()}>"


def draw_sequence(name: str, sequence: Sequence) -> Group:
    """Runs down the page: positions, what stands there, who sees it, loss; and beside it which run sees which."""
    runs = runs_of(sequence)
    shown = runs if len(runs) <= MANY else [*runs[: MANY // 2], *runs[-MANY // 2 :]]
    table = Table(
        title=f"{name}: {len(sequence)} positions", title_justify="left", title_style="bold", box=None, padding=(0, 2)
    )
    for column in ("position", "tokens", "what", "block", "part", "loss", "sees"):
        table.add_column(column, justify="right" if column in ("position", "tokens", "loss") else "left")
    for number, run in enumerate(shown):
        if len(shown) < len(runs) and number == MANY // 2:
            table.add_row("...", "", f"{len(runs) - len(shown)} more runs")
        size = run.stop - run.start
        place = f"{run.start}" if size == 1 else f"{run.start}-{run.stop - 1}"
        hidden = f" ({size - run.shown} empty)" if run.shown < size else ""
        block = f"{run.block}" if size == 1 or not run.causal else f"{run.block}-{run.block + size - 1}"
        table.add_row(
            place,
            str(size),
            Line(run.name + hidden, style=COLOURS[run.modality]),
            block,
            Line("target", style="green") if run.causal else "condition",
            Line(str(run.predicted), style="green") if run.predicted else "",
            _sight(run, shown),
        )
    if bool(sequence.targets[-1] != IGNORE):
        table.add_row(str(len(sequence)), "1", Line("last token, predicted only", style="green"), "", "", "1", "")
    return Group(table, "")


def _sight(run: Run, runs: list[Run]) -> Line:
    """One sign per run drawn: seen whole, seen up to itself (causal), or not at all."""
    line = Line()
    for other in runs:
        if other.shown == 0:
            line.append("x", style="dim")  # padding, seen by nothing
        elif other is run and run.causal and run.stop - run.start > 1:
            line.append("◣", style="green")
        elif other.block <= run.block:
            line.append("■", style=COLOURS[other.modality])
        else:
            line.append("·", style="dim")
    return line


def shares_table(mixture: Mixture, steps: range) -> Table:
    """Counted over batches of rank 0: the share of every task in steps, samples, tokens and losses, and padding."""
    count: dict[str, Counter] = {}
    total: Counter = Counter()
    for step in steps:
        batch = mixture[step]
        found = {
            "steps": 1,
            "samples": int(batch.document.amax(1).clamp_min(1).sum()),
            "tokens": batch.inputs.numel(),
            "losses": int((batch.targets != IGNORE).sum()),
            "padding": int((batch.document == 0).sum()),
        }
        count.setdefault(batch.task, Counter()).update(found)
        total.update(found)
    table = Table(title="the mixture", title_justify="left", title_style="bold")
    for column in ("task", "length", "batch", "steps %", "samples %", "tokens %", "losses %", "padding %"):
        table.add_column(column, justify="left" if column == "task" else "right")
    ordered = sorted(count.items(), key=lambda item: -item[1]["tokens"])
    for name, found in [*ordered, ("all", total)]:
        per_step = found["tokens"] // found["steps"]
        length = str(mixture.lengths[name]) if name in mixture.lengths else ""
        shares = [f"{100 * found[key] / total[key]:.1f}" for key in ("steps", "samples", "tokens", "losses")]
        padding = f"{100 * found['padding'] / found['tokens']:.2f}"
        table.add_row(name, length, str(per_step), *shares, padding, end_section=name == ordered[-1][0])
    return table

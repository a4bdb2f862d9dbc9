"""The one progress bar of long work."""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

LINES = 60.0  # seconds between two lines where there is no terminal to draw on


@contextmanager
def bar(description: str, total: int | None) -> Iterator[Callable[[int], None]]:
    """A bar over `total` steps, None where not known, with steps per second and the time left.

    The block receives `advance(steps)`. The bar vanishes when done. Without a terminal, as in the log of a job, it is a
    line on stderr every minute.
    """
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]}"),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
    )
    begun = said = time.monotonic()
    done = 0
    with Progress(*columns, transient=True) as progress:
        task = progress.add_task(description, total=total, rate="")
        drawn = progress.console.is_terminal

        def advance(steps: int = 1) -> None:
            nonlocal done, said
            done, now = done + steps, time.monotonic()
            rate = done / max(now - begun, 1e-3)
            progress.update(task, advance=steps, rate=per_second(rate))
            if not drawn and now - said > LINES:
                said = now
                print(line(description, done, total, rate), file=sys.stderr, flush=True)

        yield advance


def per_second(rate: float) -> str:
    """A rate for people: whole numbers from ten a second on."""
    return f"{rate:.0f}/s" if rate >= 10 else f"{rate:.2g}/s"


def line(description: str, done: int, total: int | None, rate: float) -> str:
    """`clips: 1200 of 9000, 31/s, 4 min left`."""
    if total is None:
        return f"{description}: {done}, {per_second(rate)}"
    left = (total - done) / rate / 60 if rate else float("inf")
    return f"{description}: {done} of {total}, {per_second(rate)}, {left:.0f} min left"

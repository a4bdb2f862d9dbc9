"""The progress bar of sampling."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def token_bar(description: str, total: int) -> Iterator[Callable[[int], None]]:
    """A bar over `total` tokens with tokens per second and the time left; vanishes when done, and needs no terminal.

    The block receives what `VideoPoet.generate` calls `progress`; `VideoPoet.num_tokens` says how many there will be.
    """
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

    counts = TextColumn("{task.completed:.0f} of {task.total:.0f} tokens, {task.fields[rate]:.0f}/s")
    columns = (TextColumn("{task.description}"), BarColumn(), counts, TimeElapsedColumn(), TextColumn("left"),
               TimeRemainingColumn())  # fmt: skip
    with Progress(*columns, transient=True) as bar:
        number = bar.add_task(description, total=total, rate=0.0)
        task = bar.tasks[number]

        def advance(tokens: int) -> None:
            bar.update(number, advance=tokens, rate=(task.completed + tokens) / max(task.elapsed or 0.0, 1e-3))

        yield advance

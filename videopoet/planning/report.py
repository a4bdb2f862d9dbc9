"""A plan drawn for the terminal."""

import time

from rich.console import Console
from rich.table import Table

from videopoet.models.token_lm import TokenLM
from videopoet.planning.config import Place
from videopoet.planning.memory import dtypes
from videopoet.planning.plan import RESERVE, Plan, Row
from videopoet.planning.shadow import measure_step
from videopoet.training.flops import step_flops


def print_plan(plan: Plan, console: Console) -> None:
    """Parameters, work, the table of memory, and what to change."""
    counts = ", ".join(f"{name} {number(value)}" for name, value in plan.parameters.items())
    console.print(f"[bold]parameters[/]  {counts}")
    w, machine = plan.work, plan.machine
    console.print(
        f"[bold]step[/]        {number(w.tokens_per_step)} tokens ({plan.gpus} x {plan.accumulate} batches of up to "
        f"{plan.tokens_per_batch}), {w.flops_per_step:.3g} FLOPs"
    )
    console.print(
        f"[bold]training[/]    {w.steps} steps, {number(w.tokens)} tokens, {w.flops_per_step * w.steps:.3g} FLOPs: "
        f"{w.hours:.1f} hours on {plan.gpus} x {machine.name} at {100 * plan.utilisation:.0f} % of {machine.peak / 1e12:.0f} "
        "TFLOP/s"
    )
    console.print(memory_table(plan))
    room = machine.memory * (1 - RESERVE) / 1e9
    console.print(
        f"GB of 10^9 bytes per GPU, {plan.precision}; a batch of {plan.measured_on}. What fits leaves "
        f"{100 * RESERVE:.0f} % of {machine.memory / 1e9:.0f} GB free ({room:.1f} GB to use). Most tokens: the largest "
        "tokens_per_batch that fits."
    )
    if plan.refused:
        console.print(f"[red]videopoet fit would not begin:[/] {plan.refused}", soft_wrap=True)
    if plan.configured.fits:
        console.print(f"[green]the config as it is fits[/] ({name_of(plan.configured)})")
        return
    console.print(f"[red]the config as it is does not fit[/] ({name_of(plan.configured)}). Any one of:")
    for line in plan.advice:
        console.print(f"  {line}", soft_wrap=True)


def name_of(row: Row) -> str:
    return f"{row.strategy.name}, {'with' if row.recompute else 'without'} activation checkpointing"


def memory_table(plan: Plan) -> Table:
    """A line for every strategy, without and with activation checkpointing."""
    table = Table()
    columns = ("strategy", "checkpointing", "weights", "gradients", "optimizer", "communication", "activations", "total",
               "host", "fits", "most tokens")  # fmt: skip
    for column in columns:
        table.add_column(column, justify="left" if column in ("strategy", "checkpointing", "fits") else "right")
    for row in plan.rows:
        s = row.states
        values = (s.parameters, s.gradients, s.optimizer, s.communication, row.activations, row.total, s.host)
        mark = "[bold]" if row == plan.configured else ""
        cells = [mark + row.strategy.name, "yes" if row.recompute else "no", *(f"{v / 1e9:.2f}" for v in values)]
        cells += ["[green]yes[/]" if row.fits else "[red]no[/]", str(row.most_tokens)]
        table.add_row(*cells, end_section=row.recompute)
    return table


def dev_run(model: TokenLM, places: dict[str, Place], precision: str) -> dict[str, dict]:
    """One forward and backward pass of every task on the meta device."""
    steps, (weight, autocast) = {}, dtypes(precision, 0)
    model = model.to(weight)
    for name, place in places.items():
        start = time.perf_counter()
        found = measure_step(model, place.batch, autocast)
        rows, length = place.batch.inputs.shape
        steps[name] = {
            "rows": rows, "length": length, "flops": step_flops(model, place.batch).total.item(), "kept": found.kept,
            "peak": found.peak, "untouched": len(found.untouched), "seconds": time.perf_counter() - start,
        }  # fmt: skip
    return steps


def print_steps(steps: dict[str, dict], console: Console) -> None:
    """What the passes took, in bytes that would have been needed."""
    table = Table(title="one forward and backward pass of every task, without memory", title_justify="left")
    for column in ("task", "rows", "positions", "FLOPs", "kept for backward, GB", "peak, GB", "weights untouched"):
        table.add_column(column, justify="left" if column == "task" else "right")
    for name, s in steps.items():
        table.add_row(name, str(s["rows"]), str(s["length"]), f"{s['flops']:.3g}", f"{s['kept'] / 1e9:.2f}",
                      f"{s['peak'] / 1e9:.2f}", str(s["untouched"]))  # fmt: skip
    console.print(table)


def number(value: float) -> str:
    """1234567890 -> 1.23 B."""
    for size, unit in ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= size:
            return f"{value / size:.2f} {unit}"
    return f"{value:.0f}"

"""The plan of a training: what it holds, what a step takes, how long all steps take, and what fits."""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import cache

from videopoet.models.token_lm import TokenLM
from videopoet.planning.config import Place
from videopoet.planning.memory import STRATEGIES, States, Strategy, measure_activations, states
from videopoet.training.flops import step_flops

RESERVE = 0.08  # share of a GPU's memory for its context, libraries and what the allocator cannot use


@dataclass(frozen=True, kw_only=True)
class Machine:
    """GPUs of one kind. peak: dense 16-bit operations per second. memory: bytes of each."""

    name: str
    peak: float
    memory: float


#: From the vendor's data sheets: dense bfloat16 with float32 sums, memory in GB of 10^9 bytes.
MACHINES = {m.name: m for m in (
    Machine(name="h100", peak=989.4e12, memory=80e9),
    Machine(name="h200", peak=989.4e12, memory=141e9),
    Machine(name="a100", peak=312e12, memory=80e9),
    Machine(name="a100-40", peak=312e12, memory=40e9),
    Machine(name="l40s", peak=362e12, memory=48e9),
    Machine(name="rtx4090", peak=165.2e12, memory=24e9),
)}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Row:
    """One way to train, in bytes per GPU. most_tokens: the largest `tokens_per_batch` that fits, 0 where none does."""

    strategy: Strategy
    recompute: bool
    states: States
    activations: int
    total: int
    fits: bool
    most_tokens: int


@dataclass(frozen=True, kw_only=True)
class Work:
    """What training computes. A step is one of the optimizer, on all GPUs."""

    tokens_per_step: float
    flops_per_step: float
    steps: int
    hours: float

    @property
    def tokens(self) -> float:
        return self.tokens_per_step * self.steps


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Everything that `videopoet plan` says. measured_on: the task whose batch the activations are of."""

    machine: Machine
    gpus: int
    precision: str
    accumulate: int
    utilisation: float
    tokens_per_batch: int
    parameters: dict[str, int]
    lengths: dict[str, int]
    measured_on: str
    work: Work
    rows: list[Row]
    configured: Row
    refused: str  # why training would not begin on so many GPUs; empty where it would
    advice: list[str]

    def to_json(self) -> dict:
        """As JSON can hold it."""
        return asdict(self) | {"work": asdict(self.work) | {"tokens": self.work.tokens}}


def count_parameters(model: TokenLM) -> dict[str, int]:
    """Parameters by part."""

    def count(module) -> int:
        return sum(p.numel() for p in module.parameters())

    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    return {"trunk": count(model.transformer), "token tables and heads": count(model.io),
            "text encoder": count(model.text_encoder), "trained": trained, "all": count(model)}  # fmt: skip


def count_work(model: TokenLM, places: dict[str, Place], ranks: int, steps: int | None, tokens: float | None,
               speed: float) -> Work:  # fmt: skip
    """Means over the tasks by how often they come. ranks: batches per step. steps, or tokens in all. speed: operations/s."""
    shares = {name: place.count / sum(p.count for p in places.values()) for name, place in places.items()}
    flops = sum(shares[n] * step_flops(model, p.batch).total.item() for n, p in places.items()) * ranks
    per_step = sum(shares[n] * p.batch.inputs.numel() for n, p in places.items()) * ranks
    steps = max(1, round(tokens / per_step)) if tokens else steps
    return Work(tokens_per_step=per_step, flops_per_step=flops, steps=steps, hours=steps * flops / speed / 3600)


def heaviest(places: dict[str, Place]) -> str:
    """The task whose batch has most positions, of equal ones that with the longest sequences."""
    return max(places, key=lambda name: (places[name].batch.inputs.numel(), places[name].batch.inputs.shape[1]))


def tabulate(build: Callable[[], TokenLM], place: Place, machine: Machine, gpus: int, precision: str,
             strategies: Sequence[Strategy] = STRATEGIES, accumulate: int = 1) -> list[Row]:  # fmt: skip
    """Every strategy without and with activation checkpointing."""
    model, (rows, n) = build(), place.batch.inputs.shape

    @cache
    def activations(sharded: bool, recompute: bool):
        return measure_activations(build, place.batch, precision, int(sharded), recompute)

    table, memory = [], machine.memory * (1 - RESERVE)
    for strategy in strategies:
        held = states(model, strategy, precision, gpus, accumulate)
        for recompute in (False, True):
            found = activations(strategy.stage > 0, recompute)
            total, most = held.total(found(rows)), found.most_rows(held.room(memory))
            table.append(Row(strategy=strategy, recompute=recompute, states=held, activations=found(rows), total=total,
                             fits=total <= memory, most_tokens=most * n))  # fmt: skip
    return table


def advise(rows: list[Row], configured: Row, tokens_per_batch: int, longest: int) -> list[str]:
    """What to change, the least first; nothing where the config fits. longest: positions of the longest sequence.

    A batch that must be made smaller is accumulated to what it was.
    """
    if configured.fits:
        return []
    said = []
    for strategy in dict.fromkeys(row.strategy for row in rows):
        of_it = [r for r in rows if r.strategy == strategy and (r.recompute or not configured.recompute)]
        best = next((r for r in of_it if r.fits), max(of_it, key=lambda r: r.most_tokens))
        if strategy.stage < configured.strategy.stage or best.most_tokens < longest:
            continue
        changes = [] if strategy == configured.strategy else [strategy.arguments]
        changes += [RECOMPUTE] if best.recompute != configured.recompute else []
        if not best.fits:
            parts = -(-tokens_per_batch // best.most_tokens)
            changes.append(f"--data.init_args.tokens_per_batch={tokens_per_batch // parts}")
            changes.append(f"--trainer.accumulate_grad_batches={parts}")
        said.append(" ".join(changes))
    return said[:3] or ["nothing here fits: more GPUs, larger ones, or a smaller model"]


RECOMPUTE = "--model.init_args.model.init_args.transformer.init_args.recompute=true"

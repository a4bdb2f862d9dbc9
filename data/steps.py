"""Batches indexed by step: a run that stops continues with the very next sample, on any number of ranks."""

import warnings
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from itertools import count, islice
from typing import Any

import lightning
import torch
from torch.utils.data import DataLoader, Dataset, DistributedSampler

from videopoet.data.faults import REASONS, Broken, FailureBudget, Fault, Ledger, Substitution
from videopoet.data.order import Deal, Origin
from videopoet.data.remote import Storage
from videopoet.data.shards import ShardReader
from videopoet.data.streaming import Streaming, StreamReader


class StepSampler(DistributedSampler):
    """Yields `length` turns of `turns()`, asked anew by every iteration.

    The schedule deals samples to ranks itself. Lightning gives any other sampler's work out a second time in
    distributed runs; this base class tells it not to.
    """

    def __init__(self, turns: Callable[[], Iterable[int]], length: int):
        super().__init__(range(length), num_replicas=1, rank=0, shuffle=False)
        self._turns, self._length = turns, length

    def __iter__(self) -> Iterator[int]:
        return islice(self._turns(), self._length)

    def __len__(self) -> int:
        return self._length


class StepSchedule(Dataset, ABC):
    """`schedule[turn]` is the batch of a turn of this rank: a pure function of what it was made with and the turn.

    Which samples a step has is a function of the step; `deal` says which of them this turn takes, `origin` where orders
    are counted from. What cannot be read has substitutes and is noted in the batch's `faults`.
    """

    reader: ShardReader
    deal: Deal
    origin: Origin
    substitution: Substitution

    @abstractmethod
    def build(self, turn: int) -> Any:
        """The batch of a turn, with its step and with `substitution.taken()` as its faults."""

    @abstractmethod
    def positions(self, step: int) -> dict[str, int]:
        """How many samples each order has given before `step`."""

    @abstractmethod
    def samples_of(self, step: int) -> int:
        """Samples of a step on all ranks."""

    @abstractmethod
    def identity(self) -> str:
        """Of the samples and the seed: orders of one identity are the same order."""

    def __getitem__(self, turn: int) -> Any:
        """The batch of a turn, or `Broken`."""
        return self.substitution.batch(lambda: self.build(turn), self.deal(turn)[0])


def share_out(whole: int | None, most: int, what: str, parts: int | None, *, world_size: int, rank: int = 0,
              accumulation: int = 1) -> tuple[int, Deal]:  # fmt: skip
    """Size of a step on all ranks, and how it is dealt out.

    whole: the configured size of a step, in parts of which every rank and turn takes as many; without it a step grows with
    ranks and accumulation, each batch being `most`. Raises ValueError, with what to set, where a batch would be more than
    that.
    """
    shares = world_size * accumulation
    parts = shares if whole is None else parts or whole
    deal = Deal(parts=parts, world_size=world_size, rank=rank, accumulation=accumulation)
    if whole is None:
        return most * shares, deal
    if whole > most * shares:
        turns = next((n for n in range(1, parts + 1) if parts % (world_size * n) == 0 and n * world_size * most >= whole),
                     None)  # fmt: skip
        remedy = f"trainer.accumulate_grad_batches={turns}" if turns else "more parts, or larger batches"
        raise ValueError(
            f"a step of {whole} {what} on {world_size} ranks x {accumulation} turns of accumulation makes batches of "
            f"{whole // shares}, at most {most} were asked for: set {remedy}"
        )
    return whole, deal


class StepDataModule(lightning.LightningDataModule):
    """A data module over a `StepSchedule`, with the step riding in the batch as `batch.step`.

    The checkpoint keeps the step after the last one trained and the positions of all orders before it, so prefetching
    cannot falsify it and any number of ranks, workers and turns of accumulation can go on from there. A step whose
    accumulation was cut short is trained again from its beginning, as its gradient was lost.
    """

    num_workers: int
    failures: FailureBudget | None = None  # the default budget where not given
    storage: Storage | None = None

    def __init__(self):
        super().__init__()
        self.restart()

    def restart(self) -> None:
        """Forget how far training got."""
        self.next_step = 0
        self.origin = Origin()
        self.ledger: Ledger | None = None  # once a loader is made
        self.schedule: StepSchedule | None = None  # of training, once its loader is made
        self._loaded: dict[str, Any] = {}
        self.stale = False  # whether a checkpoint was loaded after the loader was made

    def train_loader(self, schedule: StepSchedule, steps_per_epoch: int | None = None) -> DataLoader:
        """Batches from the first step not trained yet. With `max_steps` the run is one epoch of that many steps.

        Raises ValueError where neither says how long an epoch is.
        """
        # Counted from step 0 also in a resumed run: Lightning adds the batches done before to those it fetches.
        steps = steps_per_epoch
        if self.trainer is not None and self.trainer.max_steps > 0:
            steps = self.trainer.max_steps
        if steps is None:
            raise ValueError("this schedule has no end: set trainer.max_steps")
        turns = schedule.deal.accumulation
        if isinstance(schedule.reader, StreamReader):
            schedule.reader.begin(schedule.substitution.seed, self.next_step)
        self.schedule, self.stale, self.ledger = schedule, False, None
        if self._loaded.get("identity", schedule.identity()) != schedule.identity():
            warnings.warn(
                "the samples or the seed are not those of the checkpoint: orders go on at the same positions, but "
                "samples may come twice or be left out",
                stacklevel=2,
            )
        return self._loader(schedule, StepSampler(lambda: count(self.next_step * turns), steps * turns))

    def validation_loader(self, schedule: Dataset, turns: list[int]) -> DataLoader:
        """The same turns every time."""
        return self._loader(schedule, StepSampler(lambda: iter(turns), len(turns)))

    def _loader(self, schedule: Dataset, sampler: StepSampler) -> DataLoader:
        if self.ledger is None:
            self.ledger = Ledger(FailureBudget() if self.failures is None else self.failures)
            if "faults" in self._loaded:
                self.ledger.load_state_dict(self._loaded["faults"])
        if self.trainer is not None:
            others = [c for c in self.trainer.callbacks if not isinstance(c, Cursor)]
            self.trainer.callbacks = [Cursor(self), *others]
        pin = torch.cuda.is_available()
        return DataLoader(schedule, batch_size=None, sampler=sampler, num_workers=self.num_workers, pin_memory=pin)

    def substitution(self, seed: int, training: bool) -> Substitution:
        """What is done about samples that cannot be read. In validation nothing takes their place, as its numbers would
        mean another thing."""
        budget = FailureBudget() if self.failures is None else self.failures
        return Substitution(budget if training else FailureBudget(max_samples=0, max_share=0, attempts=1), seed)

    def open_shards(self, folder: str, kind: str, streaming: Streaming | None = None) -> ShardReader:
        """A reader that tells of each sample it cannot read, or a stream."""
        if streaming is None:
            return ShardReader(folder, kind, tolerant=True, storage=self.storage)
        return StreamReader(folder, kind, streaming=streaming, storage=self.storage, rank=self.ranks()[1])

    def ranks(self) -> tuple[int, int, int]:
        """World size, rank and turns of accumulation."""
        if self.trainer is None:
            return 1, 0, 1
        return self.trainer.world_size, self.trainer.global_rank, self.trainer.accumulate_grad_batches

    def share(self, whole: int | None, most: int, what: str, parts: int | None) -> tuple[int, Deal]:
        """`share_out` to this run's ranks and turns."""
        world_size, rank, accumulation = self.ranks()
        return share_out(whole, most, what, parts, world_size=world_size, rank=rank, accumulation=accumulation)

    def state_dict(self) -> dict[str, Any]:
        state: dict[str, Any] = {"next_step": self.next_step}
        if self.schedule is not None:
            state["positions"] = self.schedule.positions(self.next_step)
            state["accumulation"] = self.schedule.deal.accumulation
            state["identity"] = self.schedule.identity()
            state["faults"] = self.ledger.state_dict()
        return state

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._loaded, self.next_step = state_dict, state_dict["next_step"]
        if "positions" in state_dict:
            self.origin = Origin(step=self.next_step, positions=state_dict["positions"])
        self.stale = self.schedule is not None

    @property
    def accumulation_before(self) -> int | None:
        """Turns of accumulation of the run that wrote the checkpoint."""
        return self._loaded.get("accumulation")


class Cursor(lightning.Callback):
    """Keeps the data module's step at that of the last batch trained, and the ledger of samples left out.

    All ranks sum their counts before each batch, so that all go on or all stop, with the same error.
    """

    def __init__(self, data: StepDataModule):
        self.data = data
        self._named: set[str] = set()

    def on_train_start(self, trainer, pl_module) -> None:
        if self.data.stale:  # DeepSpeed restores after optimizers are set up, which may have made the loader
            trainer.fit_loop._combined_loader = None
            trainer.fit_loop.setup_data()
        self._align(trainer)
        found = self._gather(trainer, self.data.schedule.identity())
        if len(set(found)) > 1:
            raise ValueError(
                f"ranks see different samples: {found} on ranks 0 to {len(found) - 1}; give every node the same shards"
            )

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx) -> None:
        self._account(trainer, batch, self.data.schedule.samples_of(batch.step) // self.data.schedule.deal.accumulation)
        left_out = self.data.ledger.left_out
        if left_out:
            pl_module.log_dict({f"data/left_out/{reason}": float(n) for reason, n in left_out.items()})
            pl_module.log("data/left_out", float(left_out.total()), prog_bar=True)

    def on_validation_batch_start(self, trainer, pl_module, batch, batch_idx, dataloader_idx=0) -> None:
        self._account(trainer, batch, 0)

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx) -> None:
        if (batch_idx + 1) % self.data.schedule.deal.accumulation == 0:
            self.data.next_step = batch.step + 1

    def _align(self, trainer) -> None:
        """Lightning counts batches of the epoch and steps the optimizer at multiples of the accumulation. Where that is
        another than before, or a step was cut short, its count is set to the turns of whole steps."""
        now, before = self.data.schedule.deal.accumulation, self.data.accumulation_before
        if before is None or not trainer.fit_loop.restarting:
            return
        progress = trainer.fit_loop.epoch_loop.batch_progress
        done = progress.current.processed
        change = done // before * now - done
        for tracker in (progress.current, progress.total):
            for name in ("ready", "started", "processed", "completed"):
                setattr(tracker, name, getattr(tracker, name) + change)

    def _account(self, trainer, batch: Any, drawn: int) -> None:
        faults: tuple[Fault, ...] = getattr(batch, "faults", ())
        counts, broken = Counter(fault.reason for fault in faults), isinstance(batch, Broken)
        numbers = [*(counts[reason] for reason in REASONS), int(broken)]
        if trainer.world_size > 1:
            device = trainer.strategy.root_device
            numbers = trainer.strategy.reduce(torch.tensor(numbers, device=device), reduce_op="sum").tolist()
        for fault in faults:
            if fault.shard not in self._named:
                self._named.add(fault.shard)
                warnings.warn(f"left out and counted ({fault.reason}): {fault.message}", stacklevel=2)
        spent = self.data.ledger.enter(drawn, [int(n) for n in numbers[:-1]])
        if spent or numbers[-1]:
            messages = [m for m in self._gather(trainer, faults[-1].message if faults else None) if m]
            why = "no substitute could be read" if numbers[-1] else f"the budget is {self.data.ledger.budget}"
            raise ValueError(f"{messages[0]}. {self.data.ledger.said()}; {why} (data.init_args.failures)")

    @staticmethod
    def _gather(trainer, value: Any) -> list[Any]:
        """The values of all ranks."""
        if trainer.world_size == 1 or not torch.distributed.is_initialized():
            return [value]
        values: list[Any] = [None] * trainer.world_size
        torch.distributed.all_gather_object(values, value)
        return values

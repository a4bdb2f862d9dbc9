"""Batches indexed by step: a run that stops continues with the very next batch."""

from collections.abc import Callable, Iterable, Iterator
from itertools import count, islice
from typing import Any

import lightning
import torch
from torch.utils.data import DataLoader, Dataset, DistributedSampler


class StepSampler(DistributedSampler):
    """Yields `length` steps of `steps()`, asked anew by every iteration.

    The schedule deals samples to ranks itself. Lightning gives any other sampler's work out a second time in
    distributed runs; this base class tells it not to.
    """

    def __init__(self, steps: Callable[[], Iterable[int]], length: int):
        super().__init__(range(length), num_replicas=1, rank=0, shuffle=False)
        self._steps, self._length = steps, length

    def __iter__(self) -> Iterator[int]:
        return islice(self._steps(), self._length)

    def __len__(self) -> int:
        return self._length


class StepDataModule(lightning.LightningDataModule):
    """A data module over `schedule[step] -> batch`, with the step riding in the batch as `batch.step`.

    The checkpoint keeps the step after the last one trained, so prefetching cannot falsify it.
    """

    num_workers: int

    def __init__(self):
        super().__init__()
        self.next_step = 0

    def train_loader(self, schedule: Dataset, steps_per_epoch: int | None = None) -> DataLoader:
        """Batches from the first step not trained yet. With `max_steps` the run is one epoch of that many steps.

        Raises ValueError where neither says how long an epoch is.
        """
        # Counted from step 0 also in a resumed run: Lightning adds the batches done before to those it fetches.
        length = steps_per_epoch
        if self.trainer is not None and self.trainer.max_steps > 0:
            length = self.trainer.max_steps * self.trainer.accumulate_grad_batches
        if length is None:
            raise ValueError("this schedule has no end: set trainer.max_steps")
        return self._loader(schedule, StepSampler(lambda: count(self.next_step), length))

    def validation_loader(self, schedule: Dataset, steps: list[int]) -> DataLoader:
        """The same steps every time."""
        return self._loader(schedule, StepSampler(lambda: iter(steps), len(steps)))

    def _loader(self, schedule: Dataset, sampler: StepSampler) -> DataLoader:
        pin = torch.cuda.is_available()
        return DataLoader(schedule, batch_size=None, sampler=sampler, num_workers=self.num_workers, pin_memory=pin)

    def ranks(self) -> tuple[int, int]:
        """World size and rank."""
        return (1, 0) if self.trainer is None else (self.trainer.world_size, self.trainer.global_rank)

    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        """Note how far training got: this is called for the batch about to be trained on, not for those prefetched."""
        if self.trainer is not None and self.trainer.training:
            self.next_step = batch.step + 1
        return batch

    def state_dict(self) -> dict[str, Any]:
        return {"next_step": self.next_step}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.next_step = state_dict["next_step"]

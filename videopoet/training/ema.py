"""An exponential moving average of the weights, under every strategy."""

from typing import Any

import torch
from lightning.pytorch.callbacks import EMAWeightAveraging, WeightAveraging
from torch import Tensor

from videopoet.training.sharded import Sharded


class EMA(EMAWeightAveraging):
    """Lightning's average where every rank has the whole model; where weights are dealt out, each rank averages its part.

    After every `update_every_n_steps` steps average = decay * average + (1 - decay) * weights; the first update copies.
    What is exported and sampled is the average. Validation is of the average where every rank has the whole model, and
    of the weights as they are where they are dealt out (ZeRO, FSDP2): moving them there and back would cost a step.
    """

    def __init__(
        self,
        decay: float = 0.999,
        use_buffers: bool = False,
        update_every_n_steps: int = 1,
        update_starting_at_step: int | None = None,
    ):
        super().__init__(
            decay=decay,
            use_buffers=use_buffers,
            update_every_n_steps=update_every_n_steps,
            update_starting_at_step=update_starting_at_step,
        )
        self.decay = decay
        self._sharded: Sharded | None = None

    def setup(self, trainer, pl_module, stage: str) -> None:
        self._sharded = trainer.strategy if isinstance(trainer.strategy, Sharded) else None
        if self._sharded is None:
            super().setup(trainer, pl_module, stage)

    def on_train_start(self, trainer, pl_module) -> None:
        if self._sharded is not None and self._sharded.averages is None:
            self._sharded.averages = [shard.detach().clone() for shard in self._sharded.shards()]

    @torch.no_grad()
    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx: int) -> None:
        if self._sharded is None:
            super().on_train_batch_end(trainer, pl_module, outputs, batch, batch_idx)
        elif trainer.global_step > self._latest_update_step and self.should_update(step_idx=trainer.global_step - 1):
            self._update(self._sharded.averages, self._sharded.shards())
            self._latest_update_step = trainer.global_step

    def _update(self, averages: list[Tensor], shards: list[Tensor]) -> None:
        first = self._latest_update_step == 0
        for average, shard in zip(averages, shards, strict=True):
            average.lerp_(shard.detach(), 1.0 if first else 1 - self.decay)

    def on_train_epoch_end(self, trainer, pl_module) -> None:
        if self._sharded is None:
            super().on_train_epoch_end(trainer, pl_module)

    def on_train_end(self, trainer, pl_module) -> None:
        if self._sharded is None:
            super().on_train_end(trainer, pl_module)

    def on_save_checkpoint(self, trainer, pl_module, checkpoint: dict[str, Any]) -> None:
        if self._sharded is None:
            super().on_save_checkpoint(trainer, pl_module, checkpoint)

    def on_load_checkpoint(self, trainer, pl_module, checkpoint: dict[str, Any]) -> None:
        if self._sharded is None:
            super().on_load_checkpoint(trainer, pl_module, checkpoint)
        elif trainer.training:
            self._sharded.restore_averages(trainer.ckpt_path)


def check_averaging(trainer) -> None:
    """Raises ValueError for a callback that averages weights which no rank has whole."""
    for callback in trainer.callbacks:
        if (
            isinstance(trainer.strategy, Sharded)
            and isinstance(callback, WeightAveraging)
            and not isinstance(callback, EMA)
        ):
            raise ValueError(
                f"{type(callback).__name__} would average nothing under {type(trainer.strategy).__name__}, which deals "
                "weights out to ranks: use videopoet.training.ema.EMA"
            )

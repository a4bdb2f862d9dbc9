"""What two ranks' memory holds under each strategy: `python memory_of_ranks.py PLAN.json` writes `memory.json` beside it.

A plan has the model's `spec`, `rows` of its one batch, the `precision` and the `runs`: a strategy's class and arguments and
`accumulate` each. Bytes are those that torch's allocator gave out on the first rank (allocator.py).
"""

import gc
import importlib
import json
import sys
import warnings
from pathlib import Path

import lightning
import torch
from allocator import Allocator
from conftest import EVERY_TASK, LAYOUT
from gpu_kernels import gpu_kernels

from videopoet import component
from videopoet.sequence import Batch, Sequence
from videopoet.training.cli import leave_together
from videopoet.training.token_lm import TokenLMTraining

STEPS, REPEATS = 3, 3


def batch_of(rows: int) -> Batch:
    task = EVERY_TASK["text-to-video"]
    return Batch.of([Sequence.of(task.segments(task.blank(LAYOUT), LAYOUT))] * rows, task="text-to-video")


class Step(TokenLMTraining):
    """Trains on one batch, with AdamW over lists of tensors as on a GPU."""

    def __init__(self, model, batch: Batch):
        super().__init__(model)
        self.batch = batch

    def setup(self, stage: str) -> None:
        pass

    def training_step(self, batch, index: int):
        return self.model.loss(self.batch).total

    def configure_optimizers(self):
        return torch.optim.AdamW(self.parameters(), 1e-3, foreach=True)

    def on_save_checkpoint(self, checkpoint: dict) -> None:
        pass


class Marks(lightning.Callback):
    """Marks the last batch: before it, between its passes and the optimizer, and after."""

    def __init__(self, memory: Allocator, last: int):
        self.memory, self.last = memory, last

    def on_train_batch_start(self, trainer, module, batch, index: int) -> None:
        self.index = index
        self.mark("before")

    def on_before_backward(self, *_) -> None:
        self.mark("forward")

    def on_after_backward(self, *_) -> None:
        self.mark("backward")

    def on_train_batch_end(self, *_) -> None:
        self.mark("stepped")

    def mark(self, name: str) -> None:
        if self.index == self.last:
            self.memory.mark(name)


def strategy_of(spec: dict):
    module, _, name = spec["class_path"].rpartition(".")
    return getattr(importlib.import_module(module), name)(**spec.get("init_args", {}))


def least(plan: dict, run: dict) -> dict:
    """The least of a few runs: what a thread of gloo lets go of last the profiler does not see, which only adds."""
    found = [measure(plan, run) for _ in range(REPEATS)]
    return found[0] | {part: {mark: min(f[part][mark] for f in found) for mark in found[0][part]} for part in ("held", "peak")}


def measure(plan: dict, run: dict) -> dict:
    gc.collect()  # what the run before held
    batches = STEPS * run.get("accumulate", 1)
    with Allocator() as memory, gpu_kernels():
        module = Step(component.instantiate(plan["spec"]).train(), batch_of(plan["rows"]))
        trainer = lightning.Trainer(
            accelerator="cpu", devices=2, strategy=strategy_of(run["strategy"]), max_steps=STEPS, precision=plan["precision"],
            gradient_clip_val=1.0, accumulate_grad_batches=run.get("accumulate", 1), callbacks=[Marks(memory, batches - 1)],
            logger=False, enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
        )  # fmt: skip
        trainer.fit(module, [0] * batches)
        rank = trainer.global_rank
    return {"held": memory.held, "peak": memory.peak, "rank": rank}


def main(path: str) -> None:
    warnings.filterwarnings("ignore")
    torch.set_num_threads(1)
    plan = json.loads(Path(path).read_text())
    found = {name: least(plan, run) for name, run in plan["runs"].items()}
    if all(run["rank"] == 0 for run in found.values()):
        Path(path).with_name("memory.json").write_text(json.dumps(found))
    leave_together()


if __name__ == "__main__":
    main(sys.argv[1])

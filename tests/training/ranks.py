"""What the ranks of a test run: `python ranks.py PLAN.json` trains by a plan and writes what happened to `results.json`.

A plan has `devices`, `strategy` (class_path and init_args, or a name), where the data and models are, and `runs`, done
one after the other by the same processes. The same functions make the reference in the test's own process.
"""

import copy
import importlib
import json
import os
import signal
import sys
import warnings
from pathlib import Path

import lightning
import torch
from lightning.pytorch.callbacks import ModelCheckpoint

from videopoet import component
from videopoet.data.mixture import MixtureDataModule
from videopoet.data.schedule import Share
from videopoet.tasks.registry import TASKS
from videopoet.training.cli import SpecCallback, leave_together
from videopoet.training.ema import EMA
from videopoet.training.guard import LossGuard
from videopoet.training.token_lm import TokenLMTraining

TOKENS = 210  # per batch and rank: two samples


class Losses(lightning.Callback):
    """Loss of every batch, the mean over ranks."""

    def __init__(self, path: Path | None = None):
        self.values: dict[int, float] = {}
        self.path = path

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        value = trainer.strategy.reduce(outputs["loss"].detach().float(), reduce_op="mean")
        self.values[batch.step] = float(value)
        if self.path is not None and trainer.is_global_zero:
            with self.path.open("a") as out:
                out.write(json.dumps([batch.step, float(value)]) + "\n")


class SaveAt(lightning.Callback):
    """Saves once at a step."""

    def __init__(self, step: int, path: str):
        self.step, self.path = step, path

    def on_train_batch_end(self, trainer, *_):
        if trainer.global_step == self.step and not Path(self.path).exists():
            trainer.save_checkpoint(self.path)


class KillAt(lightning.Callback):
    """The last rank dies in the middle of a step, as by a failing machine."""

    def __init__(self, step: int):
        self.step = step

    def on_before_optimizer_step(self, trainer, *_):
        if trainer.global_step == self.step and trainer.global_rank == trainer.world_size - 1:
            os.kill(os.getpid(), signal.SIGKILL)


class Poisoned(TokenLMTraining):
    """Multiplies the losses of some steps."""

    factors: dict[int, float] = {}

    def training_step(self, batch, index):
        made = super().training_step(batch, index)
        return {**made, "loss": made["loss"] * self.factors.get(batch.step, 1.0)}


def strategy_of(spec):
    if isinstance(spec, str):
        return spec
    module, _, name = spec["class_path"].rpartition(".")
    return getattr(importlib.import_module(module), name)(**spec.get("init_args", {}))


def data(plan: dict, devices: int) -> MixtureDataModule:
    """As many samples per step on one rank as on two."""
    shares = {name: Share(task=TASKS[name]) for name in plan.get("tasks", ["text-to-video"])}
    return MixtureDataModule(plan["tokens"], shares, plan["tokenizers"], validation_tokens=plan["tokens"],
                             tokens_per_batch=TOKENS * 2 // (devices * plan.get("num_nodes", 1)), num_workers=0)  # fmt: skip


def train(plan: dict, run: dict, devices: int, strategy) -> dict:
    """One training; what came of it, and the trainer."""
    torch.set_num_threads(1)
    lightning.seed_everything(1, verbose=False)
    spec = copy.deepcopy(plan["spec"])
    spec["init_args"]["transformer"]["init_args"]["recompute"] = run.get("recompute", False)
    module = Poisoned(component.instantiate(spec), warmup_steps=2, learning_rate=3e-3)
    module.factors = {int(step): factor for step, factor in run.get("poison", {}).items()}
    losses = Losses(Path(run["log"]) if "log" in run else None)
    callbacks = [SpecCallback(plan["spec"], plan["tokenizers"]), losses]
    callbacks += [LossGuard(warmup=2)] * bool(module.factors)
    callbacks += [EMA(decay=0.5)] * run.get("ema", False)
    callbacks += [SaveAt(*run["save_at"])] if "save_at" in run else []
    callbacks += [KillAt(run["kill_at"])] if "kill_at" in run else []
    if "folder" in run:
        callbacks.append(
            ModelCheckpoint(run["folder"], every_n_train_steps=2, save_last=True, enable_version_counter=False)
        )
    trainer = lightning.Trainer(
        accelerator="cpu", devices=devices, num_nodes=plan.get("num_nodes", 1), strategy=strategy, max_steps=run["steps"],
        callbacks=callbacks,
        precision=run.get("precision", "32-true"), gradient_clip_val=0.5, accumulate_grad_batches=run.get("accumulate", 1),
        limit_val_batches=0, logger=False, enable_checkpointing="folder" in run, enable_progress_bar=False,
        enable_model_summary=False,
    )  # fmt: skip
    trainer.fit(module, data(plan, devices), ckpt_path=run.get("resume"), weights_only=True)
    if "save" in run:
        trainer.save_checkpoint(run["save"])
    result = {"losses": losses.values, "steps": trainer.global_step}
    if "validate" in run:
        judge = lightning.Trainer(accelerator="cpu", devices=devices, strategy=strategy_of(plan["strategy"]), logger=False,
                                  enable_progress_bar=False, enable_checkpointing=False, limit_val_batches=1)  # fmt: skip
        fresh = TokenLMTraining(component.instantiate(plan["spec"]))
        found = judge.validate(fresh, datamodule=data(plan, devices), ckpt_path=run["validate"], verbose=False,
                               weights_only=True)  # fmt: skip
        result["validation"] = found[0]["validation/loss"]
    return result


def validate(plan: dict, weights: Path) -> float:
    """The validation loss of a weights file in one process, on the batch that two ranks are given each."""
    judge = lightning.Trainer(accelerator="cpu", logger=False, enable_progress_bar=False, enable_checkpointing=False,
                              enable_model_summary=False, limit_val_batches=1)  # fmt: skip
    module = TokenLMTraining(component.load(weights))
    return judge.validate(module, datamodule=data(plan, 2), verbose=False)[0]["validation/loss"]


def main(path: str) -> None:
    warnings.filterwarnings("ignore")
    plan, results = json.loads(Path(path).read_text()), {}
    for name, run in plan["runs"].items():
        results[name] = train(plan, run, plan["devices"], strategy_of(plan["strategy"]))
    if int(os.environ.get("RANK", os.environ.get("LOCAL_RANK", 0))) == 0:
        Path(path).with_name("results.json").write_text(json.dumps(results))
    leave_together()


if __name__ == "__main__":
    main(sys.argv[1])

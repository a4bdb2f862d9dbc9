"""Guard and preemption: bad batches change nothing and are named; a run that is told to go saves and goes on exactly."""

import copy
import os
import signal

import lightning
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from torch.utils.data import DataLoader

from videopoet.sequence import Batch, Segment, Sequence
from videopoet.training.guard import LossGuard, describe
from videopoet.training.preemption import EXIT_CODE, Preemption
from videopoet.vocabulary import Control, Modality


class Line(lightning.LightningModule):
    """Fits y = w x; a batch is (x, y) with a task, a step and keys."""

    def __init__(self):
        super().__init__()
        self.w = torch.nn.Parameter(torch.ones(4))
        self.history = []

    def training_step(self, batch, index):
        loss = ((self.w * batch["x"]).sum() - batch["y"]) ** 2
        self.history.append(self.w.detach().clone())
        return loss

    def configure_optimizers(self):
        return torch.optim.AdamW(self.parameters(), 1e-2)


def batches(n: int, bad: dict[int, float]) -> DataLoader:
    values = [{"x": torch.tensor([1.0, 0.5, -0.5, 0.2]), "y": torch.tensor(bad.get(i, 3.0))} for i in range(n)]
    return DataLoader(values, batch_size=None)


def run(bad: dict[int, float], n: int = 30, callbacks=(), guard: dict | None = None, **how) -> tuple[Line, LossGuard]:
    watch = LossGuard(**{"warmup": 5, "window": 10} | (guard or {}))
    module = Line()
    trainer = lightning.Trainer(
        accelerator="cpu", max_epochs=1, logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, callbacks=[watch, *callbacks], **how,
    )  # fmt: skip
    trainer.fit(module, batches(n, bad))
    return module, watch


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 300.0], ids=["nan", "inf", "spike"])
@pytest.mark.parametrize("clip", [None, 1.0])
def test_a_bad_batch_changes_nothing(value, clip):
    module, watch = run({20: value}, gradient_clip_val=clip)
    history = [*module.history, module.w.detach()]
    assert torch.equal(history[21], history[20]), "the update of batch 20 is left out"
    assert not torch.equal(history[20], history[19]) and not torch.equal(history[22], history[21])
    assert torch.isfinite(module.w).all() and len(watch.left_out) == 1
    without = run({}, n=29, gradient_clip_val=clip)[0]
    assert torch.equal(without.w, module.w), "as if the batch had not been there"


def test_without_the_guard_it_ruins_the_weights():
    module = Line()
    quiet = {
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
    }
    lightning.Trainer(accelerator="cpu", max_epochs=1, **quiet).fit(module, batches(30, {20: float("nan")}))
    assert not torch.isfinite(module.w).any()


def test_all_that_is_accumulated_with_a_bad_batch_is_left_out():
    module, _ = run({21: float("nan")}, accumulate_grad_batches=4)
    assert torch.equal(module.history[20], module.history[24]) and not torch.equal(
        module.history[24], module.history[28]
    )


def test_gradients_that_are_not_finite_are_left_out_though_the_loss_is():
    class Root(Line):
        def training_step(self, batch, index):
            self.history.append(self.w.detach().clone())
            return (self.w * 0).abs().sqrt().sum() if index == 3 else super().training_step(batch, index)

    module = Root()
    quiet = {
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
    }
    lightning.Trainer(accelerator="cpu", max_epochs=1, callbacks=[LossGuard()], **quiet).fit(module, batches(10, {}))
    assert torch.isfinite(module.w).all()


def test_a_budget_ends_the_training_and_names_the_batches():
    bad = {i: float("nan") for i in (12, 15, 18)}
    with pytest.raises(
        ValueError, match=r"3 of the last 100 updates were left out, 2 are allowed.*\n.*step 12.*\n.*step 15"
    ):
        run(bad, guard={"budget": 2, "within": 100})
    run(bad, guard={"budget": 2, "within": 5})  # long ago


def test_what_is_usual_is_usual_for_the_task():
    """A task whose losses are ten times as high is no spike."""
    guard, tasks = LossGuard(warmup=2), {"low": 1.0, "high": 10.0}
    for name, value in tasks.items():
        guard.losses[f"{name}/0"] = [value] * 5
    assert guard._reason(10.0, "low/0") and not guard._reason(10.0, "high/0") and not guard._reason(10.0, "new/0")


def test_a_batch_is_named_by_its_samples():
    parts = [Segment.marker(Control.BOS), Segment.generated(torch.tensor([300, 301]), Modality.VISUAL)]
    sequences = [Sequence.of(parts, key=f"clip{i}") for i in range(10)]
    batch = Batch.of(sequences, task="text-to-video", step=7).to("cpu")
    said = describe(batch)
    assert said.startswith("text-to-video of step 7 (samples clip0, clip1") and said.endswith("clip7 and 2 more)")
    assert Batch.pack([sequences[:2], sequences[2:3]]).keys == ("clip0", "clip1", "clip2")
    assert describe(copy.copy(batch)) == said and describe({"x": 1}) == "batch of step ?"


@pytest.mark.parametrize("how", [{"budget": 0}, {"warmup": 1}, {"warmup": 200}, {"deviations": 0.0}])
def test_a_guard_that_cannot_work_is_refused(how):
    with pytest.raises(ValueError, match="must be positive"):
        LossGuard(**how)


class Tell(lightning.Callback):
    """Sends this process a signal in the middle of a step."""

    def __init__(self, step: int, number: int):
        self.step, self.number = step, number

    def on_before_backward(self, trainer, *_):
        if trainer.global_step == self.step:
            os.kill(os.getpid(), self.number)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
def test_a_signal_saves_after_the_step_and_requeues(number, tmp_path, monkeypatch, capsys):
    (tmp_path / "scontrol").write_text(f'#!/bin/sh\necho "$@" > {tmp_path}/told\n')
    (tmp_path / "scontrol").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    before = signal.getsignal(number)

    def train(callbacks, resume=None):
        module = Line()
        keep = ModelCheckpoint(tmp_path, save_last=True, enable_version_counter=False)
        trainer = lightning.Trainer(accelerator="cpu", max_epochs=1, logger=False, enable_progress_bar=False,
                                    enable_model_summary=False, callbacks=[*callbacks, keep])  # fmt: skip
        monkeypatch.setenv("SLURM_JOB_ID", "77")  # only now: Lightning takes itself to be under srun else
        trainer.fit(module, batches(10, {}), ckpt_path=resume, weights_only=True)
        return module

    with pytest.raises(SystemExit) as stop:
        train([Tell(4, number), Preemption()])
    assert stop.value.code == EXIT_CODE and signal.getsignal(number) == before
    assert "at step 5, saved" in capsys.readouterr().err
    assert (tmp_path / "told").read_text().split() == ["requeue", "77"]
    monkeypatch.delenv("SLURM_JOB_ID")
    assert torch.load(tmp_path / "last.ckpt", weights_only=True)["global_step"] == 5

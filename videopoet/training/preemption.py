"""A machine that is about to be taken away: the run ends its step, saves, and asks for another machine."""

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import lightning
import torch
from lightning.fabric.plugins.environments import LightningEnvironment

EXIT_CODE = 143  # as of a process that SIGTERM ended: whoever started the run sees that it is not done


class Preemption(lightning.Callback):
    """SIGTERM (Kubernetes, spot machines, torchrun) and SIGUSR1 (SLURM's --signal) on any rank stop all of them together.

    After the step in which the first of them was told, all save `last.ckpt` where ModelCheckpoint keeps it, a job of
    SLURM is queued again, and the processes end with exit code 143. `--ckpt_path=last` goes on from there, and starts
    afresh where nothing was saved yet. Lightning's own handlers, which would save in the middle of a step, are put aside
    while training runs.

    every_n_steps: ranks ask each other so often; a number over ranks, and a wait for the device.
    requeue: whether a job of SLURM is queued again.
    """

    def __init__(self, every_n_steps: int = 1, requeue: bool = True):
        if every_n_steps < 1:
            raise ValueError(f"every_n_steps is {every_n_steps}: ranks ask each other at least every so many steps")
        self.every_n_steps, self.requeue = every_n_steps, requeue
        self.told: int | None = None  # the signal
        self._before: dict[int, Any] = {}
        self._step = -1

    def on_train_start(self, trainer, pl_module) -> None:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGTERM, signal.SIGUSR1):
                self._before[number] = signal.signal(number, self._note)

    def _note(self, number: int, frame) -> None:
        self.told = number

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx: int) -> None:
        step = trainer.global_step
        if step == self._step or step % self.every_n_steps:  # in the midst of accumulating, or not asked this time
            return
        self._step = step
        told = torch.tensor(float(self.told or 0), device=trainer.strategy.root_device)
        number = int(trainer.strategy.reduce(told, reduce_op="max")) if trainer.world_size > 1 else int(told)
        if number:
            self._leave(trainer, signal.Signals(number).name)

    def _leave(self, trainer, name: str) -> None:
        paths = [Path(c.dirpath) / "last.ckpt" for c in trainer.checkpoint_callbacks if c.save_last]
        for path in paths[:1]:
            trainer.save_checkpoint(path)
        if trainer.is_global_zero:
            saved = f"saved {paths[0]}" if paths else "nothing saved: no ModelCheckpoint with save_last"
            print(f"videopoet: {name} at step {trainer.global_step}, {saved}", file=sys.stderr, flush=True)
            if self.requeue and "SLURM_JOB_ID" in os.environ:
                requeue_slurm()
        trainer.strategy.barrier()
        # A process that Lightning started from the first one must end well, or Lightning kills the first.
        ours = isinstance(getattr(trainer.strategy, "cluster_environment", None), LightningEnvironment)
        raise SystemExit(0 if ours and trainer.local_rank else EXIT_CODE)

    def _restore(self) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before.clear()

    def on_train_end(self, trainer, pl_module) -> None:
        self._restore()

    def on_exception(self, trainer, pl_module, exception: BaseException) -> None:
        self._restore()


def requeue_slurm() -> None:
    """Queue this job, or this task of an array, again."""
    array = os.environ.get("SLURM_ARRAY_JOB_ID")
    job = f"{array}_{os.environ['SLURM_ARRAY_TASK_ID']}" if array else os.environ["SLURM_JOB_ID"]
    try:
        subprocess.run(["scontrol", "requeue", job], check=True)
    except (OSError, subprocess.CalledProcessError) as error:
        print(f"videopoet: job {job} was not queued again ({error}): submit it anew", file=sys.stderr, flush=True)

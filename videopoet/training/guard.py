"""A guard against batches that would ruin the weights: losses that are not numbers, or far above what is usual."""

import statistics
from collections import deque
from typing import Any

import lightning
import torch
from lightning.pytorch.utilities import rank_zero_warn

MANY = 8  # keys of a batch that are said at most


class LossGuard(lightning.Callback):
    """Leaves out the update of a bad batch, says which it was, and stops training where there are too many.

    Bad is a loss that is not finite, or above mean + deviations * max(std, mean / 20) of the last `window` losses of its
    task, once there are `warmup`; so at the defaults never below 1.4 times the mean. One rank's bad batch is left out by
    all, and with it what is accumulated into the same update. An update whose gradients are not finite is left out too.
    More than `budget` of the last `within` steps left out end the training with a ValueError that names their batches.

    Left out means: the optimizer does nothing, its moments stay; schedules and the count of steps go on. It works on the
    optimizer itself and so under every strategy. Costs a sum over ranks of three numbers, and a wait, per batch.
    """

    def __init__(
        self, budget: int = 10, within: int = 1000, deviations: float = 8.0, window: int = 100, warmup: int = 20
    ):
        if min(budget, within, window) < 1 or not 2 <= warmup <= window or deviations <= 0:
            raise ValueError(f"budget {budget}, within {within} and window {window} must be positive, as deviations "
                             f"{deviations}; warmup {warmup} between 2 and the window")  # fmt: skip
        self.budget, self.within, self.deviations = budget, within, deviations
        self.window, self.warmup = window, warmup
        self.losses: dict[str, deque[float]] = {}
        self.left_out: list[tuple[int, str]] = []  # step, and what is said of it
        self._bad = False
        self._batch: Any = None
        self._turn = 0

    def on_train_start(self, trainer, pl_module) -> None:
        for optimizer in trainer.optimizers:
            if hasattr(optimizer, "optimizer"):  # ZeRO has the gradients only when it calls torch's optimizer
                optimizer.optimizer.register_step_pre_hook(lambda inner, *_: self._drop(inner))

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx: int) -> None:
        self._batch, self._turn, self._step = batch, 0, trainer.global_step

    def on_before_backward(self, trainer, pl_module, loss) -> None:
        """The loss is known here, on every rank, before anything of it is in the weights."""
        value = float(loss.detach()) * (trainer.accumulate_grad_batches if pl_module.automatic_optimization else 1)
        kind = f"{getattr(self._batch, 'task', '')}/{self._turn}"
        self._turn += 1
        reason = self._reason(value, kind)
        told = torch.tensor([value if reason is None else 0.0, reason is None, reason is not None], device=loss.device)
        total, fine, bad = trainer.strategy.reduce(told.double(), reduce_op="sum").tolist()
        if bad:
            self._bad = True
            self._note(trainer, reason)
        else:
            self.losses.setdefault(kind, deque(maxlen=self.window)).append(total / fine)

    def _reason(self, value: float, kind: str) -> str | None:
        if not abs(value) < float("inf"):
            return f"loss {value}"
        known = self.losses.get(kind, ())
        if len(known) < self.warmup:
            return None
        mean = statistics.fmean(known)
        limit = mean + self.deviations * max(statistics.pstdev(known), abs(mean) / 20)
        return f"loss {value:.3f}, usually {mean:.3f}" if value > limit else None

    def _note(self, trainer, reason: str | None) -> None:
        """All ranks learn which batches were bad."""
        mine = None if reason is None else f"{describe(self._batch)} on rank {trainer.global_rank}: {reason}"
        found = [mine]
        if trainer.world_size > 1:
            found = [None] * trainer.world_size
            torch.distributed.all_gather_object(found, mine)
        said = "; ".join(filter(None, found))
        self.left_out.append((trainer.global_step, said))
        rank_zero_warn(f"update {trainer.global_step} left out: {said}")

    def on_before_optimizer_step(self, trainer, pl_module, optimizer) -> None:
        self._drop(optimizer)  # ZeRO: of weights that have no gradients now

    def _drop(self, optimizer) -> None:
        """An optimizer passes over weights without a gradient."""
        weights = [weight for group in optimizer.param_groups for weight in group["params"] if weight.grad is not None]
        if self._bad or not all_finite([weight.grad for weight in weights]):
            for weight in weights:
                weight.grad = None

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx: int) -> None:
        if trainer.global_step == self._step:  # more is accumulated into this update
            return
        self._bad = False
        self.left_out = [(step, said) for step, said in self.left_out if step > trainer.global_step - self.within]
        pl_module.log("train/left_out", float(len(self.left_out)), batch_size=1)
        if len(self.left_out) > self.budget:
            named = "\n".join(f"step {step}: {said}" for step, said in self.left_out)
            raise ValueError(
                f"{len(self.left_out)} of the last {self.within} updates were left out, {self.budget} are allowed; look at "
                f"these samples, or go on from an earlier checkpoint with a smaller learning rate:\n{named}"
            )

    def state_dict(self) -> dict[str, Any]:
        return {"losses": {kind: list(values) for kind, values in self.losses.items()}, "left_out": list(self.left_out)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.losses = {kind: deque(values, maxlen=self.window) for kind, values in state_dict["losses"].items()}
        self.left_out = [(step, said) for step, said in state_dict["left_out"]]


def all_finite(gradients: list[torch.Tensor]) -> bool:
    """Of this rank's gradients or parts of them; where these are dealt out, of all ranks'."""
    if not gradients:
        return True
    local = [g.to_local() if hasattr(g, "to_local") else g for g in gradients]
    finite = torch.stack([torch.isfinite(norm) for norm in torch._foreach_norm(local)]).all().float()
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.all_reduce(finite, torch.distributed.ReduceOp.MIN)
    return bool(finite)


def describe(batch: Any) -> str:
    """A batch by task, step and the keys of its samples."""
    task, keys = getattr(batch, "task", ""), getattr(batch, "keys", ())
    said = f"{task or 'batch'} of step {getattr(batch, 'step', '?')}"
    if keys and not callable(keys):
        more = f" and {len(keys) - MANY} more" if len(keys) > MANY else ""
        said += f" (samples {', '.join(keys[:MANY])}{more})"
    return said

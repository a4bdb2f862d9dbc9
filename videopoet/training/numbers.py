"""Numbers that every training logs without being asked: speed, utilisation, waiting, gradients, losses of every task.

    speed/steps_per_second                 batches
    speed/data_wait                        share of the time in which training waited for a batch
    speed/tokens_per_second_per_device     positions read, padding included; of the language model, as all below
    speed/tokens_per_second                on all devices
    speed/model_flops_utilisation          operations that the loss needs (training/flops.py) over the device's peak
    speed/padding                          share of positions that stand for nothing
    total/tokens, total/flops              since the first step, on all devices, resumed runs included
    loss/all, loss/MODALITY, loss/TASK, loss/TASK/MODALITY     nats, means over the batches since the last line
    gradient_norm                          before clipping; gradient_norm_1 of a second optimizer

They go to every logger that the trainer has, every `trainer.log_every_n_steps` steps.
"""

import time
from typing import Any

import lightning
import torch
from lightning.fabric.utilities.throughput import get_available_flops
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor

from videopoet.models.token_lm import TokenLM
from videopoet.sequence import Batch
from videopoet.training.flops import matmul_peak, step_flops
from videopoet.training.preview import SamplePreview

PREVIEW_EVERY = 1000  # steps


class Numbers(lightning.Callback):
    """Logs the numbers above. What a training has none of is left out.

    peak_flops: operations per second that a device can do at best. Where not given it is the data sheet's for the GPUs
    that Lightning knows, and for any other device what a short product of matrices reaches.
    """

    def __init__(self, peak_flops: float | None = None):
        self.peak_flops = peak_flops
        self.latest: dict[str, float] = {}
        self.total_tokens, self.total_flops = 0, torch.zeros((), dtype=torch.float64)
        self._hook, self._texts = None, (0, 0)
        self._clear()

    def _clear(self) -> None:
        """Begin a new line."""
        self._batches = self._tokens = 0
        self._seconds = self._waited = 0.0
        self._flops = self._padding = 0.0
        self._losses: dict[str, list[Tensor]] = {}
        self._norms: dict[str, Tensor] = {}

    def on_fit_start(self, trainer, pl_module) -> None:
        self._logged_at, self._since, self._idle_since, self._skip = trainer.global_step, None, None, False
        model = getattr(pl_module, "model", None)
        if isinstance(model, TokenLM):  # how long texts are is known here without waiting for the device
            self._hook = model.text_encoder.register_forward_pre_hook(self._note_texts)

    def on_fit_end(self, trainer, pl_module) -> None:
        if self._hook is not None:
            self._hook.remove()

    def on_exception(self, trainer, pl_module, exception) -> None:
        self.on_fit_end(trainer, pl_module)

    def _note_texts(self, module, arguments) -> None:
        self._texts = tuple(arguments[0].shape)

    def on_validation_start(self, trainer, pl_module) -> None:
        self._skip = True

    def on_save_checkpoint(self, trainer, pl_module, checkpoint) -> None:
        self._skip = True

    def on_train_batch_start(self, trainer, pl_module, batch: Any, batch_idx: int) -> None:
        now, self._texts = time.perf_counter(), (0, 0)
        if self._since is not None and not self._skip:
            self._waited += now - self._idle_since
            self._since = self._idle_since
        else:  # the first batch, or one after validation or saving: that was no waiting for data
            self._since = now
        self._skip = False

    def on_before_optimizer_step(self, trainer, pl_module, optimizer) -> None:
        if not trainer.loggers or not self._due(trainer, trainer.global_step + 1):
            return
        weights = [p for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
        if weights:
            number = next((i for i, o in enumerate(trainer.optimizers) if o is optimizer), 0)
            norm = torch.nn.utils.get_total_norm([p.grad for p in weights])
            norm = norm.full_tensor() if hasattr(norm, "full_tensor") else norm
            self._norms["gradient_norm" + (f"_{number}" if number else "")] = norm.detach()

    def on_train_batch_end(self, trainer, pl_module, outputs, batch: Any, batch_idx: int) -> None:
        model = getattr(pl_module, "model", None)
        if isinstance(batch, Batch) and isinstance(model, TokenLM):
            self._count(model, batch, outputs, trainer.world_size)
        self._idle_since = time.perf_counter()
        self._seconds += self._idle_since - self._since
        self._batches += 1
        if self._due(trainer, trainer.global_step):
            if trainer.loggers:
                self._log(trainer, pl_module)
            self._logged_at = trainer.global_step
            self._clear()

    def _due(self, trainer, step: int) -> bool:
        return step - self._logged_at >= max(1, trainer.log_every_n_steps)

    @torch.no_grad()
    def _count(self, model: TokenLM, batch: Batch, outputs, world_size: int) -> None:
        flops = step_flops(model, batch, self._texts).total
        self._flops = self._flops + flops
        self.total_flops = self.total_flops.to(flops.device) + flops * world_size
        self._tokens += batch.inputs.numel()
        self.total_tokens += batch.inputs.numel() * world_size
        self._padding = self._padding + batch.padding
        nats = outputs.get("nats", {}) if isinstance(outputs, dict) else {}
        for name, value in nats.items():
            task = batch.task if name == "all" else f"{batch.task}/{name}"
            for key in (name, task):
                self._losses.setdefault(f"loss/{key}", []).append(value)

    def _log(self, trainer, pl_module) -> None:
        """One line to every logger."""
        line = {
            "speed/steps_per_second": self._batches / self._seconds,
            "speed/data_wait": self._waited / self._seconds,
            **{name: float(torch.stack(values).mean()) for name, values in self._losses.items()},
            **{name: float(value) for name, value in self._norms.items()},
        }
        engine = getattr(trainer.strategy, "deepspeed_engine", None)  # which has the gradients, in parts
        norm = None if engine is None else engine.get_global_grad_norm()
        if norm is not None:
            line["gradient_norm"] = float(norm)
        if self._tokens:
            peak = self._peak(trainer, pl_module.device)
            speed = torch.tensor(self._tokens / self._seconds, device=pl_module.device)
            line |= {
                "speed/tokens_per_second_per_device": float(speed),
                "speed/tokens_per_second": float(trainer.strategy.reduce(speed, reduce_op="sum")),
                "speed/model_flops_utilisation": float(self._flops) / self._seconds / peak,
                "speed/padding": float(self._padding) / self._batches,
                "total/tokens": float(self.total_tokens),
                "total/flops": float(self.total_flops),
            }
        self.latest = line
        for logger in trainer.loggers:
            logger.log_metrics(line, trainer.global_step)

    def _peak(self, trainer, device: torch.device) -> float:
        """Asked or measured once."""
        if self.peak_flops is None:
            half = torch.float16 if str(trainer.precision).startswith("16") else torch.bfloat16
            dtype = torch.float32 if "32" in str(trainer.precision) else half
            known = get_available_flops(device, dtype) if device.type == "cuda" else None
            self.peak_flops = float(known or matmul_peak(device, dtype))
            how = "data sheet" if known else "measured by a product of matrices"
            rank_zero_info(f"utilisation is of {self.peak_flops / 1e12:.3g} TFLOP/s per device ({dtype}, {how})")
        return self.peak_flops

    def state_dict(self) -> dict[str, Any]:
        return {"tokens": self.total_tokens, "flops": float(self.total_flops)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.total_tokens = state_dict["tokens"]
        self.total_flops = torch.tensor(state_dict["flops"], dtype=torch.float64)


def default_callbacks(trainer, data: dict) -> list[lightning.Callback]:
    """What a training gets that does not name it: the numbers; and samples, where its tokens' tokenizers are named.

    data: class_path and init_args of the data module.
    """
    named = trainer.callbacks
    callbacks = [] if any(isinstance(c, Numbers) for c in named) else [Numbers()]
    files = (data.get("init_args") or {}).get("tokenizers") or {}
    if trainer.loggers and {"visual", "audio"} <= set(files) and not any(isinstance(c, SamplePreview) for c in named):
        files = {name: str(files[name]) for name in ("visual", "audio")}
        callbacks.append(SamplePreview(**files, every_n_steps=PREVIEW_EVERY))
    return callbacks

"""Bytes that a training step needs on each GPU, for the ways to share it out.

                       weights     gradients    AdamW           in between
    ddp                whole       whole        whole           buckets as large as the gradients
    ZeRO-1             whole       whole        1/N             reduction buckets
    ZeRO-2             whole       1/N          1/N             reduction buckets
    ZeRO-3             1/N         1/N          1/N             reduction buckets, and the weights in use

DDP keeps weights, gradients and both moments of AdamW in the dtype of the weights, 16 bytes per weight in float32.
DeepSpeed keeps weights and gradients in 16 bits where the precision is one of 16 bits, mixed or not, and beside the two
moments a float32 copy of the weights: 2 + 2 + 12 bytes. A step of the optimizer needs, once the activations are gone,
another float32 of its share: gradients in float32 (DeepSpeed), or the moments' roots (AdamW over lists of tensors).
"""

from collections.abc import Callable
from dataclasses import dataclass, fields, replace

import torch
from torch import Tensor

from videopoet.models.token_lm import TokenLM
from videopoet.planning.shadow import measure_step
from videopoet.sequence import Batch, Packed

#: Elements in a bucket of gradients, by Lightning's DeepSpeedStrategy; two of them where communication overlaps.
REDUCE_BUCKET = 200_000_000
#: Elements of gathered weights that DeepSpeed lets live at a time (`stage3_max_live_parameters`).
LIVE_PARAMETERS = 1_000_000_000
#: Precisions of the trainer in which DeepSpeed keeps weights in 16 bits.
HALF = {"bf16-mixed": torch.bfloat16, "bf16-true": torch.bfloat16, "16-mixed": torch.float16, "16-true": torch.float16}


@dataclass(frozen=True, kw_only=True)
class Strategy:
    """A way to share a model out over N GPUs. strategy: its name for Lightning's `trainer.strategy`."""

    name: str
    strategy: str
    stage: int
    offload: bool = False  # optimizer states on the host; with stage 3 the weights too


STRATEGIES = (
    Strategy(name="ZeRO-0 (DDP)", strategy="ddp", stage=0),
    Strategy(name="ZeRO-1", strategy="deepspeed_stage_1", stage=1),
    Strategy(name="ZeRO-2", strategy="deepspeed_stage_2", stage=2),
    Strategy(name="ZeRO-2, offload", strategy="deepspeed_stage_2_offload", stage=2, offload=True),
    Strategy(name="ZeRO-3", strategy="deepspeed_stage_3", stage=3),
    Strategy(name="ZeRO-3, offload", strategy="deepspeed_stage_3_offload", stage=3, offload=True),
)


@dataclass(frozen=True, kw_only=True)
class States:
    """Bytes of one GPU beside activations. `step` more are needed while the optimizer steps. host: bytes in CPU memory."""

    parameters: int
    gradients: int
    optimizer: int
    communication: int
    step: int
    host: int = 0

    @property
    def resident(self) -> int:
        """What is there all the time."""
        return self.parameters + self.gradients + self.optimizer + self.communication


def dtypes(precision: str, stage: int) -> tuple[torch.dtype, torch.dtype | None]:
    """Dtype of the weights, and of products under autocast or None. Raises ValueError for an unknown precision."""
    name = {"32": "32-true", "bf16": "bf16-mixed", "16": "16-mixed"}.get(str(precision), str(precision))
    if name == "32-true":
        return torch.float32, None
    if name not in HALF:
        raise ValueError(f"no plan for trainer.precision {precision}: plans are of 32-true, {', '.join(HALF)}")
    if stage == 0 and name.endswith("mixed"):
        return torch.float32, HALF[name]
    return HALF[name], None


def states(model: TokenLM, strategy: Strategy, precision: str, gpus: int) -> States:
    """Weights, gradients, AdamW's states and buffers of communication on each of so many GPUs, in bytes."""
    weight, _ = dtypes(precision, strategy.stage)
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    tensors = sum(p.requires_grad for p in model.parameters())
    frozen = sum(p.numel() * p.itemsize for p in model.parameters() if not p.requires_grad)
    buffers = sum(b.numel() * b.itemsize for b in model.buffers())
    size = weight.itemsize
    if strategy.stage == 0:
        return States(
            parameters=trained * size + frozen + buffers,
            gradients=trained * size,
            optimizer=2 * trained * size + 4 * tensors,  # and a count of steps for every tensor
            communication=trained * size if gpus > 1 else 0,
            step=trained * size,
        )
    share = -(-trained // gpus)
    weights = frozen + trained * size
    bucket = min(REDUCE_BUCKET, trained) * size * (1 if strategy.stage == 3 else 2)
    if strategy.stage == 3:
        largest = max(p.numel() for p in model.parameters())
        whole, weights = weights, -(-weights // gpus)
        bucket += min(whole, max(LIVE_PARAMETERS, largest) * size)
    states_, gradients = 12 * share, (trained if strategy.stage == 1 else share) * size
    if not strategy.offload:
        return States(parameters=weights + buffers, gradients=gradients, optimizer=states_, communication=bucket,
                      step=4 * share)  # fmt: skip
    on_host = states_ + 4 * share + (weights if strategy.stage == 3 else 0)
    return States(parameters=buffers if strategy.stage == 3 else weights + buffers, gradients=0, optimizer=0,
                  communication=bucket, step=0, host=on_host)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Activations:
    """Peak bytes of a step beside the states: `constant + by_row * rows` of the batch."""

    constant: float
    by_row: float

    def __call__(self, rows: int) -> int:
        return round(self.constant + self.by_row * rows)

    def most_rows(self, room: int) -> int:
        """The most rows that fit in so many bytes."""
        return max(0, int((room - self.constant) // self.by_row))


def measure_activations(
    build: Callable[[], TokenLM], batch: Batch, precision: str, stage: int, recompute: bool
) -> Activations:
    """Measured on the meta device at two depths and two batch sizes, which what is needed is linear in, each by itself.

    build: makes the model on the meta device.
    """
    weight, autocast = dtypes(precision, stage)
    model = build().to(weight)
    model.transformer.recompute = recompute
    blocks, rows = model.transformer.blocks, len(batch.inputs)
    depths = (2, 3) if len(blocks) > 3 else (len(blocks),)
    sizes = (max(1, rows // 2), rows) if rows > 1 else (rows,)
    peaks = {}
    for depth in depths:
        model.transformer.blocks = blocks[:depth]
        for size in sizes:
            peaks[depth, size] = measure_step(model, first_rows(batch, size), autocast).peak
    at = {
        s: peaks[depths[0], s] + (peaks[depths[-1], s] - peaks[depths[0], s]) * (len(blocks) - depths[0]) for s in sizes
    }
    by_row = (at[rows] - at[sizes[0]]) / (rows - sizes[0]) if rows > 1 else at[rows]
    return Activations(constant=at[rows] - by_row * rows, by_row=by_row)


def first_rows(batch: Batch, rows: int) -> Batch:
    """The batch cut to its first rows."""
    tensors = {
        f.name: getattr(batch, f.name)[:rows] for f in fields(batch) if isinstance(getattr(batch, f.name), Tensor)
    }
    sight = batch.sight
    if isinstance(sight, Packed):
        sight = Packed(documents=tuple(d for d in sight.documents if d.row < rows))
    return replace(batch, sight=sight, **tensors)

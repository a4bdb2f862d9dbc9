"""Bytes that a training step needs on each GPU, for the ways to share it out.

                       weights     gradients    AdamW           while the passes run
    ddp                whole       whole        whole           buckets as large as the gradients, if these are no views
    ZeRO-1             whole       1/N          1/N             two buckets of reduction
    ZeRO-2             whole       1/N          1/N             two buckets of reduction
    ZeRO-3             1/N         1/N          1/N             one, the weights in use, and those on their way

ZeRO-1 keeps whole gradients where several batches are accumulated; with one it deals them out as stage 2 does.

DDP keeps weights, gradients and both moments of AdamW in the dtype of the weights, 16 bytes per weight in float32.
DeepSpeed keeps weights and gradients in 16 bits where the precision is one of 16 bits, mixed or not, and beside the two
moments a float32 copy of the weights: 2 + 2 + 12 bytes. A step of the optimizer needs, once the activations are gone, its
share of the gradients in float32 (DeepSpeed; those in 16 bits are gone then) and the roots of the second moments (AdamW over
lists of tensors).
"""

from collections.abc import Callable
from dataclasses import dataclass, fields, replace

import torch
from torch import Tensor

from videopoet.models.token_lm import TokenLM
from videopoet.planning.shadow import measure_step
from videopoet.sequence import Batch, Packed

#: Elements in a bucket of gradients, unless the strategy says otherwise (`bucket_size`).
REDUCE_BUCKET = 200_000_000
#: Elements of gathered weights that DeepSpeed lets live at a time (`stage3_max_live_parameters`).
LIVE_PARAMETERS = 1_000_000_000
#: Elements of weights that it gathers at a time before they are needed (`stage3_prefetch_bucket_size`).
PREFETCH = 50_000_000
#: Precisions of the trainer in which DeepSpeed keeps weights in 16 bits.
HALF = {"bf16-mixed": torch.bfloat16, "bf16-true": torch.bfloat16, "16-mixed": torch.float16, "16-true": torch.float16}


@dataclass(frozen=True, kw_only=True)
class Strategy:
    """A way to share a model out over N GPUs.

    arguments: of `videopoet fit`, which choose it. bucket: numbers sent at a time. views: gradients lie in DDP's buckets.
    """

    name: str
    arguments: str
    stage: int
    offload: bool = False  # optimizer states on the host; with stage 3 the weights too
    bucket: int = REDUCE_BUCKET
    views: bool = True


STRATEGIES = (
    Strategy(name="ZeRO-0 (DDP)", arguments="-c configs/strategy/ddp.yaml", stage=0),
    Strategy(name="ZeRO-1", arguments="-c configs/strategy/deepspeed_zero1.yaml", stage=1),
    Strategy(name="ZeRO-2", arguments="-c configs/strategy/deepspeed_zero2.yaml", stage=2),
    Strategy(name="ZeRO-2, offload", stage=2, offload=True, arguments="-c configs/strategy/deepspeed_zero2.yaml "
             "--trainer.strategy.init_args.offload_optimizer=true"),
    Strategy(name="ZeRO-3", arguments="-c configs/strategy/deepspeed_zero3.yaml", stage=3),
    Strategy(name="ZeRO-3, offload", arguments="-c configs/strategy/deepspeed_zero3_offload.yaml", stage=3, offload=True),
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class States:
    """Bytes of one GPU beside activations. host: bytes in CPU memory."""

    parameters: int
    gradients: int
    optimizer: int
    communication: int  # beside the activations, while the passes run
    step: int  # beside the first three, while the optimizer steps
    host: int = 0

    @property
    def resident(self) -> int:
        """Weights, gradients and the optimizer's."""
        return self.parameters + self.gradients + self.optimizer

    def total(self, activations: int) -> int:
        """The most at any time: in the passes, or while the optimizer steps."""
        return self.resident + max(self.communication + activations, self.step)

    def room(self, memory: float) -> float:
        """What so much memory leaves for activations; less than nothing where not even the optimizer can step."""
        if self.resident + self.step > memory:
            return -1.0
        return memory - self.resident - self.communication


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


def states(model: TokenLM, strategy: Strategy, precision: str, gpus: int, accumulate: int = 1) -> States:
    """Weights, gradients, AdamW's states and buffers of communication on each of so many GPUs, in bytes."""
    weight, _ = dtypes(precision, strategy.stage)
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    tensors = sum(p.requires_grad for p in model.parameters())
    frozen = sum(p.numel() * p.itemsize for p in model.parameters() if not p.requires_grad)
    buffers = sum(b.numel() * b.itemsize for b in model.buffers())
    size = weight.itemsize
    if strategy.stage == 0:
        buckets = trained * size if gpus > 1 and not strategy.views else 0
        return States(
            parameters=trained * size + frozen + buffers,
            gradients=trained * size,
            optimizer=2 * trained * size + 4 * tensors,  # and a count of steps for every tensor
            communication=buckets,
            step=trained * size + buckets,
        )
    share = -(-trained // gpus)
    weights, moments = frozen + trained * size, 12 * share
    gradients = (trained if strategy.stage == 1 and accumulate > 1 else share) * size
    communication = 2 * strategy.bucket * size
    stays = communication if strategy.stage == 2 else 0  # while the optimizer steps
    if strategy.stage == 3:
        whole, weights = weights, -(-weights // gpus)
        largest = max(p.numel() for p in model.parameters())
        coming = min(whole, max(PREFETCH, largest) * size)
        communication = strategy.bucket * size + min(whole, max(LIVE_PARAMETERS, largest) * size) + coming
        stays = strategy.bucket * size + gradients
    if not strategy.offload:
        return States(parameters=weights + buffers, gradients=gradients, optimizer=moments, communication=communication,
                      step=max(0, 8 * share - gradients + stays))  # fmt: skip
    on_host = moments + 4 * share + (weights if strategy.stage == 3 else 0)
    return States(parameters=buffers if strategy.stage == 3 else weights + buffers, gradients=0, optimizer=0,
                  communication=communication, step=0, host=on_host)  # fmt: skip


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
    """Measured on the meta device at full depth and two batch sizes. Fewer blocks would not tell: under checkpointing the
    most that a few need is held by gradients of the token table, which more blocks do not add to, before it is by them.

    build: makes the model on the meta device.
    """
    weight, autocast = dtypes(precision, stage)
    model = build().to(weight)
    model.transformer.recompute = recompute
    rows = len(batch.inputs)
    whole = measure_step(model, batch, autocast)
    if rows == 1:
        return Activations(constant=0, by_row=whole.peak)
    half = measure_step(model, first_rows(batch, rows // 2), autocast)
    more, kept = whole.peak - half.peak, whole.kept - half.kept
    if more < kept:  # the table still outweighs the blocks; what is in proportion to the rows is the most it can be
        return Activations(constant=0, by_row=whole.peak / rows)
    by_row = more / (rows - rows // 2)
    return Activations(constant=whole.peak - by_row * rows, by_row=by_row)


def first_rows(batch: Batch, rows: int) -> Batch:
    """The batch cut to its first rows."""
    tensors = {
        f.name: getattr(batch, f.name)[:rows] for f in fields(batch) if isinstance(getattr(batch, f.name), Tensor)
    }
    sight = batch.sight
    if isinstance(sight, Packed):
        sight = Packed(documents=tuple(d for d in sight.documents if d.row < rows))
    return replace(batch, sight=sight, **tensors)

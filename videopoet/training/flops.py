"""Floating-point operations of a training step of the language model, counted exactly from its shapes.

A product of (m, k) and (k, n) is 2mkn. What is counted is what the loss needs: products with weights, and of attention
the pairs that may see each other (a prefix whole, what follows causally). Norms, softmaxes and the like are left out, as
is usual, and so is whatever is computed twice to save memory. Positions that are padding count as those that are not.

    pairs of a prefix p in n positions      n p + (n - p)(n - p + 1) / 2        4 * width operations each
    p = 3, n = 5                            15  + 3 = 18                        (a full square has 25)

A backward pass takes twice the forward pass, a frozen text encoder none.
"""

import time
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from videopoet.models.token_lm import TokenLM
from videopoet.sequence import IGNORE, Batch, Packed, Prefix
from videopoet.vocabulary import Modality

BACKWARD = 2  # passes' worth: a gradient for the input and one for the weight


@dataclass(frozen=True, kw_only=True)
class StepFlops:
    """Operations of forward and backward pass. `head` is a scalar on the batch's device, so that nothing waits for it."""

    trunk: int  # products with the blocks' weights
    attention: int
    head: Tensor  # what targets are predicted by
    text: int  # the text encoder and the projection of its states

    @property
    def total(self) -> Tensor:
        return self.head + (self.trunk + self.attention + self.text)


def step_flops(model: TokenLM, batch: Batch, text: tuple[int, int] | None = None) -> StepFlops:
    """Of one step on a batch. text: number and length of its texts, where known; else they are read off the batch."""
    rows, n = batch.inputs.shape
    first, (whole, last) = first_asked(batch), pairs(batch)
    blocks, width = model.transformer.blocks, model.transformer.width
    each = [(linear_weights(block), linear_weights(block.attention.qkv)) for block in blocks]
    weights = n * sum(all_ for all_, _ in each) - first * (each[-1][0] - each[-1][1])  # the last block asks for fewer
    seen = (len(blocks) - 1) * whole + last
    targets = batch.targets[:, first:]
    head = (model.io.weights(targets.clamp_min(0).flatten()) * (targets != IGNORE).flatten()).sum()
    return StepFlops(
        trunk=2 * rows * weights * (1 + BACKWARD),
        attention=4 * width * seen * (1 + BACKWARD),
        head=2.0 * head.double() * (1 + BACKWARD),
        text=text_flops(model, *(texts(batch) if text is None else text)),
    )


def linear_weights(module: nn.Module) -> int:
    """Numbers in the matrices of all linear layers of a module."""
    # By their sizes: ZeRO-3 leaves nothing in `weight` between uses.
    return sum(layer.in_features * layer.out_features for layer in module.modules() if isinstance(layer, nn.Linear))


def first_asked(batch: Batch) -> int:
    """The first position whose state the last block is asked for, as `models.attend.predicting` has it."""
    sight = batch.sight
    skips = isinstance(sight, Prefix) and not sight.predicts and 1 < sight.length < batch.inputs.shape[1]
    return sight.length - 1 if skips else 0


def pairs(batch: Batch) -> tuple[int, int]:
    """Query-key pairs over all rows that may see each other: in a block, and in the last one, which skips queries."""
    rows, n = batch.inputs.shape
    match batch.sight:
        case Prefix(length=length):
            return rows * seen_of(length, n), rows * (seen_of(length, n) - first_asked(batch) * length)
        case Packed(documents=documents):
            both = sum(seen_of(d.prefix, d.stop - d.start) for d in documents)
            return both, both
    both = int(batch.attention().sum())
    return both, both


def seen_of(prefix: int, n: int) -> int:
    """Pairs of one sequence: each of the prefix is seen by all n, each later one by itself and those after it."""
    return n * prefix + (n - prefix) * (n - prefix + 1) // 2


def texts(batch: Batch) -> tuple[int, int]:
    """Number and longest length of the texts of a batch: each run of text positions in a row is one."""
    text = (batch.modality == Modality.TEXT).long()
    edges = nn.functional.pad(text, (1, 1)).diff(dim=1)
    opens, closes = (edges == 1).nonzero()[:, 1], (edges == -1).nonzero()[:, 1]
    return len(opens), int((closes - opens).max()) if len(opens) else 0


def text_flops(model: TokenLM, number: int, length: int) -> int:
    """Of reading so many texts of one length: a T5 encoder, in which every slot sees every slot, and the projection."""
    if not number:
        return 0
    config = model.text_encoder.encoder.config
    trained = any(p.requires_grad for p in model.text_encoder.parameters())
    encoder = 2 * number * length * linear_weights(model.text_encoder.encoder)
    encoder += 4 * number * length**2 * config.num_layers * config.num_heads * config.d_kv
    project = 2 * number * length * linear_weights(model.project_text)
    return encoder * (1 + BACKWARD * trained) + project * (1 + (BACKWARD if trained else 1))


@torch.no_grad()
def matmul_peak(device: torch.device, dtype: torch.dtype, size: int = 512, repeats: int = 3) -> float:
    """Operations per second of the fastest of a few square products: what a device can do, in tens of milliseconds."""
    size = 8 * size if device.type == "cuda" else size
    a = torch.randn(size, size, device=device).to(dtype)
    best = float("inf")
    for _ in range(repeats + 1):
        start = time.perf_counter()
        b = a @ a
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        best = min(best, time.perf_counter() - start)
        del b
    return 2 * size**3 / best

"""The trunk: pre-norm transformer blocks with RMSNorm, rotary attention and a gated MLP."""

import math

from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from videopoet.models.attend import Plan
from videopoet.models.attention import Attention, Cache, Rotary
from videopoet.models.cpu_kernels import Linear, RMSNorm, gated


class GatedMLP(nn.Module):
    """`out(silu(gate(x)) * up(x))`."""

    def __init__(self, width: int, hidden: int):
        super().__init__()
        self.gate_up, self.out = Linear(width, 2 * hidden, bias=False), Linear(hidden, width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(gated(self.gate_up(x)))


class Block(nn.Module):
    def __init__(self, width: int, heads: int, hidden: int):
        super().__init__()
        self.norm_attention, self.attention = RMSNorm(width), Attention(width, heads)
        self.norm_mlp, self.mlp = RMSNorm(width), GatedMLP(width, hidden)

    def forward(self, x: Tensor, angles, plan: Plan, cache: Cache | None, layer: int, first: int = 0) -> Tensor:
        """(b, n, d) -> (b, n - first, d)."""
        x = x[:, first:] + self.attention(self.norm_attention(x), angles, plan, cache, layer, first)
        return x + self.mlp(self.norm_mlp(x))


class Transformer(nn.Module):
    """`layers` blocks and a final norm. The MLP's hidden width defaults to 8/3 of the width, in multiples of 32.

    recompute: keep only the inputs of blocks for the backward pass and run each block again there (activation
        checkpointing): about a third more time, and memory for one block's activations instead of all.
    """

    def __init__(self, width: int, layers: int, heads: int, hidden: int | None = None, recompute: bool = False):
        super().__init__()
        hidden = hidden or math.ceil(width * 8 / 3 / 32) * 32
        self.width, self.heads, self.recompute = width, heads, recompute
        self.rotary = Rotary(width // heads)
        self.blocks = nn.ModuleList(Block(width, heads, hidden) for _ in range(layers))
        self.norm = RMSNorm(width)
        for block in self.blocks:  # residual branches start small, so depth does not grow the stream
            for out in (block.attention.out, block.mlp.out):
                nn.init.normal_(out.weight, std=0.02 / math.sqrt(2 * layers))

    def cache(self, batch: int, length: int) -> Cache:
        """An empty cache for `batch` rows of at most `length` positions."""
        like = self.norm.weight
        return Cache(batch, length, len(self.blocks), self.heads, self.width // self.heads, like)

    def forward(
        self, x: Tensor, places: Tensor, plan: Plan, cache: Cache | None = None, last: tuple[Plan, int] | None = None
    ) -> Tensor:
        """x (b, n, d), `Batch.places` (b, n, 2, 3), who sees whom -> (b, n, d). A cache is advanced by n.

        last: the plan of the last block and the first position whose state it is asked for; gives (b, n - first, d).
        """
        angles, n = self.rotary(places), x.shape[1]
        for layer, block in enumerate(self.blocks):
            final = last is not None and layer + 1 == len(self.blocks)
            x = self._run(block, x, angles, *((last[0], cache, layer, last[1]) if final else (plan, cache, layer, 0)))
        if cache is not None:
            cache.filled += n
        return self.norm(x)

    def _run(self, block: Block, x: Tensor, *how) -> Tensor:
        if self.recompute and self.training:
            return checkpoint(block, x, *how, use_reentrant=False)
        return block(x, *how)

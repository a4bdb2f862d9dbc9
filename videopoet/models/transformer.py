"""The trunk: pre-norm transformer blocks with RMSNorm, rotary attention and a gated MLP."""

import math

import torch.nn.functional as F
from torch import Tensor, nn

from videopoet.models.attention import Attention, Cache, Rotary


class GatedMLP(nn.Module):
    """`out(silu(gate(x)) * up(x))`."""

    def __init__(self, width: int, hidden: int):
        super().__init__()
        self.gate_up, self.out = nn.Linear(width, 2 * hidden, bias=False), nn.Linear(hidden, width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        gate, up = self.gate_up(x).chunk(2, dim=-1)
        return self.out(F.silu(gate) * up)


class Block(nn.Module):
    def __init__(self, width: int, heads: int, hidden: int):
        super().__init__()
        self.norm_attention, self.attention = nn.RMSNorm(width), Attention(width, heads)
        self.norm_mlp, self.mlp = nn.RMSNorm(width), GatedMLP(width, hidden)

    def forward(self, x: Tensor, angles, mask: Tensor, cache: Cache | None, layer: int) -> Tensor:
        x = x + self.attention(self.norm_attention(x), angles, mask, cache, layer)
        return x + self.mlp(self.norm_mlp(x))


class Transformer(nn.Module):
    """`layers` blocks and a final norm. The MLP's hidden width defaults to 8/3 of the width, in multiples of 32."""

    def __init__(self, width: int, layers: int, heads: int, hidden: int | None = None):
        super().__init__()
        hidden = hidden or math.ceil(width * 8 / 3 / 32) * 32
        self.width, self.heads = width, heads
        self.rotary = Rotary(width // heads)
        self.blocks = nn.ModuleList(Block(width, heads, hidden) for _ in range(layers))
        self.norm = nn.RMSNorm(width)
        for block in self.blocks:  # residual branches start small, so depth does not grow the stream
            for out in (block.attention.out, block.mlp.out):
                nn.init.normal_(out.weight, std=0.02 / math.sqrt(2 * layers))

    def cache(self, batch: int, length: int) -> Cache:
        """An empty cache for `batch` rows of at most `length` positions."""
        like = self.norm.weight
        return Cache(batch, length, len(self.blocks), self.heads, self.width // self.heads, like)

    def forward(self, x: Tensor, position: Tensor, mask: Tensor, cache: Cache | None = None) -> Tensor:
        """x (b, n, d), position (b, n, 3), mask bool (b, 1, n, keys) -> (b, n, d). A cache is advanced by n."""
        angles = self.rotary(position)
        for layer, block in enumerate(self.blocks):
            x = block(x, angles, mask, cache, layer)
        if cache is not None:
            cache.filled += x.shape[1]
        return self.norm(x)

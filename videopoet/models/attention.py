"""Self-attention with rotary positions over time, row and column, and its key-value cache."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Rotary(nn.Module):
    """Rotary angles of positions (time, row, column): half of the frequencies turn with time, a quarter with each other.

    A text or control token stands at (i, i, i), where this is the ordinary one-dimensional rotary embedding.
    """

    def __init__(self, head_width: int, base: float = 1000.0):
        super().__init__()
        pairs = head_width // 2
        axis = torch.zeros(pairs, dtype=torch.int64)
        axis[pairs // 2 :: 2], axis[pairs // 2 + 1 :: 2] = 1, 2
        frequency = torch.empty(pairs)
        for a in range(3):
            count = int((axis == a).sum())
            frequency[axis == a] = base ** (-torch.arange(count) / count)
        self.register_buffer("axis", axis, persistent=False)
        self.register_buffer("frequency", frequency, persistent=False)

    def forward(self, position: Tensor) -> tuple[Tensor, Tensor]:
        """float (b, n, 3) -> cos, sin, each (b, 1, n, head_width / 2)."""
        angle = (position[..., self.axis] * self.frequency)[:, None]
        return angle.cos(), angle.sin()


def rotate(x: Tensor, angles: tuple[Tensor, Tensor]) -> Tensor:
    """Turn pairs (x_i, x_{i + d/2}) of (b, heads, n, d) by the angles."""
    cos, sin = (a.to(x.dtype) for a in angles)
    a, b = x.chunk(2, dim=-1)
    return torch.cat([a * cos - b * sin, a * sin + b * cos], dim=-1)


class Cache:
    """Keys and values of every layer, written in place and read up to what is filled.

    shown: bool (b, length), which cached positions may be seen (padding may not).
    """

    def __init__(self, batch: int, length: int, layers: int, heads: int, head_width: int, like: Tensor):
        shape = (layers, batch, heads, length, head_width)
        self.keys, self.values = like.new_empty(shape), like.new_empty(shape)
        self.shown = torch.zeros(batch, length, dtype=torch.bool, device=like.device)
        self.filled = 0

    def write(self, layer: int, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Store (b, heads, n, d) after what is filled; returns all keys and values so far."""
        end = self.filled + k.shape[2]
        if end > self.keys.shape[3]:
            raise ValueError(f"the cache holds {self.keys.shape[3]} positions, {end} are needed")
        self.keys[layer, :, :, self.filled : end], self.values[layer, :, :, self.filled : end] = k, v
        return self.keys[layer, :, :, :end], self.values[layer, :, :, :end]


class Attention(nn.Module):
    """Multi-head attention with normalised queries and keys (QK-norm)."""

    def __init__(self, width: int, heads: int):
        super().__init__()
        if width % heads or (width // heads) % 4:
            raise ValueError(f"width {width} over {heads} heads: heads must divide it into multiples of 4")
        self.heads = heads
        self.qkv, self.out = nn.Linear(width, 3 * width, bias=False), nn.Linear(width, width, bias=False)
        self.norm_q, self.norm_k = nn.RMSNorm(width // heads), nn.RMSNorm(width // heads)

    def forward(
        self, x: Tensor, angles: tuple[Tensor, Tensor], mask: Tensor, cache: Cache | None, layer: int
    ) -> Tensor:
        """x (b, n, d); mask bool, broadcast to (b, heads, n, keys), true where a query may see a key -> (b, n, d)."""
        q, k, v = self.qkv(x).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        q, k = rotate(self.norm_q(q), angles), rotate(self.norm_k(k), angles)
        if cache is not None:
            k, v = cache.write(layer, k, v)
        y = F.scaled_dot_product_attention(q.to(v.dtype), k.to(v.dtype), v, attn_mask=mask)
        return self.out(y.transpose(1, 2).flatten(2))

"""Self-attention with rotary positions over time, row and column, and its key-value cache."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from videopoet.models.attend import Plan, attend, key_bias
from videopoet.models.cpu_kernels import Linear, RMSNorm, rms_norm


class Rotary(nn.Module):
    """Rotary angles of positions (time, row, column): half of the frequencies turn with time, a quarter with each other.

    A text or control token stands at (i, i, i), where this is the ordinary one-dimensional rotary embedding. Queries turn
    with the place of the token that is predicted, keys with their own: to look at the frame before, at the same place,
    is one turn wherever rows end, and so is to look at a given clip. Angles are made in float32 whatever the dtype of the
    model: in bfloat16, position 257 would be 256.
    """

    def __init__(self, head_width: int, base: float = 1000.0):
        super().__init__()
        half = head_width // 4
        axis = [0] * half + [1 + i % 2 for i in range(head_width // 2 - half)]
        order = [axis[:i].count(a) for i, a in enumerate(axis)]
        count = [axis.count(a) for a in axis]
        self.base = base
        for name, value in (("axis", axis), ("order", order), ("count", count)):  # integers: no cast can round them
            self.register_buffer(name, torch.tensor(value), persistent=False)

    def forward(self, position: Tensor) -> tuple[Tensor, Tensor]:
        """float (b, n, 2, 3), of queries and of keys -> cos and sin, each float32 (b, n, 2, 1, head_width)."""
        frequency = self.base ** (-self.order.float() / self.count)
        angle = (position[..., self.axis].float() * frequency)[..., None, :]
        cos, sin = angle.cos(), angle.sin()
        return torch.cat([cos, cos], -1), torch.cat([-sin, sin], -1)


def rotate(x: Tensor, angles: tuple[Tensor, Tensor]) -> Tensor:
    """Turn pairs (x_i, x_{i + d/2}) of (b, n, ..., d) by the angles."""
    cos, sin = (a.to(x.dtype) for a in angles)
    return torch.addcmul(x * cos, x.roll(x.shape[-1] // 2, -1), sin)


class Cache:
    """Keys and values of every layer, written in place and read up to what is filled.

    bias: float32 (b, 1, 1, length), -inf at positions that may not be seen; None where all may.
    """

    def __init__(self, batch: int, length: int, layers: int, heads: int, head_width: int, like: Tensor):
        shape = (layers, batch, heads, length, head_width)
        self.keys, self.values = like.new_empty(shape), like.new_empty(shape)
        self.bias: Tensor | None = None
        self.filled = 0

    def hide(self, shown: Tensor) -> None:
        """bool (b, n): which of the first n positions may be seen."""
        self.bias = key_bias(F.pad(shown, (0, self.keys.shape[3] - shown.shape[1]), value=True))

    def sight(self, n: int) -> Tensor | None:
        """The bias on the keys that are there after n more positions."""
        return None if self.bias is None else self.bias[..., : self.filled + n]

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
        self.qkv, self.out = Linear(width, 3 * width, bias=False), Linear(width, width, bias=False)
        self.norm_q, self.norm_k = RMSNorm(width // heads), RMSNorm(width // heads)

    def forward(
        self, x: Tensor, angles: tuple[Tensor, Tensor], plan: Plan, cache: Cache | None, layer: int, first: int = 0
    ) -> Tensor:
        """x (b, n, d) -> (b, n - first, d): what positions from `first` on gather from all that they see."""
        qkv = self.qkv(x).unflatten(-1, (3, self.heads, -1))
        weight = torch.stack([self.norm_q.weight, self.norm_k.weight])[:, None]
        q, k = rotate(rms_norm(qkv[:, :, :2], weight), angles).to(qkv.dtype).transpose(1, 3).unbind(2)
        v = qkv[:, :, 2].transpose(1, 2)
        if cache is not None:
            k, v = cache.write(layer, k, v)
        y = attend(q[:, :, first:], k, v, plan)
        return self.out(y.transpose(1, 2).flatten(2))

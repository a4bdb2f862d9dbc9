"""Finite scalar quantization: every latent coordinate rounded to one of a few levels (Mentzer et al., 2309.15505)."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from videopoet.tokenizers.quantizers.quantizer import Quantized, Quantizer


class FiniteScalarQuantizer(Quantizer):
    """`code = sum_i digit_i * prod_{j<i} levels_j`, digit_i in [0, levels_i), the first coordinate counting fastest.

    A coordinate is squashed to its range of levels by tanh, shifted by half a level where their number is even, and
    rounded. Quantized latents are `(digit - floor(levels / 2)) / floor(levels / 2)`. No codebook, no loss.

    Example with levels (8, 5): z = (0, 0) -> digits (4, 2) -> code 4 + 8 * 2 = 20 -> latents (0, 0). Levels
    (8, 8, 8, 5, 5, 5) make 64000 codes (Cosmos).
    """

    def __init__(self, levels: Sequence[int] = (8, 8, 8, 5, 5, 5)):
        super().__init__()
        if not levels or min(levels) < 2:
            raise ValueError(f"levels are {tuple(levels)}: every coordinate needs at least 2")
        self.dimension, self.size = len(levels), math.prod(levels)
        count = torch.tensor(levels)
        self.register_buffer("levels", count, persistent=False)
        self.register_buffer("basis", torch.cat([count.new_ones(1), count[:-1].cumprod(0)]), persistent=False)

    def forward(self, latents: Tensor) -> Quantized:
        """latents float (b, dimension, t, h, w) -> latents in [-1, 1], codes int64 (b, t, h, w)."""
        with torch.autocast(latents.device.type, enabled=False):
            z = latents.float().movedim(1, -1)
            half = (self.levels - 1) * (1 + 1e-3) / 2  # a little wider, so that the outermost levels can be reached
            offset = (self.levels % 2 == 0) / 2
            bounded = torch.tanh(z + torch.atanh(offset / half)) * half - offset
            rounded = bounded + (bounded.round() - bounded).detach()
            middle = self.levels // 2
            codes = ((rounded.detach().round().long() + middle) * self.basis).sum(-1)
            quantized = (rounded / middle).movedim(-1, 1)
        return Quantized(quantized.to(latents.dtype), codes, z.new_zeros(()), {})

    def embed(self, codes: Tensor) -> Tensor:
        """codes int64 (b, t, h, w) -> quantized latents float (b, dimension, t, h, w)."""
        middle = self.levels // 2
        digits = codes.unsqueeze(-1) // self.basis % self.levels
        return ((digits - middle) / middle).movedim(-1, 1)

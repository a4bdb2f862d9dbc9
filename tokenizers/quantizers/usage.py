"""How much of a codebook a batch uses."""

import torch
from torch import Tensor


def code_usage(counts: Tensor) -> Tensor:
    """Fraction of codes that occur at all, from counts per code."""
    return (counts > 0).float().mean()


def code_perplexity(counts: Tensor) -> Tensor:
    """exp(entropy) of the code histogram in counts per code: 1 if one code is used, len(counts) if all evenly."""
    probabilities = counts / counts.sum().clamp(min=1)
    return torch.special.entr(probabilities).sum().exp()

"""Sums over the processes of a distributed run, so that statistics of a batch are statistics of the global batch."""

import torch
import torch.distributed as dist
from torch import Tensor


def num_ranks() -> int:
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    return dist.get_rank() if num_ranks() > 1 else 0


def sum_over_ranks(x: Tensor) -> Tensor:
    """The sum of x over all ranks, the same on each, differentiable; x itself where there is one rank.

    The gradient is the sum of the ranks' gradients. With the averaging of DistributedDataParallel that makes a loss
    that every rank computes from the sum count once, as in a single process with the joint batch.
    """
    return _SumOverRanks.apply(x) if num_ranks() > 1 else x


def mean_over_ranks(x: Tensor) -> Tensor:
    """The mean of x over all ranks, differentiable. For means over a batch: every rank must hold as many samples."""
    return sum_over_ranks(x) / num_ranks()


class _SumOverRanks(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x: Tensor) -> Tensor:
        total = x.detach().clone(memory_format=torch.contiguous_format)
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx, gradient: Tensor) -> Tensor:
        total = gradient.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(total)
        return total

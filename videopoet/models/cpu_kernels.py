"""Layers with another way to compute them on the CPU, where torch's own is slow.

Training: normalisation and gating in few passes over memory, where torch makes them of many small operations. Elsewhere,
and under `torch.compile`, which fuses them by itself, the plain formulas are used. Linear layers: `onednn`. Tests hold all
of them equal to the plain formulas.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from videopoet.models.onednn import Decoding


def _plain(x: Tensor) -> bool:
    if torch.compiler.is_compiling() or not torch.is_grad_enabled():
        return True
    return x.device.type != "cpu" or x.dtype != torch.float32


class _Normalize(torch.autograd.Function):
    """y = x * r with r = 1 / sqrt(mean(x^2) + eps); dx = r * (dy - y * mean(dy * y)), which needs y and r alone."""

    @staticmethod
    def forward(ctx, x: Tensor, eps: float) -> Tensor:
        r = torch.linalg.vector_norm(x, dim=-1, keepdim=True).square_().mul_(1 / x.shape[-1]).add_(eps).rsqrt_()
        y = x * r
        ctx.save_for_backward(y, r)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx, dy: Tensor):
        y, r = ctx.saved_tensors
        share = torch.linalg.vecdot(dy, y)[..., None].mul_(-1 / y.shape[-1])
        return torch.addcmul(dy, y, share).mul_(r), None


def rms_norm(x: Tensor, weight: Tensor) -> Tensor:
    """x (..., d) over its root mean square, times a weight that broadcasts with it: (d,), or (heads, d)."""
    if _plain(x):
        return F.rms_norm(x, x.shape[-1:], weight) if weight.ndim == 1 else F.rms_norm(x, x.shape[-1:]) * weight
    eps = torch.finfo(x.dtype).eps
    return _Normalize.apply(x, eps) * weight


class RMSNorm(nn.RMSNorm):
    """Root-mean-square norm over the last dimension."""

    def forward(self, x: Tensor) -> Tensor:
        return rms_norm(x, self.weight)


class _Gated(torch.autograd.Function):
    """Both halves of the gradient are written in place of each other's neighbour, so that none is copied."""

    @staticmethod
    def forward(ctx, gate_up: Tensor) -> Tensor:
        gate, up = gate_up.chunk(2, dim=-1)
        ctx.save_for_backward(gate_up)
        return F.silu(gate).mul_(up)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor) -> Tensor:
        (gate_up,) = ctx.saved_tensors
        (gate, up), out = gate_up.chunk(2, dim=-1), torch.empty_like(gate_up)
        of_gate, of_up = out.chunk(2, dim=-1)
        torch.mul(grad, F.silu(gate), out=of_up)
        torch.ops.aten.silu_backward.grad_input(grad * up, gate, grad_input=of_gate)
        return out


def gated(gate_up: Tensor) -> Tensor:
    """(..., 2d) -> `silu(gate) * up`, (..., d). Keeps its input for the backward pass and nothing else."""
    if _plain(gate_up):
        gate, up = gate_up.chunk(2, dim=-1)
        return F.silu(gate) * up
    return _Gated.apply(gate_up)


class Linear(Decoding, nn.Linear):
    """A linear layer by `onednn`."""

    def forward(self, x: Tensor) -> Tensor:
        return self.decode(x, self.weight, self.bias)

"""Products with weights on the CPU by oneDNN, where it is faster than what torch takes by itself.

    float32 on processors that are not Intel's    there MKL keeps off their wide registers: 110 GFLOP/s of one AMD EPYC
                                                  thread (Zen 4), oneDNN 250; forward, backward and the output head
    few rows, as in decoding, any processor       time goes into reading the weight: laid out once as oneDNN reads it, 2 rows
                                                  take a third of the time in float32 and half of it in bfloat16

Both are sums in another order, nothing else; tests hold them equal to `F.linear`. `tools/benchmark_lm.py` measures them.
"""

from functools import cache
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

FEW = 64  # rows for which a weight is laid out


@cache
def available() -> bool:
    """Whether this build of torch has oneDNN's products."""
    return torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")


@cache
def faster_than_mkl() -> bool:
    """Whether float32 products of many rows go through oneDNN: by the processor's maker, so that runs repeat."""
    file = Path("/proc/cpuinfo")
    maker = file.read_text() if file.exists() else ""
    return available() and torch.backends.mkl.is_available() and "vendor_id" in maker and "GenuineIntel" not in maker


def takes(x: Tensor, weight: Tensor) -> bool:
    """Whether products of these are oneDNN's: plain float32 tensors on the CPU, under no autocast, of no empty dimension."""
    plain = type(x) is Tensor and type(weight) in (Tensor, nn.Parameter) and x.dtype == weight.dtype == torch.float32
    return plain and x.device.type == weight.device.type == "cpu" and x.numel() > 0 and not (
        torch.compiler.is_compiling() or torch.is_autocast_enabled("cpu")
    ) and faster_than_mkl()  # fmt: skip


def _product(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    return torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")


def matmul(a: Tensor, b: Tensor) -> Tensor:
    """a (m, k) @ b (k, n), without a gradient."""
    return _product(a, b.T) if takes(a, b) else a @ b


class _Linear(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(x, weight)
        return _product(x, weight, bias)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor):
        (x, weight), needs = ctx.saved_tensors, ctx.needs_input_grad
        of_x = _product(grad, weight.T) if needs[0] else None
        of_weight = _product(grad.T, x.T) if needs[1] else None
        return of_x, of_weight, grad.sum(0) if needs[2] else None


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """`F.linear`, the faster way."""
    if not takes(x, weight):
        return F.linear(x, weight, bias)
    return _Linear.apply(x.reshape(-1, x.shape[-1]), weight, bias).unflatten(0, x.shape[:-1])


class _Kept(dict):
    """Laid-out weights by where they come from; copies and files of a module do not have them."""

    def __deepcopy__(self, memo) -> "_Kept":
        return _Kept()

    def __reduce__(self):
        return _Kept, ()


class Decoding:
    """Mixed into a module: `decode`, a linear layer that keeps a second copy of its weights, as oneDNN reads them.

    Only in evaluation, without gradients and of few rows on the CPU. Copies are given up with `train` and `eval`, and made
    anew for a weight that was written to or moved.
    """

    def train(self, mode: bool = True):
        self._kept = _Kept()
        return super().train(mode)

    def decode(self, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        """`F.linear`, the faster way."""
        few = x.numel() <= FEW * x.shape[-1] and x.numel() > 0 and type(x) is Tensor and x.device.type == "cpu"
        if self.training or not few or torch.is_grad_enabled() or torch.compiler.is_compiling() or not available():
            return linear(x, weight, bias)
        if x.dtype != weight.dtype or x.dtype not in (torch.float32, torch.bfloat16):
            return linear(x, weight, bias)
        place, state = (weight.data_ptr(), weight.shape), (weight._version, weight.dtype, weight.stride())
        kept = self.__dict__.setdefault("_kept", _Kept())
        if kept.get(place, (None,))[0] != state:
            kept[place] = state, torch.ops.mkldnn._reorder_linear_weight(weight.detach().contiguous(), None)
        return _product(x.reshape(-1, x.shape[-1]), kept[place][1], bias).unflatten(0, x.shape[:-1])

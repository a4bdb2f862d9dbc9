"""Three-dimensional convolution by the fast kernel whatever the size."""

import torch
import torch.nn.functional as F
from torch import Tensor


def convolve(
    x: Tensor, weight: Tensor, bias: Tensor | None, stride: tuple[int, ...], padding: tuple[int, ...]
) -> Tensor:
    """`F.conv3d`: float (b, c, t, h, w) by (c', c, k_t, k_h, k_w) -> (b, c', t', h', w'), from oneDNN where that can do it.

    For a single clip in float32 on a CPU torch asks oneDNN only where channels x frames x rows exceed 20480 (and never
    for kernels of 1 with one thread). Below that it takes a generic kernel, 2 to 10 times slower, which also gives up
    channels-last memory. Chunks of a stream and small frames are all below.

    In bfloat16 on a CPU, zeros around a few frames, rows or columns are written out: asked to imagine them, oneDNN leaves
    the slices of the weights' gradient that meet nothing but zeros unwritten, and gives back what the memory held before
    (torch 2.13; 3 frames under a kernel of 5 as well as 2 under one of 3).
    """
    few = [2 * k > size and p > 0 for size, k, p in zip(x.shape[2:], weight.shape[2:], padding)]
    if any(few) and _in_bfloat16_on_cpu(x):
        margins = [p if short else 0 for p, short in zip(padding, few)]
        x = F.pad(x, [m for m in reversed(margins) for _ in range(2)])
        padding = tuple(p - m for p, m in zip(padding, margins))
    if _for_one_dnn(x, weight):
        return torch.ops.aten.mkldnn_convolution(x, weight, bias, padding, stride, (1, 1, 1), 1)
    return F.conv3d(x, weight, bias, stride, padding)


def _for_one_dnn(x: Tensor, weight: Tensor) -> bool:
    return (
        not torch.compiler.is_compiling()
        and type(x) is Tensor  # not a stand-in without memory
        and x.device.type == "cpu"
        and x.dtype == weight.dtype == torch.float32
        and torch.backends.mkldnn.is_available()
        and torch.backends.mkldnn.enabled
        and not torch.is_autocast_enabled("cpu")  # it does not know the operator; bfloat16 always goes to oneDNN
    )


def _in_bfloat16_on_cpu(x: Tensor) -> bool:
    autocast = torch.is_autocast_enabled("cpu") and torch.get_autocast_dtype("cpu") == torch.bfloat16
    return x.device.type == "cpu" and (autocast or x.dtype == torch.bfloat16)

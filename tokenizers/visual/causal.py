"""Layers in which no frame sees a later one: the parts of a causal 3D CNN (MAGVIT-v2, §3.2).

Temporal rule, everywhere: a stride of s maps 1 + s*k frames to 1 + k, so the first frame keeps a step of its own;
upsampling by s repeats or rearranges each step into s frames and drops the first s - 1. With s = 4 in all:
17 frames -> 5 latent frames -> 17 frames, and 1 frame -> 1 latent frame -> 1 frame.

With a `Stream`, a layer continues where the last chunk ended: later chunks have s*k frames and nothing is dropped.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from videopoet.tokenizers.streaming import Stream
from videopoet.tokenizers.visual.convolution import convolve

Triple = tuple[int, int, int]


def at_start(stream: Stream | None) -> bool:
    """Whether a layer is at the start of the video."""
    return stream is None or not stream.started


class CausalConv3d(nn.Conv3d):
    """Convolution over (t, h, w) that sees k_t - 1 copies of the first frame before it, and nothing after the last.

    With zeros instead, the start of the clip stays inside the receptive field and a scene at rest has another code in
    every latent frame; with copies its codes are constant, and the language model may copy them. An image network
    inflated into the last temporal slice of each kernel is the same under both (papers leave the value open).
    """

    def __init__(self, in_channels: int, out_channels: int, kernel: int | Triple = 3, stride: Triple = (1, 1, 1)):
        kt, kh, kw = (kernel,) * 3 if isinstance(kernel, int) else kernel
        super().__init__(in_channels, out_channels, (kt, kh, kw), stride, padding=(0, kh // 2, kw // 2))

    def forward(self, x: Tensor, stream: Stream | None = None) -> Tensor:
        """float (b, c, t, h, w) -> (b, c', 1 + (t-1)/s_t, h/s_h, w/s_w)."""
        if self.training and x.shape[2] == 1:  # one frame: a two-dimensional convolution, a third of the work
            frame = F.conv2d(x[:, :, 0], self._image_weight(), self.bias, self.stride[1:], self.padding[1:])
            return frame[:, :, None]
        x = after_past(x, self, self.kernel_size[0], self.stride[0], stream)
        return convolve(x, self.weight, self.bias, self.stride, self.padding)

    def before(self, x: Tensor) -> Tensor:
        """What stands before the first frame, (b, c, k_t - 1, h, w)."""
        return x[:, :, :1].expand(-1, -1, self.kernel_size[0] - 1, -1, -1)

    def _image_weight(self) -> Tensor:
        return self.weight.sum(2)  # an image meets every slice of the kernel


class ZeroPaddedConv3d(CausalConv3d):
    """The same with zeros before the first frame, as in public ports of MAGVIT-v2."""

    def before(self, x: Tensor) -> Tensor:
        return torch.zeros_like(super().before(x))

    def _image_weight(self) -> Tensor:
        return self.weight[:, :, -1]


class CausalAveragePool(nn.Module):
    """Mean over windows of `stride` that end at frames 0, s_t, 2 s_t ...; the first one is of copies of the first frame."""

    def __init__(self, stride: Triple):
        super().__init__()
        self.stride = stride

    def before(self, x: Tensor) -> Tensor:
        return x[:, :, :1].expand(-1, -1, self.stride[0] - 1, -1, -1)

    def forward(self, x: Tensor, stream: Stream | None = None) -> Tensor:
        """float (b, c, t, h, w) -> (b, c, 1 + (t-1)/s_t, h/s_h, w/s_w)."""
        return F.avg_pool3d(after_past(x, self, self.stride[0], self.stride[0], stream), self.stride, self.stride)


def after_past(x: Tensor, layer: nn.Module, kernel: int, stride: int, stream: Stream | None) -> Tensor:
    """(b, c, t, h, w) -> the same after the frames that a window of `kernel` frames still sees.

    These are the kernel - 1 frames of `layer.before(x)` at the start, and later in a stream the last kernel - stride
    frames of the chunk before.
    """
    x = cat_time(layer.before(x) if at_start(stream) else stream.past(layer), x)
    if stream is not None:
        stream.keep(layer, x[:, :, x.shape[2] - (kernel - stride) :])
    return x


def cat_time(before: Tensor, x: Tensor) -> Tensor:
    """Frames one after the other, in the memory layout of x.

    Repeated frames are views without a layout, and `torch.cat` of them falls back to the contiguous one: slow by
    itself, and every convolution after it.
    """
    if before.shape[2] == 0:
        return x
    if not x.is_contiguous(memory_format=torch.channels_last_3d):
        return torch.cat([before, x], 2)
    return torch.cat([part.permute(0, 2, 3, 4, 1) for part in (before, x)], 1).permute(0, 4, 1, 2, 3)


class FrameGroupNorm(nn.GroupNorm):
    """Group normalisation with statistics of one frame at a time; pooled over time they would leak the future."""

    def __init__(self, channels: int, affine: bool = True):
        super().__init__(min(32, channels // 4), channels, eps=1e-6, affine=affine)

    def forward(self, x: Tensor) -> Tensor:
        """float (b, c, t, h, w) -> same."""
        b, c, t, h, w = x.shape
        frames = x.transpose(1, 2).reshape(b * t, c, h, w)
        return super().forward(frames).reshape(b, t, c, h, w).transpose(1, 2)


def space_to_depth(x: Tensor, patch: int) -> Tensor:
    """(b, c, t, h, w) -> (b, c * p * p, t, h/p, w/p)."""
    b, c, t, h, w = x.shape
    x = x.reshape(b, c, t, h // patch, patch, w // patch, patch)
    return x.permute(0, 1, 4, 6, 2, 3, 5).reshape(b, c * patch * patch, t, h // patch, w // patch)


def depth_to_space(x: Tensor, stride: Triple, drop: int | None = None) -> Tensor:
    """(b, c * s_t * s_h * s_w, t, h, w) -> (b, c, t * s_t - drop, h * s_h, w * s_w) without the first `drop` frames.

    drop: s_t - 1 where not given.
    """
    st, sh, sw = stride
    b, c, t, h, w = x.shape
    x = x.permute(0, 2, 3, 4, 1).reshape(b, t, h, w, c // (st * sh * sw), st, sh, sw)  # channels last, as networks run
    x = x.permute(0, 1, 5, 2, 6, 3, 7, 4).reshape(b, t * st, h * sh, w * sw, -1).permute(0, 4, 1, 2, 3)
    return x[:, :, st - 1 if drop is None else drop :]


class DepthToSpaceUpsample(nn.Module):
    """Convolution to c' * s_t * s_h * s_w channels, rearranged into a finer lattice.

    Of the first step one frame is kept where `drop` is s_t - 1: the last, or the first with `keep` 0.
    """

    def __init__(self, conv: nn.Module, stride: Triple, drop: int, keep: int = -1):
        super().__init__()
        if keep not in (-1, 0):
            raise ValueError(f"keep is {keep}: of the first frames either the last (-1) or the first (0) is kept")
        self.conv, self.stride, self.drop, self.keep = conv, stride, drop, keep

    def forward(self, x: Tensor, stream: Stream | None = None) -> Tensor:
        x, drop = self.conv(x, stream), self.drop if at_start(stream) else 0
        if drop and self.keep == 0:
            x = depth_to_space(x, self.stride, 0)
            return torch.cat([x[:, :, :1], x[:, :, 1 + drop :]], 2)
        return depth_to_space(x, self.stride, drop)


class ResizeUpsample(nn.Module):
    """Nearest-neighbour resize by `stride`, the first `drop` frames dropped, then a convolution."""

    def __init__(self, conv: nn.Module, stride: Triple, drop: int):
        super().__init__()
        self.conv, self.stride, self.drop = conv, stride, drop

    def forward(self, x: Tensor, stream: Stream | None = None) -> Tensor:
        for axis, factor in enumerate(self.stride, 2):
            x = x.repeat_interleave(factor, axis)
        return self.conv(x[:, :, self.drop if at_start(stream) else 0 :], stream)


def repeat_to(latents: Tensor, shape: torch.Size, lead: int = 1) -> Tensor:
    """Nearest upsampling of (b, c, t, h, w) to the lattice `shape[2:]` of a later stage.

    lead 1: 1 + k latents to 1 + s*k frames, frame i taking latent ceil(i/s). lead 0 (a later chunk of a stream, whole
    windows): k latents to s*k frames, frame i taking latent floor(i/s).
    """
    t, h, w = shape[2:]
    count = latents.shape[2]
    st = 1 if count == lead else (t - lead) // (count - lead)
    latents = latents.repeat_interleave(h // latents.shape[3], 3).repeat_interleave(w // latents.shape[4], 4)
    return latents.repeat_interleave(st, 2)[:, :, count * st - t :]

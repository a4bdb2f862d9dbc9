"""Layers in which no frame sees a later one: the parts of a causal 3D CNN (MAGVIT-v2, §3.2).

Temporal rule, everywhere: a stride of s maps 1 + s*k frames to 1 + k, so the first frame keeps a step of its own;
upsampling by s repeats or rearranges each step into s frames and drops the first s - 1. With s = 4 in all:
17 frames -> 5 latent frames -> 17 frames, and 1 frame -> 1 latent frame -> 1 frame.

With a `Stream`, a layer continues where the last chunk ended: later chunks have s*k frames and nothing is dropped.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from videopoet.tokenizers.visual.streaming import Stream

Triple = tuple[int, int, int]


class CausalConv3d(nn.Conv3d):
    """Convolution over (t, h, w) that sees k_t - 1 copies of the first frame before it, and nothing after the last.

    With zeros instead, the start of the clip stays inside the receptive field and a scene at rest has another code in
    every latent frame; with copies its codes are constant, and the language model may copy them. An image network
    inflated into the last temporal slice of each kernel is the same under both (papers leave the value open).
    """

    def __init__(self, in_channels: int, out_channels: int, kernel: int = 3, stride: Triple = (1, 1, 1)):
        super().__init__(in_channels, out_channels, kernel, stride, padding=(0, kernel // 2, kernel // 2))

    def forward(self, x: Tensor, stream: Stream | None = None) -> Tensor:
        """float (b, c, t, h, w) -> (b, c', 1 + (t-1)/s_t, h/s_h, w/s_w)."""
        if (
            self.training and x.shape[2] == 1
        ):  # an image meets every temporal slice of the kernel: their sum, a third of the work
            frame = F.conv2d(x[:, :, 0], self.weight.sum(2), self.bias, self.stride[1:], self.padding[1:])
            return frame[:, :, None]
        return super().forward(after_past(x, self, self.kernel_size[0], self.stride[0], stream))


def after_past(x: Tensor, layer: nn.Module, kernel: int, stride: int, stream: Stream | None) -> Tensor:
    """(b, c, t, h, w) -> the same after the frames that a window of `kernel` frames still sees.

    These are kernel - 1 copies of the first frame at the start, and the kernel - stride last frames of the chunk before
    in a stream.
    """
    if stream is not None and stream.started:
        past = stream.past(layer)
    else:
        past = x[:, :, :1].expand(-1, -1, kernel - 1, -1, -1)
    x = torch.cat([past, x], 2)
    if stream is not None:
        stream.keep(layer, x[:, :, x.shape[2] - (kernel - stride) :])
    return x


def at_start(stream: Stream | None) -> bool:
    """Whether a layer is at the start of the video."""
    return stream is None or not stream.started


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
    """(b, c * s_t * s_h * s_w, t, h, w) -> (b, c, t * s_t - drop, h * s_h, w * s_w), the first `drop` frames dropped.

    drop: s_t - 1 where not given.
    """
    st, sh, sw = stride
    b, c, t, h, w = x.shape
    x = x.reshape(b, c // (st * sh * sw), st, sh, sw, t, h, w)
    x = x.permute(0, 1, 5, 2, 6, 3, 7, 4).reshape(b, -1, t * st, h * sh, w * sw)
    return x[:, :, st - 1 if drop is None else drop :]


class DepthToSpaceUpsample(nn.Module):
    """Convolution to c' * s_t * s_h * s_w channels, rearranged into a finer lattice."""

    def __init__(self, in_channels: int, out_channels: int, stride: Triple):
        super().__init__()
        self.stride = stride
        self.conv = CausalConv3d(in_channels, out_channels * stride[0] * stride[1] * stride[2])

    def forward(self, x: Tensor, stream: Stream | None = None) -> Tensor:
        return depth_to_space(self.conv(x, stream), self.stride, None if at_start(stream) else 0)


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

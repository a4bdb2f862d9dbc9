"""The discriminator of MAGVIT: StyleGAN's, inflated to three dimensions, with blur pooling (MAGVIT-v2, §3.2, App. A.2)."""

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from videopoet.tokenizers.visual.convolution import convolve


def blur_pool(x: Tensor) -> Tensor:
    """Halve time, height and width behind a fixed blur: (b, c, t, h, w) -> (b, c, ceil(t/2), ceil(h/2), ceil(w/2)).

    The filter is (1, 3, 3, 1) / 8 along each axis, one axis after the other (Zhang 2019); its two middle taps lie on
    samples 2i and 2i + 1. Outside the clip the first and last samples repeat, so a constant stays what it is, and an
    axis of length 1 is left alone: an image is pooled like any frame of a clip at rest.

    Example: (0, 0, 8, 8) -> ((0 + 0 + 0 + 8) / 8, (0 + 24 + 24 + 8) / 8) = (1, 7).
    """
    for axis in (2, 3, 4):
        if x.shape[axis] > 1:
            x = _blur_halve(x, axis)
    return x


def _blur_halve(x: Tensor, axis: int) -> Tensor:
    size = x.shape[axis]
    first, last = x.narrow(axis, 0, 1), x.narrow(axis, size - 1, 1)
    even, odd = (x[(slice(None),) * axis + (slice(start, None, 2),)] for start in (0, 1))
    if size % 2:
        odd = torch.cat([odd, last], axis)
    before = torch.cat([first, odd.narrow(axis, 0, odd.shape[axis] - 1)], axis)
    after = torch.cat([even.narrow(axis, 1, even.shape[axis] - 1), last], axis)
    return (before + after + 3 * (even + odd)) / 8


class Halving(ABC):
    """How a discriminator halves time, height and width."""

    @abstractmethod
    def __call__(self, x: Tensor) -> Tensor:
        """(b, c, t, h, w) -> (b, c, ceil(t/2), ceil(h/2), ceil(w/2)); an axis of length 1 is left alone."""


@dataclass(frozen=True, kw_only=True)
class BlurHalving(Halving):
    """`blur_pool` (MAGVIT-v2)."""

    def __call__(self, x: Tensor) -> Tensor:
        return blur_pool(x)


@dataclass(frozen=True, kw_only=True)
class MeanHalving(Halving):
    """The mean of samples 2i and 2i + 1, without blur: what moves by a sample changes more. An odd last one stays.

    The ablation without blur pooling (MAGVIT-v2, Table 5c); how its rows halve is not said in the paper.
    Example: (0, 0, 8, 8, 6) -> (0, 8, 6).
    """

    def __call__(self, x: Tensor) -> Tensor:
        return F.avg_pool3d(x, [min(2, n) for n in x.shape[2:]], ceil_mode=True)


class Conv3d(nn.Conv3d):
    """Convolution that keeps the lattice, zeros outside; of a single frame it takes the middle slice of its kernel."""

    def __init__(self, in_channels: int, out_channels: int, kernel: int = 3, bias: bool = True):
        super().__init__(in_channels, out_channels, kernel, padding=kernel // 2, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        if x.shape[2] > 1:
            return convolve(x, self.weight, self.bias, self.stride, self.padding)
        middle = self.weight[:, :, self.kernel_size[0] // 2]  # the others would meet nothing but zeros
        return F.conv2d(x[:, :, 0], middle, self.bias, padding=self.padding[1:])[:, :, None]


class DownBlock(nn.Module):
    """conv, leaky ReLU, halving, conv, leaky ReLU, plus the halved input through 1x1x1; divided by sqrt 2."""

    def __init__(self, in_channels: int, out_channels: int, down: Halving):
        super().__init__()
        self.down = down
        self.conv1, self.conv2 = Conv3d(in_channels, in_channels), Conv3d(in_channels, out_channels)
        self.shortcut = Conv3d(in_channels, out_channels, kernel=1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        h = _lrelu(self.conv2(self.down(_lrelu(self.conv1(x)))))
        return (h + self.shortcut(self.down(x))) / math.sqrt(2)


class StyleGANDiscriminator(nn.Module):
    """Clip or image -> one logit, positive for real. No normalisation: samples of a batch do not see each other.

    With 128 channels and multipliers (2, 4, 4, 4, 4), 17 x 128 x 128 pixels become 1 x 4 x 4 places of 512 channels:
    17 -> 9 -> 5 -> 3 -> 2 -> 1 frames. Time steps that are left, in clips of more than 2^levels frames, are averaged.

    size: height and width of the frames it will see; the dense layer is made for them.
    down: how its blocks halve the clip; it has no weights.
    """

    def __init__(
        self,
        size: tuple[int, int] = (128, 128),
        channels: int = 128,
        multipliers: Sequence[int] = (2, 4, 4, 4, 4),
        down: Halving = BlurHalving(),
    ):
        super().__init__()
        self.size = tuple(size)
        widths = [channels, *(channels * m for m in multipliers)]
        places = math.prod(math.ceil(pixels / 2 ** len(multipliers)) for pixels in size)
        self.conv_in = Conv3d(3, channels)
        self.blocks = nn.Sequential(*(DownBlock(a, b, down) for a, b in pairwise(widths)))
        self.conv_out = Conv3d(widths[-1], widths[-1])
        self.dense, self.logit = nn.Linear(widths[-1] * places, 4 * channels), nn.Linear(4 * channels, 1)
        for layer in self.modules():
            if isinstance(layer, nn.Conv3d | nn.Linear):
                nn.init.xavier_uniform_(layer.weight)
                if layer.bias is not None:
                    nn.init.zeros_(layer.bias)

    def forward(self, video: Tensor) -> Tensor:
        """float (b, 3, t, h, w), any t -> logits float (b,). Raises ValueError for frames of another size."""
        if video.shape[1] != 3 or tuple(video.shape[3:]) != self.size:
            h, w = self.size
            raise ValueError(
                f"the discriminator is made for (b, 3, t, {h}, {w}), got {tuple(video.shape)}: set its `size`"
            )
        x = _lrelu(self.conv_out(self.blocks(_lrelu(self.conv_in(video)))))
        x = _lrelu(self.dense(x.mean(2).flatten(1)))
        return self.logit(x).squeeze(1).float()


def _lrelu(x: Tensor) -> Tensor:
    return F.leaky_relu(x, 0.2)

"""The network of Cosmos' discrete video tokenizers (NVIDIA, Cosmos-Tokenizer), so that its public weights run here.

Haar wavelets fold 4 x 4 x 4 pixels into channels; factorised residual blocks (space, then time), attention at the
coarsest level, and resampling that adds a learnt branch to a fixed one follow. Causal in time: 1 + s_t*k frames. The
attention over time sees the whole past, so it takes whole clips.
"""

import math
from collections.abc import Sequence
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from videopoet.tokenizers.visual.causal import CausalAveragePool, CausalConv3d, FrameGroupNorm, Triple
from videopoet.tokenizers.visual.network import VideoDecoder, VideoEncoder

SPACE, TIME = (1, 3, 3), (3, 1, 1)  # kernels


def haar(x: Tensor) -> Tensor:
    """(b, c, t, h, w) -> (b, 8c, t/2, h/2, w/2): means and half differences of neighbours along each axis.

    Channels are band by band, bands in the order (t, h, w) of low, high: LLL, LLH, LHL, ..., HHH.
    """
    bands = [x]
    for axis in (2, 3, 4):
        pairs = [band.unflatten(axis, (-1, 2)).unbind(axis + 1) for band in bands]
        bands = [band for a, b in pairs for band in ((a + b) / 2, (a - b) / 2)]
    return torch.cat(bands, 1)


def inverse_haar(x: Tensor) -> Tensor:
    """(b, 8c, t, h, w) -> (b, c, 2t, 2h, 2w), the inverse of `haar`."""
    bands = list(x.chunk(8, 1))
    for axis in (4, 3, 2):
        pairs = zip(bands[::2], bands[1::2])
        bands = [torch.stack([low + high, low - high], axis + 1).flatten(axis, axis + 1) for low, high in pairs]
    return bands[0]


def fold(video: Tensor, patch: int) -> Tensor:
    """(b, 3, 1 + p*k, h, w) -> (b, 3 p^3, 1 + k, h/p, w/p); the first frame stands for p copies of itself."""
    x = torch.cat([video[:, :, :1].expand(-1, -1, patch - 1, -1, -1), video], 2)
    for _ in range(int(math.log2(patch))):
        x = haar(x)
    return x


def unfold(x: Tensor, patch: int) -> Tensor:
    """The inverse of `fold`."""
    for _ in range(int(math.log2(patch))):
        x = inverse_haar(x)
    return x[:, :, patch - 1 :]


class FrameNorm(FrameGroupNorm):
    """Normalisation over all channels and places of one frame."""

    def __init__(self, channels: int):
        nn.GroupNorm.__init__(self, 1, channels, eps=1e-6)


class Factorized(nn.Sequential):
    """A convolution in space, then one in time."""

    def __init__(self, in_channels: int, out_channels: int):
        super().__init__(CausalConv3d(in_channels, out_channels, SPACE), CausalConv3d(out_channels, out_channels, TIME))


class FactorizedBlock(nn.Module):
    """norm, swish, factorised convolution, twice, plus the input."""

    def __init__(self, in_channels: int, out_channels: int):
        super().__init__()
        self.norm1, self.conv1 = FrameNorm(in_channels), Factorized(in_channels, out_channels)
        self.norm2, self.conv2 = FrameNorm(out_channels), Factorized(out_channels, out_channels)
        same = in_channels == out_channels
        self.shortcut = nn.Identity() if same else CausalConv3d(in_channels, out_channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.shortcut(x) + self.conv2(F.silu(self.norm2(self.conv1(F.silu(self.norm1(x))))))


class Attention(nn.Module):
    """Single-head attention, within each frame or causally over the frames of each place, plus the input."""

    def __init__(self, channels: int, over_time: bool):
        super().__init__()
        self.over_time, self.norm = over_time, FrameNorm(channels)
        self.q, self.k, self.v, self.out = (CausalConv3d(channels, channels, 1) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        """(b, c, t, h, w) -> same."""
        h = self.norm(x)
        order = (0, 3, 4, 2, 1) if self.over_time else (0, 2, 3, 4, 1)  # (b, h, w, t, c) or (b, t, h, w, c)
        q, k, v = (layer(h).permute(order) for layer in (self.q, self.k, self.v))
        shape = q.shape
        if not self.over_time:
            q, k, v = (part.flatten(2, 3) for part in (q, k, v))
        y = F.scaled_dot_product_attention(q, k, v, is_causal=self.over_time).reshape(shape)
        return x + self.out(y.permute([order.index(axis) for axis in range(5)]))


class Middle(nn.Sequential):
    """Block, attention in space and in time, block."""

    def __init__(self, channels: int):
        attention = Attention(channels, over_time=False), Attention(channels, over_time=True)
        super().__init__(FactorizedBlock(channels, channels), *attention, FactorizedBlock(channels, channels))


class HybridDown(nn.Module):
    """A strided convolution plus the mean, in space, in time, or neither (then it is the identity)."""

    def __init__(self, channels: int, space: bool, time: bool):
        super().__init__()
        self.in_space, self.in_time = space, time
        self.space = nn.Conv3d(channels, channels, SPACE, (1, 2, 2))
        self.time = CausalConv3d(channels, channels, TIME, (2, 1, 1))
        self.pool, self.out = CausalAveragePool((2, 1, 1)), CausalConv3d(channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        if self.in_space:  # zeros to the right and below only
            x = self.space(F.pad(x, (0, 1, 0, 1))) + F.avg_pool3d(x, (1, 2, 2))
        if self.in_time:
            x = self.time(x) + self.pool(x)
        return self.out(x) if self.in_space or self.in_time else x


class HybridUp(nn.Module):
    """Repetition plus a convolution of it, in time, in space, or neither (then it is the identity)."""

    def __init__(self, channels: int, space: bool, time: bool):
        super().__init__()
        self.in_space, self.in_time = space, time
        self.time, self.space = CausalConv3d(channels, channels, TIME), CausalConv3d(channels, channels, SPACE)
        self.out = CausalConv3d(channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        if self.in_time:
            x = x.repeat_interleave(2, 2)[:, :, 1:]
            x = x + self.time(x)
        if self.in_space:
            x = x.repeat_interleave(2, 3).repeat_interleave(2, 4)
            x = x + self.space(x)
        return self.out(x) if self.in_space or self.in_time else x


def steps(stride: Triple, patch: int, levels: int) -> tuple[int, int]:
    """Halvings left in time and in space after the patches. Raises ValueError where the levels cannot make the stride."""
    time, space, width = (math.log2(s / patch) for s in stride)
    if space != width or not all(n.is_integer() and 0 <= n < levels for n in (time, space)) or time > space:
        raise ValueError(f"patches of {patch} and {levels} levels cannot make a stride of {tuple(stride)}")
    return int(time), int(space)


class CosmosEncoder(VideoEncoder):
    """Video -> latents of `dimension` channels, through `width` channels of its last convolution."""

    def __init__(
        self,
        dimension: int = 6,
        width: int = 16,
        channels: int = 128,
        multipliers: Sequence[int] = (2, 4, 4),
        num_blocks: int = 2,
        patch: int = 4,
        stride: Triple = (8, 16, 16),
    ):
        super().__init__()
        self.patch = patch
        time, space = steps(stride, patch, len(multipliers))
        self.conv_in = Factorized(3 * patch**3, channels)
        self.levels, self.downs, previous = nn.ModuleList(), nn.ModuleList(), channels
        for i, multiplier in enumerate(multipliers):
            if i:
                self.downs.append(HybridDown(previous, space=i <= space, time=i <= time))
            widths = [previous] + [channels * multiplier] * num_blocks
            self.levels.append(nn.Sequential(*(FactorizedBlock(a, b) for a, b in pairwise(widths))))
            previous = widths[-1]
        self.middle, self.norm_out = Middle(previous), FrameNorm(previous)
        self.conv_out, self.project = Factorized(previous, width), CausalConv3d(width, dimension, 1)

    def forward(self, video: Tensor, stream: None = None) -> Tensor:
        """float (b, 3, 1 + s_t*k, h, w) -> float (b, dimension, 1 + k, h/s_h, w/s_w)."""
        x = self.conv_in(fold(video, self.patch))
        for i, level in enumerate(self.levels):
            x = level(self.downs[i - 1](x) if i else x)
        return self.project(self.conv_out(F.silu(self.norm_out(self.middle(x)))))


class CosmosDecoder(VideoDecoder):
    """Quantized latents -> video; one block more per level than the encoder."""

    def __init__(
        self,
        dimension: int = 6,
        width: int = 16,
        channels: int = 128,
        multipliers: Sequence[int] = (2, 4, 4),
        num_blocks: int = 2,
        patch: int = 4,
        stride: Triple = (8, 16, 16),
    ):
        super().__init__()
        self.patch = patch
        time, space = steps(stride, patch, len(multipliers))
        widths = [channels * m for m in multipliers][::-1]
        self.project, self.conv_in = CausalConv3d(dimension, width, 1), Factorized(width, widths[0])
        self.middle, previous = Middle(widths[0]), widths[0]
        self.levels, self.ups = nn.ModuleList(), nn.ModuleList()
        for i, out in enumerate(widths):
            if i:  # the first of the ups stays in time; it goes up in space only where there is more to do than in time
                up = 1 < i <= time + 1
                self.ups.append(HybridUp(previous, space=up or (i <= space and space > time), time=up))
            blocks = [previous] + [out] * (num_blocks + 1)
            self.levels.append(nn.Sequential(*(FactorizedBlock(a, b) for a, b in pairwise(blocks))))
            previous = out
        if sum(up.in_time for up in self.ups) != time or sum(up.in_space for up in self.ups) != space:
            raise ValueError(f"this decoder of {len(widths)} levels cannot go up by {tuple(stride)}")
        self.norm_out, self.conv_out = FrameNorm(previous), Factorized(previous, 3 * patch**3)

    def forward(self, latents: Tensor, stream: None = None) -> Tensor:
        """float (b, dimension, 1 + k, h, w) -> float (b, 3, 1 + s_t*k, h*s_h, w*s_w), not clamped."""
        x = self.middle(self.conv_in(self.project(latents)))
        for i, level in enumerate(self.levels):
            x = level(self.ups[i - 1](x) if i else x)
        return unfold(self.conv_out(F.silu(self.norm_out(x))), self.patch)

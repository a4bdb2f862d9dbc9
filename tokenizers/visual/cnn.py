"""The causal 3D CNN encoder and decoder (MAGVIT-v2, §3.2 and App. A.2)."""

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn

from videopoet.tokenizers.visual.causal import (
    CausalConv3d,
    DepthToSpaceUpsample,
    FrameGroupNorm,
    Triple,
    at_start,
    depth_to_space,
    repeat_to,
    space_to_depth,
)
from videopoet.tokenizers.visual.network import VideoDecoder, VideoEncoder
from videopoet.tokenizers.visual.streaming import Stream

#: Strides between levels: space first, time last ("late temporal downsampling"). 17 x 128 x 128 -> 5 x 16 x 16.
LATE_TEMPORAL = ((1, 2, 2), (2, 2, 2), (2, 2, 2))


class ResidualBlock(nn.Module):
    """norm, swish, conv, norm, swish, conv, plus the input (through a 1x1x1 convolution where channels change)."""

    def __init__(self, in_channels: int, out_channels: int):
        super().__init__()
        self.norm1, self.conv1 = FrameGroupNorm(in_channels), CausalConv3d(in_channels, out_channels)
        self.norm2, self.conv2 = FrameGroupNorm(out_channels), CausalConv3d(out_channels, out_channels)
        same = in_channels == out_channels
        self.shortcut = nn.Identity() if same else CausalConv3d(in_channels, out_channels, kernel=1)

    def forward(self, x: Tensor, stream: Stream | None = None) -> Tensor:
        h = self.conv1(F.silu(self.norm1(x)), stream)
        return self.shortcut(x) + self.conv2(F.silu(self.norm2(h)), stream)


class ResidualBlocks(nn.Sequential):
    """`count` blocks, the first of which changes the channels."""

    def __init__(self, in_channels: int, out_channels: int, count: int):
        super().__init__(*(ResidualBlock(in_channels if i == 0 else out_channels, out_channels) for i in range(count)))

    def forward(self, x: Tensor, stream: Stream | None = None) -> Tensor:
        for block in self:
            x = block(x, stream)
        return x


class AdaptiveGroupNorm(nn.Module):
    """Normalisation whose scale and shift are read off the quantized latents of the same place and time.

    The paper gives no equation; ours is per frame and per position, `norm(x) * (1 + gamma(z)) + beta(z)`, starting at
    the identity, because statistics pooled over time would break causality.
    """

    def __init__(self, channels: int, latent_dimension: int):
        super().__init__()
        self.norm = FrameGroupNorm(channels, affine=False)
        self.modulation = CausalConv3d(latent_dimension, 2 * channels, kernel=1)
        nn.init.zeros_(self.modulation.weight)
        nn.init.zeros_(self.modulation.bias)

    def forward(self, x: Tensor, latents: Tensor, stream: Stream | None = None) -> Tensor:
        modulation = repeat_to(self.modulation(latents), x.shape, lead=int(at_start(stream)))
        gamma, beta = modulation.chunk(2, dim=1)
        return self.norm(x) * (1 + gamma) + beta


class Encoder(VideoEncoder):
    """Video -> latents. `multipliers` has one entry per level, `strides` one per step between levels.

    `patch` > 1 folds that many pixels per side into channels before the first convolution, in place of the finest
    level: the cheap stem of small models.
    """

    streams = True

    def __init__(
        self,
        dimension: int = 18,
        channels: int = 128,
        multipliers: Sequence[int] = (1, 2, 2, 4),
        strides: Sequence[Triple] = LATE_TEMPORAL,
        num_blocks: int = 4,
        patch: int = 1,
    ):
        super().__init__()
        widths = _widths(channels, multipliers, strides)
        self.patch = patch
        self.conv_in = CausalConv3d(3 * patch**2, widths[0])
        self.levels, previous = nn.ModuleList(), widths[0]
        for width in widths:
            self.levels.append(ResidualBlocks(previous, width, num_blocks))
            previous = width
        self.downs = nn.ModuleList(CausalConv3d(w, w, stride=s) for w, s in zip(widths, strides))
        self.middle = ResidualBlocks(previous, previous, num_blocks)
        self.norm_out, self.conv_out = FrameGroupNorm(previous), CausalConv3d(previous, dimension, kernel=1)

    def forward(self, video: Tensor, stream: Stream | None = None) -> Tensor:
        """float (b, 3, 1 + s_t*k, h, w) -> float (b, dimension, 1 + k, h/s_h, w/s_w)."""
        x = self.conv_in(space_to_depth(video, self.patch), stream)
        for i, level in enumerate(self.levels):
            x = level(x, stream)
            if i < len(self.downs):
                x = self.downs[i](x, stream)
        return self.conv_out(F.silu(self.norm_out(self.middle(x, stream))))


class Decoder(VideoDecoder):
    """Quantized latents -> video: the encoder mirrored, depth-to-space up, adaptive norm before each level's blocks."""

    streams = True

    def __init__(
        self,
        dimension: int = 18,
        channels: int = 128,
        multipliers: Sequence[int] = (1, 2, 2, 4),
        strides: Sequence[Triple] = LATE_TEMPORAL,
        num_blocks: int = 4,
        patch: int = 1,
    ):
        super().__init__()
        widths = _widths(channels, multipliers, strides)[::-1]
        self.patch = patch
        self.conv_in = CausalConv3d(dimension, widths[0])
        self.middle = ResidualBlocks(widths[0], widths[0], num_blocks)
        self.adaptive = nn.ModuleList(AdaptiveGroupNorm(w, dimension) for w in widths)
        self.levels = nn.ModuleList(ResidualBlocks(w, w, num_blocks) for w in widths)
        self.ups = nn.ModuleList(DepthToSpaceUpsample(a, b, s) for a, b, s in zip(widths, widths[1:], strides[::-1]))
        self.norm_out, self.conv_out = FrameGroupNorm(widths[-1]), CausalConv3d(widths[-1], 3 * patch**2)

    def forward(self, latents: Tensor, stream: Stream | None = None) -> Tensor:
        """float (b, dimension, 1 + k, h, w) -> float (b, 3, 1 + s_t*k, h*s_h, w*s_w), not clamped."""
        x = self.middle(self.conv_in(latents, stream), stream)
        for i, level in enumerate(self.levels):
            x = level(self.adaptive[i](x, latents, stream), stream)
            if i < len(self.ups):
                x = self.ups[i](x, stream)
        return depth_to_space(self.conv_out(F.silu(self.norm_out(x)), stream), (1, self.patch, self.patch))


def _widths(channels: int, multipliers: Sequence[int], strides: Sequence[Triple]) -> list[int]:
    if len(strides) != len(multipliers) - 1:
        raise ValueError(
            f"{len(multipliers)} multipliers need {len(multipliers) - 1} strides between them, {len(strides)} given"
        )
    return [channels * m for m in multipliers]

"""The causal 3D CNN encoder and decoder (MAGVIT-v2, §3.2 and App. A.2)."""

from collections.abc import Sequence
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint as recompute

from videopoet.tokenizers.streaming import Stream
from videopoet.tokenizers.visual.causal import Triple, depth_to_space, space_to_depth
from videopoet.tokenizers.visual.layers import (
    AdaptiveNorm,
    CausalLayers,
    Conditioning,
    DepthToSpace,
    Downsampling,
    LayerFamily,
    StridedConvolution,
    Upsampling,
)
from videopoet.tokenizers.visual.network import VideoDecoder, VideoEncoder

#: Strides between levels: space first, time last ("late temporal downsampling"). 17 x 128 x 128 -> 5 x 16 x 16.
LATE_TEMPORAL = ((1, 2, 2), (2, 2, 2), (2, 2, 2))
#: The same with time first, as in MAGVIT.
EARLY_TEMPORAL = ((2, 2, 2), (2, 2, 2), (1, 2, 2))


class ResidualBlock(nn.Module):
    """norm, swish, conv, norm, swish, conv, plus the input (through a 1x1x1 convolution where channels change)."""

    def __init__(self, in_channels: int, out_channels: int, layers: LayerFamily):
        super().__init__()
        self.norm1, self.conv1 = layers.norm(in_channels), layers.convolution(in_channels, out_channels)
        self.norm2, self.conv2 = layers.norm(out_channels), layers.convolution(out_channels, out_channels)
        same = in_channels == out_channels
        self.shortcut = nn.Identity() if same else layers.convolution(in_channels, out_channels, kernel=1)

    def forward(self, x: Tensor, stream: Stream | None = None) -> Tensor:
        in_place = not torch.is_grad_enabled()  # large new tensors cost more than the arithmetic
        h = self.conv1(F.silu(self.norm1(x), inplace=in_place), stream)
        h = self.conv2(F.silu(self.norm2(h), inplace=in_place), stream)
        return h.add_(self.shortcut(x)) if h.dtype == x.dtype else h + self.shortcut(x)


class ResidualBlocks(nn.Sequential):
    """`count` blocks, the first of which changes the channels.

    checkpoint: in training keep only the input of each block and compute the rest again in the backward pass.
    """

    def __init__(self, in_channels: int, out_channels: int, count: int, layers: LayerFamily, checkpoint: bool = False):
        widths = [in_channels] + [out_channels] * count
        super().__init__(*(ResidualBlock(a, b, layers) for a, b in pairwise(widths)))
        self.checkpoint = checkpoint

    def forward(self, x: Tensor, stream: Stream | None = None) -> Tensor:
        for block in self:
            if self.checkpoint and self.training and torch.is_grad_enabled():
                x = recompute(block, x, use_reentrant=False, preserve_rng_state=False)
            else:
                x = block(x, stream)
        return x


class Encoder(VideoEncoder):
    """Video -> latents. `multipliers` has one entry per level, `strides` one per step between levels.

    patch: > 1 folds that many pixels per side into channels before the first convolution, in place of the finest
        level: the cheap stem of small models.
    layers: the family of convolutions and normalisations; `CausalLayers()` where not given.
    down: how it goes from level to level; `StridedConvolution()` where not given.
    checkpoint: less memory in training for a second forward pass; the numbers are the same.
    """

    def __init__(
        self,
        dimension: int = 18,
        channels: int = 128,
        multipliers: Sequence[int] = (1, 2, 2, 4),
        strides: Sequence[Triple] = LATE_TEMPORAL,
        num_blocks: int = 4,
        patch: int = 1,
        layers: LayerFamily | None = None,
        down: Downsampling | None = None,
        checkpoint: bool = False,
    ):
        super().__init__()
        widths = _widths(channels, multipliers, strides)
        layers, down = layers or CausalLayers(), down or StridedConvolution()
        self.patch, self.rule = patch, layers.rule
        self.conv_in = layers.convolution(3 * patch**2, widths[0])
        self.levels, previous = nn.ModuleList(), widths[0]
        for width in widths:
            self.levels.append(ResidualBlocks(previous, width, num_blocks, layers, checkpoint))
            previous = width
        self.downs = nn.ModuleList(down.layer(layers, w, tuple(s)) for w, s in zip(widths, strides))
        self.middle = ResidualBlocks(previous, previous, num_blocks, layers, checkpoint)
        self.norm_out, self.conv_out = layers.norm(previous), layers.convolution(previous, dimension, kernel=1)

    @property
    def streams(self) -> bool:
        return self.causal

    def forward(self, video: Tensor, stream: Stream | None = None) -> Tensor:
        """float (b, 3, 1 + s_t*k, h, w) -> float (b, dimension, 1 + k, h/s_h, w/s_w)."""
        x = self.conv_in(space_to_depth(video, self.patch), stream)
        for i, level in enumerate(self.levels):
            x = level(x, stream)
            if i < len(self.downs):
                x = self.downs[i](x, stream)
        return self.conv_out(F.silu(self.norm_out(self.middle(x, stream))))


class Decoder(VideoDecoder):
    """Quantized latents -> video: the encoder mirrored.

    up: how it goes from level to level; `DepthToSpace()` where not given.
    conditioning: what stands before each level's blocks; `AdaptiveNorm()` where not given.
    The rest as for the encoder.
    """

    def __init__(
        self,
        dimension: int = 18,
        channels: int = 128,
        multipliers: Sequence[int] = (1, 2, 2, 4),
        strides: Sequence[Triple] = LATE_TEMPORAL,
        num_blocks: int = 4,
        patch: int = 1,
        layers: LayerFamily | None = None,
        up: Upsampling | None = None,
        conditioning: Conditioning | None = None,
        checkpoint: bool = False,
    ):
        super().__init__()
        widths = _widths(channels, multipliers, strides)[::-1]
        layers, up, conditioning = layers or CausalLayers(), up or DepthToSpace(), conditioning or AdaptiveNorm()
        self.patch, self.rule = patch, layers.rule
        self.conv_in = layers.convolution(dimension, widths[0])
        self.middle = ResidualBlocks(widths[0], widths[0], num_blocks, layers, checkpoint)
        self.adaptive = nn.ModuleList(conditioning.layer(layers, w, dimension) for w in widths)
        self.levels = nn.ModuleList(ResidualBlocks(w, w, num_blocks, layers, checkpoint) for w in widths)
        steps = zip(widths, widths[1:], strides[::-1])
        self.ups = nn.ModuleList(up.layer(layers, a, b, tuple(s)) for a, b, s in steps)
        self.norm_out, self.conv_out = layers.norm(widths[-1]), layers.convolution(widths[-1], 3 * patch**2)

    @property
    def streams(self) -> bool:
        return self.causal

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

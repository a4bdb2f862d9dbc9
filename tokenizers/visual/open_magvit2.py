"""What Open-MAGVIT2's networks have and ours do not, so that their public weights run here as they were trained.

Its video tokenizer is `Encoder` and `OpenMagvit2Decoder` with `PortedLayers`, `DepthToSpace(keep=0)` and
`PooledAdaptiveNorm` (zeros before the clip, statistics over the whole clip: not causal, so it takes whole clips). Its
image tokenizers are the same classes with `CausalLayers(time_kernel=1)` and `FramePooledAdaptiveNorm`, which see each
frame of a clip by itself, so they stream.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor, nn

from videopoet.tokenizers.streaming import Stream
from videopoet.tokenizers.visual.causal import Triple, at_start, repeat_to
from videopoet.tokenizers.visual.cnn import LATE_TEMPORAL, Decoder, ResidualBlocks
from videopoet.tokenizers.visual.layers import (
    CausalLayers,
    Conditioning,
    DepthToSpace,
    LayerFamily,
    PooledAdaptiveNorm,
    Upsampling,
)


class OpenMagvit2Decoder(Decoder):
    """`Decoder` whose widths change in the first block of a level, not in the upsampling before it.

    Levels from coarse to fine, of widths w_0 >= w_1 ...: adaptive norm of w_{i-1} channels, blocks to w_i, upsampling
    that keeps w_i. `Decoder` has them all at w_i and upsamples to w_{i+1}.
    """

    def __init__(
        self,
        dimension: int = 18,
        channels: int = 128,
        multipliers: Sequence[int] = (1, 2, 2, 4),
        strides: Sequence[Triple] = LATE_TEMPORAL,
        num_blocks: int = 4,
        layers: LayerFamily | None = None,
        up: Upsampling | None = None,
        conditioning: Conditioning | None = None,
    ):
        super(Decoder, self).__init__()  # not Decoder's own layers
        layers, up, conditioning = layers or CausalLayers(), up or DepthToSpace(), conditioning or PooledAdaptiveNorm()
        widths = [channels * m for m in multipliers][::-1]
        if len(strides) != len(widths) - 1:
            raise ValueError(
                f"{len(widths)} multipliers need {len(widths) - 1} strides between them, {len(strides)} given"
            )
        self.patch, self.rule = 1, layers.rule
        self.conv_in = layers.convolution(dimension, widths[0])
        self.middle = ResidualBlocks(widths[0], widths[0], num_blocks, layers)
        entering = [widths[0], *widths]
        self.adaptive = nn.ModuleList(conditioning.layer(layers, w, dimension) for w in entering[:-1])
        self.levels = nn.ModuleList(ResidualBlocks(a, b, num_blocks, layers) for a, b in pairwise(entering))
        self.ups = nn.ModuleList(up.layer(layers, w, w, tuple(s)) for w, s in zip(widths, strides[::-1]))
        self.norm_out, self.conv_out = layers.norm(widths[-1]), layers.convolution(widths[-1], 3)


@dataclass(frozen=True, kw_only=True)
class FramePooledAdaptiveNorm(Conditioning):
    """Scale from the standard deviation, shift from the mean of the latents of the frame's own latent frame. Causal."""

    def layer(self, layers: LayerFamily, channels: int, latent_dimension: int) -> nn.Module:
        return FramePooledAdaptiveGroupNorm(channels, latent_dimension, layers)


class FramePooledAdaptiveGroupNorm(nn.Module):
    """`norm(x) * gamma(std z) + beta(mean z)` with the statistics of each latent channel over (h, w)."""

    def __init__(self, channels: int, latent_dimension: int, layers: LayerFamily):
        super().__init__()
        self.lead = layers.rule.lead
        self.norm = layers.norm(channels, affine=False)
        self.gamma, self.beta = nn.Linear(latent_dimension, channels), nn.Linear(latent_dimension, channels)

    def forward(self, x: Tensor, latents: Tensor, stream: Stream | None = None) -> Tensor:
        """x (b, c, t, h, w), latents (b, dimension, t', h', w') -> (b, c, t, h, w)."""
        positions = latents.flatten(3)
        variance, mean = torch.var_mean(
            positions, dim=3, correction=min(1, positions.shape[3] - 1)
        )  # (b, dimension, t')
        scale, shift = self.gamma((variance + 1e-6).sqrt().mT), self.beta(mean.mT)  # (b, t', c)
        lead, shape = self.lead if at_start(stream) else 0, (*x.shape[:3], 1, 1)
        scale, shift = (repeat_to(s.mT[..., None, None], torch.Size(shape), lead) for s in (scale, shift))
        return self.norm(x) * scale + shift

"""What a CNN tokenizer is made of, as values that a YAML names: the family of its layers, and how it goes down and up.

    encoder:
      class_path: videopoet.tokenizers.visual.cnn.Encoder
      init_args:
        layers: {class_path: videopoet.tokenizers.visual.layers.CausalLayers, init_args: {time_kernel: 1}}
        down: {class_path: videopoet.tokenizers.visual.layers.AveragePooling}

Every module made here takes `(x, stream)`; one that is not causal has `causal = False` and gets no stream.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from videopoet.tokenizers.streaming import Stream
from videopoet.tokenizers.visual.causal import (
    CausalAveragePool,
    CausalConv3d,
    DepthToSpaceUpsample,
    FrameGroupNorm,
    ResizeUpsample,
    Triple,
    ZeroPaddedConv3d,
    at_start,
    repeat_to,
)
from videopoet.tokenizers.visual.convolution import convolve
from videopoet.tokenizers.visual.network import FIRST_FRAME_ALONE, WHOLE_WINDOWS, TemporalRule

# --- families: convolution, normalisation and pooling that go together


class LayerFamily(ABC):
    """Makes the layers of a network; `rule` is how its frames and latent frames count."""

    rule: TemporalRule

    @abstractmethod
    def convolution(
        self, in_channels: int, out_channels: int, kernel: int = 3, stride: Triple = (1, 1, 1)
    ) -> nn.Module:
        """kernel x kernel in space; kernels of 1 are 1 in time too."""

    @abstractmethod
    def norm(self, channels: int, affine: bool = True) -> nn.Module: ...

    @abstractmethod
    def pool(self, stride: Triple) -> nn.Module: ...


@dataclass(frozen=True, kw_only=True)
class CausalLayers(LayerFamily):
    """Ours: the first frame repeated before the clip, normalisation of one frame at a time. Strictly causal.

    time_kernel 1 makes an image network, which sees every frame of a clip by itself and is what `inflation` starts from.
    """

    time_kernel: int = 3
    rule = FIRST_FRAME_ALONE

    def convolution(
        self, in_channels: int, out_channels: int, kernel: int = 3, stride: Triple = (1, 1, 1)
    ) -> nn.Module:
        return CausalConv3d(in_channels, out_channels, self._kernel(kernel, stride), stride)

    def norm(self, channels: int, affine: bool = True) -> nn.Module:
        return FrameGroupNorm(channels, affine)

    def pool(self, stride: Triple) -> nn.Module:
        return CausalAveragePool(stride)

    def _kernel(self, kernel: int, stride: Triple) -> Triple:
        time_kernel = 1 if kernel == 1 else self.time_kernel
        if time_kernel < stride[0]:
            raise ValueError(
                f"a convolution over {time_kernel} frames with stride {stride[0]} in time would skip frames: "
                "an image network (time_kernel 1) has strides like [1, 2, 2]"
            )
        return time_kernel, kernel, kernel


@dataclass(frozen=True, kw_only=True)
class PooledNormLayers(CausalLayers):
    """Causal convolutions, but group normalisation with statistics over all frames: every frame sees every other."""

    def norm(self, channels: int, affine: bool = True) -> nn.Module:
        return PooledGroupNorm(channels, affine)


@dataclass(frozen=True, kw_only=True)
class ZeroPaddedLayers(CausalLayers):
    """Strictly causal with zeros before the clip, in place of copies of the first frame."""

    def convolution(
        self, in_channels: int, out_channels: int, kernel: int = 3, stride: Triple = (1, 1, 1)
    ) -> nn.Module:
        return ZeroPaddedConv3d(in_channels, out_channels, self._kernel(kernel, stride), stride)


@dataclass(frozen=True, kw_only=True)
class PortedLayers(ZeroPaddedLayers, PooledNormLayers):
    """As public ports of MAGVIT-v2 have them (Open-MAGVIT2): zeros before the clip, pooled statistics. Not causal."""


@dataclass(frozen=True, kw_only=True)
class SymmetricLayers(LayerFamily):
    """MAGVIT's: convolutions centred in time, pooled statistics, whole windows (16 frames -> 4). Not causal."""

    rule = WHOLE_WINDOWS

    def convolution(
        self, in_channels: int, out_channels: int, kernel: int = 3, stride: Triple = (1, 1, 1)
    ) -> nn.Module:
        return SymmetricConv3d(in_channels, out_channels, kernel, stride)

    def norm(self, channels: int, affine: bool = True) -> nn.Module:
        return PooledGroupNorm(channels, affine)

    def pool(self, stride: Triple) -> nn.Module:
        return AveragePool(stride)


class PooledGroupNorm(nn.GroupNorm):
    """Group normalisation with statistics over (t, h, w)."""

    causal = False

    def __init__(self, channels: int, affine: bool = True):
        super().__init__(min(32, channels // 4), channels, eps=1e-6, affine=affine)


class SymmetricConv3d(nn.Conv3d):
    """Convolution with zeros on both sides of all three axes."""

    def __init__(self, in_channels: int, out_channels: int, kernel: int, stride: Triple):
        super().__init__(in_channels, out_channels, kernel, stride, padding=kernel // 2)
        self.causal = kernel == 1

    def forward(self, x: Tensor, stream: None = None) -> Tensor:
        return convolve(x, self.weight, self.bias, self.stride, self.padding)


class AveragePool(nn.AvgPool3d):
    """Mean over windows of `stride`."""

    causal = False

    def __init__(self, stride: Triple):
        super().__init__(stride)

    def forward(self, x: Tensor, stream: None = None) -> Tensor:
        return super().forward(x)


# --- down


class Downsampling(ABC):
    """How an encoder goes from one level to the next."""

    @abstractmethod
    def layer(self, layers: LayerFamily, channels: int, stride: Triple) -> nn.Module: ...


@dataclass(frozen=True, kw_only=True)
class StridedConvolution(Downsampling):
    """A strided convolution (MAGVIT-v2)."""

    def layer(self, layers: LayerFamily, channels: int, stride: Triple) -> nn.Module:
        return layers.convolution(channels, channels, stride=stride)


@dataclass(frozen=True, kw_only=True)
class AveragePooling(Downsampling):
    """The mean over a window (MAGVIT)."""

    def layer(self, layers: LayerFamily, channels: int, stride: Triple) -> nn.Module:
        return layers.pool(stride)


# --- up


class Upsampling(ABC):
    """How a decoder goes from one level to the next."""

    @abstractmethod
    def layer(self, layers: LayerFamily, in_channels: int, out_channels: int, stride: Triple) -> nn.Module: ...


@dataclass(frozen=True, kw_only=True)
class DepthToSpace(Upsampling):
    """A convolution to more channels, rearranged (MAGVIT-v2).

    keep: of the s_t frames made from the very first step, the one that is kept: -1 the last (the paper), 0 the first
    (Open-MAGVIT2).
    """

    keep: int = -1

    def layer(self, layers: LayerFamily, in_channels: int, out_channels: int, stride: Triple) -> nn.Module:
        conv = layers.convolution(in_channels, out_channels * stride[0] * stride[1] * stride[2])
        return DepthToSpaceUpsample(conv, stride, layers.rule.drop(stride[0]), self.keep)


@dataclass(frozen=True, kw_only=True)
class ResizeConvolution(Upsampling):
    """Nearest-neighbour resize, then a convolution (MAGVIT)."""

    def layer(self, layers: LayerFamily, in_channels: int, out_channels: int, stride: Triple) -> nn.Module:
        return ResizeUpsample(layers.convolution(in_channels, out_channels), stride, layers.rule.drop(stride[0]))


# --- what the decoder's levels see of the latents


class Conditioning(ABC):
    """What stands before the blocks of each decoder level; its modules take `(x, latents, stream)`."""

    @abstractmethod
    def layer(self, layers: LayerFamily, channels: int, latent_dimension: int) -> nn.Module: ...


@dataclass(frozen=True, kw_only=True)
class AdaptiveNorm(Conditioning):
    """Scale and shift from the latents of the same place and time (ours)."""

    def layer(self, layers: LayerFamily, channels: int, latent_dimension: int) -> nn.Module:
        return AdaptiveGroupNorm(channels, latent_dimension, layers)


@dataclass(frozen=True, kw_only=True)
class PooledAdaptiveNorm(Conditioning):
    """Scale from the standard deviation, shift from the mean of all latents of the clip (Open-MAGVIT2). Not causal."""

    def layer(self, layers: LayerFamily, channels: int, latent_dimension: int) -> nn.Module:
        return PooledAdaptiveGroupNorm(channels, latent_dimension, layers)


@dataclass(frozen=True, kw_only=True)
class Unconditioned(Conditioning):
    """Nothing: the latents enter at the first convolution only (MAGVIT)."""

    def layer(self, layers: LayerFamily, channels: int, latent_dimension: int) -> nn.Module:
        return Passing()


class AdaptiveGroupNorm(nn.Module):
    """Normalisation whose scale and shift are read off the quantized latents of the same place and time.

    The paper gives no equation; ours is per frame and per position, `norm(x) * (1 + gamma(z)) + beta(z)`, starting at
    the identity, because statistics pooled over time would break causality.
    """

    def __init__(self, channels: int, latent_dimension: int, layers: LayerFamily):
        super().__init__()
        self.lead = layers.rule.lead
        self.norm = layers.norm(channels, affine=False)
        self.modulation = layers.convolution(latent_dimension, 2 * channels, kernel=1)
        nn.init.zeros_(self.modulation.weight)
        nn.init.zeros_(self.modulation.bias)

    def forward(self, x: Tensor, latents: Tensor, stream: Stream | None = None) -> Tensor:
        lead = self.lead if at_start(stream) else 0
        modulation = self.modulation(latents)
        (h, w), (b, c, t, height, width) = modulation.shape[3:], x.shape
        # Repeated in time only; in space, at full resolution, it is broadcast: (b, t, h, height/h, w, width/w, c).
        modulation = repeat_to(modulation, (*modulation.shape[:2], t, h, w), lead).permute(0, 2, 3, 4, 1)
        gamma, beta = modulation.reshape(b, t, h, 1, w, 1, 2 * c).chunk(2, -1)
        x = self.norm(x).permute(0, 2, 3, 4, 1).reshape(b, t, h, height // h, w, width // w, c)
        return torch.addcmul(beta, x, 1 + gamma).reshape(b, t, height, width, c).permute(0, 4, 1, 2, 3)


class PooledAdaptiveGroupNorm(nn.Module):
    """`norm(x) * gamma(std z) + beta(mean z)` with the statistics of each latent channel over (t, h, w)."""

    causal = False

    def __init__(self, channels: int, latent_dimension: int, layers: LayerFamily):
        super().__init__()
        self.norm = layers.norm(channels, affine=False)
        self.gamma, self.beta = nn.Linear(latent_dimension, channels), nn.Linear(latent_dimension, channels)

    def forward(self, x: Tensor, latents: Tensor, stream: None = None) -> Tensor:
        positions = latents.flatten(2)
        variance, mean = torch.var_mean(positions, dim=2, correction=min(1, positions.shape[2] - 1))
        gamma, beta = self.gamma((variance + 1e-6).sqrt()), self.beta(mean)
        return self.norm(x) * gamma[:, :, None, None, None] + beta[:, :, None, None, None]


class Passing(nn.Module):
    """The identity on x."""

    def forward(self, x: Tensor, latents: Tensor, stream: Stream | None = None) -> Tensor:
        return x

"""C-ViViT (Phenaki, §2.1) and its hybrid with MAGVIT's CNN (MAGVIT-v2, §3.2 and Table 5a): causal by attention in time.

Both give the first frame a latent frame of its own and each further window of s_t frames one more; the temporal
transformer lets a latent frame see the earlier ones at its place. Its memory of the past grows with the video: no
streaming. The papers leave positions and, in the hybrid, widths open: ours are sines and cosines, for any size.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from videopoet.tokenizers.visual.causal import Triple
from videopoet.tokenizers.visual.cnn import EARLY_TEMPORAL, Decoder, Encoder
from videopoet.tokenizers.visual.layers import AveragePooling, ResizeConvolution, SymmetricLayers, Unconditioned
from videopoet.tokenizers.visual.network import VideoDecoder, VideoEncoder


class AttentionBlock(nn.Module):
    """Pre-norm self-attention and a GELU layer of four times the width."""

    def __init__(self, width: int, num_heads: int, causal: bool):
        super().__init__()
        if width % num_heads:
            raise ValueError(f"width {width} does not divide into {num_heads} heads")
        self.num_heads, self.masked = num_heads, causal
        self.norm1, self.qkv, self.out = nn.LayerNorm(width), nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.norm2 = nn.LayerNorm(width)
        self.ff = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))

    def forward(self, x: Tensor) -> Tensor:
        """(b, n, d) -> same."""
        b, n, d = x.shape
        q, k, v = self.qkv(self.norm1(x)).reshape(b, n, 3, self.num_heads, -1).permute(2, 0, 3, 1, 4)
        attended = F.scaled_dot_product_attention(q, k, v, is_causal=self.masked)
        x = x + self.out(attended.transpose(1, 2).reshape(b, n, d))
        return x + self.ff(self.norm2(x))


class SpatialTransformer(nn.Module):
    """All to all within a latent frame."""

    def __init__(self, width: int, depth: int, num_heads: int):
        super().__init__()
        self.blocks = nn.Sequential(*(AttentionBlock(width, num_heads, causal=False) for _ in range(depth)))

    def forward(self, x: Tensor) -> Tensor:
        """(b, t, h, w, d) -> same."""
        b, t, h, w, d = x.shape
        rows, columns = sinusoids(h, d // 2, x), sinusoids(w, d - d // 2, x)
        place = torch.cat([rows[:, None].expand(h, w, -1), columns[None].expand(h, w, -1)], -1)
        return self.blocks((x + place).reshape(b * t, h * w, d)).reshape(b, t, h, w, d)


class TemporalTransformer(nn.Module):
    """Each place by itself, a latent frame sees itself and the earlier ones."""

    def __init__(self, width: int, depth: int, num_heads: int):
        super().__init__()
        self.blocks = nn.Sequential(*(AttentionBlock(width, num_heads, causal=True) for _ in range(depth)))

    def forward(self, x: Tensor) -> Tensor:
        """(b, t, h, w, d) -> same."""
        b, t, h, w, d = x.shape
        x = x + sinusoids(t, d, x)[:, None, None]
        x = x.permute(0, 2, 3, 1, 4).reshape(b * h * w, t, d)
        return self.blocks(x).reshape(b, h, w, t, d).permute(0, 3, 1, 2, 4)


class CViViTEncoder(VideoEncoder):
    """Linear patches (the first frame apart), spatial transformer, causal temporal transformer."""

    def __init__(
        self,
        dimension: int = 18,
        width: int = 512,
        spatial_depth: int = 4,
        temporal_depth: int = 4,
        num_heads: int = 8,
        patch: Triple = (4, 8, 8),
    ):
        super().__init__()
        self.patch = tuple(patch)
        pt, ph, pw = self.patch
        self.first, self.later = nn.Linear(3 * ph * pw, width), nn.Linear(3 * pt * ph * pw, width)
        self.spatial = SpatialTransformer(width, spatial_depth, num_heads)
        self.temporal = TemporalTransformer(width, temporal_depth, num_heads)
        self.norm_out, self.out = nn.LayerNorm(width), nn.Linear(width, dimension)

    def forward(self, video: Tensor, stream: None = None) -> Tensor:
        """float (b, 3, 1 + p_t*k, h, w) -> float (b, dimension, 1 + k, h/p_h, w/p_w)."""
        _, ph, pw = self.patch
        first = self.first(to_patches(video[:, :, :1], (1, ph, pw)))
        later = self.later(to_patches(video[:, :, 1:], self.patch))
        x = self.temporal(self.spatial(torch.cat([first, later], 1)))
        return self.out(self.norm_out(x)).movedim(-1, 1)


class CViViTDecoder(VideoDecoder):
    """The encoder upside down: temporal, spatial, one linear layer to pixels."""

    def __init__(
        self,
        dimension: int = 18,
        width: int = 512,
        spatial_depth: int = 4,
        temporal_depth: int = 4,
        num_heads: int = 8,
        patch: Triple = (4, 8, 8),
    ):
        super().__init__()
        self.patch = tuple(patch)
        pt, ph, pw = self.patch
        self.into = nn.Linear(dimension, width)
        self.temporal = TemporalTransformer(width, temporal_depth, num_heads)
        self.spatial = SpatialTransformer(width, spatial_depth, num_heads)
        self.norm_out = nn.LayerNorm(width)
        self.first, self.later = nn.Linear(width, 3 * ph * pw), nn.Linear(width, 3 * pt * ph * pw)

    def forward(self, latents: Tensor, stream: None = None) -> Tensor:
        """float (b, dimension, 1 + k, h, w) -> float (b, 3, 1 + p_t*k, h*p_h, w*p_w), not clamped."""
        _, ph, pw = self.patch
        x = self.norm_out(self.spatial(self.temporal(self.into(latents.movedim(1, -1)))))
        first = from_patches(self.first(x[:, :1]), (1, ph, pw))
        return torch.cat([first, from_patches(self.later(x[:, 1:]), self.patch)], 2)


class WindowedEncoder(VideoEncoder):
    """C-ViViT + MAGVIT: MAGVIT's CNN on each window of s_t frames by itself, then a causal temporal transformer.

    The first frame stands for a window of s_t copies of itself.
    """

    def __init__(
        self,
        dimension: int = 18,
        channels: int = 64,
        multipliers: Sequence[int] = (1, 2, 2, 4),
        strides: Sequence[Triple] = EARLY_TEMPORAL,
        num_blocks: int = 2,
        temporal_depth: int = 4,
        num_heads: int = 8,
    ):
        super().__init__()
        width = channels * multipliers[-1]
        self.window = _window(strides)
        self.cnn = Encoder(
            width, channels, multipliers, strides, num_blocks, layers=SymmetricLayers(), down=AveragePooling()
        )
        self.temporal = TemporalTransformer(width, temporal_depth, num_heads)
        self.norm_out, self.out = nn.LayerNorm(width), nn.Linear(width, dimension)

    @property
    def causal(self) -> bool:
        return True  # the CNN sees one window at a time

    def forward(self, video: Tensor, stream: None = None) -> Tensor:
        """float (b, 3, 1 + s_t*k, h, w) -> float (b, dimension, 1 + k, h/s_h, w/s_w)."""
        b, c, _, h, w = video.shape
        video = torch.cat([video[:, :, :1].expand(-1, -1, self.window - 1, -1, -1), video], 2)
        windows = video.reshape(b, c, -1, self.window, h, w).transpose(1, 2).flatten(0, 1)
        x = self.cnn(windows)[:, :, 0].unflatten(0, (b, -1)).movedim(2, -1)
        return self.out(self.norm_out(self.temporal(x))).movedim(-1, 1)


class WindowedDecoder(VideoDecoder):
    """The encoder mirrored; of the first window the last frame is kept."""

    def __init__(
        self,
        dimension: int = 18,
        channels: int = 64,
        multipliers: Sequence[int] = (1, 2, 2, 4),
        strides: Sequence[Triple] = EARLY_TEMPORAL,
        num_blocks: int = 2,
        temporal_depth: int = 4,
        num_heads: int = 8,
    ):
        super().__init__()
        width = channels * multipliers[-1]
        self.window = _window(strides)
        self.into = nn.Linear(dimension, width)
        self.temporal = TemporalTransformer(width, temporal_depth, num_heads)
        self.cnn = Decoder(
            width, channels, multipliers, strides, num_blocks,
            layers=SymmetricLayers(), up=ResizeConvolution(), conditioning=Unconditioned(),
        )  # fmt: skip

    @property
    def causal(self) -> bool:
        return True  # the CNN sees one window at a time

    def forward(self, latents: Tensor, stream: None = None) -> Tensor:
        """float (b, dimension, 1 + k, h, w) -> float (b, 3, 1 + s_t*k, h*s_h, w*s_w), not clamped."""
        b = len(latents)
        x = self.temporal(self.into(latents.movedim(1, -1)))
        windows = self.cnn(x.movedim(-1, 2).flatten(0, 1)[:, :, None])
        video = windows.unflatten(0, (b, -1)).transpose(1, 2).flatten(2, 3)
        return video[:, :, self.window - 1 :]


def _window(strides: Sequence[Triple]) -> int:
    frames = 1
    for stride in strides:
        frames *= stride[0]
    return frames


def to_patches(x: Tensor, patch: Triple) -> Tensor:
    """(b, c, t, h, w) -> (b, t/p_t, h/p_h, w/p_w, c * p_t * p_h * p_w)."""
    b, c, t, h, w = x.shape
    pt, ph, pw = patch
    x = x.reshape(b, c, t // pt, pt, h // ph, ph, w // pw, pw)
    return x.permute(0, 2, 4, 6, 1, 3, 5, 7).flatten(4)


def from_patches(x: Tensor, patch: Triple) -> Tensor:
    """The inverse of `to_patches` for 3 channels."""
    b, t, h, w, _ = x.shape
    pt, ph, pw = patch
    x = x.reshape(b, t, h, w, 3, pt, ph, pw).permute(0, 4, 1, 5, 2, 6, 3, 7)
    return x.reshape(b, 3, t * pt, h * ph, w * pw)


def sinusoids(length: int, width: int, like: Tensor) -> Tensor:
    """Positions 0 .. length - 1 as sines and cosines, (length, width), with the device and type of `like`."""
    frequencies = 10000.0 ** (-torch.arange(0, width, 2, device=like.device) / width)
    angles = torch.arange(length, device=like.device)[:, None] * frequencies
    return torch.cat([angles.sin(), angles.cos()], -1)[:, :width].to(like.dtype)

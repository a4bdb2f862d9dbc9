"""V-JEPA (Bardes et al. 2024): ViT-H/16 with its probe of Something-Something v2, whose features JEDi compares.

    tokens   = norm(blocks(patches + positions))          # patches of 2 frames x 16 x 16 pixels, 1,568 of 16 frames at 224
    features = the probe's one query after it attended to the tokens, and after its own MLP         # 1,280

Names of parameters are the published ones (facebookresearch/jepa); the positions are sines and cosines that lie in the file.
For clips of another length or size they are interpolated, as there. `tools/convert_detector.py` makes one file of
`vith16.pth.tar`, of which the target encoder counts, and `ssv2-probe.pth.tar`.
"""

from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from videopoet.component import spec_of
from videopoet.evaluation.detectors.base import VideoDetector
from videopoet.evaluation.detectors.vision_transformers import IMAGENET_MEAN, IMAGENET_STD, normalised
from videopoet.evaluation.detectors.weights import Wanted, load_weights
from videopoet.evaluation.resize import Resize, ShortSideCrop, TorchBilinear

PATCH, TUBELET = 16, 2  # pixels, frames
RESIZE = Resize(height=224, width=224, convention=TorchBilinear(), fit=ShortSideCrop())
WANTED = Wanted(
    file="vith16.pth.tar",
    source="and ssv2-probe.pth.tar, of V-JEPA's ViT-H/16 (facebookresearch/jepa), made one file by tools/convert_detector.py",
)


def attended(query: Tensor, key: Tensor, value: Tensor, heads: int) -> Tensor:
    """(b, n, d), (b, m, d), (b, m, d) -> (b, n, d)."""
    parts = (x.unflatten(-1, (heads, -1)).transpose(1, 2) for x in (query, key, value))
    return F.scaled_dot_product_attention(*parts).transpose(1, 2).flatten(2)


class SelfAttention(nn.Module):
    def __init__(self, width: int, heads: int):
        super().__init__()
        self.heads = heads
        self.qkv, self.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        return self.proj(attended(*self.qkv(x).chunk(3, -1), self.heads))


class CrossAttention(nn.Module):
    def __init__(self, width: int, heads: int):
        super().__init__()
        self.heads = heads
        self.q, self.kv, self.proj = nn.Linear(width, width), nn.Linear(width, 2 * width), nn.Linear(width, width)

    def forward(self, queries: Tensor, x: Tensor) -> Tensor:
        return self.proj(attended(self.q(queries), *self.kv(x).chunk(2, -1), self.heads))


class MLP(nn.Module):
    def __init__(self, width: int):
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(F.gelu(self.fc1(x)))


class Block(nn.Module):
    def __init__(self, width: int, heads: int):
        super().__init__()
        self.norm1, self.attn = nn.LayerNorm(width, eps=1e-6), SelfAttention(width, heads)
        self.norm2, self.mlp = nn.LayerNorm(width, eps=1e-6), MLP(width)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attn(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class CrossBlock(nn.Module):
    """The probe's: the query itself is not normed before it attends, and the norms have another epsilon."""

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.norm1, self.xattn = nn.LayerNorm(width), CrossAttention(width, heads)
        self.norm2, self.mlp = nn.LayerNorm(width), MLP(width)

    def forward(self, queries: Tensor, x: Tensor) -> Tensor:
        queries = queries + self.xattn(queries, self.norm1(x))
        return queries + self.mlp(self.norm2(queries))


class Patches(nn.Module):
    def __init__(self, width: int):
        super().__init__()
        self.proj = nn.Conv3d(3, width, (TUBELET, PATCH, PATCH), (TUBELET, PATCH, PATCH))


class Encoder(nn.Module):
    """(b, 3, t, h, w), normalised -> tokens (b, t/2 h/16 w/16, width), time first and columns last."""

    def __init__(self, width: int, depth: int, heads: int, frames: int, side: int):
        super().__init__()
        self.grid = (frames // TUBELET, side // PATCH, side // PATCH)
        self.patch_embed = Patches(width)
        self.pos_embed = nn.Parameter(torch.zeros(1, self.grid[0] * self.grid[1] * self.grid[2], width))
        self.blocks = nn.ModuleList(Block(width, heads) for _ in range(depth))
        self.norm = nn.LayerNorm(width, eps=1e-6)

    def positions(self, grid: tuple[int, ...]) -> Tensor:
        """(1, width, *grid), trilinear where it is not the grid of training."""
        places = self.pos_embed.unflatten(1, self.grid).movedim(-1, 1)
        return places if grid == self.grid else F.interpolate(places, grid, mode="trilinear")

    def forward(self, clips: Tensor) -> Tensor:
        x = self.patch_embed.proj(clips)
        x = (x + self.positions(tuple(x.shape[2:]))).flatten(2).transpose(1, 2)
        for block in self.blocks:
            x = block(x)
        return self.norm(x)


class Pooler(nn.Module):
    """Tokens (b, n, width) -> (b, width)."""

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.query_tokens = nn.Parameter(torch.zeros(1, 1, width))
        self.cross_attention_block = CrossBlock(width, heads)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.cross_attention_block(self.query_tokens.expand(len(tokens), -1, -1), tokens)[:, 0]


class VJEPANetwork(nn.Module):
    """Encoder and probe; the defaults are ViT-H/16's, of 16 frames at 224 x 224."""

    def __init__(self, width: int = 1280, depth: int = 32, heads: int = 16, frames: int = 16, side: int = 224):
        super().__init__()
        self.encoder = Encoder(width, depth, heads, frames, side)
        self.pooler = Pooler(width, heads)

    def forward(self, clips: Tensor) -> Tensor:
        return self.pooler(self.encoder(clips))


class VJEPA(VideoDetector):
    """JEDi's detector. Clips of an even number of frames; trained with 16, every fourth of its videos.

    JEDi's code takes clips as its caller made them, and its tutorial gives it 20 frames of 240 x 320: which frames and
    pixels a published JEDi is of stands with that number alone. `resize` defaults to what V-JEPA was trained with.
    """

    name = "V-JEPA ViT-H/16"
    output = "SSv2 probe"
    least_frames = TUBELET

    def __init__(self, weights: str | Path | None = None, resize: Resize = RESIZE):
        super().__init__()
        if resize.height % PATCH or resize.width % PATCH:
            raise ValueError(
                f"{self.name} reads patches of {PATCH} pixels, resize gives {resize.height} x {resize.width}"
            )
        self.resize = resize
        path = WANTED.find(weights)
        self.network = VJEPANetwork()
        self.weights = load_weights(self.network, path)
        self.eval()

    @property
    def dim(self) -> int:
        return self.network.pooler.query_tokens.shape[-1]

    def preprocessing(self) -> dict:
        return {"resize": spec_of(self.resize), "mean": list(IMAGENET_MEAN), "std": list(IMAGENET_STD)}

    def features(self, clips: Tensor) -> Tensor:
        if clips.shape[1] % TUBELET:
            raise ValueError(f"{self.name} reads frames in pairs, the clips have {clips.shape[1]}: take an even number")
        return self.network(normalised(self.resize(clips), IMAGENET_MEAN, IMAGENET_STD).movedim(-1, 1))

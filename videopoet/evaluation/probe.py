"""What tokens say about a video: a small classifier over pixels or over codes (MAGVIT-v2, §4.4).

A ViViT with joint attention over space and time (Arnab et al. 2021, model 1) that differs between variants only in how
a place of the lattice becomes a vector. Pixels and codes have the same lattice, so every variant has the same number of
positions and the same network behind the embedding. It is a probe, not a recogniser: compare variants that had the same
data, steps and seeds, and nothing else.
"""

import math
from abc import ABC, abstractmethod
from collections import Counter

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from videopoet import component
from videopoet.data.schema import Manifest, MediaManifest, TokenManifest
from videopoet.tokenizers.visual.autoencoder import VideoTokenizer
from videopoet.tokenizers.visual.causal import Triple

MOST_CODES = 2**20  # of a table; above, bits are the only embedding


class Embedding(nn.Module, ABC):
    """Inputs of one kind of shards -> a vector for every place of the lattice."""

    width: int

    @abstractmethod
    def forward(self, inputs: Tensor) -> Tensor:
        """Inputs (b, ...) -> (b, t, h, w, width)."""

    @abstractmethod
    def check(self, manifest: Manifest) -> None:
        """ValueError where the shards hold something else."""


class PixelPatches(Embedding):
    """A linear map of patches of `patch` frames x pixels x pixels ("tubelets").

    The first frame has a patch of its own, copied as often as a patch has frames: 17 x 64 x 64 pixels with (4, 8, 8)
    give 5 x 8 x 8 places, as a tokenizer of that stride does.
    """

    def __init__(self, width: int = 128, patch: Triple = (4, 8, 8)):
        super().__init__()
        self.width, self.patch = width, tuple(patch)
        self.project = nn.Linear(3 * math.prod(self.patch), width)

    def forward(self, inputs: Tensor) -> Tensor:
        """float (b, 3, t, h, w) in [-1, 1] -> (b, t', h', w', width)."""
        pt, ph, pw = self.patch
        video = torch.cat([inputs[:, :, :1].expand(-1, -1, pt - 1, -1, -1), inputs], dim=2)
        b, c, t, h, w = video.shape
        patches = video.reshape(b, c, t // pt, pt, h // ph, ph, w // pw, pw).permute(0, 2, 4, 6, 1, 3, 5, 7)
        return self.project(patches.flatten(4))

    def check(self, manifest: Manifest) -> None:
        if not isinstance(manifest, MediaManifest):
            raise ValueError(f"PixelPatches reads media shards, these hold {manifest.kind}: name the clips")
        frames, height, width = manifest.frames, manifest.height, manifest.width
        if (frames - 1) % self.patch[0] or height % self.patch[1] or width % self.patch[2]:
            raise ValueError(f"clips of {frames} x {height} x {width} do not divide into patches of {self.patch}")


class CodeEmbedding(Embedding):
    """What embeddings of codes share: `size` codes."""

    size: int

    def check(self, manifest: Manifest) -> None:
        if not isinstance(manifest, TokenManifest):
            raise ValueError(
                f"{type(self).__name__} reads token shards, these hold {manifest.kind}: tokenize the clips"
            )
        if manifest.visual_codebook_size > self.size:
            raise ValueError(
                f"the shards have {manifest.visual_codebook_size} codes, {type(self).__name__} has {self.size}"
            )


class BitEmbedding(CodeEmbedding):
    """The bits of a lookup-free code as +-1, least significant first, linearly mapped: no table, whatever the size."""

    def __init__(self, width: int = 128, num_bits: int = 18):
        super().__init__()
        self.width, self.size = width, 2**num_bits
        self.register_buffer("powers", 2 ** torch.arange(num_bits), persistent=False)
        self.project = nn.Linear(num_bits, width)

    def forward(self, inputs: Tensor) -> Tensor:
        """codes int64 (b, t, h, w) -> (b, t, h, w, width)."""
        bits = inputs.unsqueeze(-1).bitwise_and(self.powers) > 0
        return self.project(bits.to(self.project.weight.dtype) * 2 - 1)


class CodebookEmbedding(CodeEmbedding):
    """A vector per code, linearly mapped.

    tokenizer: a shipped tokenizer, whose codebook is used as it is; null to learn a table of `size` vectors.
    """

    def __init__(self, width: int = 128, size: int = 1024, tokenizer: str | None = None):
        super().__init__()
        self.width = width
        codebook = torch.randn(min(size, MOST_CODES), width) if tokenizer is None else _codebook(tokenizer)
        self.size = size if tokenizer is None else len(codebook)
        if self.size > MOST_CODES:
            raise ValueError(f"a table of {self.size} codes: take at most {MOST_CODES}, or BitEmbedding")
        self.table = nn.Embedding.from_pretrained(codebook, freeze=tokenizer is not None)
        self.project = nn.Linear(codebook.shape[1], width)

    def forward(self, inputs: Tensor) -> Tensor:
        """codes int64 (b, t, h, w) -> (b, t, h, w, width)."""
        return self.project(self.table(inputs))


def _codebook(path: str) -> Tensor:
    """Every code's latent (size, c), scaled so that their mean square is 1."""
    quantizer = component.load(path, VideoTokenizer).quantizer
    if quantizer.size > MOST_CODES:
        raise ValueError(f"{path} has {quantizer.size} codes, a table takes at most {MOST_CODES}: use BitEmbedding")
    with torch.no_grad():
        codebook = quantizer.embed(torch.arange(quantizer.size).view(1, 1, 1, -1))[0, :, 0, 0].T.contiguous()
    return codebook / codebook.square().mean().sqrt().clamp_min(1e-12)


class Probe(nn.Module):
    """Embedding, learned positions, a pre-norm transformer over all places, mean over places, linear classifier.

    lattice: the most latent frames, rows and columns; smaller lattices use the first of each.
    Raises ValueError for larger ones.
    """

    def __init__(
        self,
        embedding: Embedding,
        num_classes: int,
        lattice: Triple = (5, 8, 8),
        layers: int = 4,
        heads: int = 4,
        dropout: float = 0.1,
    ):
        super().__init__()
        self.embedding, self.num_classes, self.lattice = embedding, num_classes, tuple(lattice)
        width = embedding.width
        t, h, w = self.lattice
        self.time = nn.Parameter(0.02 * torch.randn(t, 1, 1, width))
        self.space = nn.Parameter(0.02 * torch.randn(h, w, width))
        block = nn.TransformerEncoderLayer(
            width, heads, 4 * width, dropout, activation="gelu", batch_first=True, norm_first=True
        )
        self.trunk = nn.TransformerEncoder(block, layers, nn.LayerNorm(width), enable_nested_tensor=False)
        self.head = nn.Linear(width, num_classes)

    def forward(self, inputs: Tensor) -> Tensor:
        """Pixels or codes, as the embedding reads them -> logits (b, num_classes)."""
        x = self.embedding(inputs)
        t, h, w = x.shape[1:4]
        if any(have > most for have, most in zip((t, h, w), self.lattice)):
            raise ValueError(f"inputs of {t} x {h} x {w} places, the probe has {self.lattice}: set its lattice")
        x = x + self.time[:t] + self.space[:h, :w]
        return self.head(self.trunk(x.flatten(1, 3)).mean(1))

    def loss(self, inputs: Tensor, classes: Tensor) -> tuple[Tensor, Tensor]:
        """Mean cross-entropy and the share of inputs whose class has the highest logit."""
        logits = self(inputs)
        return F.cross_entropy(logits, classes), (logits.argmax(1) == classes).float().mean()


def majority_accuracy(train: Counter[str], test: Counter[str]) -> float:
    """What always naming the commonest class of training reaches on the test samples."""
    return test[train.most_common(1)[0][0]] / test.total()


def accuracy_interval(accuracy: float, num_samples: int, z: float = 1.96) -> tuple[float, float]:
    """The 95 % interval of Wilson for a share of independent samples, e.g. 0.8 of 100 -> (0.711, 0.867)."""
    if num_samples < 1 or not 0 <= accuracy <= 1:
        raise ValueError(f"no interval for an accuracy of {accuracy} on {num_samples} samples")
    shrink = 1 + z * z / num_samples
    centre = (accuracy + z * z / (2 * num_samples)) / shrink
    half = z * math.sqrt(accuracy * (1 - accuracy) / num_samples + (z / (2 * num_samples)) ** 2) / shrink
    return max(0.0, centre - half), min(1.0, centre + half)

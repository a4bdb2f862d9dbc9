"""How the language model reads and writes ids: one flat table, or visual ids factorised into two halves of their bits."""

import math
from abc import ABC, abstractmethod

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from videopoet.vocabulary import Vocabulary

CHUNK = 2048  # positions whose logits exist at one time


class TokenIO(nn.Module, ABC):
    """`embed` turns ids into vectors; `loss` and `sample` turn hidden states into predictions of the next id."""

    @abstractmethod
    def check(self, vocabulary: Vocabulary) -> None:
        """Raises ValueError where the tables do not have the sizes of the vocabulary."""

    @abstractmethod
    def embed(self, ids: Tensor) -> Tensor:
        """ids int64 (...,) -> float (..., d)."""

    @abstractmethod
    def chunk_loss(self, hidden: Tensor, targets: Tensor) -> Tensor:
        """Cross-entropy in nats of each target: hidden (p, d), targets int64 (p,) -> (p,)."""

    @abstractmethod
    def sample(self, hidden: Tensor, allowed: range, draw, generators: list[torch.Generator]) -> Tensor:
        """Hidden states (b, d) -> ids int64 (b,) within `allowed`, drawn by a `sampling.rules.Draw`."""

    def loss(self, hidden: Tensor, targets: Tensor) -> Tensor:
        """`chunk_loss` over chunks, recomputed in the backward pass: positions x vocabulary never exists as a whole."""
        parts = zip(hidden.split(CHUNK), targets.split(CHUNK))
        return torch.cat([checkpoint(self.chunk_loss, h, t, use_reentrant=False) for h, t in parts])


class Flat(TokenIO):
    """One table of `vocabulary_size` rows, shared by input and output when `tied`."""

    def __init__(self, vocabulary_size: int, width: int, tied: bool = True):
        super().__init__()
        self.table = nn.Embedding(vocabulary_size, width)
        nn.init.normal_(self.table.weight, std=0.02)
        self.head = None if tied else nn.Parameter(torch.randn(vocabulary_size, width) * 0.02)

    def check(self, vocabulary: Vocabulary) -> None:
        _equal("vocabulary_size", len(self.table.weight), vocabulary.size)

    @property
    def rows(self) -> Tensor:
        return self.table.weight if self.head is None else self.head

    def embed(self, ids: Tensor) -> Tensor:
        return self.table(ids)

    def chunk_loss(self, hidden: Tensor, targets: Tensor) -> Tensor:
        return F.cross_entropy(F.linear(hidden, self.rows).float(), targets, reduction="none")

    def sample(self, hidden: Tensor, allowed: range, draw, generators: list[torch.Generator]) -> Tensor:
        return draw(F.linear(hidden, self.rows[allowed.start : allowed.stop]), generators) + allowed.start


class Factored(TokenIO):
    """Visual ids as two halves of their bits (MAGVIT-v2, §3.1: 2^18 = 2^9 x 2^9), all other ids flat.

    The input embedding is the sum of the halves'. The low half is predicted from the hidden state, the high half from
    the hidden state and the low half drawn, so that the two need not be independent (our choice; the paper's heads
    are). A position's modality is fixed by the layout, so each softmax runs over the ids of its own kind.

    Example with 2^4 visual codes from id 256: id 256 + 0b1101 -> low 0b01, high 0b11.
    """

    def __init__(self, vocabulary_size: int, width: int, visual_start: int, visual_size: int):
        super().__init__()
        bits = int(math.log2(visual_size))
        if 2**bits != visual_size or bits % 2:
            raise ValueError(f"{visual_size} visual codes do not split into two equal halves of bits: use Flat")
        self.visual_start, self.visual_size, self.half = visual_start, visual_size, 2 ** (bits // 2)
        self.flat = nn.Embedding(vocabulary_size - visual_size, width)
        self.low, self.high = nn.Embedding(self.half, width), nn.Embedding(self.half, width)
        self.head_flat = nn.Linear(width, vocabulary_size - visual_size, bias=False)
        self.head_low = nn.Linear(width, self.half, bias=False)
        self.given_low = nn.Embedding(self.half, width)
        self.mix = nn.Sequential(nn.Linear(width, width), nn.SiLU())
        self.head_high = nn.Linear(width, self.half, bias=False)
        for table in (self.flat, self.low, self.high, self.given_low):
            nn.init.normal_(table.weight, std=0.02)

    def check(self, vocabulary: Vocabulary) -> None:
        _equal("visual_start", self.visual_start, vocabulary.visual_start)
        _equal("visual_size", self.visual_size, vocabulary.visual_size)
        _equal("vocabulary_size", len(self.flat.weight) + self.visual_size, vocabulary.size)

    def embed(self, ids: Tensor) -> Tensor:
        visual = self._is_visual(ids)
        code = torch.where(visual, ids - self.visual_start, 0)
        halves = self.low(code % self.half) + self.high(code // self.half)
        return torch.where(visual[..., None], halves, self.flat(torch.where(visual, 0, self._squeeze(ids))))

    def chunk_loss(self, hidden: Tensor, targets: Tensor) -> Tensor:
        visual = self._is_visual(targets)
        loss = hidden.new_zeros(len(targets), dtype=torch.float32)
        if visual.any():
            code, h = targets[visual] - self.visual_start, hidden[visual]
            low, high = code % self.half, code // self.half
            halves = F.cross_entropy(self.head_low(h).float(), low, reduction="none")
            halves = halves + F.cross_entropy(self._high_logits(h, low).float(), high, reduction="none")
            loss = loss.masked_scatter(visual, halves)
        if not visual.all():
            logits = self.head_flat(hidden[~visual]).float()
            flat = F.cross_entropy(logits, self._squeeze(targets[~visual]), reduction="none")
            loss = loss.masked_scatter(~visual, flat)
        return loss

    def sample(self, hidden: Tensor, allowed: range, draw, generators: list[torch.Generator]) -> Tensor:
        if allowed.start == self.visual_start and len(allowed) == self.visual_size:
            low = draw(self.head_low(hidden), generators)
            high = draw(self._high_logits(hidden, low), generators)
            return high * self.half + low + self.visual_start
        if self.visual_start < allowed.stop and allowed.start < self.visual_start + self.visual_size:
            raise ValueError(f"ids {allowed.start} to {allowed.stop - 1} cut through the visual codes")
        start = int(self._squeeze(torch.tensor(allowed.start)))
        rows = self.head_flat.weight[start : start + len(allowed)]
        return draw(F.linear(hidden, rows), generators) + allowed.start

    def _high_logits(self, hidden: Tensor, low: Tensor) -> Tensor:
        return self.head_high(hidden + self.mix(hidden + self.given_low(low)))

    def _is_visual(self, ids: Tensor) -> Tensor:
        return (ids >= self.visual_start) & (ids < self.visual_start + self.visual_size)

    def _squeeze(self, ids: Tensor) -> Tensor:
        """Ids outside the visual range -> rows of the flat table."""
        return torch.where(ids >= self.visual_start, ids - self.visual_size, ids)


def _equal(name: str, configured: int, needed: int) -> None:
    if configured != needed:
        raise ValueError(f"the model has {name} {configured}, the token shards need {needed}: set io.init_args.{name}")

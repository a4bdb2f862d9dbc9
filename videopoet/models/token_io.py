"""How the language model reads and writes ids: one flat table, or visual ids factorised into groups of their bits.

Flat                  one row per id; logits over the ids of a position's kind when `starts` is given
Factored              visual ids in k factors, each predicted from the state and the factors before it
IndependentFactors    visual ids in k factors predicted independently, heads tied to the tables (MAGVIT-v2)
"""

import math
from abc import ABC, abstractmethod
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor, nn

from videopoet.models.cross_entropy import cross_entropy
from videopoet.models.onednn import Decoding
from videopoet.vocabulary import Vocabulary


class IdLoss(NamedTuple):
    """`total`: weighted sum of cross-entropies, with gradient. `each`: nats of each position, float32 (p,), without."""

    total: Tensor
    each: Tensor


class TokenIO(Decoding, nn.Module, ABC):
    """`embed` turns ids into vectors; `loss` and `sample` turn hidden states into predictions of the next id."""

    @abstractmethod
    def check(self, vocabulary: Vocabulary) -> None:
        """Raises ValueError where the tables do not have the sizes of the vocabulary."""

    @abstractmethod
    def embed(self, ids: Tensor) -> Tensor:
        """ids int64 (...,) -> float (..., d)."""

    @abstractmethod
    def loss(self, hidden: Tensor, targets: Tensor, weight: Tensor) -> IdLoss:
        """Cross-entropy of targets int64 (p,) from states (p, d), each counting `weight` float (p,).

        Positions x vocabulary never exists as a whole, in neither pass.
        """

    @abstractmethod
    def weights(self, targets: Tensor) -> Tensor:
        """How many weights the state of each target int64 (p,) is multiplied with to predict it, int64 (p,)."""

    @abstractmethod
    def sample(self, hidden: Tensor, allowed: range, draw, place) -> Tensor:
        """Hidden states (b, d) -> ids int64 (b,) within `allowed`, drawn by a `sampling.rules.Draw` at a `Place`."""


class Flat(TokenIO):
    """One table of `vocabulary_size` rows, shared by input and output when `tied`.

    starts: where the ranges of ids of one kind begin, first 0, as [0, 256, 262400, 263424, ...] for control ids, visual
        ids and each level of audio. With it the loss of a position runs over the ids of its target's kind, which is
        what sampling draws from anyway; without, over all ids.
    """

    def __init__(self, vocabulary_size: int, width: int, tied: bool = True, starts: list[int] | None = None):
        super().__init__()
        self.table = nn.Embedding(vocabulary_size, width)
        nn.init.normal_(self.table.weight, std=0.02)
        self.head = None if tied else nn.Parameter(torch.randn(vocabulary_size, width) * 0.02)
        self.ranges = _ranges(starts, vocabulary_size)

    def check(self, vocabulary: Vocabulary) -> None:
        _equal("vocabulary_size", self.table.num_embeddings, vocabulary.size)
        _check_ranges(self.ranges, vocabulary)

    @property
    def rows(self) -> Tensor:
        return self.table.weight if self.head is None else self.head

    def embed(self, ids: Tensor) -> Tensor:
        return self.table(ids)

    def loss(self, hidden: Tensor, targets: Tensor, weight: Tensor) -> IdLoss:
        return IdLoss(*cross_entropy(hidden, self.rows, targets, weight, self.ranges))

    def weights(self, targets: Tensor) -> Tensor:
        return self.table.embedding_dim * _choices(targets, self.ranges or [(0, self.table.num_embeddings)])

    def sample(self, hidden: Tensor, allowed: range, draw, place) -> Tensor:
        return draw(self.decode(hidden, self.rows[allowed.start : allowed.stop]), place) + allowed.start


class FactoredIO(TokenIO):
    """Visual ids as `factors` equal groups of their bits (MAGVIT-v2, §3.1: 2^18 = 2^9 x 2^9), all other ids flat.

    The input embedding is the sum of the factors'. A position's kind is fixed by the layout, so each softmax runs over
    ids of its own kind. Factor 0 has the lowest bits: with 2^4 visual codes from id 256 and two factors, id 256 + 0b1101
    has factors 0b01, 0b11.

    starts: as in `Flat`, for the ids that are not visual; visual ids are a range by themselves with and without.
    """

    def __init__(self, vocabulary_size: int, width: int, visual_start: int, visual_size: int, factors: int,
                 starts: list[int] | None):  # fmt: skip
        super().__init__()
        bits = int(math.log2(visual_size))
        if 2**bits != visual_size or bits % factors:
            raise ValueError(
                f"{visual_size} visual codes do not split into {factors} equal groups of bits: use another number of "
                "factors, or Flat"
            )
        self.visual_start, self.visual_size, self.factors = visual_start, visual_size, factors
        self.size = 2 ** (bits // factors)  # of each factor
        self.ranges = _ranges(starts, vocabulary_size)
        self.flat = nn.Embedding(vocabulary_size - visual_size, width)
        self.tables = nn.ModuleList(nn.Embedding(self.size, width) for _ in range(factors))
        for table in (self.flat, *self.tables):
            nn.init.normal_(table.weight, std=0.02)

    @abstractmethod
    def states(self, hidden: Tensor) -> Tensor:
        """Hidden states (p, d) -> what ids that are not visual, and the first factor, are read from."""

    @abstractmethod
    def state(self, states: Tensor, i: int, codes: list[Tensor]) -> Tensor:
        """`states`' output and the factors 0 to i - 1, each int64 (p,) -> what factor i is read from, (p, d)."""

    @abstractmethod
    def head(self, i: int) -> tuple[Tensor, Tensor | None]:
        """Rows (size, d) and bias of factor i; of the ids that are not visual for i = -1."""

    @abstractmethod
    def dense_weights(self) -> tuple[int, int]:
        """Weights before the heads: of `states`, and of all `state`s of a visual id."""

    def check(self, vocabulary: Vocabulary) -> None:
        _equal("visual_start", self.visual_start, vocabulary.visual_start)
        _equal("visual_size", self.visual_size, vocabulary.visual_size)
        _equal("vocabulary_size", self.flat.num_embeddings + self.visual_size, vocabulary.size)
        _check_ranges(self.ranges, vocabulary)

    def split(self, codes: Tensor) -> list[Tensor]:
        """Visual codes int64 (...,) -> factors, each (...,) in [0, size)."""
        return [codes // self.size**i % self.size for i in range(self.factors)]

    def embed(self, ids: Tensor) -> Tensor:
        visual = self._is_visual(ids)
        codes = self.split(torch.where(visual, ids - self.visual_start, 0))
        summed = torch.stack([table(code) for table, code in zip(self.tables, codes)]).sum(0)
        return torch.where(visual[..., None], summed, self.flat(torch.where(visual, 0, self._squeeze(ids))))

    def loss(self, hidden: Tensor, targets: Tensor, weight: Tensor) -> IdLoss:
        visual = self._is_visual(targets)
        each = torch.zeros(len(targets), device=hidden.device)
        states, total = self.states(hidden), hidden.new_zeros((), dtype=torch.float32)
        if visual.any():
            codes = self.split(targets[visual] - self.visual_start)
            first = states[visual]
            for i, code in enumerate(codes):
                rows, bias = self.head(i)
                summed, nats = cross_entropy(self.state(first, i, codes), rows, code, weight[visual], None, bias)
                total = total + summed
                each[visual] += nats
        if not visual.all():
            others, (rows, bias) = ~visual, self.head(-1)
            ranges = self.ranges and [
                (self._row(start), self._row(stop)) for start, stop in self.ranges if start != self.visual_start
            ]
            ids = self._squeeze(targets[others])
            summed, nats = cross_entropy(states[others], rows, ids, weight[others], ranges, bias)
            total = total + summed
            each[others] = nats
        return IdLoss(total, each)

    def weights(self, targets: Tensor) -> Tensor:
        width, (shared, visual) = self.flat.embedding_dim, self.dense_weights()
        if self.ranges is None:
            others = torch.full_like(targets, self.flat.num_embeddings)
        else:
            others = _choices(targets, self.ranges)
        of_visual = width * self.size * self.factors + visual
        return shared + torch.where(self._is_visual(targets), of_visual, width * others)

    def sample(self, hidden: Tensor, allowed: range, draw, place) -> Tensor:
        states = self.states(hidden)
        if allowed.start == self.visual_start and len(allowed) == self.visual_size:
            codes: list[Tensor] = []
            for i in range(self.factors):
                rows, bias = self.head(i)
                codes.append(draw(self.decode(self.state(states, i, codes), rows, bias), place))
            return sum(code * self.size**i for i, code in enumerate(codes)) + self.visual_start
        if self.visual_start < allowed.stop and allowed.start < self.visual_start + self.visual_size:
            raise ValueError(f"ids {allowed.start} to {allowed.stop - 1} cut through the visual codes")
        rows, bias = self.head(-1)
        kind = slice(self._row(allowed.start), self._row(allowed.start) + len(allowed))
        return draw(self.decode(states, rows[kind], None if bias is None else bias[kind]), place) + allowed.start

    def _is_visual(self, ids: Tensor) -> Tensor:
        return (ids >= self.visual_start) & (ids < self.visual_start + self.visual_size)

    def _squeeze(self, ids: Tensor) -> Tensor:
        """Ids outside the visual range -> rows of the flat table."""
        return torch.where(ids >= self.visual_start, ids - self.visual_size, ids)

    def _row(self, id: int) -> int:
        return id if id <= self.visual_start else id - self.visual_size


class Factored(FactoredIO):
    """Each factor is predicted from the hidden state and the factors before it, so that they need not be independent.

    Our choice; MAGVIT-v2's heads are independent of each other.
    """

    def __init__(self, vocabulary_size: int, width: int, visual_start: int, visual_size: int, factors: int = 2,
                 starts: list[int] | None = None):  # fmt: skip
        super().__init__(vocabulary_size, width, visual_start, visual_size, factors, starts)
        self.head_flat = nn.Linear(width, vocabulary_size - visual_size, bias=False)
        self.heads = nn.ModuleList(nn.Linear(width, self.size, bias=False) for _ in range(factors))
        self.given = nn.ModuleList(nn.Embedding(self.size, width) for _ in range(factors - 1))
        self.mix = nn.ModuleList(nn.Sequential(nn.Linear(width, width), nn.SiLU()) for _ in range(factors - 1))
        for table in self.given:
            nn.init.normal_(table.weight, std=0.02)

    def states(self, hidden: Tensor) -> Tensor:
        return hidden

    def state(self, states: Tensor, i: int, codes: list[Tensor]) -> Tensor:
        if i == 0:
            return states
        given = sum(table(code) for table, code in zip(self.given, codes[:i]))
        return states + self.mix[i - 1](states + given)

    def head(self, i: int) -> tuple[Tensor, None]:
        return (self.head_flat if i < 0 else self.heads[i]).weight, None

    def dense_weights(self) -> tuple[int, int]:
        return 0, len(self.mix) * self.flat.embedding_dim**2

    def _load_from_state_dict(self, state_dict: dict[str, Tensor], prefix: str, *arguments) -> None:
        """Two factors may be stored by the names low and high."""
        names = {"low.": "tables.0.", "high.": "tables.1.", "head_low.": "heads.0.", "head_high.": "heads.1.",
                 "given_low.": "given.0.", "mix.0.weight": "mix.0.0.weight", "mix.0.bias": "mix.0.0.bias"}  # fmt: skip
        for key in [key for key in state_dict if key.startswith(prefix)]:
            for old, new in names.items():
                if key.startswith(prefix + old):
                    state_dict[prefix + new + key.removeprefix(prefix + old)] = state_dict.pop(key)
        super()._load_from_state_dict(state_dict, prefix, *arguments)


class IndependentFactors(FactoredIO):
    """Every factor is predicted from the hidden state alone, by a head tied to its table (MAGVIT-v2, App. A.2).

    As in MAGVIT's released head, a dense layer, GELU and a norm stand before the tables; that the heads share them is
    our reading. All of one position's factors are drawn independently.
    """

    def __init__(self, vocabulary_size: int, width: int, visual_start: int, visual_size: int, factors: int = 2,
                 starts: list[int] | None = None):  # fmt: skip
        super().__init__(vocabulary_size, width, visual_start, visual_size, factors, starts)
        self.transform = nn.Sequential(nn.Linear(width, width), nn.GELU(), nn.LayerNorm(width))
        self.biases = nn.ParameterList(nn.Parameter(torch.zeros(self.size)) for _ in range(factors))
        self.bias_flat = nn.Parameter(torch.zeros(vocabulary_size - visual_size))

    def states(self, hidden: Tensor) -> Tensor:
        return self.transform(hidden)

    def state(self, states: Tensor, i: int, codes: list[Tensor]) -> Tensor:
        return states

    def head(self, i: int) -> tuple[Tensor, Tensor]:
        return (self.flat.weight, self.bias_flat) if i < 0 else (self.tables[i].weight, self.biases[i])

    def dense_weights(self) -> tuple[int, int]:
        return self.flat.embedding_dim**2, 0


def _ranges(starts: list[int] | None, size: int) -> list[tuple[int, int]] | None:
    if starts is None:
        return None
    bounds = [*starts, size]
    if bounds[0] != 0 or any(a >= b for a, b in pairwise(bounds)):
        raise ValueError(f"starts {starts} must begin with 0 and rise up to below {size} ids")
    return list(pairwise(bounds))


def _choices(ids: Tensor, ranges: list[tuple[int, int]]) -> Tensor:
    """Ids int64 (p,) -> how many ids are in the range of each, int64 (p,)."""
    starts, stops = torch.tensor(ranges, device=ids.device).T.contiguous()
    return (stops - starts)[torch.bucketize(ids, starts, right=True) - 1]


def _check_ranges(ranges: list[tuple[int, int]] | None, vocabulary: Vocabulary) -> None:
    needed = [0, vocabulary.visual_start, *(vocabulary.audio(k).start for k in range(vocabulary.audio_levels))]
    if ranges is not None and [start for start, _ in ranges] != needed:
        configured = [start for start, _ in ranges]
        raise ValueError(f"the model has starts {configured}, the token shards need {needed}: set io.init_args.starts")


def _equal(name: str, configured: int, needed: int) -> None:
    if configured != needed:
        raise ValueError(f"the model has {name} {configured}, the token shards need {needed}: set io.init_args.{name}")

"""TokenLM: the prefix language model over text states, visual tokens and audio tokens."""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from videopoet.models.attention import Cache
from videopoet.models.token_io import TokenIO
from videopoet.models.transformer import Transformer
from videopoet.sequence import IGNORE, Batch
from videopoet.tasks.base import Text
from videopoet.vocabulary import Modality


class TokenLoss(NamedTuple):
    """Mean cross-entropy in nats per predicted token: over all of them, and of each modality present."""

    total: Tensor
    by_modality: dict[str, Tensor]


class TokenLM(nn.Module):
    """Embeds ids (text positions take projected text-encoder states), runs the trunk, predicts the next id.

    `text_encoder` has `tokenize(prompts) -> (ids, mask)`, `forward(ids, mask) -> (b, s, width)` and a `width`.
    """

    def __init__(self, transformer: Transformer, io: TokenIO, text_encoder: nn.Module):
        super().__init__()
        self.transformer, self.io, self.text_encoder = transformer, io, text_encoder
        self.project_text = nn.Linear(text_encoder.width, transformer.width)
        self.modality = nn.Embedding(len(Modality), transformer.width)
        nn.init.normal_(self.modality.weight, std=0.02)

    def text(self, prompts: list[str], truncate: bool = False) -> list[Text]:
        """Prompts -> text tokens in their slots. Raises ValueError for a prompt over the limit, or cuts it."""
        ids, mask = self.text_encoder.tokenize(prompts, truncate)
        return [Text(ids=i, shown=m) for i, m in zip(ids, mask)]

    def embed(self, batch: Batch) -> Tensor:
        """Inputs of a batch -> float (b, n, d). All rows share one layout, so text stands in the same columns."""
        text = batch.modality[0] == Modality.TEXT
        x = self.io.embed(torch.where(text, 0, batch.inputs)) + self.modality(batch.modality)
        if text.any():
            states = self.text_encoder(batch.inputs[:, text], batch.document[:, text] > 0)
            columns = text.nonzero().flatten()
            x = x.index_add(1, columns, self.project_text(states.to(x.dtype)).to(x.dtype))
        return x

    def hidden(self, batch: Batch) -> Tensor:
        """Full forward: the state (b, n, d) from which each position's target is predicted."""
        return self.transformer(self.embed(batch), batch.position, batch.attention())

    def loss(self, batch: Batch) -> TokenLoss:
        predicted = batch.targets != IGNORE
        targets = batch.targets[predicted]
        losses = self.io.loss(self.hidden(batch)[predicted], targets)
        # A target's modality is that of the token after, which the layout gives as the next position's.
        following = torch.cat([batch.modality[:, 1:], batch.modality[:, -1:]], 1)[predicted]
        by_modality = {m.name.lower(): losses[following == m].mean() for m in Modality if (following == m).any()}
        return TokenLoss(losses.mean(), by_modality)

    def prefill(self, batch: Batch, length: int) -> tuple[Tensor, Cache]:
        """Run a condition; returns the hidden state of its last position (b, d) and a cache with room for `length`."""
        cache = self.transformer.cache(len(batch.inputs), length)
        n = batch.inputs.shape[1]
        cache.shown[:, :n] = batch.document > 0
        hidden = self.transformer(self.embed(batch), batch.position, batch.attention(), cache)
        return hidden[:, -1], cache

    def step(self, ids: Tensor, modality: Modality, position: Tensor, cache: Cache) -> Tensor:
        """Read one more id per row: ids int64 (b,), position float (3,) -> hidden state (b, d)."""
        cache.shown[:, cache.filled] = True
        x = self.io.embed(ids)[:, None] + self.modality.weight[modality]
        mask = cache.shown[:, None, None, : cache.filled + 1]
        return self.transformer(x, position.expand(len(ids), 1, 3), mask, cache)[:, 0]

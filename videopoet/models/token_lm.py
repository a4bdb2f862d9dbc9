"""TokenLM: the prefix language model over text states, visual tokens and audio tokens."""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from videopoet.models.attend import plan_attention, predicting
from videopoet.models.attention import Cache
from videopoet.models.token_io import TokenIO
from videopoet.models.transformer import Transformer
from videopoet.sequence import IGNORE, Batch, Prefix
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
        """Inputs of a batch -> float (b, n, d). Each run of text positions in a row is one text."""
        text = batch.modality == Modality.TEXT
        x = self.io.embed(torch.where(text, 0, batch.inputs)) + self.modality(batch.modality)
        row, column = text.nonzero(as_tuple=True)
        if not len(row):
            return x
        opens = text & ~F.pad(text, (1, 0))[:, :-1]
        number = (opens.flatten().cumsum(0) - 1)[row * text.shape[1] + column]
        place = column - column[opens[row, column]][number]
        slots = batch.inputs.new_zeros(int(number[-1]) + 1, int(place.max()) + 1)
        ids = slots.index_put((number, place), batch.inputs[row, column])
        shown = slots.bool().index_put((number, place), batch.document[row, column] > 0)
        states = self.project_text(self.text_encoder(ids, shown)[number, place].to(x.dtype))
        return x.index_put((row, column), states.to(x.dtype), accumulate=True)

    def hidden(self, batch: Batch) -> Tensor:
        """Full forward: the state (b, n, d) from which each position's target is predicted."""
        return self.transformer(self.embed(batch), batch.places, plan_attention(batch))

    def loss(self, batch: Batch) -> TokenLoss:
        """Mean over predicted positions. States that predict nothing are not computed where the last block can do without."""
        plan = plan_attention(batch)
        last = _, first = predicting(batch, plan)
        hidden = self.transformer(self.embed(batch), batch.places, plan, last=last)
        targets = batch.targets[:, first:]
        predicted = targets != IGNORE
        targets, following = targets[predicted], batch.following()[:, first:][predicted]
        weight = torch.full(targets.shape, 1 / max(1, len(targets)), device=targets.device)
        total, each = self.io.loss(hidden[predicted], targets, weight)
        by_modality = {m.name.lower(): each[following == m].mean() for m in Modality if (following == m).any()}
        return TokenLoss(total, by_modality)

    def prefill(self, batch: Batch, length: int) -> tuple[Tensor, Cache]:
        """Run a condition; returns the hidden state of its last position (b, d) and a cache with room for `length`."""
        cache = self.transformer.cache(len(batch.inputs), length)
        shown = batch.document > 0
        if (batch.sight is None and not bool(shown.all())) or (isinstance(batch.sight, Prefix) and batch.sight.hidden):
            cache.hide(shown)
        hidden = self.transformer(self.embed(batch), batch.places, plan_attention(batch), cache)
        return hidden[:, -1], cache

    def step(self, ids: Tensor, modality: Modality, places: Tensor, cache: Cache) -> Tensor:
        """Read one more id per row: ids int64 (b,), places float (2, 3), the aim and the position of the one that is read
        -> hidden state (b, d). Waits for no device."""
        x = self.io.embed(ids)[:, None] + self.modality.weight[modality]
        return self.transformer(x, places.expand(len(ids), 1, 2, 3), cache.sight(1), cache)[:, 0]

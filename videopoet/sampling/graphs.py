"""One step of decoding as a CUDA graph: launched as a whole, where its hundreds of small kernels would wait for Python.

A graph repeats the same kernels over the same memory. So the cache is read up to a multiple of `SPAN` positions, of which
those not yet filled are masked, and the place that is written is a number on the device. There is one graph for each span
and modality, recorded at its first step.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from videopoet.models.attention import Cache
from videopoet.models.token_lm import TokenLM
from videopoet.vocabulary import Modality

SPAN = 256


class FixedCache(Cache):
    """Keys and values of a prefilled cache, in its memory. `place`: int64 (1,), which position the next token takes."""

    def __init__(self, cache: Cache):
        self.keys, self.values, self.filled = cache.keys, cache.values, cache.filled
        length = self.keys.shape[3]
        for memory in (self.keys, self.values):
            memory[:, :, :, self.filled :] = 0  # what is masked may be anything but no number
        self.place = torch.tensor([self.filled], device=self.keys.device)
        self.index = torch.arange(length, device=self.keys.device)
        self.bias = torch.zeros(length, device=self.keys.device) if cache.bias is None else cache.bias

    @property
    def span(self) -> int:
        """Positions that are read when one more is written."""
        return min(self.keys.shape[3], -(-(self.filled + 1) // SPAN) * SPAN)

    def sight(self, n: int) -> Tensor:
        bias = self.bias[..., : self.span].masked_fill(self.index[: self.span] > self.place, -torch.inf)
        return bias.expand(1, 1, 1, -1) if bias.ndim == 1 else bias

    def write(self, layer: int, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        keys, values = self.keys[layer], self.values[layer]
        keys.index_copy_(2, self.place, k)
        values.index_copy_(2, self.place, v)
        return keys[:, :, : self.span], values[:, :, : self.span]


class GraphedStep:
    """`TokenLM.step` after a prefill. The state that it returns is overwritten by the next step."""

    def __init__(self, model: TokenLM, cache: Cache):
        self.model, self.cache = model, FixedCache(cache)
        device = self.cache.keys.device
        self.ids = torch.zeros(self.cache.keys.shape[1], dtype=torch.int64, device=device)
        self.places = torch.zeros(2, 3, device=device)
        self.recorded: dict[tuple[Modality, int], Callable[[], Tensor]] = {}

    def __call__(self, ids: Tensor, modality: Modality, places: Tensor) -> Tensor:
        """ids int64 (b,), places float (2, 3) -> hidden state (b, d). Waits for no device."""
        if self.cache.filled >= self.cache.keys.shape[3]:
            raise ValueError(f"the cache holds {self.cache.keys.shape[3]} positions, one more is needed")
        self.ids.copy_(ids)
        self.places.copy_(places)
        self.cache.place.fill_(self.cache.filled)
        key = modality, self.cache.span
        if key not in self.recorded:
            self.recorded[key] = self._record(modality)
        hidden = self.recorded[key]()
        self.cache.filled += 1
        return hidden

    def _run(self, modality: Modality) -> Tensor:
        filled = self.cache.filled
        hidden = self.model.step(self.ids, modality, self.places, self.cache)
        self.cache.filled = filled  # the step counts itself when it is replayed
        return hidden

    def _record(self, modality: Modality) -> Callable[[], Tensor]:
        """What runs the step again; without CUDA, which has graphs, the step itself."""
        if self.ids.device.type != "cuda":
            return lambda: self._run(modality)
        aside = torch.cuda.Stream()
        aside.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(aside):  # kernels are chosen and memory is found before anything is recorded
            self._run(modality)
        torch.cuda.current_stream().wait_stream(aside)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            hidden = self._run(modality)

        def replay() -> Tensor:
            graph.replay()
            return hidden

        return replay

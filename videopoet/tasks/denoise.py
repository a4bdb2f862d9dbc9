"""UL2's denoisers over visual or audio tokens: spans hidden behind sentinels, then written out one after the other.

<bos> <task> <mode> <bov_i> v0 v1 <s0> v4 <s1> v6 <eov_i> <bov_o> | <s0> v2 v3 <s1> v5 <eov_o> <eos>

Every token, sentinels included, keeps the time, row and column that it has in the whole stream; a sentinel stands where
its span begins. Nothing is padded between the two halves (UL2, §3.1.2).
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor

from videopoet.sequence import Segment
from videopoet.tasks.base import Example, Layout, Task
from videopoet.tasks.spans import Runs, Spans
from videopoet.vocabulary import Control, Modality, sentinel

VISUAL = (Control.BOV_I, Control.EOV_I, Control.BOV_O, Control.EOV_O)
AUDIO = (Control.BOA_I, Control.EOA_I, Control.BOA_O, Control.EOA_O)


@dataclass(frozen=True, kw_only=True)
class Denoise(Task):
    """`stream`: "video" or "audio". `spans`: what is hidden, drawn by the example's seed."""

    stream: str = "video"
    spans: Spans = field(default_factory=Runs)

    def __post_init__(self):
        if self.stream not in ("video", "audio"):
            raise ValueError(f"denoisers hide spans of 'video' or 'audio', not of '{self.stream}'")

    def reads(self, layout: Layout) -> tuple[str, ...]:
        return (self.stream,)

    def writes(self, layout: Layout) -> tuple[str, ...]:
        return (self.stream,)

    def condition(self, example: Example, layout: Layout) -> list[Segment]:
        begin, end, out, _ = VISUAL if self.stream == "video" else AUDIO
        tokens, shape = self._tokens(example, layout)
        head = Segment.marker(Control.BOS, Control.TASK_SPANS, self.spans.mode(shape), begin)
        return [head, *self._kept(tokens, self._spans(example, shape)), Segment.marker(end, out)]

    def target(self, example: Example, layout: Layout) -> list[Segment]:
        tokens, shape = self._tokens(example, layout)
        segments = []
        for number, span in enumerate(self._spans(example, shape)):
            segments.append(self._sentinel(number, span, tokens, generated=True))
            segments.append(Segment.generated(*_at(tokens, span)))
        _, _, _, end = VISUAL if self.stream == "video" else AUDIO
        return [*segments, Segment.marker(end, Control.EOS, generated=True)]

    def complete(self, example: Example, ids: Mapping[Modality, Tensor], layout: Layout) -> Example:
        (whole, modality, _), shape = self._tokens(example, layout)
        whole = whole.to(ids[modality].device, copy=True)
        whole[torch.cat(self._spans(example, shape)).to(whole.device)] = ids[modality]
        codes = layout.visual_codes if self.stream == "video" else layout.audio_codes
        return replace(example, **{self.stream: codes(whole)})

    def _tokens(self, example: Example, layout: Layout) -> tuple[tuple[Tensor, Modality, Tensor], tuple[int, int, int]]:
        """The whole stream as ids, modality and positions, and its shape as `Spans` takes it."""
        if self.stream == "video":
            return layout.visual(example.video), tuple(example.video.shape)
        tokens = layout.audio(example.audio)
        return tokens, (len(tokens[0]), 1, 1)

    def _spans(self, example: Example, shape: tuple[int, int, int]) -> list[Tensor]:
        return self.spans.draw(shape, np.random.default_rng(example.seed))

    def _kept(self, tokens: tuple[Tensor, Modality, Tensor], spans: list[Tensor]) -> list[Segment]:
        """The stream with each span replaced by its sentinel, where the span begins."""
        number = torch.full_like(tokens[0], -1)  # of the span that hides a token
        for i, span in enumerate(spans):
            number[span] = i
        firsts = {int(span[0]): i for i, span in enumerate(spans)}
        edges = sorted({0, *firsts, *(first + 1 for first in firsts), len(number)})
        segments: list[Segment] = []
        for start, stop in pairwise(edges):
            kept = torch.arange(start, stop)
            kept = kept[number[kept] < 0]
            if start in firsts:
                segments.append(self._sentinel(firsts[start], spans[firsts[start]], tokens))
            elif len(kept):
                segments.append(Segment.given(*_at(tokens, kept)))
        return segments

    def _sentinel(self, number: int, span: Tensor, tokens, *, generated: bool = False) -> Segment:
        return replace(Segment.marker(sentinel(number), generated=generated), position=tokens[2][span[:1]])


def _at(tokens: tuple[Tensor, Modality, Tensor], index: Tensor) -> tuple[Tensor, Modality, Tensor]:
    return tokens[0][index], tokens[1], tokens[2][index]

"""Inpainting and outpainting: a clip whose hidden pixels were filled before it was tokenised, made whole.

<bos> <task> <bov_i> padded clip <eov_i> <bov_o> | visual out <eov_o> <eos>

The codes of the true clip would tell of the hidden pixels, as a code sees beyond its cell. So the condition is a stream
of its own, the codes of the padded clip (MAGVIT, §3.2), and everything is made anew. It is given whole, without mask
tokens, so that all regions have one length.
"""

from dataclasses import dataclass

from videopoet.sequence import Segment
from videopoet.tasks.base import Example, Layout, Task
from videopoet.tasks.text_to_video import pictures
from videopoet.vocabulary import Control


@dataclass(frozen=True, kw_only=True)
class Painting(Task):
    """`stream`: the condition stream, which says what is hidden."""

    stream: str = "outpainting_central"

    def reads(self, layout: Layout) -> tuple[str, ...]:
        return (self.stream,)

    def writes(self, layout: Layout) -> tuple[str, ...]:
        return ("video",)

    def condition(self, example: Example, layout: Layout) -> list[Segment]:
        return [
            Segment.marker(Control.BOS, Control.TASK_PICTURES, Control.BOV_I),
            Segment.given(*layout.beside(example.streams[self.stream])),
            Segment.marker(Control.EOV_I, Control.BOV_O),
        ]

    def target(self, example: Example, layout: Layout) -> list[Segment]:
        return pictures(example, layout)

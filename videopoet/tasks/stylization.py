"""Stylization: a clip's optical flow and depth, and a sentence, to a clip that moves so and looks as said.

<bos> <task> <bot_i> text <eot_i> <bov_i> flow and depth <eov_i> <bov_o> | visual out <eov_o> <eos>
<bos> <task> <bot_i> text <eot_i> <bov_i> flow and depth <eov_i> <bov_i> image <eov_i> <bov_o> | ...   (first frame)
"""

from dataclasses import dataclass

from videopoet.sequence import Segment
from videopoet.tasks.base import Example, Layout, Task
from videopoet.tasks.text_to_video import pictures
from videopoet.vocabulary import Control


@dataclass(frozen=True, kw_only=True)
class Stylization(Task):
    """`stream`: the condition stream of flow and depth as a video (VideoPoet, §3.3). `image`: give the first frame too."""

    stream: str = "flow_depth"
    image: bool = False

    def reads(self, layout: Layout) -> tuple[str, ...]:
        return ("text", self.stream, "image") if self.image else ("text", self.stream)

    def writes(self, layout: Layout) -> tuple[str, ...]:
        return ("video",)

    def condition(self, example: Example, layout: Layout) -> list[Segment]:
        inputs = [layout.beside(example.streams[self.stream])]
        if self.image:
            inputs.append(layout.visual(example.video[:1]))
        segments = [Segment.marker(Control.BOS, Control.TASK_PICTURES), *layout.text(example.text)]
        for tokens in inputs:
            segments += [Segment.marker(Control.BOV_I), Segment.given(*tokens), Segment.marker(Control.EOV_I)]
        return [*segments, Segment.marker(Control.BOV_O)]

    def target(self, example: Example, layout: Layout) -> list[Segment]:
        return pictures(example, layout)

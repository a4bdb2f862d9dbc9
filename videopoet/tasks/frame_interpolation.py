"""Frame interpolation: the first and the last frame given, the clip between them made.

<bos> <task> <bov_i> first and last latent frame <eov_i> <bov_o> | visual out <eov_o> <eos>

The last latent frame of the true clip would tell of the frames before it. So both ends are taken from the stream of a
clip that is blended linearly from the first frame to the last (MAGVIT, App. B.1), and the whole clip is made anew.
"""

from dataclasses import dataclass

from videopoet.sequence import Segment
from videopoet.tasks.base import Example, Layout, Task
from videopoet.tasks.text_to_video import pictures
from videopoet.vocabulary import Control


@dataclass(frozen=True, kw_only=True)
class FrameInterpolation(Task):
    """`stream`: the condition stream of blended clips."""

    stream: str = "interpolation"

    def reads(self, layout: Layout) -> tuple[str, ...]:
        return (self.stream,)

    def writes(self, layout: Layout) -> tuple[str, ...]:
        return ("video",)

    def condition(self, example: Example, layout: Layout) -> list[Segment]:
        blended = example.streams[self.stream]
        last = len(blended) - 1
        return [
            Segment.marker(Control.BOS, Control.TASK_PICTURES, Control.BOV_I),
            Segment.given(*layout.beside(blended[:1])),
            Segment.given(*layout.beside(blended[last:], start=last)),
            Segment.marker(Control.EOV_I, Control.BOV_O),
        ]

    def target(self, example: Example, layout: Layout) -> list[Segment]:
        return pictures(example, layout)

"""Audio to video: the pictures that go with a given sound; audio to image is its head, as text to image is text to video's.

<bos> <task> <boa_i> audio in <eoa_i> <bov_o> | visual out <eov_o> <eos>
<bos> <task> <boa_i> audio in <eoa_i> <bov_o> | visual out of one latent frame                      (image)
"""

from dataclasses import dataclass

from videopoet.sequence import Segment
from videopoet.tasks.base import Example, Layout, Task
from videopoet.tasks.text_to_video import picture, pictures
from videopoet.vocabulary import Control


@dataclass(frozen=True, kw_only=True)
class AudioToVideo(Task):
    """`image`: stop after the first latent frame, without closing markers: an image is an unfinished video."""

    image: bool = False

    def reads(self, layout: Layout) -> tuple[str, ...]:
        return ("audio",)

    def writes(self, layout: Layout) -> tuple[str, ...]:
        return ("video",)

    def condition(self, example: Example, layout: Layout) -> list[Segment]:
        return [
            Segment.marker(Control.BOS, Control.TASK_PICTURES, Control.BOA_I),
            Segment.given(*layout.audio(example.audio)),
            Segment.marker(Control.EOA_I, Control.BOV_O),
        ]

    def target(self, example: Example, layout: Layout) -> list[Segment]:
        return picture(example, layout) if self.image else pictures(example, layout)

"""Video to audio: the sound of a given clip.

<bos> <task> <bov_i> visual in <eov_i> <boa_o> | audio out <eoa_o> <eos>
"""

from dataclasses import dataclass

from videopoet.sequence import Segment
from videopoet.tasks.base import Example, Layout, Task
from videopoet.vocabulary import Control


@dataclass(frozen=True, kw_only=True)
class VideoToAudio(Task):
    def reads(self, layout: Layout) -> tuple[str, ...]:
        return ("video",)

    def writes(self, layout: Layout) -> tuple[str, ...]:
        return ("audio",)

    def condition(self, example: Example, layout: Layout) -> list[Segment]:
        return [
            Segment.marker(Control.BOS, Control.TASK_AUDIO, Control.BOV_I),
            Segment.given(*layout.visual(example.video)),
            Segment.marker(Control.EOV_I, Control.BOA_O),
        ]

    def target(self, example: Example, layout: Layout) -> list[Segment]:
        sound = Segment.generated(*layout.audio(example.audio))
        return [sound, Segment.marker(Control.EOA_O, Control.EOS, generated=True)]

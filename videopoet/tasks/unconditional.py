"""Unconditional: a video with sound out of nothing.

<bos> <task> <bov_o> | visual out <eov_o> <boa_o> audio out <eoa_o> <eos>
"""

from dataclasses import dataclass

from videopoet.sequence import Segment
from videopoet.tasks.base import Example, Layout, Task
from videopoet.tasks.text_to_video import video_and_sound
from videopoet.vocabulary import Control


@dataclass(frozen=True, kw_only=True)
class Unconditional(Task):
    """`sound`: write the sound after the video, unless the layout is of a corpus without sound."""

    sound: bool = True

    def reads(self, layout: Layout) -> tuple[str, ...]:
        return ()

    def writes(self, layout: Layout) -> tuple[str, ...]:
        return ("video", "audio") if self.sound and layout.audio_frames else ("video",)

    def condition(self, example: Example, layout: Layout) -> list[Segment]:
        return [Segment.marker(Control.BOS, Control.TASK_VIDEO, Control.BOV_O)]

    def target(self, example: Example, layout: Layout) -> list[Segment]:
        return video_and_sound(example, layout, sound=self.sound)

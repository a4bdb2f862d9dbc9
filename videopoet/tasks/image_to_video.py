"""Image (and text) to video with sound: the same output, hence the same task token, as text to video.

<bos> <task> <bot_i> text <eot_i> <bov_i> image <eov_i> <bov_o> | visual out <eov_o> <boa_o> audio out <eoa_o> <eos>
"""

from dataclasses import dataclass

from videopoet.sequence import Segment
from videopoet.tasks.base import Example, Layout, Task
from videopoet.tasks.text_to_video import video_and_sound
from videopoet.vocabulary import Control


@dataclass(frozen=True, kw_only=True)
class ImageToVideo(Task):
    """The image is the first latent frame. `sound`: write the sound after the video."""

    sound: bool = True

    def reads(self, layout: Layout) -> tuple[str, ...]:
        return ("text", "image")

    def writes(self, layout: Layout) -> tuple[str, ...]:
        return ("video", "audio") if self.sound and layout.audio_frames else ("video",)

    def condition(self, example: Example, layout: Layout) -> list[Segment]:
        return [
            Segment.marker(Control.BOS, Control.TASK_VIDEO),
            *layout.text(example.text),
            Segment.marker(Control.BOV_I),
            Segment.given(*layout.visual(example.video[:1])),
            Segment.marker(Control.EOV_I, Control.BOV_O),
        ]

    def target(self, example: Example, layout: Layout) -> list[Segment]:
        return video_and_sound(example, layout, sound=self.sound)

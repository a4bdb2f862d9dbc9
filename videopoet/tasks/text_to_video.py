"""Text to video with sound; text to image is its head.

<bos> <task> <bot_i> text <eot_i> <bov_o> | visual out <eov_o> <boa_o> audio out <eoa_o> <eos>
<bos> <task> <bot_i> text <eot_i> <bov_o> | visual out of one latent frame                      (image)
"""

from dataclasses import dataclass

from videopoet.sequence import Segment
from videopoet.tasks.base import Example, Layout, Task
from videopoet.vocabulary import Control


@dataclass(frozen=True, kw_only=True)
class TextToVideo(Task):
    """`image`: stop after the first latent frame, without closing markers: an image is an unfinished video.

    `sound`: write the sound after the video, unless the layout is of a corpus without sound.
    """

    image: bool = False
    sound: bool = True

    def reads(self, layout: Layout) -> tuple[str, ...]:
        return ("text",)

    def writes(self, layout: Layout) -> tuple[str, ...]:
        return ("video", "audio") if self.sound and not self.image and layout.audio_frames else ("video",)

    def condition(self, example: Example, layout: Layout) -> list[Segment]:
        head = Segment.marker(Control.BOS, Control.TASK_VIDEO)
        return [head, *layout.text(example.text), Segment.marker(Control.BOV_O)]

    def target(self, example: Example, layout: Layout) -> list[Segment]:
        if self.image:
            return picture(example, layout)
        return video_and_sound(example, layout, sound=self.sound)


def video_and_sound(example: Example, layout: Layout, sound: bool) -> list[Segment]:
    """The whole clip, then its sound: the output of every task that carries `TASK_VIDEO`."""
    segments = [Segment.generated(*layout.visual(example.video)), Segment.marker(Control.EOV_O, generated=True)]
    if sound and layout.audio_frames:
        segments += [
            Segment.marker(Control.BOA_O, generated=True),
            Segment.generated(*layout.audio(example.audio)),
            Segment.marker(Control.EOA_O, generated=True),
        ]
    return [*segments, Segment.marker(Control.EOS, generated=True)]


def picture(example: Example, layout: Layout) -> list[Segment]:
    """The first latent frame, where every clip that is made begins."""
    return [Segment.generated(*layout.visual(example.video[:1]))]


def pictures(example: Example, layout: Layout) -> list[Segment]:
    """The whole clip without sound: the output of every task that carries `TASK_PICTURES`."""
    return video_and_sound(example, layout, sound=False)

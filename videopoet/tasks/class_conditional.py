"""Class-conditional generation and class-conditional frame prediction: the name of a class in place of a sentence.

<bos> <task> <bot_i> class <eot_i> <bov_o> | visual out <eov_o> <eos>
<bos> <task> <bot_i> class <eot_i> <bov_i> past <eov_i> <bov_o> | future <eov_o> <eos>

The class is written as text, by its name. MAGVIT has one id per class; here the ids before the visual ones are fixed at
256 (VideoPoet, App. A.5.1), which the 600 classes of Kinetics would overflow, and VideoPoet itself is told UCF-101's
classes by text. A model that reads names can also be asked for a class it was not trained on.
"""

from dataclasses import dataclass

from videopoet.sequence import Segment
from videopoet.tasks.base import Example, Layout, Task
from videopoet.tasks.frame_prediction import FramePrediction
from videopoet.tasks.text_to_video import pictures
from videopoet.vocabulary import Control


@dataclass(frozen=True, kw_only=True)
class ClassToVideo(Task):
    def reads(self, layout: Layout) -> tuple[str, ...]:
        return ("label",)

    def writes(self, layout: Layout) -> tuple[str, ...]:
        return ("video",)

    def condition(self, example: Example, layout: Layout) -> list[Segment]:
        head = Segment.marker(Control.BOS, Control.TASK_PICTURES)
        return [head, *layout.text(example.label), Segment.marker(Control.BOV_O)]

    def target(self, example: Example, layout: Layout) -> list[Segment]:
        return pictures(example, layout)


@dataclass(frozen=True, kw_only=True)
class ClassFramePrediction(FramePrediction):
    """As frame prediction, but after a class; one latent frame is given by default (MAGVIT, App. B.1)."""

    given: int = 1

    def reads(self, layout: Layout) -> tuple[str, ...]:
        return ("label", "video")

    def condition(self, example: Example, layout: Layout) -> list[Segment]:
        head = Segment.marker(Control.BOS, Control.TASK_CONTINUATION)
        return [head, *layout.text(example.label), *self.frames(example, layout)]

"""Frame prediction: the past given, the future made; applied again and again it continues a video.

<bos> <task> <bov_i> past <eov_i> <bov_o> | future <eov_o> <eos>
"""

from dataclasses import dataclass

from videopoet.sequence import Segment
from videopoet.tasks.base import Example, Layout, Task
from videopoet.vocabulary import Control


@dataclass(frozen=True, kw_only=True)
class FramePrediction(Task):
    """`given`: latent frames of the past. With stride 4, 3 latent frames are 9 frames given, and 8 of 17 are made."""

    given: int = 3

    def condition(self, example: Example, layout: Layout) -> list[Segment]:
        return [
            Segment.marker(Control.BOS, Control.TASK_CONTINUATION, Control.BOV_I),
            Segment.given(*layout.visual(example.video[: self.given])),
            Segment.marker(Control.EOV_I, Control.BOV_O),
        ]

    def target(self, example: Example, layout: Layout) -> list[Segment]:
        if not 1 <= self.given < len(example.video):
            raise ValueError(f"{self.given} latent frames are given of a clip that has {len(example.video)}")
        future = Segment.generated(*layout.visual(example.video[self.given :], start=self.given))
        return [future, Segment.marker(Control.EOV_O, Control.EOS, generated=True)]

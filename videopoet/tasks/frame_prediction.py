"""Frame prediction: the past given, the future made; applied again and again it continues a video.

<bos> <task> <bov_i> past <eov_i> <bov_o> | future <eov_o> <eos>
"""

from dataclasses import dataclass, replace

import numpy as np

from videopoet.sequence import Segment
from videopoet.tasks.base import Example, Layout, Task
from videopoet.vocabulary import Control


@dataclass(frozen=True, kw_only=True)
class FramePrediction(Task):
    """`given`: latent frames of the past. With stride 4, 3 latent frames are 9 frames given, and 8 of 17 are made.

    fewest: where the past is variable, an example's is drawn from `fewest` to `given`, all as likely, by its seed. The
    sequence is as long either way, for what is not given is made. Sampling takes the longest past that a video has.
    """

    given: int = 3
    fewest: int | None = None

    def reads(self, layout: Layout) -> tuple[str, ...]:
        return ("video",)

    def writes(self, layout: Layout) -> tuple[str, ...]:
        return ("video",)

    def past(self, layout: Layout) -> int:
        return self.given

    def with_past(self, latent_frames: int) -> Task:
        least = self.given if self.fewest is None else self.fewest
        return replace(self, given=max(least, min(self.given, latent_frames)), fewest=None)

    def condition(self, example: Example, layout: Layout) -> list[Segment]:
        return [Segment.marker(Control.BOS, Control.TASK_CONTINUATION), *self.frames(example, layout)]

    def frames(self, example: Example, layout: Layout) -> list[Segment]:
        """The past between its markers, and the marker of the future."""
        past = Segment.given(*layout.visual(example.video[: self.drawn(example)]))
        return [Segment.marker(Control.BOV_I), past, Segment.marker(Control.EOV_I, Control.BOV_O)]

    def target(self, example: Example, layout: Layout) -> list[Segment]:
        given = self.drawn(example)
        if given >= len(example.video):
            raise ValueError(f"{given} latent frames are given of a clip that has {len(example.video)}")
        future = Segment.generated(*layout.visual(example.video[given:], start=given))
        return [future, Segment.marker(Control.EOV_O, Control.EOS, generated=True)]

    def drawn(self, example: Example) -> int:
        """Latent frames given of this example."""
        fewest = self.given if self.fewest is None else self.fewest
        if not 1 <= fewest <= self.given:
            raise ValueError(f"a past of {fewest} to {self.given} latent frames: it has at least 1, and fewest first")
        return int(np.random.default_rng(example.seed).integers(fewest, self.given + 1))

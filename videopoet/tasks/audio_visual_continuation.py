"""Audio-visual continuation: the first frame and its sound given, the frames and the sound after them made.

<bos> <task> <bov_i> first frame <eov_i> <boa_i> its sound <eoa_i> <bov_o> | frames <eov_o> <boa_o> sound <eoa_o> <eos>

Both tokenizers are causal, so the codes of the first frame and of its sound know nothing of what follows.
"""

from dataclasses import dataclass

from videopoet.sequence import Segment
from videopoet.tasks.base import Example, Layout, Task
from videopoet.vocabulary import Control


@dataclass(frozen=True, kw_only=True)
class AudioVisualContinuation(Task):
    """`given`: latent frames of the past; 1 is the first frame (VideoPoet, §3.3)."""

    given: int = 1

    def reads(self, layout: Layout) -> tuple[str, ...]:
        return ("video", "audio")

    def writes(self, layout: Layout) -> tuple[str, ...]:
        return ("video", "audio")

    def past(self, layout: Layout) -> int:
        return self.given

    def condition(self, example: Example, layout: Layout) -> list[Segment]:
        return [
            Segment.marker(Control.BOS, Control.TASK_CONTINUATION_WITH_SOUND, Control.BOV_I),
            Segment.given(*layout.visual(example.video[: self.given])),
            Segment.marker(Control.EOV_I, Control.BOA_I),
            Segment.given(*layout.audio(example.audio[: layout.sound_of(self.given)])),
            Segment.marker(Control.EOA_I, Control.BOV_O),
        ]

    def target(self, example: Example, layout: Layout) -> list[Segment]:
        heard = layout.sound_of(self.given)
        if not (1 <= self.given < len(example.video) and heard < len(example.audio)):
            raise ValueError(f"{self.given} latent frames are given of a clip that has {len(example.video)}")
        ids, modality, position = layout.audio(example.audio[heard:])
        later = position.new_tensor([heard * layout.frames_per_audio_frame, 0, 0])
        return [
            Segment.generated(*layout.visual(example.video[self.given :], start=self.given)),
            Segment.marker(Control.EOV_O, Control.BOA_O, generated=True),
            Segment.generated(ids, modality, position + later),
            Segment.marker(Control.EOA_O, Control.EOS, generated=True),
        ]

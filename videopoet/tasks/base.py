"""The contract of a task: what is given, what is to be made.

A full sequence, in the order of VideoPoet's Table 4; absent streams drop their markers:

    <bos> <task> <bot_i> text <eot_i> <bov_i> visual in <eov_i> <boa_i> audio in <eoa_i> <bov_o>   condition, block 0
    visual out <eov_o> <boa_o> audio out <eoa_o> <eos>                                             target, causal

Training lays out `condition + target`, sampling lays out `condition` and draws the target token by token.
"""

from abc import ABC, abstractmethod
from dataclasses import asdict, dataclass, field

import torch
from torch import Tensor

from videopoet.component import instantiate
from videopoet.sequence import Segment
from videopoet.tasks.audio_order import AudioOrder, LevelMajor
from videopoet.vocabulary import Control, Modality, Vocabulary


@dataclass(frozen=True, kw_only=True)
class Text:
    """Text tokens padded to the layout's slots: ids int64 (s,), shown bool (s,)."""

    ids: Tensor
    shown: Tensor


@dataclass(frozen=True, kw_only=True)
class Layout:
    """How tokens of each stream become segments: sizes, ids and positions. Saved beside the language model.

    lattice: latent frames, rows and columns of a whole clip.
    frame_stride: video frames per latent frame.
    audio_frames: audio frames of a whole clip; 0 for a corpus without sound.
    frames_per_audio_frame: video frames that one audio frame lasts.
    text_length: slots for text tokens.
    audio_order: in which order the codes of a sound are written.
    """

    vocabulary: Vocabulary
    lattice: tuple[int, int, int]
    frame_stride: int
    audio_frames: int
    frames_per_audio_frame: float
    text_length: int
    audio_order: AudioOrder = field(default_factory=LevelMajor)

    def facts(self) -> dict:
        """What travels with a model, as JSON can hold it; `read_layout` reads it."""
        cls = type(self.audio_order)
        order = {"class_path": f"{cls.__module__}.{cls.__qualname__}", "init_args": asdict(self.audio_order)}
        return {**asdict(self), "audio_order": order}

    def text(self, tokens: Text) -> list[Segment]:
        """Text between its markers; padding slots are there but not shown."""
        if len(tokens.ids) != self.text_length:
            raise ValueError(f"text has {len(tokens.ids)} slots, the layout has {self.text_length}")
        words = Segment.given(tokens.ids, Modality.TEXT, shown=tokens.shown)
        return [Segment.marker(Control.BOT_I), words, Segment.marker(Control.EOT_I)]

    def visual(self, codes: Tensor, start: int = 0) -> tuple[Tensor, Modality, Tensor]:
        """Codes (t, h, w), `start` latent frames into the clip -> ids (t*h*w,), modality, positions (t*h*w, 3).

        A latent frame stands at the last video frame it covers: with stride 4, latent 0 at 0, latent 2 at 8.
        """
        t, h, w = codes.shape
        times = (torch.arange(t) + start) * self.frame_stride
        axes = torch.meshgrid(times, torch.arange(h), torch.arange(w), indexing="ij")
        position = torch.stack([axis.flatten() for axis in axes], -1).float()
        return self.vocabulary.from_visual(codes.flatten()), Modality.VISUAL, position

    def audio(self, codes: Tensor) -> tuple[Tensor, Modality, Tensor]:
        """Codes (t, k) -> ids (t*k,) in the order of writing, modality, positions (time, level, 0) of each.

        Time is in video frames, as of visual tokens: with 0.16 of them per audio frame, audio frame 25 stands at 4.
        """
        t, k = codes.shape
        frame, level = torch.meshgrid(torch.arange(t), torch.arange(k), indexing="ij")
        time = frame * self.frames_per_audio_frame
        position = self.audio_order.write(torch.stack([time, level, torch.zeros_like(time)])).T
        return self.audio_order.write(self.vocabulary.from_audio(codes)), Modality.AUDIO, position

    def visual_codes(self, ids: Tensor) -> Tensor:
        """Inverse of `visual`: ids (..., t*h*w) -> codes (..., t, h, w)."""
        return self.vocabulary.to_visual(ids.unflatten(-1, (-1, *self.lattice[1:])))

    def audio_codes(self, ids: Tensor) -> Tensor:
        """Inverse of `audio`: ids (..., t*k) -> codes (..., t, k)."""
        return self.vocabulary.to_audio(self.audio_order.read(ids, self.vocabulary.audio_levels))


def read_layout(facts: dict) -> Layout:
    """The layout from the facts that travel with a model, `layout.facts()`. Without an order of sound it is level-major."""
    vocabulary, lattice = Vocabulary(**facts["vocabulary"]), tuple(facts["lattice"])
    order = instantiate(facts["audio_order"]) if "audio_order" in facts else LevelMajor()
    return Layout(**{**facts, "vocabulary": vocabulary, "lattice": lattice, "audio_order": order})


@dataclass(frozen=True, kw_only=True)
class Example:
    """One sample as token grids: text slots, video codes (t, h, w), audio codes (t, k). An absent stream is None."""

    text: Text | None = None
    video: Tensor | None = None
    audio: Tensor | None = None
    key: str = ""

    @classmethod
    def blank(cls, layout: Layout) -> "Example":
        """Every stream of the layout present with code 0: the shape of what is to be made."""
        slots = torch.zeros(layout.text_length, dtype=torch.int64)
        audio = torch.zeros(layout.audio_frames, layout.vocabulary.audio_levels, dtype=torch.int64)
        return cls(
            text=Text(ids=slots, shown=slots.bool()),
            video=torch.zeros(layout.lattice, dtype=torch.int64),
            audio=audio if layout.audio_frames else None,
        )


class Task(ABC):
    """Lays out an example. A sequence is `condition + target`; its length depends on the example's shapes alone."""

    def needs(self, layout: Layout) -> tuple[str, ...]:
        """Streams an example must have."""
        return ("video",)

    @abstractmethod
    def condition(self, example: Example, layout: Layout) -> list[Segment]:
        """What is given: one bidirectional block, ending in the marker that opens the first output."""

    @abstractmethod
    def target(self, example: Example, layout: Layout) -> list[Segment]:
        """What is to be made, causal."""

    def spec(self) -> dict:
        """Class and arguments, as a checkpoint keeps them: sampling uses the task as it was trained."""
        cls = type(self)
        return {"class_path": f"{cls.__module__}.{cls.__qualname__}", "init_args": asdict(self)}

    def segments(self, example: Example, layout: Layout) -> list[Segment]:
        """The training sequence. Raises ValueError naming the streams that the example lacks."""
        missing = [stream for stream in self.needs(layout) if getattr(example, stream) is None]
        if missing:
            raise ValueError(f"{type(self).__name__} needs {' and '.join(missing)}, which sample '{example.key}' lacks")
        return self.condition(example, layout) + self.target(example, layout)

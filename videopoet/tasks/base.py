"""The contract of a task: what is given, what is to be made.

A full sequence, in the order of VideoPoet's Table 4; absent streams drop their markers:

    <bos> <task> <bot_i> text <eot_i> <bov_i> visual in <eov_i> <boa_i> audio in <eoa_i> <bov_o>   condition, block 0
    visual out <eov_o> <boa_o> audio out <eoa_o> <eos>                                             target, causal

Training lays out `condition + target`, sampling lays out `condition` and draws the target token by token. The task
token names the type of the output, not the combination of inputs: what is given shows which task it is.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace

import torch
from torch import Tensor

from videopoet.component import instantiate, spec_of
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
        return {**asdict(self), "audio_order": spec_of(self.audio_order), "origin": self.origin}

    @property
    def origin(self) -> int:
        """Where clips begin, on all three axes: behind the longest text and its markers, which are counted from 0."""
        return self.text_length + 5

    def text(self, tokens: Text) -> list[Segment]:
        """Text between its markers; padding slots are there but not shown."""
        if len(tokens.ids) != self.text_length:
            raise ValueError(f"text has {len(tokens.ids)} slots, the layout has {self.text_length}")
        words = Segment.given(tokens.ids, Modality.TEXT, shown=tokens.shown)
        return [Segment.marker(Control.BOT_I), words, Segment.marker(Control.EOT_I)]

    def visual(self, codes: Tensor, start: int = 0) -> tuple[Tensor, Modality, Tensor]:
        """Codes (t, h, w), `start` latent frames into the clip -> ids (t*h*w,), modality, positions (t*h*w, 3).

        A latent frame stands at the last video frame it covers, counted from the origin: with stride 4, latent 0 at 0,
        latent 2 at 8.
        """
        t, h, w = codes.shape
        times = (torch.arange(t) + start) * self.frame_stride
        axes = torch.meshgrid(times, torch.arange(h), torch.arange(w), indexing="ij")
        position = torch.stack([axis.flatten() for axis in axes], -1).float() + self.origin
        return self.vocabulary.from_visual(codes.flatten()), Modality.VISUAL, position

    def beside(self, codes: Tensor, start: int = 0) -> tuple[Tensor, Modality, Tensor]:
        """As `visual`, of another clip than the one that is made: each token one clip's span before the same place in it.

        A clip of 5 latent frames with stride 4: its latent 2 stands at 8 - 20 from the origin.
        """
        ids, modality, position = self.visual(codes, start)
        return ids, modality, position - position.new_tensor([self.lattice[0] * self.frame_stride, 0, 0])

    def audio(self, codes: Tensor) -> tuple[Tensor, Modality, Tensor]:
        """Codes (t, k) -> ids (t*k,) in the order of writing, modality, positions (time, level, 0) of each.

        Time is in video frames, as of visual tokens: with 0.16 of them per audio frame, audio frame 25 stands at 4 from the
        origin, beside what is seen while it sounds.
        """
        t, k = codes.shape
        frame, level = torch.meshgrid(torch.arange(t), torch.arange(k), indexing="ij")
        time = frame * self.frames_per_audio_frame
        position = self.audio_order.write(torch.stack([time, level, torch.zeros_like(time)])).T + self.origin
        return self.audio_order.write(self.vocabulary.from_audio(codes)), Modality.AUDIO, position

    def frames_of(self, latent_frames: int) -> int:
        """Video frames that the first latent frames cover: with stride 4, 3 latent frames are 9 frames."""
        return 1 + (latent_frames - 1) * self.frame_stride if latent_frames else 0

    def sound_of(self, latent_frames: int) -> int:
        """Audio frames that lie wholly under the first latent frames, at least one of any: 3 of 53 under 1 of 17."""
        frames = int(self.frames_of(latent_frames) / self.frames_per_audio_frame)
        return max(1, frames) if latent_frames else 0

    def visual_codes(self, ids: Tensor) -> Tensor:
        """Inverse of `visual`: ids (..., t*h*w) -> codes (..., t, h, w)."""
        return self.vocabulary.to_visual(ids.unflatten(-1, (-1, *self.lattice[1:])))

    def audio_codes(self, ids: Tensor) -> Tensor:
        """Inverse of `audio`: ids (..., t*k) -> codes (..., t, k)."""
        return self.vocabulary.to_audio(self.audio_order.read(ids, self.vocabulary.audio_levels))


def read_layout(facts: dict) -> Layout:
    """The layout from the facts that travel with a model, `layout.facts()`. Without an order of sound it is level-major.

    Raises ValueError for a model whose clips begin elsewhere.
    """
    facts, origin = dict(facts), facts.get("origin")
    facts.pop("origin", None)
    vocabulary, lattice = Vocabulary(**facts["vocabulary"]), tuple(facts["lattice"])
    order = instantiate(facts["audio_order"]) if "audio_order" in facts else LevelMajor()
    layout = Layout(**{**facts, "vocabulary": vocabulary, "lattice": lattice, "audio_order": order})
    if origin != layout.origin:
        raise ValueError(
            f"this model was trained on clips whose tokens stand {'elsewhere' if origin is None else f'from {origin}'}, here "
            f"they stand from {layout.origin}: make a start of it by tools/convert_queries.py and train it on"
        )
    return layout


@dataclass(frozen=True, kw_only=True)
class Example:
    """One sample as token grids. A stream that it lacks is None, or absent from `streams`.

    text, label: a caption and the name of a class, in text slots. video: codes (t, h, w). audio: codes (t, k).
    streams: codes (t, h, w) of clips made from the video to be conditions, by name (`videopoet/conditions`).
    seed: what a task that draws something (how much is given, which spans are hidden) draws it from.
    """

    text: Text | None = None
    label: Text | None = None
    video: Tensor | None = None
    audio: Tensor | None = None
    streams: Mapping[str, Tensor] = field(default_factory=dict)
    seed: int = 0
    key: str = ""

    def stream(self, name: str) -> Text | Tensor | None:
        """The stream of a name in `Task.needs`, or None."""
        return getattr(self, name) if name in OWN else self.streams.get(name)

    @classmethod
    def blank(cls, layout: Layout, streams: Iterable[str] = ()) -> "Example":
        """Every stream of the layout and the named ones present with code 0: the shape of what is to be made."""
        slots = torch.zeros(layout.text_length, dtype=torch.int64)
        audio = torch.zeros(layout.audio_frames, layout.vocabulary.audio_levels, dtype=torch.int64)
        text, video = Text(ids=slots, shown=slots.bool()), torch.zeros(layout.lattice, dtype=torch.int64)
        audio = audio if layout.audio_frames else None
        return cls(text=text, label=text, video=video, audio=audio, streams={name: video for name in streams})


OWN = ("text", "label", "video", "audio")  # fields of an example; any other name is one of its condition streams


class Task(ABC):
    """Lays out an example. A sequence is `condition + target`; its length depends on the example's shapes alone."""

    @abstractmethod
    def reads(self, layout: Layout) -> tuple[str, ...]:
        """What the condition reads: "text", "label", "image" (the first latent frame), "video", "audio", or a stream.

        It is what a sampler must be given. With a past, "video" and "audio" are the past alone.
        """

    @abstractmethod
    def writes(self, layout: Layout) -> tuple[str, ...]:
        """What the target writes: "video", "audio" or both."""

    @abstractmethod
    def condition(self, example: Example, layout: Layout) -> list[Segment]:
        """What is given: one bidirectional block, ending in the marker that opens the first output."""

    @abstractmethod
    def target(self, example: Example, layout: Layout) -> list[Segment]:
        """What is to be made, causal."""

    def needs(self, layout: Layout) -> tuple[str, ...]:
        """Streams an example must have to be trained on."""
        names = (*self.reads(layout), *self.writes(layout))
        return tuple(dict.fromkeys("video" if name == "image" else name for name in names))

    def past(self, layout: Layout) -> int:
        """Latent frames at the head of the clip that are given and not made again."""
        return 0

    def with_past(self, latent_frames: int) -> "Task":
        """The task as sampled after a clip of so many latent frames; only tasks of a variable past differ."""
        return self

    def complete(self, example: Example, ids: Mapping[Modality, Tensor], layout: Layout) -> Example:
        """The example with the drawn ids (n,) of each modality in their places: whole grids of codes."""
        grids = {}
        if Modality.VISUAL in ids:
            past = example.video[: self.past(layout)]
            grids["video"] = torch.cat([past, layout.visual_codes(ids[Modality.VISUAL])])
        if Modality.AUDIO in ids:
            past = example.audio[: layout.sound_of(self.past(layout))]
            grids["audio"] = torch.cat([past, layout.audio_codes(ids[Modality.AUDIO])])
        return replace(example, **grids)

    def blank(self, layout: Layout) -> Example:
        """An example of code 0 with every stream that the task needs."""
        return Example.blank(layout, [name for name in self.needs(layout) if name not in OWN])

    def spec(self) -> dict:
        """Class and arguments, as a checkpoint keeps them: sampling uses the task as it was trained."""
        return spec_of(self)

    def segments(self, example: Example, layout: Layout) -> list[Segment]:
        """The training sequence. Raises ValueError naming the streams that the example lacks."""
        missing = [name for name in self.needs(layout) if example.stream(name) is None]
        if missing:
            raise ValueError(f"{type(self).__name__} needs {' and '.join(missing)}, which sample '{example.key}' lacks")
        return self.condition(example, layout) + self.target(example, layout)

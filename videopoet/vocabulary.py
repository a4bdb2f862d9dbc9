"""One flat id space for everything the language model writes: control | visual | audio."""

from dataclasses import dataclass
from enum import IntEnum

import torch
from torch import Tensor


class Modality(IntEnum):
    CONTROL = 0
    TEXT = 1
    VISUAL = 2
    AUDIO = 3


class Control(IntEnum):
    """Control tokens (VideoPoet, Table 4). One task value per output type, not per combination of inputs."""

    PAD = 0
    BOS = 1
    EOS = 2
    BOT_I = 3  # begin of text, input
    EOT_I = 4
    BOV_I = 5  # begin of visual tokens, input
    EOV_I = 6
    BOA_I = 7  # begin of audio tokens, input
    EOA_I = 8
    BOV_O = 9  # begin of visual tokens, output
    EOV_O = 10
    BOA_O = 11  # begin of audio tokens, output
    EOA_O = 12
    TASK_VIDEO = 32  # a video with its sound; text-to-image is its head
    TASK_CONTINUATION = 33  # the frames after the given ones
    TASK_AUDIO = 34  # the sound of a given video
    TASK_PICTURES = 35  # a whole video without sound: painting, interpolation, stylization, audio to video, classes
    TASK_CONTINUATION_WITH_SOUND = 36  # the frames and the sound after the given ones
    TASK_SPANS = 37  # the hidden spans of a stream
    MODE_R = 48  # regular denoising (UL2, §3.1.1)
    MODE_S = 49  # sequential: the end of the stream is hidden
    MODE_X = 50  # extreme: long spans or many


NUM_CONTROL = 256
SENTINELS = range(128, 256)  # mark the places of hidden spans


def sentinel(span: int) -> int:
    """The control id that stands for hidden span 0, 1, 2, ... of a stream.

    There are 128. Of more spans the numbers start again: spans come in order and each sentinel has its span's
    position, so equal ones can be told apart. (1,280 tokens with half of them in spans of 3 are 213 spans.)
    """
    return SENTINELS[span % len(SENTINELS)]


@dataclass(frozen=True, kw_only=True)
class Vocabulary:
    """Sizes of the id ranges; they come from the tokenizers.

    `control [0, 256) | visual [256, 256 + visual_size) | audio, audio_levels * audio_codes ids, one range per level`.
    With 2^18 visual codes and 4 levels of 1024: visual starts at 256, audio at 262,400, and the size is 266,496
    (VideoPoet, App. A.5.1). Text is not written: its positions carry text-encoder states.
    """

    visual_size: int
    audio_levels: int
    audio_codes: int

    @property
    def visual_start(self) -> int:
        return NUM_CONTROL

    @property
    def audio_start(self) -> int:
        return NUM_CONTROL + self.visual_size

    @property
    def size(self) -> int:
        return self.audio_start + self.audio_levels * self.audio_codes

    def visual(self) -> range:
        """The ids of visual codes."""
        return range(self.visual_start, self.audio_start)

    def audio(self, level: int) -> range:
        """The ids of the audio codes of one residual level, 0 the coarsest."""
        start = self.audio_start + level * self.audio_codes
        return range(start, start + self.audio_codes)

    def legal(self, id: int) -> range:
        """The ids that may stand where `id` stands: those of its modality and level; a control id only itself."""
        if not 0 <= id < self.size:
            raise ValueError(f"id {id} is outside the vocabulary of {self.size} ids")
        if id < self.visual_start:
            return range(id, id + 1)
        if id < self.audio_start:
            return self.visual()
        return self.audio((id - self.audio_start) // self.audio_codes)

    def from_visual(self, codes: Tensor) -> Tensor:
        """Visual codes in [0, visual_size) -> ids."""
        _check("visual", codes, self.visual_size)
        return codes.long() + self.visual_start

    def to_visual(self, ids: Tensor) -> Tensor:
        """Ids of visual tokens -> codes."""
        codes = ids - self.visual_start
        _check("visual", codes, self.visual_size)
        return codes

    def from_audio(self, codes: Tensor) -> Tensor:
        """Audio codes (..., t, k) in [0, audio_codes) -> ids (..., t, k), each level in its own range."""
        if codes.shape[-1] != self.audio_levels:
            raise ValueError(f"audio codes have {codes.shape[-1]} levels, the vocabulary has {self.audio_levels}")
        _check("audio", codes, self.audio_codes)
        return codes.long() + self._level_starts(codes)

    def to_audio(self, ids: Tensor) -> Tensor:
        """Ids (..., t, k) -> audio codes (..., t, k)."""
        codes = ids - self._level_starts(ids)
        _check("audio", codes, self.audio_codes)
        return codes

    def _level_starts(self, like: Tensor) -> Tensor:
        levels = torch.arange(self.audio_levels, device=like.device)
        return self.audio_start + levels * self.audio_codes


def _check(stream: str, codes: Tensor, size: int) -> None:
    if codes.numel() and not (0 <= int(codes.min()) and int(codes.max()) < size):
        raise ValueError(f"{stream} codes span {int(codes.min())} to {int(codes.max())}, the vocabulary has {size}")

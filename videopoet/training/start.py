"""Where a training's weights come from: `start_from` of `videopoet fit`, a file or one of the values here.

A file is one that `videopoet export` wrote, or any checkpoint, also of another strategy.

videopoet fit -c LM.yaml --start_from=lm.safetensors
videopoet fit -c VIDEO.yaml --start_from=videopoet.training.start.InflatedImage --start_from.file=image.safetensors
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass

from torch import nn

from videopoet import component
from videopoet.tokenizers.visual.autoencoder import VideoTokenizer
from videopoet.tokenizers.visual.inflation import inflate
from videopoet.training import checkpoints


class Start(ABC):
    """Fills the part that is trained, and exported, before its training. What else there is starts afresh: a
    discriminator, optimizers, schedules, averages of weights."""

    @abstractmethod
    def fill(self, part: nn.Module) -> dict:
        """Write weights and buffers into `part`; returns the file's metadata. Raises ValueError where they do not fit."""


@dataclass(frozen=True, kw_only=True)
class Exported(Start):
    """The weights of a part of the same configuration, as `videopoet export` wrote them or as they are in a checkpoint.
    A path alone means this."""

    file: str

    def fill(self, part: nn.Module) -> dict:
        try:
            if not checkpoints.is_checkpoint(self.file):
                return component.load_into(part, self.file)
            trained = checkpoints.read(self.file)
            component.fit(part, trained.state, self.file)
            return trained.metadata
        except ValueError as error:
            image = "; an image tokenizer starts a video tokenizer by videopoet.training.start.InflatedImage"
            hint = image if isinstance(part, VideoTokenizer) else ""
            raise ValueError(
                f"{str(error).rstrip('.')}: start from an exported file of the configured networks{hint}"
            ) from None


@dataclass(frozen=True, kw_only=True)
class InflatedImage(Start):
    """An exported image tokenizer (strides of 1 in time) inflated into a video tokenizer (MAGVIT-v2, App. A.2).

    Of one frame the video tokenizer then makes exactly what the image tokenizer makes.
    """

    file: str

    def fill(self, part: nn.Module) -> dict:
        if not isinstance(part, VideoTokenizer):
            raise ValueError(f"an image tokenizer inflates into a video tokenizer, this trains a {type(part).__name__}: "
                             "give --start_from the exported file alone")  # fmt: skip
        image = component.load(self.file, VideoTokenizer)
        if image.stride[0] > 1:
            raise ValueError(f"{self.file} holds a video tokenizer, {image.stride[0]} frames to a latent frame: "
                             "give --start_from the file alone, without InflatedImage")  # fmt: skip
        try:
            inflate(image, part)
        except ValueError as error:
            raise ValueError(f"{self.file}: {error}") from None
        return image.metadata

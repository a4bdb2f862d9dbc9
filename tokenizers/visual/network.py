"""What every visual encoder and decoder is, and how frames and latent frames count."""

from abc import ABC, abstractmethod
from dataclasses import dataclass

from torch import Tensor, nn

from videopoet.tokenizers.streaming import Stream


@dataclass(frozen=True, kw_only=True)
class TemporalRule:
    """`lead + s*k` frames are `lead + k` latent frames.

    lead 1: the first frame has a latent frame of its own (17 -> 5 -> 17 with s = 4, an image is a clip of one frame).
    lead 0: latent frames are whole windows of s frames (16 -> 4 -> 16), and an image is no clip.
    """

    lead: int

    def latent_frames(self, frames: int, stride: int) -> int:
        """Raises ValueError where the frames do not fit, naming the nearest numbers that do."""
        steps, rest = divmod(frames - self.lead, stride)
        if steps + self.lead < 1 or rest:
            least = self.lead or stride
            low = max(least, self.lead + steps * stride)
            form = f"{self.lead} + {stride}k" if self.lead else f"{stride}k"
            raise ValueError(f"a clip has {form} frames, got {frames}: use {low} or {low + stride}")
        return self.lead + steps

    def frames(self, latent_frames: int, stride: int) -> int:
        """The inverse of `latent_frames`."""
        return self.lead + (latent_frames - self.lead) * stride

    def drop(self, stride: int) -> int:
        """Frames that upsampling by `stride` makes before the first one that exists."""
        return self.lead * (stride - 1)


FIRST_FRAME_ALONE = TemporalRule(lead=1)
WHOLE_WINDOWS = TemporalRule(lead=0)


class VideoNetwork(nn.Module, ABC):
    """An encoder or decoder. A layer that lets a frame see a later one has an attribute `causal = False`."""

    rule: TemporalRule = FIRST_FRAME_ALONE
    streams = False  # whether `forward` takes a Stream

    @property
    def causal(self) -> bool:
        """Whether no frame sees a later one (up to the latent frame it belongs to)."""
        return all(getattr(module, "causal", True) for module in self.modules() if module is not self)


class VideoEncoder(VideoNetwork):
    """Video -> latents."""

    @abstractmethod
    def forward(self, video: Tensor, stream: Stream | None = None) -> Tensor:
        """float (b, 3, t, h, w) -> float (b, c, t', h', w')."""


class VideoDecoder(VideoNetwork):
    """Quantized latents -> video."""

    @abstractmethod
    def forward(self, latents: Tensor, stream: Stream | None = None) -> Tensor:
        """float (b, c, t', h', w') -> float (b, 3, t, h, w), not clamped."""

"""What every audio tokenizer is: mono sound to `levels` code streams and back."""

from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn


class AudioTokenizer(nn.Module, ABC):
    """Audio float b 1 s in [-1, 1] at `sample_rate` -> codes int64 b t k in [0, codebook_size), coarsest level first.

    Only whole hops are coded, t = s // hop: the s % hop samples at the end are cropped, never padded, so that every code
    stands for sound that exists. 34,000 samples (2.125 s at 16 kHz) are 106 frames at hop 320 (VideoPoet, §3.1) and 53
    at hop 640; decoding gives back t * hop samples.
    """

    sample_rate: int  # Hz
    hop: int  # samples per code frame

    @property
    @abstractmethod
    def levels(self) -> int:
        """Residual levels: codes per frame."""

    @property
    @abstractmethod
    def codebook_size(self) -> int:
        """Codes per level."""

    @abstractmethod
    def encode(self, audio: Tensor) -> Tensor:
        """Audio b 1 s -> codes b t k. Raises ValueError as `crop` does."""

    @abstractmethod
    def decode(self, codes: Tensor) -> Tensor:
        """Codes b t k -> audio b 1 t*hop in [-1, 1]; fewer levels than the codec has give a coarser sound."""

    @property
    def frame_rate(self) -> float:
        """Code frames per second (Hz)."""
        return self.sample_rate / self.hop

    def crop(self, audio: Tensor) -> Tensor:
        """The whole hops of b 1 s: the part that is coded.

        Raises ValueError for another shape than b 1 s, integers, samples that are not finite, less than one hop.
        """
        if audio.dim() != 3 or audio.shape[1] != 1:
            raise ValueError(f"audio has shape {tuple(audio.shape)}, expected b 1 s: mix down to mono first")
        if not audio.is_floating_point():
            raise ValueError(f"audio is {audio.dtype}, expected floating point in [-1, 1]: divide int16 by 32768")
        if audio.shape[2] < self.hop:
            raise ValueError(f"audio has {audio.shape[2]} samples, one code frame takes {self.hop}: pad with silence")
        if not torch.isfinite(audio).all():
            raise ValueError(f"audio has {int((~torch.isfinite(audio)).sum())} samples that are NaN or infinite")
        return audio[..., : audio.shape[2] // self.hop * self.hop]

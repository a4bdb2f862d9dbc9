"""What every audio tokenizer is: mono sound to `levels` code streams and back."""

from abc import ABC, abstractmethod
from math import log2
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrize import cached

from videopoet.tokenizers.streaming import Stream

LOUDEST = 8.0  # peak that resampling and decoding of full-scale sound stay far below, and integers as floats far above


class LookAhead(NamedTuple):
    """What a part of a sound owes to what comes after it. A causal codec padded with zeros has (0, 0, 1).

    encoding: samples after a frame's own hop that its codes depend on: the codes of the first t frames are those of the
        first t * hop + encoding samples.
    decoding: samples at the end of a decoded prefix that later codes would change: of t frames the first
        t * hop - decoding samples are final.
    start: frames that a prefix must have for this to hold. Padding by reflection looks at more than one.
    """

    encoding: int
    decoding: int
    start: int = 1


class AudioTokenizer(nn.Module, ABC):
    """Audio float b 1 s in [-1, 1] at `sample_rate` -> codes int64 b t k in [0, codebook_size), coarsest level first.

    Only whole hops are coded, t = s // hop: the s % hop samples at the end are cropped, never padded, so that every code
    stands for sound that exists. 34,000 samples (2.125 s at 16 kHz) are 106 frames at hop 320 (VideoPoet, §3.1) and 53
    at hop 640; decoding gives back t * hop samples.

    With a `Stream`, `encode` and `decode` take a sound chunk by chunk. Sound of several channels is mixed down where it
    is read (`data/channels.py`), or coded channel by channel by `encode_channels`.
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

    @property
    @abstractmethod
    def look_ahead(self) -> LookAhead:
        """How far codes and sound depend on what comes later, in samples."""

    @abstractmethod
    def latents(self, audio: Tensor, stream: Stream | None = None) -> Tensor:
        """Whole hops b 1 t*hop -> latents b d t. With a stream they follow on what came before in it."""

    @abstractmethod
    def quantize(self, latents: Tensor) -> Tensor:
        """Latents b d t -> codes b t k."""

    @abstractmethod
    def embed(self, codes: Tensor) -> Tensor:
        """Codes b t k -> latents b d t; k may be any prefix of the levels."""

    @abstractmethod
    def synthesize(self, latents: Tensor, stream: Stream | None = None) -> Tensor:
        """Latents b d t -> audio b 1 t*hop, not clamped. With a stream they follow on what came before in it."""

    @torch.no_grad()
    def encode(self, audio: Tensor, stream: Stream | None = None) -> Tensor:
        """Audio b 1 s -> codes b t k. Raises ValueError as `crop` does.

        With a stream the audio is its next chunk, of any number of samples; what does not fill a frame waits in the
        stream, and t may be 0. The first codes come when there are `look_ahead.start` frames. Raises ValueError where
        this tokenizer cannot stream.
        """
        if stream is None:
            return self.quantize(self.latents(self.crop(audio)))
        self.check(audio)
        self.open(stream, "encoding", len(audio))
        pieces = stream.steps(audio, self.hop, self.look_ahead.start * self.hop)
        with cached():  # a weight norm is computed once a chunk, not once a frame
            codes = [self.quantize(self.latents(piece, stream)) for piece in pieces]
        return torch.cat([torch.zeros(len(audio), 0, self.levels, dtype=torch.int64, device=audio.device), *codes], 1)

    @torch.no_grad()
    def decode(self, codes: Tensor, stream: Stream | None = None) -> Tensor:
        """Codes b t k -> audio b 1 t*hop in [-1, 1]; fewer levels than the codec has give a coarser sound.

        With a stream the codes are its next chunk, of any number of frames. Raises ValueError for codes that are no
        codes of this tokenizer or have no frame, and where it cannot stream.
        """
        self.check_codes(codes)
        if stream is None:
            if not codes.shape[1]:
                raise ValueError("codes have 0 frames, at least 1 is needed to decode")
            return self.synthesize(self.embed(codes)).clamp(-1, 1)
        self.open(stream, "decoding", len(codes))
        latents = self.embed(codes)
        with cached():
            pieces = stream.steps(latents, 1, self.look_ahead.start)
            sounds = [self.synthesize(piece, stream).clamp(-1, 1) for piece in pieces]
        return torch.cat([latents.new_zeros(len(codes), 1, 0), *sounds], 2)

    @property
    def frame_rate(self) -> float:
        """Code frames per second (Hz)."""
        return self.sample_rate / self.hop

    def bit_rate(self, levels: int | None = None) -> float:
        """Bits per second of the first so many levels, or of all: 50 Hz x 4 levels of 1024 codes are 2000."""
        return self.frame_rate * (levels or self.levels) * log2(self.codebook_size)

    def encode_channels(self, audio: Tensor) -> Tensor:
        """Audio b c s -> codes b c t k, each channel coded by itself as mono sound."""
        return self.encode(audio.flatten(0, 1)[:, None]).unflatten(0, audio.shape[:2])

    def decode_channels(self, codes: Tensor) -> Tensor:
        """Codes b c t k -> audio b c t*hop."""
        return self.decode(codes.flatten(0, 1))[:, 0].unflatten(0, codes.shape[:2])

    def crop(self, audio: Tensor) -> Tensor:
        """The whole hops of b 1 s: the part that is coded.

        Raises ValueError for another shape than b 1 s, integers or their values, samples that are not finite, less than
        one hop.
        """
        self.check(audio)
        if audio.shape[2] < self.hop:
            raise ValueError(f"audio has {audio.shape[2]} samples, one code frame takes {self.hop}: pad with silence")
        return audio[..., : audio.shape[2] // self.hop * self.hop]

    def check(self, audio: Tensor) -> None:
        """Raises ValueError where `audio` is no mono sound b 1 s in [-1, 1]; a little louder passes."""
        if audio.dim() != 3 or audio.shape[1] != 1:
            raise ValueError(f"audio has shape {tuple(audio.shape)}, expected b 1 s: mix down to mono first")
        if not audio.is_floating_point():
            raise ValueError(f"audio is {audio.dtype}, expected floating point in [-1, 1]: divide int16 by 32768")
        peak = float(audio.detach().abs().max()) if audio.numel() else 0.0  # NaN where any sample is
        if not peak < float("inf"):
            raise ValueError(f"audio has {int((~torch.isfinite(audio)).sum())} samples that are NaN or infinite")
        if peak > LOUDEST:
            raise ValueError(f"audio peaks at {peak:g}, expected [-1, 1]: divide int16 by 32768")

    def check_codes(self, codes: Tensor) -> None:
        """Raises ValueError where `codes` are no codes b t k of this tokenizer, k being any prefix of its levels."""
        if codes.dim() != 3 or codes.is_floating_point() or codes.is_complex() or codes.dtype == torch.bool:
            raise ValueError(f"codes are {codes.dtype} of shape {tuple(codes.shape)}, expected integers of shape b t k")
        if not 1 <= codes.shape[2] <= self.levels:
            raise ValueError(f"codes have {codes.shape[2]} levels, the tokenizer has {self.levels}")
        if codes.numel() and not 0 <= codes.min() <= codes.max() < self.codebook_size:
            raise ValueError(f"codes span {codes.min()} to {codes.max()}, must lie in [0, {self.codebook_size})")

    def must_match(self, *, sample_rate: int, levels: int, codebook_size: int) -> None:
        """Raises ValueError, naming both numbers, where a language model or a corpus wants another codec than this."""
        for what, wanted, ours in (
            ("sound at {} Hz", sample_rate, self.sample_rate),
            ("{} levels", levels, self.levels),
            ("codebooks of {} codes", codebook_size, self.codebook_size),
        ):
            if wanted != ours:
                raise ValueError(
                    f"the audio tokenizer has {what.format(ours)}, {wanted} are needed: use the one of the same run"
                )

    def open(self, stream: Stream, direction: str, batch: int) -> None:
        """Take a stream. Raises ValueError where this tokenizer cannot, or the stream is of another sound."""
        if self.training:
            raise ValueError("streaming is for a trained tokenizer: call .eval() first")
        if self.look_ahead[:2] != (0, 0):
            encoding, decoding, _ = self.look_ahead
            raise ValueError(
                f"{type(self).__name__} cannot stream: codes depend on the {encoding} samples after them and sound on the "
                f"codes of {decoding} samples after it. Pass the whole sound, or take a causal codec"
            )
        stream.open(self, direction, batch=batch)

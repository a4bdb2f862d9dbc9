"""Two ways to make a sound small: Opus, and an audio tokenizer. Both count only the bits of sound.

Opus is kind to itself here: variable bitrate, complexity 10, packets of 60 ms (the least overhead; a call uses 20),
and its output is put back in place before it is compared. `bits` are the packets: no Ogg pages, no header. Below about
4 kbit/s it stops sending sound and lets the decoder guess, whatever it is asked for: look at the measured rate.
"""

import io
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Literal

import av
import torch
import torch.nn.functional as F
import torchaudio
from torch import Tensor

from videopoet.evaluation.audio import align
from videopoet.tokenizers.audio.tokenizer import AudioTokenizer

OPUS_RATES = (8000, 12_000, 16_000, 24_000, 48_000)  # Hz that the encoder takes
OPUS_OUTPUT = 48_000  # Hz that ffmpeg's decoder gives


@dataclass(frozen=True, kw_only=True)
class CodedSound:
    """A sound after the round trip. Seconds are of CPU time, all threads, resampling not included."""

    audio: Tensor  # float s, the length and rate that went in
    bits: int
    file_bits: int | None  # the whole file; None where there is none
    encode_seconds: float
    decode_seconds: float
    delay: float = 0.0  # samples that were undone


@dataclass(frozen=True, kw_only=True)
class Opus:
    """libopus, from ffmpeg, asked for `bit_rate` bits per second."""

    bit_rate: int
    application: Literal["audio", "voip"] = "audio"
    frame_ms: int = 60  # of a packet
    most_delay: float = 0.05  # seconds that alignment may undo

    @property
    def settings(self) -> dict[str, str]:
        """What ffmpeg is told, beside the rate."""
        return {"application": self.application, "frame_duration": str(self.frame_ms), "vbr": "on",
                "compression_level": "10"}  # fmt: skip

    def code(self, audio: Tensor, sample_rate: int) -> CodedSound:
        """Mono float s through the codec and back, aligned. ValueError for a rate that Opus does not have."""
        if sample_rate not in OPUS_RATES:
            raise ValueError(f"Opus takes {', '.join(map(str, OPUS_RATES))} Hz, not {sample_rate}: resample first")
        start = time.process_time()
        file, bits = self._encode(audio, sample_rate)
        middle = time.process_time()
        decoded = _decode(file)
        end = time.process_time()
        decoded = torchaudio.functional.resample(decoded, OPUS_OUTPUT, sample_rate)
        aligned, delay = align(decoded, audio, round(self.most_delay * sample_rate))
        return CodedSound(audio=aligned.clamp(-1, 1), bits=bits, file_bits=8 * len(file), encode_seconds=middle - start,
                          decode_seconds=end - middle, delay=delay)  # fmt: skip

    def _encode(self, audio: Tensor, sample_rate: int) -> tuple[bytes, int]:
        buffer = io.BytesIO()
        with av.open(buffer, "w", format="ogg") as container:
            stream = container.add_stream("libopus", rate=sample_rate, layout="mono")
            stream.bit_rate, stream.options = self.bit_rate, self.settings
            frame = av.AudioFrame.from_ndarray(audio.float().numpy()[None], format="flt", layout="mono")
            frame.sample_rate, frame.pts, frame.time_base = sample_rate, 0, Fraction(1, sample_rate)
            bits = 0
            for packet in [*stream.encode(frame), *stream.encode(None)]:
                bits += 8 * packet.size
                container.mux(packet)
        return buffer.getvalue(), bits


def _decode(file: bytes) -> Tensor:
    with av.open(io.BytesIO(file)) as container:
        frames = [torch.from_numpy(frame.to_ndarray()[0]) for frame in container.decode(audio=0)]
    return torch.cat(frames)


@dataclass(frozen=True, kw_only=True)
class TokenizedSound:
    """A sound's codes (t, k), and what each number of levels made of it."""

    codes: Tensor
    by_levels: dict[int, CodedSound]


@torch.no_grad()
def code_by_audio_tokenizer(
    audio: Tensor,
    sample_rate: int,
    tokenizer: AudioTokenizer,
    levels: Sequence[int] | None = None,
    clock: Callable[[], float] = time.process_time,
) -> TokenizedSound:
    """Mono float s through a tokenizer, decoded from its first 1, 2, ... levels (or those named).

    The sound is resampled to the tokenizer's rate and back where they differ, padded with silence to whole hops, all
    codes are counted at log2(codes) bits, and the padding is trimmed. Nothing is aligned: a tokenizer has no delay.
    `encode_seconds` is of all levels.
    """
    device = next(tokenizer.parameters()).device
    own = torchaudio.functional.resample(audio.float(), sample_rate, tokenizer.sample_rate)
    padded = F.pad(own, (0, -len(own) % tokenizer.hop))[None, None].to(device)
    start = clock()
    codes = tokenizer.encode(padded)
    encode_seconds = clock() - start
    found = {}
    for count in levels or range(1, tokenizer.levels + 1):
        start = clock()
        decoded = tokenizer.decode(codes[..., :count])
        decode_seconds = clock() - start
        back = torchaudio.functional.resample(decoded[0, 0, : len(own)].cpu(), tokenizer.sample_rate, sample_rate)
        back = F.pad(back, (0, max(0, len(audio) - len(back))))[: len(audio)].clamp(-1, 1)
        bits = math.ceil(codes.shape[1] * count * math.log2(tokenizer.codebook_size))
        found[count] = CodedSound(audio=back, bits=bits, file_bits=None, encode_seconds=encode_seconds,
                                  decode_seconds=decode_seconds)  # fmt: skip
    return TokenizedSound(codes=codes[0].cpu(), by_levels=found)

"""Which parts of the clips an audio tokenizer trains on in a step, and how loud: functions of the step alone."""

from dataclasses import dataclass

import torch
from torch import Tensor

from videopoet.tokenizers.ranks import num_ranks, rank


def is_sounding(audio: Tensor) -> Tensor:
    """Whether each clip of b 1 s has a root mean square above -80 dB of full scale, bool b."""
    return audio.flatten(1).square().mean(1) > 1e-8


def sounding_segments(audio: Tensor, num_samples: int, generator: torch.Generator) -> Tensor:
    """A random segment of each clip: b 1 s -> b 1 num_samples. Silent ones but the first are replaced.

    Where half of the clips are silent, half of the work would go into a sound that one clip a step teaches as well: the
    other places go to further segments of the clips that sound. Every rank draws for the joint batch of all and takes
    its part. Raises ValueError if clips are shorter than a segment.
    """
    spare = audio.shape[2] - num_samples
    if spare < 0:
        raise ValueError(f"clips have {audio.shape[2]} samples, a segment takes {num_samples}: lower `segment`")
    first, second = _draw(torch.randint, 0, spare + 1, count=len(audio), generator=generator).tolist()
    segments = torch.stack([clip[:, start : start + num_samples] for clip, start in zip(audio, first)])
    sounding = is_sounding(segments).tolist()
    donors = [index for index, sounds in enumerate(sounding) if sounds]
    silent = [index for index, sounds in enumerate(sounding) if not sounds]
    for turn, index in enumerate(silent[1:] if donors else []):
        donor = donors[turn % len(donors)]
        segments[index] = audio[donor, :, second[index] : second[index] + num_samples]
    return segments


@dataclass(frozen=True, kw_only=True)
class RandomGain:
    """A gain in dB drawn evenly for each segment, and its sign, which the ear does not hear (EnCodec, §4.1, -10 to 6).

    Where a gain would clip a sound, the sound is brought to full scale instead.
    """

    low: float = -10.0  # dB
    high: float = 6.0  # dB
    flip: bool = True  # turn every other segment, by chance, upside down

    def __post_init__(self) -> None:
        if not self.low <= self.high:
            raise ValueError(f"RandomGain draws from {self.low} to {self.high} dB: `low` must not lie above `high`")

    def __call__(self, audio: Tensor, generator: torch.Generator) -> Tensor:
        """Audio b 1 s -> the same sounds, louder or softer; on every rank the draws of its part of the joint batch."""
        loudness, sign = _draw(torch.rand, count=len(audio), generator=generator).to(audio.device)
        gain = 10 ** ((self.low + (self.high - self.low) * loudness) / 20)
        gain = torch.minimum(gain, 1 / audio.abs().amax(dim=(1, 2)).clamp_min(1e-4))
        if self.flip:
            gain = torch.where(sign < 0.5, -gain, gain)
        return gain[:, None, None] * audio


def _draw(how, *limits: int, count: int, generator: torch.Generator) -> Tensor:
    """Two draws for each of this rank's `count` clips, from those for the joint batch: (2, count)."""
    joint = how(*limits, (2, count * num_ranks()), generator=generator)
    return joint[:, rank() * count : (rank() + 1) * count]

"""The soundtrack of the built-in world: every impact rings.

A ring is a decaying tone: its pitch is the shape's, its loudness grows with the impact speed, its decay is the size's.
Pitches sit a factor of 1.78 apart and below 1.5 kHz, so they survive AAC and a narrow neural codec.
"""

from collections.abc import Iterable

import numpy as np

SAMPLE_RATE = 16_000  # Hz
PITCHES = {"circle": 440.0, "square": 784.0, "triangle": 1397.0}  # Hz
DECAYS = {"small": 0.08, "big": 0.14}  # seconds to fall to 1/e
ATTACK = 0.002  # seconds; long enough not to click, short enough to time the impact
LOUDEST = 0.5  # peak amplitude approached as the speed grows
HALF_LOUD_SPEED = 0.6  # sides per second at which a ring has half of LOUDEST


def loudness(speed: float) -> float:
    """Peak amplitude of a ring, ``LOUDEST * v / (v + HALF_LOUD_SPEED)``: strictly increasing and below 0.5.

    Rings at least 0.15 s apart with the longest decay sum to less than 0.5 / (1 - exp(-0.15 / 0.14)) = 0.76, so a
    soundtrack never clips.
    """
    return LOUDEST * speed / (speed + HALF_LOUD_SPEED)


def soundtrack(
    impacts: Iterable[tuple[float, float, str, str]], num_samples: int, sample_rate: int = SAMPLE_RATE
) -> np.ndarray:
    """Mono float32 (s,) in [-1, 1] of ``impacts`` given as (time in s, speed in sides/s, shape, size).

    Without impacts every sample is exactly zero.
    """
    audio = np.zeros(num_samples, dtype=np.float32)
    for time, speed, shape, size in impacts:
        first = int(np.ceil(time * sample_rate))
        # Eight decays later the ring is at -70 dB, under the quantisation of 8-bit sound.
        last = min(num_samples, first + int(8 * DECAYS[size] * sample_rate))
        since = np.arange(first, last) / sample_rate - time
        envelope = np.minimum(since / ATTACK, 1.0) * np.exp(-since / DECAYS[size])
        ring = loudness(speed) * envelope * np.sin(2 * np.pi * PITCHES[shape] * since)
        audio[first:last] += ring.astype(np.float32)
    return audio

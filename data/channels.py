"""What becomes of sound in several channels where it is read: a value, mixed down to one unless said otherwise."""

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass

import numpy as np
from av import AudioLayout

SIDE = math.sqrt(0.5)  # weight of centre and surround channels beside front left and right (ITU-R BS.775)
USUAL_ORDER = {  # number of channels -> their order in files that do not say
    count: [channel.name for channel in AudioLayout(layout).channels] for count, layout in ((6, "5.1"), (8, "7.1"))
}


class Channels(ABC):
    """Takes the channels of a sound by their names in the file."""

    @abstractmethod
    def __call__(self, audio: np.ndarray, names: list[str]) -> np.ndarray:
        """float `channels s` and a name for each -> float `channels' s`, not clipped."""


@dataclass(frozen=True, kw_only=True)
class MixDown(Channels):
    """One channel: a weighted mean that keeps what all channels share at its level. Opposite channels cancel.

    Front left and right weigh 1, all others 0.707, the low-frequency channel 0 (as in ITU-R BS.775); the weights are
    divided by their sum, so that nothing is louder than the loudest channel. Stereo is (L + R) / 2.
    """

    def __call__(self, audio: np.ndarray, names: list[str]) -> np.ndarray:
        if audio.shape[0] == 1:
            return audio
        names = names if "FL" in names else USUAL_ORDER.get(audio.shape[0], ["FL"] * audio.shape[0])
        weights = np.array([0.0 if name == "LFE" else 1.0 if name in ("FL", "FR") else SIDE for name in names])
        if not weights.any():
            weights[:] = 1.0
        return ((weights / weights.sum()).astype(np.float32) @ audio)[None]


@dataclass(frozen=True, kw_only=True)
class EachChannel(Channels):
    """The channels as the file has them, for `AudioTokenizer.encode_channels`, which codes each by itself."""

    def __call__(self, audio: np.ndarray, names: list[str]) -> np.ndarray:
        return audio


MIX_DOWN = MixDown()

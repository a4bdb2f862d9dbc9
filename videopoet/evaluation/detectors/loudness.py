"""A stand-in for VGGish that needs nothing: loudness of bands of frequency."""

import torch
from torch import Tensor

from videopoet.evaluation.detectors.base import SoundDetector

BANDS = 16


class Loudness(SoundDetector):
    """Mean log energy of 16 bands from 0 to 8 kHz in windows of half a second: it tries a protocol out, no more."""

    name, surrogate, output, sample_rate = "Loudness", True, "log energy of bands", 16000

    def __init__(self):
        super().__init__()
        self.weights: dict[str, str] = {}

    @property
    def dim(self) -> int:
        return BANDS

    def preprocessing(self) -> dict:
        return {"sample_rate": self.sample_rate, "window": 8000, "bands": BANDS}

    def features(self, audio: Tensor) -> Tensor:
        if audio.shape[1] < 8000:
            raise ValueError(f"Loudness hears windows of 8000 samples, the sound has {audio.shape[1]}")
        windows = audio.unfold(1, 8000, 8000)
        energy = torch.fft.rfft(windows).abs().square()[..., 1:].unflatten(-1, (BANDS, -1)).mean(-1)
        return (energy + 1e-6).log10()

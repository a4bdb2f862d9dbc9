"""Reconstruction losses of the audio tokenizer: waveform L1 and multi-scale mel."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torchaudio.transforms import MelSpectrogram


class MultiScaleMel(nn.Module):
    """Mel spectrograms at several window lengths w (samples), with hop w / 4 and w / 16 (at most 80) bands.

    `forward` gives amplitudes, where 1 is about a full-scale sine; `log` gives log10(amplitude + floor), in units of
    20 dB. The floor makes digital silence finite and says which sounds count as silence: at -80 dB differences below a
    ten-thousandth of full scale do not matter.
    """

    def __init__(
        self, sample_rate: int = 16_000, windows: Sequence[int] = (64, 128, 256, 512, 1024, 2048), floor_db: float = -80
    ):
        """Raises ValueError for windows that are not multiples of 16 samples, at least 64."""
        super().__init__()
        if not windows or any(window < 64 or window % 16 for window in windows):
            raise ValueError(f"windows {tuple(windows)} must be multiples of 16 samples, at least 64")
        self.floor = 10 ** (floor_db / 20)
        self.windows = tuple(windows)
        self.scales = nn.ModuleList(
            MelSpectrogram(sample_rate, window, hop_length=window // 4, n_mels=min(80, window // 16), power=1.0)
            for window in windows
        )

    def forward(self, audio: Tensor) -> list[Tensor]:
        """Audio b 1 s -> one b bands frames per window: amplitudes from 0 to about 1."""
        with torch.autocast(audio.device.type, enabled=False):
            audio = audio.squeeze(1).float()
            # A full-scale sine peaks at window / 4 under a Hann window.
            return [scale(audio) * (4 / window) for scale, window in zip(self.scales, self.windows)]

    def log(self, amplitudes: Tensor) -> Tensor:
        """Amplitudes of any shape -> units of 20 dB, from log10(floor) to about 0."""
        return torch.log10(amplitudes + self.floor)


class AudioLoss(NamedTuple):
    """Scalars: total = the weighted sum; waveform, amplitude and log are the unweighted parts."""

    total: Tensor
    waveform: Tensor
    amplitude: Tensor
    log: Tensor


class AudioReconstructionLoss(nn.Module):
    """waveform_weight * waveform + amplitude_weight * amplitude + log_weight * log, the last two over mel spectrograms.

    - waveform: L1 of the samples, relative to the mean level of the target clip.
    - amplitude: L1 of the mel amplitudes, relative to the same of the target: 1 if the reconstruction is silent. It
      fixes the loudness of what is loud, where the others give way: the waveform term asks for the phase, and for
      silence where the phase is not known; the log term trades the few loud bands for the many quiet ones.
    - log: L1 + L2 of the log-mels. It fixes what is quiet, silence included.

    Relative to the target, because otherwise loud clips would own the loss. Levels count as at least `quiet`, which
    keeps silent clips finite.

    `weights` names the three; a `Balancer` uses them instead of `total`.

    Source: EnCodec §3.4 and SoundStream §III-D; the adversarial terms are `AudioAdversarial`'s.
    """

    def __init__(
        self,
        mel: MultiScaleMel,
        waveform_weight: float = 0.1,
        amplitude_weight: float = 0.5,
        log_weight: float = 1.0,
        quiet: float = 1e-3,  # mean amplitude
    ):
        super().__init__()
        self.mel = mel
        self.weights = {"waveform": waveform_weight, "amplitude": amplitude_weight, "log": log_weight}
        self.quiet = quiet

    def forward(self, reconstruction: Tensor, target: Tensor) -> AudioLoss:
        """Both b 1 s. Raises ValueError if their shapes differ."""
        if reconstruction.shape != target.shape:
            raise ValueError(
                f"reconstruction has shape {tuple(reconstruction.shape)}, target {tuple(target.shape)}: "
                "crop the target to whole hops first"
            )
        with torch.no_grad():
            target_mels = self.mel(target)
        pairs = list(zip(self.mel(reconstruction), target_mels))
        waveform = self._relative(reconstruction, target)
        amplitude = torch.stack([self._relative(ours, theirs) for ours, theirs in pairs]).mean()
        differences = [self.mel.log(ours) - self.mel.log(theirs) for ours, theirs in pairs]
        log = torch.stack([d.abs().mean() + d.square().mean() for d in differences]).mean()
        parts = {"waveform": waveform, "amplitude": amplitude, "log": log}
        return AudioLoss(sum(self.weights[name] * part for name, part in parts.items()), **parts)

    def _relative(self, reconstruction: Tensor, target: Tensor) -> Tensor:
        level = target.abs().mean(dim=(1, 2)).clamp(min=self.quiet)
        return ((reconstruction - target).abs().mean(dim=(1, 2)) / level).mean()


def si_sdr(reconstruction: Tensor, target: Tensor) -> Tensor:
    """Scale-invariant signal-to-distortion ratio in dB per clip (b 1 s -> b), Le Roux et al. 2019.

    10 log10(|a x|^2 / |a x - y|^2) with a x the projection of y on the target x. Undefined on silence: a clip whose
    target has no energy gives NaN.
    """
    target = (target - target.mean(-1, keepdim=True)).flatten(1)
    reconstruction = (reconstruction - reconstruction.mean(-1, keepdim=True)).flatten(1)
    energy = target.square().sum(1)
    projection = ((reconstruction * target).sum(1) / energy)[:, None] * target
    noise = (reconstruction - projection).square().sum(1)
    return 10 * torch.log10(projection.square().sum(1) / noise.clamp(min=1e-12))


def mel_distance(reconstruction: Tensor, target: Tensor, mel: MultiScaleMel) -> Tensor:
    """Mean absolute difference of log-mel spectrograms in dB per clip (b 1 s -> b), averaged over windows."""
    pairs = zip(mel(reconstruction), mel(target))
    return 20 * torch.stack([(mel.log(a) - mel.log(b)).abs().mean(dim=(1, 2)) for a, b in pairs]).mean(0)

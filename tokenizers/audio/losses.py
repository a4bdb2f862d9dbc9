"""Reconstruction losses of the audio tokenizer: waveform L1 and multi-scale mel."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torchaudio.transforms import MelSpectrogram


class MultiScaleMel(nn.Module):
    """Log-mel spectrograms at several window lengths, in units of 20 dB, floored.

    Each window w (samples) gives an amplitude spectrogram with hop w / 4 and w / 16 (at most 80) mel bands, as
    log10(amplitude + floor) where amplitude 1 is about a full-scale sine. The floor makes digital silence finite and
    says which sounds count as silence: at -80 dB differences below a ten-thousandth of full scale do not matter.
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
        """Audio b 1 s -> one b bands frames per window, each value between log10(floor) and about 0."""
        with torch.autocast(audio.device.type, enabled=False):
            audio = audio.squeeze(1).float()
            # A full-scale sine peaks at window / 4 under a Hann window.
            return [
                torch.log10(scale(audio) * (4 / window) + self.floor)
                for scale, window in zip(self.scales, self.windows)
            ]


class AudioLoss(NamedTuple):
    """Scalars: total = the weighted sum; waveform and mel are the unweighted parts."""

    total: Tensor
    waveform: Tensor
    mel: Tensor


class AudioReconstructionLoss(nn.Module):
    """waveform_weight * L1(waveform) + mel_weight * mean over windows of (L1 + L2)(log-mel).

    The mel term carries the sound and does not ask for the phase; its L1 part fixes levels, silence included, and its
    L2 part punishes large errors, such as a missed onset. The waveform term is relative to the level of the target
    clip (never below `quiet`), because otherwise loud clips would own it; a silent clip divides by `quiet` and stays
    finite.

    Source: SoundStream §III-D, EnCodec §3.4, without the adversarial terms.
    """

    def __init__(
        self,
        mel: MultiScaleMel,
        waveform_weight: float = 0.1,
        mel_weight: float = 1.0,
        quiet: float = 0.01,  # mean amplitude
    ):
        super().__init__()
        self.mel = mel
        self.waveform_weight = waveform_weight
        self.mel_weight = mel_weight
        self.quiet = quiet

    def forward(self, reconstruction: Tensor, target: Tensor) -> AudioLoss:
        """Both b 1 s. Raises ValueError if their shapes differ."""
        if reconstruction.shape != target.shape:
            raise ValueError(
                f"reconstruction has shape {tuple(reconstruction.shape)}, target {tuple(target.shape)}: "
                "crop the target to whole hops first"
            )
        level = target.abs().mean(dim=(1, 2), keepdim=True).clamp(min=self.quiet)
        waveform = ((reconstruction - target).abs() / level).mean()
        with torch.no_grad():
            target_mels = self.mel(target)
        differences = [ours - theirs for ours, theirs in zip(self.mel(reconstruction), target_mels)]
        mel = torch.stack([d.abs().mean() + d.square().mean() for d in differences]).mean()
        return AudioLoss(self.waveform_weight * waveform + self.mel_weight * mel, waveform, mel)


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
    return 20 * torch.stack([(ours - theirs).abs().mean(dim=(1, 2)) for ours, theirs in pairs]).mean(0)

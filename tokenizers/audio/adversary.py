"""Adversarial training of an audio tokenizer: a discriminator of spectrograms, hinge and feature-matching losses."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from encodec import msstftd
from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm

from videopoet.tokenizers.adversarial import AdversarialLoss, Adversary, Alternating, ClampedHinge, Cost, Updates


class Judgement(NamedTuple):
    """What a discriminator of several scales says of sounds.

    logits: one (b, 1, frames, bins) per scale, positive for real.
    features: the maps (b, channels, frames, bins) before them, one list per scale.
    """

    logits: list[Tensor]
    features: list[list[Tensor]]


class MultiScaleSTFTDiscriminator(nn.Module):
    """The `encodec` package's convolutions on complex spectrograms, one network per window, hops of a quarter window.

    windows: samples. The published five at 24 kHz span 85 ms to 5 ms.
    channels: of every hidden map.

    Source: EnCodec §3.4.
    """

    def __init__(self, windows: Sequence[int] = (2048, 1024, 512, 256, 128), channels: int = 32):
        """Raises ValueError without windows, or for windows that are not multiples of 4 samples, at least 32."""
        super().__init__()
        if not windows or any(window < 32 or window % 4 for window in windows) or channels < 1:
            raise ValueError(
                f"windows {tuple(windows)} must be multiples of 4 samples, at least 32, and channels {channels} positive"
            )
        self.longest = max(windows)
        hops = [window // 4 for window in windows]
        self.network = msstftd.MultiScaleSTFTDiscriminator(
            channels, n_ffts=list(windows), hop_lengths=hops, win_lengths=list(windows), norm="none"
        )
        # As in the codec: the package's weight norm leaves weights that cannot be deep-copied (EMA); this one can.
        for scale in self.network.discriminators:
            for convolution in [*scale.convs[1:], scale.conv_post]:
                weight_norm(convolution.conv)

    def forward(self, audio: Tensor) -> Judgement:
        """Audio b 1 s. Raises ValueError where it is shorter than the longest window."""
        if audio.shape[2] < self.longest:
            raise ValueError(
                f"sounds have {audio.shape[2]} samples, the discriminator's longest window {self.longest}: "
                "train on longer segments or drop the window"
            )
        return Judgement(*self.network(audio.float()))


class AudioAdversarial(Adversary):
    """A discriminator and how it is trained against the codec. The defaults are EnCodec's (§3.4).

    weight: of the tokenizer's adversarial loss, the mean over scales.
    feature_weight: of the distance between the discriminator's features of a reconstruction and of the original.
    The rest is as for every `Adversary`.
    """

    def __init__(
        self,
        discriminator: MultiScaleSTFTDiscriminator,
        loss: AdversarialLoss = ClampedHinge(),
        weight: float = 3.0,
        feature_weight: float = 3.0,
        updates: Updates = Alternating(),
        start_step: int = 0,
        learning_rate: float = 3e-4,
        betas: tuple[float, float] = (0.5, 0.9),
    ):
        super().__init__(discriminator, loss, updates, start_step, learning_rate, betas)
        self.weights = {"adversarial": weight, "features": feature_weight}

    def generator_terms(self, fake: Tensor, real: Tensor) -> dict[str, Tensor]:
        """What reconstructions of b 1 s cost their tokenizer, without the weights: scalars named as `weights` is."""
        with self.judging() as discriminator:
            made = discriminator(fake)
            with torch.no_grad():
                original = discriminator(real)
        adversarial = torch.stack([self.loss.generator(logits) for logits in made.logits]).mean()
        return {"adversarial": adversarial, "features": feature_distance(made, original)}

    def discriminator_cost(self, fake: Tensor, real: Tensor) -> Cost:
        """What reconstructions and originals, both b 1 s, cost the discriminator: the mean over scales.

        accuracy: the share of all logits whose sign is right.
        """
        made, original = self.discriminator(fake.detach()), self.discriminator(real)
        pairs = list(zip(original.logits, made.logits))

        def mean(of: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
            return torch.stack([of(true, false) for true, false in pairs]).mean()

        loss = mean(self.loss.discriminator)
        metrics = {
            "discriminator": loss,
            "logits_real": mean(lambda true, false: true.mean()),
            "logits_fake": mean(lambda true, false: false.mean()),
            "accuracy": mean(lambda true, false: ((true > 0).float().mean() + (false < 0).float().mean()) / 2),
        }
        return Cost(loss, {name: value.detach() for name, value in metrics.items()})


def feature_distance(made: Judgement, original: Judgement) -> Tensor:
    """Mean over scales, layers and clips of |difference| relative to |original|, means over a map (EnCodec, §3.4)."""

    def size(maps: Tensor) -> Tensor:
        return maps.abs().flatten(1).mean(1)

    pairs = [pair for scale in zip(made.features, original.features) for pair in zip(*scale)]
    relative = [size(ours - theirs) / size(theirs).clamp_min(1e-8) for ours, theirs in pairs]
    return torch.stack(relative).mean()

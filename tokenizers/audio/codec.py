"""SoundStream-style audio tokenizer: SEANet encoder, residual vector quantizer, SEANet decoder."""

from collections.abc import Sequence
from math import prod, sqrt
from typing import NamedTuple

import torch
from encodec.modules import SEANetDecoder, SEANetEncoder
from encodec.modules.seanet import SEANetResnetBlock
from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm

from videopoet.tokenizers.audio.streaming import causal_left, centred_left, continued, look_ahead_of
from videopoet.tokenizers.audio.tokenizer import AudioTokenizer, LookAhead
from videopoet.tokenizers.quantizers.residual import QuantizerDropout, ResidualVectorQuantizer
from videopoet.tokenizers.streaming import Stream


class AudioReconstruction(NamedTuple):
    """What one pass through the codec gives.

    audio: float b 1 s, s = t * hop, not clamped.
    codes: int64 b t k, coarsest level first; in training with quantizer dropout k may be less than all levels.
    loss: scalar, commitment of the encoder to the codebooks, already weighted.
    metrics: named scalars for the log, detached.
    """

    audio: Tensor
    codes: Tensor
    loss: Tensor
    metrics: dict[str, Tensor]


class SoundStream(AudioTokenizer):
    """SEANet encoder and decoder around a residual vector quantizer.

    With `causal` (the default) frame t of the codes depends on samples before (t + 1) * hop only, and those samples
    are decoded from codes up to frame t only: a prefix of the codes decodes to a prefix of the sound, sample by
    sample. Convolutions are padded with zeros, because the package's default, reflection, would look ahead at the
    start of a clip. Such a tokenizer takes a `Stream`; one that is not causal refuses it and states its `look_ahead`.

    An untrained tokenizer has random codebooks: it encodes and decodes (to noise), and its first training step
    replaces them by k-means on its latents. A state_dict holds everything, and no two of its tensors share memory.

    Source: SoundStream §III; EnCodec §3.1. `num_filters` is the width at the sample rate, doubled at every ratio.
    """

    def __init__(
        self,
        sample_rate: int = 16_000,  # Hz
        ratios: Sequence[int] = (8, 5, 4, 2),  # upsampling factors, decoder order
        num_filters: int = 32,
        dimension: int = 128,  # channels of the latents
        num_residual_layers: int = 1,  # residual units per ratio, dilated 1, 2, 4, ...
        num_lstm_layers: int = 2,
        levels: int = 4,
        codebook_size: int = 1024,
        causal: bool = True,
        quantizer_dropout: QuantizerDropout | None = None,  # in training
        pad_mode: str = "constant",  # "reflect" as in EnCodec, whose published weights are converted into this class
    ):
        """Raises ValueError for a geometry that cannot be built."""
        super().__init__()
        if sample_rate < 1 or num_filters < 2 or not ratios or min(ratios) < 1:
            raise ValueError(
                f"sample_rate {sample_rate} must be positive, num_filters {num_filters} at least 2, "
                f"ratios {tuple(ratios)} not empty and positive"
            )
        self.sample_rate = sample_rate
        self.hop = prod(ratios)  # samples
        self.causal, self.reflects = causal, pad_mode == "reflect"
        geometry = {
            "dimension": dimension,
            "n_filters": num_filters,
            "n_residual_layers": num_residual_layers,
            "ratios": list(ratios),
            "lstm": num_lstm_layers,
            "causal": causal,
            "norm": "none",
            "pad_mode": pad_mode,
        }
        self.encoder = SEANetEncoder(**geometry)
        self.decoder = SEANetDecoder(**geometry)
        self.quantizer = ResidualVectorQuantizer(dimension, levels, codebook_size, dropout=quantizer_dropout)
        for module in [*self.encoder.modules(), *self.decoder.modules()]:
            if isinstance(module, nn.Conv1d | nn.ConvTranspose1d):
                _initialise(module)
        for module in [*self.encoder.modules(), *self.decoder.modules()]:
            if isinstance(module, SEANetResnetBlock):
                _share_out(module)
        with torch.no_grad():  # start near silence: full-scale noise would first have to be unlearnt
            self.decoder.model[-1].conv.conv.weight.mul_(0.03)
        # The package's own weight norm is a hook that leaves a non-leaf weight behind, which cannot be deep-copied
        # (EMA). The parametrization is the same function and also loads the package's checkpoints.
        for module in [*self.encoder.modules(), *self.decoder.modules()]:
            if isinstance(module, nn.Conv1d | nn.ConvTranspose1d):
                weight_norm(module)

    @property
    def levels(self) -> int:
        """Residual levels: codes per frame."""
        return self.quantizer.levels

    @property
    def codebook_size(self) -> int:
        """Codes per level."""
        return self.quantizer.size

    @property
    def trained_levels(self) -> tuple[int, ...]:
        """The numbers of levels that training prepares for: all, and what quantizer dropout draws."""
        dropout = self.quantizer.dropout
        return tuple(sorted({self.levels} if dropout is None else {self.levels, *dropout.counts(self.levels)}))

    def forward(self, audio: Tensor) -> AudioReconstruction:
        """Audio b 1 s -> reconstruction of `crop(audio)`; in training mode this moves the codebooks."""
        quantized = self.quantizer(self.encoder(self.crop(audio)))
        return AudioReconstruction(self.decoder(quantized.latents), quantized.codes, quantized.loss, quantized.metrics)

    @property
    def look_ahead(self) -> LookAhead:
        return look_ahead_of(self.encoder, self.decoder, causal_left if self.causal else centred_left, self.reflects)

    def latents(self, audio: Tensor, stream: Stream | None = None) -> Tensor:
        return self.encoder(audio) if stream is None else continued(self.encoder.model, audio, stream)

    def quantize(self, latents: Tensor) -> Tensor:
        return self.quantizer.encode(latents)

    def embed(self, codes: Tensor) -> Tensor:
        return self.quantizer.embed(codes)

    def synthesize(self, latents: Tensor, stream: Stream | None = None) -> Tensor:
        latents = latents.to(self.decoder.model[0].conv.conv.bias.dtype)
        return self.decoder(latents) if stream is None else continued(self.decoder.model, latents, stream)


def _initialise(convolution: nn.Conv1d | nn.ConvTranspose1d) -> None:
    """He initialisation for ELU, no bias: a layer keeps the size of its signal.

    Under PyTorch's default the signal shrinks by half a layer and the biases take over, so that the first latents are
    a constant with a ripple of 0.004; the codebooks chase that constant and collapse to a code or two.
    """
    # Of a transposed convolution with kernel r * stride, r taps meet at every output sample.
    overlap = convolution.stride[0] if isinstance(convolution, nn.ConvTranspose1d) else 1
    fan_in = convolution.in_channels * convolution.kernel_size[0] / overlap
    nn.init.normal_(convolution.weight, std=sqrt(1.5 / fan_in))
    nn.init.zeros_(convolution.bias)


@torch.no_grad()
def _share_out(unit: SEANetResnetBlock) -> None:
    """Half of the sum's power from the branch, half from the shortcut: a residual unit keeps the size of its signal.

    Otherwise each doubles it, and the twelve units of SoundStream's decoder start 64 times too loud.
    """
    unit.block[-1].conv.conv.weight.mul_(sqrt(1 / 2))
    if not isinstance(unit.shortcut, nn.Identity):
        unit.shortcut.conv.conv.weight.mul_(sqrt(1 / 3))  # of what He initialisation gives, which expects an ELU before

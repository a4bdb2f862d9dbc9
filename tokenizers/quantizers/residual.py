"""Residual vector quantizer: each level quantizes what the levels before it left over (SoundStream, Algorithm 1)."""

import torch
from encodec.quantization.core_vq import EuclideanCodebook, ResidualVectorQuantization
from torch import Tensor, nn

from videopoet.tokenizers.quantizers.quantizer import Quantized, Quantizer
from videopoet.tokenizers.quantizers.usage import code_perplexity, code_usage


class _Codebook(EuclideanCodebook):
    """The package's codebook (k-means start, moving averages) with a dead-code replacement that lasts.

    The package replaces the vector of a dead code but not its moving averages, and the average update of the same
    step writes the dead vector back. Here a replaced code also gets averages that agree with its new vector.
    `dead_code_usage` is relative: a code is dead when it is drawn less than that fraction of an even share of the
    batch, so one setting serves any batch and codebook size. A reborn code starts with an even share, which leaves it
    about log(dead_code_usage) / log(decay) steps to find vectors of its own.
    """

    def __init__(self, dimension: int, size: int, decay: float, dead_code_usage: float):
        super().__init__(dimension, size, kmeans_init=True, decay=decay)
        self.dead_code_usage = dead_code_usage
        # Zeros until the k-means start would give an untrained codec one code for every sound.
        nn.init.kaiming_uniform_(self.embed)

    def expire_codes_(self, batch_samples: Tensor) -> None:
        self.even_share = batch_samples.shape[0] / self.codebook_size
        self.threshold_ema_dead_code = self.dead_code_usage * self.even_share
        super().expire_codes_(batch_samples)

    def replace_(self, samples: Tensor, mask: Tensor) -> None:
        super().replace_(samples, mask)
        self.cluster_size.masked_fill_(mask, self.even_share)
        self.embed_avg.copy_(torch.where(mask[:, None], self.embed * self.even_share, self.embed_avg))


class ResidualVectorQuantizer(Quantizer):
    """`levels` codebooks of `size` vectors each, from the `encodec` package, with Euclidean distance.

    Latents are `b d t`, codes are int64 `b t k` with the coarsest level first:
    `q_1 = nearest(z)`, `q_2 = nearest(z - q_1)`, ...; the quantized latent is `q_1 + q_2 + ...`, and a prefix of the
    levels is a coarser version of the same latent. Codebooks start by k-means on the first training batch, then follow
    exponential moving averages; until then they hold random vectors, so that an untrained quantizer works (and means
    nothing). They learn without gradients; `loss` is the commitment of the encoder to its nearest vectors.

    In evaluation `embed(quantizer(z).codes)` equals `quantizer(z).latents`. In training the codebooks move during
    `forward`, so the codes refer to the vectors of before the step.

    Source: SoundStream §III-C; EnCodec §3.2.
    """

    def __init__(
        self,
        dimension: int = 128,
        levels: int = 4,
        size: int = 1024,
        decay: float = 0.99,
        dead_code_usage: float = 0.1,
        commitment_weight: float = 1.0,
    ):
        """Raises ValueError if a count is not positive or a rate lies outside (0, 1)."""
        super().__init__()
        for name, count in {"dimension": dimension, "levels": levels, "size": size}.items():
            if count < 1:
                raise ValueError(f"{name} is {count}, must be at least 1")
        if not 0 < decay < 1 or not 0 <= dead_code_usage < 1:
            raise ValueError(f"decay {decay} must lie in (0, 1) and dead_code_usage {dead_code_usage} in [0, 1)")
        self.dimension = dimension
        self.levels = levels
        self.size = size
        self.commitment_weight = commitment_weight
        self.vq = ResidualVectorQuantization(num_quantizers=levels, dim=dimension, codebook_size=size)
        for layer in self.vq.layers:
            layer._codebook = _Codebook(dimension, size, decay, dead_code_usage)

    def forward(self, latents: Tensor) -> Quantized:
        """Latents b d t -> Quantized; metrics hold `usage_<level>` (fraction of codes in the batch, 0 to 1) and
        `perplexity_<level>` (exp of the entropy of the code histogram, 1 to `size`) per level."""
        with torch.autocast(latents.device.type, enabled=False):  # distances lose their small differences in bf16
            quantized, codes, losses = self.vq(latents.float())
        metrics: dict[str, Tensor] = {}
        for level, level_codes in enumerate(codes):
            counts = torch.bincount(level_codes.flatten(), minlength=self.size)
            metrics[f"usage_{level}"] = code_usage(counts)
            metrics[f"perplexity_{level}"] = code_perplexity(counts)
        loss = self.commitment_weight * losses.sum()
        return Quantized(quantized.to(latents.dtype), codes.permute(1, 2, 0), loss, metrics)

    def encode(self, latents: Tensor) -> Tensor:
        """Latents b d t -> codes b t k, without any update of the codebooks."""
        with torch.autocast(latents.device.type, enabled=False):
            return self.vq.encode(latents.float()).permute(1, 2, 0)

    def embed(self, codes: Tensor) -> Tensor:
        """Codes b t k -> latents b d t; k may be any prefix of the levels.

        Raises ValueError for codes that are not integers, have too many levels, or lie outside [0, size).
        """
        if codes.dim() != 3 or codes.is_floating_point() or codes.is_complex() or codes.dtype == torch.bool:
            raise ValueError(f"codes are {codes.dtype} of shape {tuple(codes.shape)}, expected integers of shape b t k")
        if not 1 <= codes.shape[2] <= self.levels:
            raise ValueError(f"codes have {codes.shape[2]} levels, the quantizer has {self.levels}")
        if codes.numel() and (codes.min() < 0 or codes.max() >= self.size):
            raise ValueError(f"codes span {codes.min()} to {codes.max()}, must lie in [0, {self.size})")
        return self.vq.decode(codes.long().permute(2, 0, 1))

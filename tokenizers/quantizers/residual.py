"""Residual vector quantizer: each level quantizes what the levels before it left over (SoundStream, Algorithm 1)."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from videopoet.tokenizers.quantizers.quantizer import Quantized, Quantizer, check_codes, check_latents
from videopoet.tokenizers.quantizers.vector import VectorQuantizer


@dataclass(frozen=True, kw_only=True)
class QuantizerDropout:
    """Training steps that end after fewer levels, so that one codec serves several bit rates (SoundStream, §III-C).

    levels: the counts drawn from, each as likely, e.g. EnCodec's (2, 4, 8); None stands for 1, 2, ... up to all.
    share: of the steps that draw; the others use all levels.

    The draw depends on the number of updates so far and nothing else, so that ranks agree and a resumed run repeats an
    unbroken one. The very first step uses all levels, which starts every codebook.
    """

    levels: tuple[int, ...] | None = None
    share: float = 1.0

    def __post_init__(self) -> None:
        if (self.levels is not None and (not self.levels or min(self.levels) < 1)) or not 0 <= self.share <= 1:
            raise ValueError(f"quantizer dropout needs counts of at least 1 and a share in [0, 1], not {self}")

    def draw(self, update: int, levels: int) -> int:
        """How many of `levels` levels update number `update` uses."""
        generator = torch.Generator().manual_seed(update)
        draws, place = torch.rand(2, generator=generator).tolist()
        counts = self.counts(levels)
        return counts[int(place * len(counts))] if update and draws < self.share else levels

    def counts(self, levels: int) -> tuple[int, ...]:
        """What is drawn from, for a quantizer of `levels` levels."""
        return self.levels or tuple(range(1, levels + 1))


class ResidualVectorQuantizer(Quantizer):
    """`levels` codebooks of `size` vectors each.

    Latents are `b d *lattice`, codes int64 `b *lattice k` with the coarsest level first:
    `q_1 = nearest(z)`, `q_2 = nearest(z - q_1)`, ...; the quantized latent is `q_1 + q_2 + ...`, and a prefix of the
    levels is a coarser version of the same latent. A level is a `VectorQuantizer`, which says how codebooks start, move
    and replace dead codes, all for the joint batch of all ranks.

    The gradient passes straight through to z. The commitment is `commitment_weight * mean |z - q_1 - ... - q_k|^2`, meaned
    over the levels k too, with a gradient for z alone (EnCodec, §3.4).

    With `dropout` a training step may use a prefix of the levels only; the others then learn nothing from it.

    Weights of the `encodec` package's quantizer load too; a run started from them counts them as one update.

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
        dropout: QuantizerDropout | None = None,
    ):
        """Raises ValueError if a count is not positive, a rate lies outside (0, 1), or dropout draws too many levels."""
        super().__init__()
        if levels < 1:
            raise ValueError(f"levels is {levels}, must be at least 1")
        if dropout is not None and max(dropout.counts(levels)) > levels:
            raise ValueError(
                f"quantizer dropout draws {max(dropout.counts(levels))} levels, the quantizer has {levels}"
            )
        self.dimension, self.levels, self.size, self.dropout = dimension, levels, size, dropout
        self.layers = nn.ModuleList(
            VectorQuantizer(size, dimension, decay, commitment_weight, dead_code_usage=dead_code_usage)
            for _ in range(levels)
        )
        self.register_load_state_dict_pre_hook(_from_package)

    def forward(self, latents: Tensor) -> Quantized:
        """Latents b d *lattice -> Quantized, with as many levels of codes as were used.

        Metrics in training: `levels`, how many were used, and per used level `usage_<level>` (fraction of codes in the
        batch, 0 to 1), `perplexity_<level>` (exp of the entropy of the code histogram, 1 to `size`), `reborn_<level>`.
        """
        check_latents(latents, self.dimension)
        levels = self.levels
        if self.training and torch.is_grad_enabled() and self.dropout is not None:
            levels = self.dropout.draw(int(self.layers[0].updates), levels)
        z = latents.float()
        residual, total, codes = z, torch.zeros_like(z), []
        loss, metrics = z.new_zeros(()), {}
        for level, layer in enumerate(self.layers[:levels]):
            made = layer(residual)
            codes.append(made.codes)
            loss = loss + made.loss / levels
            metrics |= {f"{name}_{level}": value for name, value in made.metrics.items() if name != "commitment"}
            total = total + made.latents.detach()
            residual = residual - made.latents.detach()  # keeps the gradient to z for the next commitment
        if self.training:
            metrics["levels"] = z.new_tensor(float(levels))
        quantized = total + (z - z.detach())
        return Quantized(quantized.to(latents.dtype), torch.stack(codes, -1), loss, metrics)

    @torch.no_grad()
    def encode(self, latents: Tensor) -> Tensor:
        """Latents b d *lattice -> codes b *lattice k, without any update of the codebooks."""
        check_latents(latents, self.dimension)
        vectors = latents.float().movedim(1, -1)
        residual, codes = vectors.reshape(-1, self.dimension), []
        with torch.autocast(latents.device.type, enabled=False):  # distances lose their small differences in bf16
            for layer in self.layers:
                codes.append(layer.nearest(residual))
                residual = residual - layer.codebook[codes[-1]]
        return torch.stack(codes, -1).reshape(*vectors.shape[:-1], self.levels)

    def embed(self, codes: Tensor) -> Tensor:
        """Codes b *lattice k -> latents b d *lattice; k may be any prefix of the levels.

        Raises ValueError for codes that are not integers, have too many levels, or lie outside [0, size).
        """
        check_codes(codes, self.size)
        if codes.dim() < 2 or not 1 <= codes.shape[-1] <= self.levels:
            found = codes.shape[-1] if codes.dim() > 1 else 0
            raise ValueError(
                f"codes of shape {tuple(codes.shape)} have {found} levels, the quantizer has {self.levels}"
            )
        return sum(layer.embed(level) for layer, level in zip(self.layers, codes.unbind(-1)))


def _from_package(quantizer: ResidualVectorQuantizer, state: dict[str, Tensor], prefix: str, *_) -> None:
    """Renames the state of the package's quantizer in place; its sums of vectors are its codebook times the counts."""
    for level in range(quantizer.levels):
        old, new = f"{prefix}vq.layers.{level}._codebook.", f"{prefix}layers.{level}."
        if old + "embed" not in state:
            continue
        state[new + "codebook"] = state.pop(old + "embed")
        counts = state.pop(old + "cluster_size")
        state[new + "share"] = counts / counts.sum().clamp_min(1e-12)
        state[new + "updates"] = (state.pop(old + "inited") > 0).long().reshape(())
        state.pop(old + "embed_avg", None)

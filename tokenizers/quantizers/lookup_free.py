"""Lookup-free quantization: the code of a vector is the sign of its coordinates (MAGVIT-v2, §3.1)."""

import math

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor

from videopoet.tokenizers.quantizers.quantizer import Quantized, Quantizer


class LookupFreeQuantizer(Quantizer):
    """`index(z) = sum_i 2^i [z_i > 0]`, least significant bit first; no codebook and no codebook loss.

    Latents are scaled to norm sqrt(num_bits) over the channels of each position before the sign is taken, so that
    coordinates stay near +-1 (a non-affine normalisation, needed for stability; first author, vector-quantize-pytorch
    PR 89). It looks at one position only: causality and locality are untouched.

    Example with num_bits = 3: z = (0.4, -1.0, 2.0) -> bits (1, 0, 1) -> code 1 + 4 = 5.

    The entropy penalty is `E[H(q(z))] - H[E q(z)]` with `p(bit_i = 1 | z) = sigmoid(4 z_i / temperature)`. The
    per-token term is exact, as a sum over bits. The batch term is the sum over groups of at most `bits_per_group`
    bits, an upper bound of the joint entropy and equal to it for one group. Weights: commitment 0.25, entropy 0.1
    starting `anneal_ratio` times higher and falling linearly over `anneal_steps` (MAGVIT-v2, App. A.2).
    """

    bit_order = "least significant first"

    def __init__(
        self,
        num_bits: int = 18,
        commitment_weight: float = 0.25,
        entropy_weight: float = 0.1,
        temperature: float = 0.01,
        anneal_ratio: float = 3.0,
        anneal_steps: int = 2000,
        bits_per_group: int = 9,
    ):
        super().__init__()
        if not 1 <= num_bits <= 40:
            raise ValueError(f"num_bits is {num_bits}: a lookup-free code has 1 to 40 bits")
        self.dimension, self.size = num_bits, 2**num_bits
        self.commitment_weight, self.entropy_weight = commitment_weight, entropy_weight
        self.temperature, self.anneal_ratio, self.anneal_steps = temperature, anneal_ratio, anneal_steps
        self.bits_per_group = bits_per_group
        self.register_buffer("powers", 2 ** torch.arange(num_bits), persistent=False)
        self.register_buffer("steps", torch.zeros((), dtype=torch.int64))  # training steps seen, for the annealing

    def forward(self, latents: Tensor) -> Quantized:
        """latents float (b, num_bits, t, h, w) -> latents of +-1, codes int64 (b, t, h, w)."""
        with torch.autocast(latents.device.type, enabled=False):  # logits are z / temperature: not for half precision
            z = F.normalize(latents.float(), dim=1) * math.sqrt(self.dimension)
            bits = z > 0
            signs = bits.to(z.dtype) * 2 - 1
            codes = (bits.movedim(1, -1) * self.powers).sum(-1)
            if not self.training:
                return Quantized(signs.to(latents.dtype), codes, z.new_zeros(()), {})
            loss, metrics = self._loss(z, signs)
            self.steps += 1
        return Quantized((z + (signs - z).detach()).to(latents.dtype), codes, loss, metrics)

    def embed(self, codes: Tensor) -> Tensor:
        """codes int64 (b, t, h, w) -> latents of +-1, float (b, num_bits, t, h, w)."""
        bits = codes.unsqueeze(-1).bitwise_and(self.powers) > 0
        return (bits.float() * 2 - 1).movedim(-1, 1)

    def entropy_scale(self) -> float:
        """Factor on the entropy weight at the current step: from `anneal_ratio` down to 1."""
        progress = min(1.0, self.steps.item() / max(1, self.anneal_steps))
        return self.anneal_ratio + (1.0 - self.anneal_ratio) * progress

    def _loss(self, z: Tensor, signs: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        commitment = F.mse_loss(z, signs)
        logits = 4 * z.movedim(1, -1).reshape(-1, self.dimension) / self.temperature
        probability = logits.sigmoid()
        token_entropy = F.binary_cross_entropy_with_logits(logits, probability, reduction="none").sum(1).mean()
        groups = probability.split(self.bits_per_group, dim=1)
        batch_entropy = sum(_entropy(_mean_over_ranks(_joint(group).mean(0))) for group in groups)
        entropy = (token_entropy - batch_entropy) * self.entropy_weight * self.entropy_scale()
        usage = signs.detach().movedim(1, -1).reshape(-1, self.dimension).mean(0).abs()
        metrics = {
            "commitment": commitment.detach(),
            "token_entropy": token_entropy.detach(),
            "batch_entropy": batch_entropy.detach(),
            "bit_imbalance": usage.mean(),
        }
        return self.commitment_weight * commitment + entropy, metrics


def _joint(probability: Tensor) -> Tensor:
    """Bit probabilities (n, k) -> code probabilities (n, 2^k), independent bits, least significant first."""
    table = torch.ones_like(probability[:, :1])
    for p in probability.unbind(1):
        table = torch.cat([table * (1 - p[:, None]), table * p[:, None]], dim=1)
    return table


def _entropy(p: Tensor) -> Tensor:
    return -(p * (p + 1e-8).log()).sum()


def _mean_over_ranks(p: Tensor) -> Tensor:
    """Mean of p over ranks, differentiable, so that the batch is the global batch."""
    if not (dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1):
        return p
    from torch.distributed.nn.functional import all_reduce

    return all_reduce(p) / dist.get_world_size()

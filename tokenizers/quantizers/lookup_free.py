"""Lookup-free quantization: the code of a vector is the sign of its coordinates (MAGVIT-v2, §3.1)."""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from videopoet.tokenizers.quantizers.quantizer import Quantized, Quantizer, check_codes, check_latents
from videopoet.tokenizers.ranks import mean_over_ranks

MAX_BITS = 40  # the largest vocabulary the author reports (2^40)
MAX_BITS_PER_GROUP = 20  # a table of 2^20 probabilities is 4 MiB
EXACT_BITS = 12  # up to here the batch entropy is the joint one unless `bits_per_group` says otherwise
TABLE_ELEMENTS = 2**21  # of a factor of the code table that may exist at one time: 8 MiB


class LookupFreeQuantizer(Quantizer):
    """`index(z) = sum_i 2^i [z_i > 0]`, least significant bit first; no codebook and no codebook loss.

    Latents are scaled to norm sqrt(num_bits) over the channels of each position before the sign is taken, so that
    coordinates stay near +-1 (a non-affine normalisation, needed for stability; first author, vector-quantize-pytorch
    PR 89). It looks at one position only: causality and locality are untouched. The gradient passes straight through
    the sign, so with respect to the scaled latents it is the identity.

    Example with num_bits = 3: z = (0.4, -1.0, 2.0) -> bits (1, 0, 1) -> code 1 + 4 = 5.

    The entropy penalty is `E[H(q(z))] - H[E q(z)]`, in nats, with independent bits `p(bit_i = 1 | z) =
    sigmoid(4 z_i / temperature)`, which is the softmax over all codes of `-|z - c|^2 / temperature`:

    - token entropy, the first term, is exact as a sum over bits;
    - batch entropy, the second, is exact over all 2^num_bits codes where `bits_per_group` >= num_bits (metric
      `batch_entropy`). Otherwise bits are split into groups of `bits_per_group`, the last one perhaps smaller, and the
      entropies of the groups are summed: an upper bound of the joint entropy (metric `grouped_batch_entropy`). The mean
      is over the batches of all ranks, with gradient. `bits_per_group = None` means one group up to 12 bits and equal
      groups of at most 12 above; 18 is exact at 2^18 and affordable (tools/benchmark_tokenizer.py).

    Weights: commitment 0.25; entropy 0.1, starting `anneal_ratio` times higher and falling linearly over `anneal_steps`
    training steps (MAGVIT-v2, App. A.2).

    The order of bits is part of every token file and every language model over the codes, so checkpoints carry it (as
    the place value of each bit) and a checkpoint of another order is refused.
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
        bits_per_group: int | None = None,
    ):
        """Raises ValueError where bits, group or temperature make no quantizer."""
        super().__init__()
        if not 1 <= num_bits <= MAX_BITS:
            raise ValueError(f"num_bits is {num_bits}: a lookup-free code has 1 to {MAX_BITS} bits")
        if temperature <= 0:
            raise ValueError(f"temperature is {temperature}, must be above 0 (the paper's is 0.01)")
        if bits_per_group is None:
            bits_per_group = math.ceil(num_bits / math.ceil(num_bits / EXACT_BITS))
        bits_per_group = min(bits_per_group, num_bits)
        if not 1 <= bits_per_group <= MAX_BITS_PER_GROUP:
            raise ValueError(
                f"bits_per_group is {bits_per_group}: the batch entropy keeps 2^bits_per_group probabilities, "
                f"use 1 to {MAX_BITS_PER_GROUP}"
            )
        self.dimension, self.size, self.bits_per_group = num_bits, 2**num_bits, bits_per_group
        self.commitment_weight, self.entropy_weight = commitment_weight, entropy_weight
        self.temperature, self.anneal_ratio, self.anneal_steps = temperature, anneal_ratio, anneal_steps
        self.register_buffer("steps", torch.zeros((), dtype=torch.int64))  # training steps seen, for the annealing

    def forward(self, latents: Tensor) -> Quantized:
        """latents float (b, num_bits, *lattice) -> latents of +-1, codes int64 (b, *lattice)."""
        check_latents(latents, self.dimension)
        with torch.autocast(latents.device.type, enabled=False):  # logits are z / temperature: not for half precision
            z = F.normalize(latents.float(), dim=1) * math.sqrt(self.dimension)
            bits = z > 0
            signs = bits.to(z.dtype) * 2 - 1
            codes = self.from_bits(bits.movedim(1, -1))
            if not self.training:
                return Quantized(signs.to(latents.dtype), codes, z.new_zeros(()), {})
            loss, metrics = self._loss(z, signs)
            if torch.is_grad_enabled():
                self.steps += 1
        return Quantized((signs + (z - z.detach())).to(latents.dtype), codes, loss, metrics)

    def embed(self, codes: Tensor) -> Tensor:
        """codes int64 (b, *lattice) -> latents of +-1, float32 (b, num_bits, *lattice)."""
        check_codes(codes, self.size)
        return (self.bits(codes).float() * 2 - 1).movedim(-1, 1)

    def bits(self, codes: Tensor) -> Tensor:
        """codes int64 (...) -> bool (..., num_bits), least significant first."""
        return (codes.unsqueeze(-1) >> self._places(codes)) & 1 > 0

    def from_bits(self, bits: Tensor) -> Tensor:
        """The inverse of `bits`: bool (..., num_bits) -> codes int64 (...)."""
        return (bits.long() << self._places(bits)).sum(-1)

    def factors(self, codes: Tensor, widths: Sequence[int]) -> Tensor:
        """codes int64 (...) -> int64 (..., len(widths)): the code cut into numbers of `widths` bits, lowest bits first.

        widths (9, 9) splits 2^18 codes into 2^9 x 2^9 (MAGVIT-v2, §3.1): code 5 * 512 + 7 -> (7, 5). Raises ValueError
        where the widths do not add up to num_bits.
        """
        starts = self._starts(widths)
        return torch.stack([(codes >> start) & (2**width - 1) for start, width in zip(starts, widths)], -1)

    def from_factors(self, factors: Tensor, widths: Sequence[int]) -> Tensor:
        """The inverse of `factors`: int64 (..., len(widths)) -> codes int64 (...)."""
        starts = self._starts(widths)
        if factors.shape[-1] != len(widths):
            raise ValueError(
                f"{factors.shape[-1]} factors for {len(widths)} widths {list(widths)}: give one width each"
            )
        return (factors.long() << torch.tensor(starts, device=factors.device)).sum(-1)

    def entropy_scale(self) -> Tensor:
        """Factor on the entropy weight at the current step: from `anneal_ratio` down to 1."""
        progress = (self.steps / max(1, self.anneal_steps)).clamp(max=1.0)
        return self.anneal_ratio + (1.0 - self.anneal_ratio) * progress

    def _loss(self, z: Tensor, signs: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        commitment = F.mse_loss(z, signs)
        logits = 4 * z.movedim(1, -1).reshape(-1, self.dimension) / self.temperature
        token_entropy = bit_entropy(logits).sum(1).mean()
        batch_entropy = self._batch_entropy(logits)
        scale = self.entropy_scale()
        entropy = (token_entropy - batch_entropy) * self.entropy_weight * scale
        imbalance = signs.detach().movedim(1, -1).reshape(-1, self.dimension).mean(0).abs()
        exact = self.bits_per_group >= self.dimension
        metrics = {
            "commitment": commitment.detach(),
            "token_entropy": token_entropy.detach(),
            "batch_entropy" if exact else "grouped_batch_entropy": batch_entropy.detach(),
            "bit_imbalance": imbalance.mean(),
            "entropy_scale": scale,
        }
        return self.commitment_weight * commitment + entropy, metrics

    def _batch_entropy(self, logits: Tensor) -> Tensor:
        """Bit logits (n, num_bits) -> entropy in nats of the mean code distribution, summed over groups of bits."""
        tables = [mean_code_distribution(group) for group in logits.split(self.bits_per_group, dim=1)]
        tables = mean_over_ranks(torch.cat(tables)).split([len(table) for table in tables])
        return sum(entropy(table) for table in tables)

    def _places(self, like: Tensor) -> Tensor:
        return torch.arange(self.dimension, device=like.device)

    def _starts(self, widths: Sequence[int]) -> list[int]:
        if min(widths, default=0) < 1 or sum(widths) != self.dimension:
            raise ValueError(
                f"widths {list(widths)} must be positive and add up to the {self.dimension} bits of a code"
            )
        return [sum(widths[:i]) for i in range(len(widths))]

    def get_extra_state(self) -> Tensor:
        return 2 ** torch.arange(self.dimension)

    def set_extra_state(self, state: Tensor) -> None:
        if state.tolist() != self.get_extra_state().tolist():
            raise ValueError(
                f"the checkpoint's bits are worth {state.tolist()}, this quantizer's {self.get_extra_state().tolist()} "
                f"({self.bit_order}): its codes mean something else, convert them"
            )

    def _load_from_state_dict(self, state_dict, prefix, *args):
        # Absent in files written before the order was stored; it was the same then.
        state_dict.setdefault(f"{prefix}_extra_state", self.get_extra_state())
        super()._load_from_state_dict(state_dict, prefix, *args)


def bit_entropy(logits: Tensor) -> Tensor:
    """Entropy in nats of a bit whose log-odds are `logits`, elementwise, to full relative precision.

    With a = |logits|: `a sigmoid(-a) + log(1 + exp(-a))`; both terms are positive, nothing cancels or overflows.
    """
    a = logits.abs()
    return a * torch.sigmoid(-a) + F.softplus(-a)


def entropy(probabilities: Tensor) -> Tensor:
    """Entropy in nats of a distribution over the only dimension; a zero gives zero with a finite gradient."""
    return -(probabilities * probabilities.clamp_min(1e-30).log()).sum()


def mean_code_distribution(logits: Tensor) -> Tensor:
    """Bit log-odds (n, k) -> float (2^k,): probability of each code, averaged over the n vectors, exactly.

    A code's probability is that of its low bits times that of its high bits, so the average of the products is one
    matrix product of two tables, (2^(k/2), n) x (n, 2^(k/2)): n x 2^k never exists. Beyond TABLE_ELEMENTS the tables
    too are made piece by piece, and again in the backward pass, so that memory does not grow with n.
    """
    n, k = logits.shape
    pieces = logits.split(max(1, TABLE_ELEMENTS >> (k + 1) // 2))
    if len(pieces) == 1:
        return _summed_codes(logits) / n
    total = checkpoint(_summed_codes, pieces[0], use_reentrant=False, preserve_rng_state=False)
    for piece in pieces[1:]:
        total = total + checkpoint(_summed_codes, piece, use_reentrant=False, preserve_rng_state=False)
    return total / n


def _summed_codes(logits: Tensor) -> Tensor:
    """Bit log-odds (n, k) -> sum over n of the code probabilities (2^k,), least significant bit first."""
    low = logits.shape[1] // 2
    return (_code_table(logits[:, low:]).T @ _code_table(logits[:, :low])).flatten()


def _code_table(logits: Tensor) -> Tensor:
    """Bit log-odds (n, k) -> code probabilities (n, 2^k), least significant first."""
    table = torch.ones_like(logits[:, :1])
    for one, zero in zip(logits.sigmoid().unbind(1), (-logits).sigmoid().unbind(1)):  # 1 - sigmoid would round to 0
        table = torch.cat([table * zero[:, None], table * one[:, None]], dim=1)
    return table if logits.shape[1] else logits.new_ones(len(logits), 1)

"""Loss weights that mean what they say, whatever the scale of a loss: shares of the gradient at the reconstruction."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from videopoet.tokenizers.adversarial import Cost
from videopoet.tokenizers.ranks import mean_over_ranks

TERMS = ("waveform", "amplitude", "log", "adversarial", "features")


class Balancer(nn.Module):
    """Replaces the gradient g_i of every loss i at the reconstruction by one of known length (EnCodec, §3.4).

    `total_norm * w_i / sum_j w_j * g_i / <|g_i|>`, with |g_i| the length of the gradient of one clip's own loss, meaned
    over the clips of all ranks, and <> its moving average. j runs over the losses of this step, so that a late adversary
    takes its share from then on.

    Unlike EnCodec's, a gradient longer than its average counts as its share and no more: that of a discriminator that
    has just begun grows by orders of magnitude. And the sum is divided by the clips of the batch: the gradient of the
    weights then does not grow with the batch, and ranks with half a batch each agree with one that has the whole. So
    EnCodec's norm of 1 with its batch of 64 is a `total_norm` of 64 here, against the commitment, which is a mean.

    terms: names of the losses there may be.
    total_norm: length of the balanced gradient of one clip, were all losses to pull one way. Only its proportion to the
        commitment matters to Adam: too small, and the latents shrink to where all codes are near and say nothing.
    decay: of the average once 1 / (1 - decay) steps have passed; until then each step counts the same.
    """

    def __init__(self, total_norm: float = 10.0, decay: float = 0.999, terms: Sequence[str] = TERMS):
        """Raises ValueError if the length is not positive or the decay not in [0, 1)."""
        super().__init__()
        if total_norm <= 0 or not 0 <= decay < 1:
            raise ValueError(f"total_norm {total_norm} must be positive and decay {decay} in [0, 1)")
        self.total_norm, self.decay, self.terms = total_norm, decay, tuple(terms)
        self.register_buffer("lengths", torch.zeros(len(self.terms)))
        self.register_buffer("steps", torch.zeros(len(self.terms), dtype=torch.int64))

    def forward(self, losses: dict[str, Tensor], weights: dict[str, float], made: Tensor) -> Cost:
        """Scalar losses of reconstructions `made` (b, ...) -> a loss whose gradient at `made` is the balanced one.

        Its value means nothing. Logged: gradient_<name>, the average lengths. Raises ValueError for unknown names.
        """
        unknown = sorted(losses.keys() - set(self.terms))
        if unknown:
            raise ValueError(
                f"the balancer has no term {', '.join(unknown)}, only {', '.join(self.terms)}: add it there"
            )
        clips = len(made)
        slopes = [torch.autograd.grad(loss, made, retain_graph=True)[0].float() for loss in losses.values()]
        with torch.no_grad():
            # A loss is a mean over clips: times their number it is the gradient of a clip's own.
            now = mean_over_ranks(torch.stack([clips * slope.flatten(1).norm(dim=1).mean() for slope in slopes]))
            index = torch.tensor([self.terms.index(name) for name in losses], device=made.device)
            keep = (self.steps[index] / (self.steps[index] + 1)).clamp(max=self.decay)
            lengths = torch.lerp(now, self.lengths[index], keep)
            self.lengths[index] = lengths
            self.steps[index] += 1
            shares = torch.tensor([weights[name] for name in losses], device=made.device)
            factors = self.total_norm * shares / shares.sum() / torch.maximum(lengths, now).clamp_min(1e-12)
            balanced = sum(factor * slope for factor, slope in zip(factors, slopes))
        metrics = {f"gradient_{name}": length for name, length in zip(losses, lengths)}
        return Cost((made.float() * balanced).sum(), metrics)

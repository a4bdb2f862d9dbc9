"""Reconstruction losses: pixels, and what a pretrained network makes of the frames."""

from typing import NamedTuple

from torch import Tensor, nn

from videopoet.tokenizers.visual.perceptual import Perceptual


class PixelLoss(nn.Module):
    """`l2 * mean (x - y)^2 + l1 * mean |x - y| + gradient * mean |dx - dy|` on pixels in [-1, 1].

    dx are the differences between neighbouring pixels of a frame, along rows and columns: they weigh edges (gradient
    difference loss, Mathieu et al. 2016). The paper's weight is 5 on L2 over [0, 1] (MAGVIT-v2, App. A.2), which is
    1.25 over [-1, 1].
    """

    def __init__(self, l2: float = 1.25, l1: float = 0.0, gradient: float = 0.0):
        super().__init__()
        self.l2, self.l1, self.gradient = l2, l1, gradient

    def forward(self, reconstruction: Tensor, video: Tensor) -> Tensor:
        """Two videos float (b, 3, t, h, w) -> scalar."""
        difference = reconstruction.float() - video
        edges = difference.diff(dim=-1).abs().mean() + difference.diff(dim=-2).abs().mean()
        return self.l2 * difference.square().mean() + self.l1 * difference.abs().mean() + self.gradient * edges


class Distance(NamedTuple):
    """How far a reconstruction is from its video: total, and the weighted parts it is the sum of, by name."""

    total: Tensor
    parts: dict[str, Tensor]


class ReconstructionLoss(nn.Module):
    """Pixels, plus the perceptual term where one is given (MAGVIT-v2, App. A.2: ResNet-50 logits, weight 0.1).

    `perceptual` is a class of `perceptual.py`, its weight its own; null for none.
    """

    def __init__(self, pixels: PixelLoss, perceptual: Perceptual | None = None):
        super().__init__()
        self.pixels, self.perceptual = pixels, perceptual

    def forward(self, reconstruction: Tensor, video: Tensor, step: int = 0) -> Distance:
        """Two videos float (b, 3, t, h, w), pixels in [-1, 1]; `step` seeds the choice of frames."""
        parts = {"pixels": self.pixels(reconstruction, video)}
        if self.perceptual is not None:
            parts["perceptual"] = self.perceptual(reconstruction, video, step)
        return Distance(sum(parts.values()), parts)

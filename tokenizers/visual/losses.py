"""Reconstruction losses on pixels. Perceptual and adversarial terms join here as classes of the same shape."""

from torch import Tensor, nn


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
        difference = reconstruction.float() - video
        edges = difference.diff(dim=-1).abs().mean() + difference.diff(dim=-2).abs().mean()
        return self.l2 * difference.square().mean() + self.l1 * difference.abs().mean() + self.gradient * edges

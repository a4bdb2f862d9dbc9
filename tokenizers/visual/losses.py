"""Reconstruction losses on pixels. Perceptual and adversarial terms join here as classes of the same shape."""

from torch import Tensor, nn


class PixelLoss(nn.Module):
    """`l2 * mean (x - y)^2 + l1 * mean |x - y|` on pixels in [-1, 1].

    The paper's weight is 5 on L2 over [0, 1] (MAGVIT-v2, App. A.2), which is 1.25 over [-1, 1].
    """

    def __init__(self, l2: float = 1.25, l1: float = 0.0):
        super().__init__()
        self.l2, self.l1 = l2, l1

    def forward(self, reconstruction: Tensor, video: Tensor) -> Tensor:
        difference = reconstruction.float() - video
        return self.l2 * difference.square().mean() + self.l1 * difference.abs().mean()

"""FID, KID and IS of `torchmetrics` and of ours, given one extractor and the same pictures.

Tolerances are those that torch-fidelity publishes for itself: FID and KID 1e-6, IS 1e-3 (relative). torch-fidelity cannot be
run here: it imports torchvision, whose wheel does not load beside a CPU build of torch. torchmetrics follows its formulas.
"""

import pytest
import torch
from torchmetrics.image.fid import FrechetInceptionDistance
from torchmetrics.image.inception import InceptionScore
from torchmetrics.image.kid import KernelInceptionDistance

from videopoet.evaluation.frechet import frechet_distance
from videopoet.evaluation.inception_score import inception_score
from videopoet.evaluation.kernel import kernel_distance
from videopoet.evaluation.statistics import GaussianStatistics


class Extractor(torch.nn.Module):
    """uint8 (b, 3, 8, 8) -> float64 (b, 24)."""

    num_features = 24

    def __init__(self):
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.register_buffer("weight", torch.randn(192, 24, generator=generator, dtype=torch.float64) / 14)

    def forward(self, pictures: torch.Tensor) -> torch.Tensor:
        return (pictures.flatten(1).double() / 127.5 - 1) @ self.weight + 3


def pictures(n: int, seed: int, low: int) -> torch.Tensor:
    return torch.randint(low, 256, (n, 3, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))


def test_torchmetrics_gives_the_same_numbers():
    extractor, real, fake = Extractor(), pictures(300, 0, 0), pictures(300, 1, 60)
    fid = FrechetInceptionDistance(feature=extractor, normalize=False)
    kid = KernelInceptionDistance(feature=extractor, subsets=1, subset_size=300)
    score = InceptionScore(feature=extractor, splits=1)
    for metric in (fid, kid):
        for start in range(0, 300, 64):
            metric.update(real[start : start + 64], real=True)
            metric.update(fake[start : start + 64], real=False)
    score.update(fake)

    statistics = [GaussianStatistics() for _ in range(2)]
    for start in range(0, 300, 64):
        for made, given in zip(statistics, (real, fake)):
            made.update(extractor(given[start : start + 64]))
    assert frechet_distance(*statistics).value == pytest.approx(float(fid.compute()), rel=1e-6)
    kernel = kernel_distance(extractor(real), extractor(fake), subsets=None)
    assert kernel.value == pytest.approx(float(kid.compute()[0]), rel=1e-6)
    assert inception_score(extractor(fake), splits=1).value == pytest.approx(float(score.compute()[0]), rel=1e-3)
    assert frechet_distance(*statistics).value > 5 * frechet_distance(*statistics).bias  # the sets do differ

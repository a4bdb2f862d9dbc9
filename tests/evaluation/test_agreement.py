"""FID, KID and IS of `torchmetrics`, of `torch-fidelity` and of ours, given one extractor and the same pictures.

Tolerances are those that torch-fidelity publishes for itself: FID and KID 1e-6, IS 1e-3 (relative).
"""

import sys
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType

import pytest
import torch
from torchmetrics.image.fid import FrechetInceptionDistance
from torchmetrics.image.inception import InceptionScore
from torchmetrics.image.kid import KernelInceptionDistance

from videopoet.evaluation.frechet import frechet_distance
from videopoet.evaluation.inception_score import inception_score
from videopoet.evaluation.kernel import kernel_distance
from videopoet.evaluation.statistics import GaussianStatistics

BESIDE = Path(sys.prefix) / "share" / "torch-fidelity"
NUM = 300  # pictures of each set


class Extractor(torch.nn.Module):
    """uint8 (b, 3, 8, 8) -> float64 (b, 24)."""

    num_features = 24

    def __init__(self):
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.register_buffer("weight", torch.randn(192, 24, generator=generator, dtype=torch.float64) / 14)

    def forward(self, pictures: torch.Tensor) -> torch.Tensor:
        return (pictures.flatten(1).double() / 127.5 - 1) @ self.weight + 3


def pictures(seed: int, low: int) -> torch.Tensor:
    return torch.randint(low, 256, (NUM, 3, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))


@pytest.fixture
def fidelity(monkeypatch):
    """torch-fidelity, from the folder beside the environment where `make setup` puts it, or installed.

    It cannot be installed beside a torch that loads no torchvision: torchmetrics imports it, and it imports torchvision,
    for its datasets and transforms alone. Here names stand in for those; all that computes is torch-fidelity's own.
    """
    monkeypatch.setattr(sys, "path", [*sys.path, str(BESIDE)])
    if find_spec("torch_fidelity") is None:
        pytest.skip(
            f"no torch-fidelity: python -m pip install --no-deps --target {BESIDE} -c constraints.txt torch-fidelity"
        )
    try:
        import torchvision  # noqa: F401
    except (ImportError, RuntimeError):  # RuntimeError: a torchvision of another build of torch
        datasets = ModuleType("torchvision.datasets")
        datasets.__getattr__ = lambda name: type(name, (), {})
        functional = ModuleType("torchvision.transforms.functional")
        transforms = ModuleType("torchvision.transforms")
        transforms.functional = functional
        for module in (ModuleType("torchvision"), datasets, transforms, functional):
            monkeypatch.setitem(sys.modules, module.__name__, module)
    import torch_fidelity

    return torch_fidelity


def of_torchmetrics(real: torch.Tensor, fake: torch.Tensor) -> tuple[float, float, float]:
    extractor = Extractor()
    fid = FrechetInceptionDistance(feature=extractor, normalize=False)
    kid = KernelInceptionDistance(feature=extractor, subsets=1, subset_size=NUM)
    score = InceptionScore(feature=extractor, splits=1)
    for metric in (fid, kid):
        for some in real.split(64):
            metric.update(some, real=True)
        for some in fake.split(64):
            metric.update(some, real=False)
    score.update(fake)
    return float(fid.compute()), float(kid.compute()[0]), float(score.compute()[0])


def of_torch_fidelity(package, real: torch.Tensor, fake: torch.Tensor) -> tuple[float, float, float]:
    """Its whole way from pictures to numbers: dataset, batches, extractor, metrics."""

    class Registered(package.FeatureExtractorBase):
        def __init__(self, name, features_list, **_):
            super().__init__(name, features_list)
            self.extractor = Extractor()

        @staticmethod
        def get_provided_features_list():
            return ("24",)

        @staticmethod
        def get_default_feature_layer_for_metric(metric):
            return "24"

        def forward(self, pictures):
            return (self.extractor(pictures),)

    class Pictures(torch.utils.data.Dataset):
        def __init__(self, tensor):
            self.tensor = tensor

        def __len__(self):
            return len(self.tensor)

        def __getitem__(self, index):
            return self.tensor[index]

    package.register_feature_extractor("videopoet-agreement", Registered)
    try:
        found = package.calculate_metrics(
            input1=Pictures(fake),
            input2=Pictures(real),
            feature_extractor="videopoet-agreement",
            fid=True,
            kid=True,
            isc=True,
            isc_splits=1,
            kid_subsets=1,
            kid_subset_size=NUM,
            cuda=False,
            cache=False,
            save_cpu_ram=True,  # no worker processes
            verbose=False,
        )
    finally:
        sys.modules["torch_fidelity.registry"].FEATURE_EXTRACTORS_REGISTRY.pop("videopoet-agreement")
    return (
        found[package.KEY_METRIC_FID],
        found[package.KEY_METRIC_KID_MEAN],
        found[package.KEY_METRIC_ISC_MEAN],
    )


def assert_ours_is(theirs: tuple[float, float, float], real: torch.Tensor, fake: torch.Tensor) -> None:
    extractor, statistics = Extractor(), [GaussianStatistics() for _ in range(2)]
    for made, given in zip(statistics, (real, fake)):
        for some in given.split(64):
            made.update(extractor(some))
    fid, kid, score = theirs
    distance = frechet_distance(*statistics)
    assert distance.value == pytest.approx(fid, rel=1e-6)
    assert kernel_distance(extractor(real), extractor(fake), subsets=None).value == pytest.approx(kid, rel=1e-6)
    assert inception_score(extractor(fake), splits=1).value == pytest.approx(score, rel=1e-3)
    assert distance.value > 5 * distance.bias  # the sets do differ


def test_torchmetrics_gives_the_same_numbers():
    real, fake = pictures(0, 0), pictures(1, 60)
    assert_ours_is(of_torchmetrics(real, fake), real, fake)


def test_torch_fidelity_gives_the_same_numbers(fidelity):
    real, fake = pictures(0, 0), pictures(1, 60)
    assert_ours_is(of_torch_fidelity(fidelity, real, fake), real, fake)

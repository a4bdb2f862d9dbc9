"""Gaussian statistics: any order of batches and ranks gives the statistics of the whole, to the last digits."""

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from videopoet.evaluation.statistics import GaussianStatistics


def features(n: int = 300, d: int = 20, offset: float = 0.0, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    mix = torch.randn(d, d, generator=generator, dtype=torch.float64)
    return torch.randn(n, d, generator=generator, dtype=torch.float64) @ mix + offset


def close(a: GaussianStatistics, b: GaussianStatistics, tolerance: float = 1e-13) -> None:
    assert a.n == b.n
    for left, right in ((a.mean, b.mean), (a.covariance(), b.covariance())):
        assert (left - right).norm() <= tolerance * (1 + right.norm())


def test_batches_and_ranks_make_the_statistics_of_the_whole():
    x = features()
    whole = GaussianStatistics(x)
    close(whole, GaussianStatistics().update(x[:1]).update(x[1:170]).update(x[170:170]).update(x[170:]))
    ranks = [GaussianStatistics(x[rank::3]) for rank in range(3)]
    close(whole, GaussianStatistics().merge(ranks[2]).merge(ranks[0]).merge(GaussianStatistics()).merge(ranks[1]))
    assert np.allclose(whole.covariance(), np.cov(x.T.numpy()), rtol=1e-12)
    assert np.allclose(whole.covariance(ddof=0), np.cov(x.T.numpy(), ddof=0), rtol=1e-12)
    assert torch.allclose(whole.second_moment(), x.T @ x / len(x))


@pytest.mark.parametrize(("offset", "tolerance"), [(0, 1e-14), (1e3, 1e-11), (1e6, 1e-8)])
def test_features_far_from_zero_keep_their_covariance(offset, tolerance):
    """Where sums of squares, as most code keeps, lose it: 3e-8 at an offset of 1e3, 3e-2 at 1e6."""
    x = features(2048)
    made = GaussianStatistics()
    for batch in (x + offset).split(64):
        made.update(batch)
    reference = GaussianStatistics(x).covariance()
    assert (made.covariance() - reference).norm() <= tolerance * reference.norm()


def test_merging_does_not_change_what_was_merged():
    a, b = GaussianStatistics(features(seed=1)), GaussianStatistics(features(seed=2))
    before = b.covariance().clone()
    GaussianStatistics().merge(b).merge(a)
    a.merge(b).merge(b)
    assert torch.equal(b.covariance(), before) and b.n == 300


def test_saved_statistics_come_back(tmp_path):
    made = GaussianStatistics(features(), identity="abc")
    made.save(tmp_path / "a.safetensors")
    back = GaussianStatistics.load(tmp_path / "a.safetensors")
    close(made, back, 1e-15)
    assert back.identity == "abc"
    assert not list(tmp_path.glob("*.part"))


def test_reference_statistics_of_others_are_read_without_pickle(tmp_path):
    x = features()
    np.savez(tmp_path / "adm.npz", mu=x.mean(0).numpy(), sigma=np.cov(x.T.numpy()))
    close(GaussianStatistics(x), GaussianStatistics.load_npz(tmp_path / "adm.npz", n=300), 1e-12)
    np.savez(tmp_path / "pickle.npz", mu=np.array([{"a": 1}], dtype=object), sigma=np.eye(2))
    np.savez(tmp_path / "skew.npz", mu=np.zeros(2), sigma=np.array([[1.0, 0.5], [0.0, 1.0]]))
    np.savez(tmp_path / "other.npz", mean=np.zeros(2))
    for name in ("pickle", "skew", "other", "absent"):
        with pytest.raises(ValueError, match=f"{name}.npz has no statistics"):
            GaussianStatistics.load_npz(tmp_path / f"{name}.npz", n=300)


def test_what_cannot_be_is_refused(tmp_path):
    nan = features()
    nan[7, 3] = float("nan")
    with pytest.raises(ValueError, match="1 of 300 features are not finite, first in row 7"):
        GaussianStatistics(nan)
    with pytest.raises(ValueError, match=r"features are \(n, 20\), got \(3, 19\)"):
        GaussianStatistics(features()).update(torch.zeros(3, 19))
    with pytest.raises(ValueError, match="statistics of b do not merge with statistics of a"):
        GaussianStatistics(features(), identity="a").merge(GaussianStatistics(features(), identity="b"))
    with pytest.raises(ValueError, match="statistics of 1 features, at least 2"):
        GaussianStatistics(features(1)).covariance()
    save_file({"mean": torch.zeros(2)}, tmp_path / "other.safetensors")
    (tmp_path / "text.safetensors").write_text("no tensors")
    for name, message in (("other", "has format None"), ("text", "not a safetensors"), ("none", "no statistics at")):
        with pytest.raises(ValueError, match=message):
            GaussianStatistics.load(tmp_path / f"{name}.safetensors")

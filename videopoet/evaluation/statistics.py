"""Mean and covariance of features, gathered in any order on any number of machines, to the last digits of float64.

A running sum of squares loses the covariance where features lie far from zero: at a mean of 1,000 standard deviations
half of its digits are gone, at 1,000,000 all of them. Here every batch is centred on its own mean and two summaries are
merged exactly (Chan, Golub & LeVeque 1979):

    n = n1 + n2      delta = mean2 - mean1
    mean    = mean1 + delta * n2 / n
    scatter = scatter1 + scatter2 + delta deltaᵀ * n1 * n2 / n
"""

import os
from pathlib import Path
from typing import Self

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

FORMAT = "videopoet-gaussian-statistics-1"


class GaussianStatistics:
    """Count, mean and scatter (the sum of centred outer products) of features (n, d), in float64 on the CPU.

    Of no features yet it has dimension None and takes any. `identity`, where given, says what made the features (a
    detector's `Identity.key`, the data, the clip rule); summaries of two identities do not merge.
    """

    def __init__(self, features: Tensor | np.ndarray | None = None, *, identity: str = ""):
        self.identity = identity
        self.n = 0
        self._mean: Tensor | None = None
        self._scatter: Tensor | None = None
        if features is not None:
            self.update(features)

    @property
    def dim(self) -> int | None:
        return None if self._mean is None else len(self._mean)

    @property
    def mean(self) -> Tensor:
        """float64 (d,); ValueError where there are no features."""
        return self._some(self._mean, 1)

    def covariance(self, ddof: int = 1) -> Tensor:
        """float64 (d, d): scatter / (n - ddof). ddof=1 is unbiased, ddof=0 is what StyleGAN-V and cd-fvd use."""
        return self._some(self._scatter, ddof + 1) / (self.n - ddof)

    def second_moment(self) -> Tensor:
        """float64 (d, d): the mean of x xᵀ, not centred."""
        return self._some(self._scatter, 1) / self.n + torch.outer(self.mean, self.mean)

    def update(self, features: Tensor | np.ndarray) -> Self:
        """Add features (n, d). Raises ValueError for another shape or for values that are not finite."""
        x = torch.as_tensor(features).detach().to("cpu", torch.float64)
        if x.ndim != 2 or x.shape[1] == 0 or self.dim not in (None, x.shape[1]):
            raise ValueError(f"features are (n, {self.dim or 'd'}), got {tuple(x.shape)}")
        if not torch.isfinite(x).all():
            rows = (~torch.isfinite(x)).any(1).nonzero().flatten().tolist()
            raise ValueError(
                f"{len(rows)} of {len(x)} features are not finite, first in row {rows[0]}: look at its clip"
            )
        if len(x):
            mean = x.mean(0)
            centred = x - mean
            self._add(len(x), mean, centred.T @ centred)
        return self

    def merge(self, other: "GaussianStatistics") -> Self:
        """Add all that `other` has seen, as if it had been seen here."""
        if self.identity and other.identity and self.identity != other.identity:
            raise ValueError(f"statistics of {other.identity} do not merge with statistics of {self.identity}")
        if None not in (self.dim, other.dim) and self.dim != other.dim:
            raise ValueError(f"statistics of {other.dim} dimensions do not merge with statistics of {self.dim}")
        self.identity = self.identity or other.identity
        if other.n:
            self._add(other.n, other.mean, other._scatter)
        return self

    def _add(self, n: int, mean: Tensor, scatter: Tensor) -> None:
        if self._mean is None:
            self.n, self._mean, self._scatter = n, mean.clone(), scatter.clone()
            return
        total, delta = self.n + n, mean - self._mean
        self._scatter = self._scatter + scatter + torch.outer(delta, delta) * (self.n * n / total)
        self._mean = self._mean + delta * (n / total)
        self.n = total

    def _some(self, value: Tensor | None, least: int) -> Tensor:
        if value is None or self.n < least:
            raise ValueError(f"statistics of {self.n} features, at least {least} are needed")
        return value

    @classmethod
    def of_moments(cls, mean: Tensor, covariance: Tensor, n: int, *, ddof: int = 1, identity: str = "") -> Self:
        """Statistics that someone else computed: mean (d,), covariance (d, d) of n features with divisor n - ddof."""
        mean, covariance = (torch.as_tensor(x).detach().to("cpu", torch.float64) for x in (mean, covariance))
        if mean.ndim != 1 or covariance.shape != (len(mean), len(mean)):
            raise ValueError(f"a mean (d,) and a covariance (d, d), got {tuple(mean.shape)}, {tuple(covariance.shape)}")
        if n <= ddof or not (torch.isfinite(mean).all() and torch.isfinite(covariance).all()):
            raise ValueError(
                f"moments of n = {n} features with divisor n - {ddof} must be finite, and n larger than {ddof}"
            )
        if (covariance - covariance.T).abs().max() > 1e-6 * covariance.abs().max():
            raise ValueError("the covariance is not symmetric: it does not come from features")
        made = cls(identity=identity)
        made.n, made._mean, made._scatter = n, mean, (covariance + covariance.T) / 2 * (n - ddof)
        return made

    def save(self, path: str | Path) -> None:
        """A safetensors file, whole or not at all."""
        path = Path(path)
        header = {"format": FORMAT, "n": str(self.n), "identity": self.identity}
        part = path.with_name(path.name + ".part")
        try:
            save_file({"mean": self.mean, "scatter": self._scatter.contiguous()}, part, metadata=header)
            os.replace(part, path)
        finally:
            part.unlink(missing_ok=True)

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """What `save` wrote. Raises ValueError for anything else."""
        path = Path(path)
        if not path.is_file():
            raise ValueError(f"no statistics at {path}")
        try:
            with safe_open(path, "pt") as file:
                header = file.metadata() or {}
                if header.get("format") != FORMAT:
                    raise ValueError(f"{path} has format {header.get('format')!r}, expected {FORMAT!r}")
                mean, scatter = file.get_tensor("mean"), file.get_tensor("scatter")
        except SafetensorError as error:
            raise ValueError(f"{path} is not a safetensors file: {error}") from None
        n = int(header["n"])
        return cls.of_moments(mean, scatter / n, n, ddof=0, identity=header["identity"])

    @classmethod
    def load_npz(cls, path: str | Path, *, n: int, mean: str = "mu", covariance: str = "sigma") -> Self:
        """Reference statistics of other projects (ADM, pytorch-fid, clean-fid): arrays in an .npz file, never a pickle.

        Such files do not say of how many features they are: `n` does (ADM's ImageNet batches: 50,000).
        """
        try:
            with np.load(path, allow_pickle=False) as file:
                return cls.of_moments(torch.from_numpy(file[mean]), torch.from_numpy(file[covariance]), n)
        except (OSError, KeyError, ValueError) as error:
            raise ValueError(f"{path} has no statistics to read ({error})") from None

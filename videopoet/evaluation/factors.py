"""Factors of covariances and products of them, by LAPACK through scipy.

scipy has the routines that leave out what is zero or is not read, and its OpenBLAS is a fifth faster than torch's MKL in
float64 where the processor is not Intel's: at d = 2,048 each takes 0.05 to 0.2 s on two cores of an AMD EPYC. Tensors lie in
CPU memory in float64, and are read where they lie if their order allows it.
"""

import numpy as np
import torch
from scipy.linalg import blas, eigh, lapack
from torch import Tensor


def factor(covariance: Tensor, rank: int | None = None) -> Tensor:
    """(d, r) with factor factorᵀ = covariance: Cholesky's, or the `rank` largest eigenvectors where it is singular."""
    d = len(covariance)
    if rank is None or rank >= d:
        lower = cholesky(covariance)
        if lower is not None:
            return lower
    eigenvalues, vectors = torch.linalg.eigh(covariance)
    kept = slice(d - min(rank or d, d), d)  # ascending: the last are the largest
    return vectors[:, kept] * eigenvalues[kept].clamp_min(0).sqrt()


def factor_of_features(features: Tensor, ddof: int = 1) -> Tensor:
    """(d, n - 1) of features (n, d): what they leave of their mean, which is one dimension less than there are features.

    Householder's reflection takes (1, ..., 1) / √n to the first axis; the other rows are the centred set in n - 1
    directions. A column that is zero but for rounding would be a root of which nothing is known.
    """
    n = len(features)
    centred = features - features.mean(0)
    mirror = torch.full((n,), n**-0.5, dtype=features.dtype)
    mirror[0] -= 1  # mirror² = 2 - 2 / √n
    turned = centred[1:] - torch.outer(mirror[1:], mirror @ centred) / (1 - n**-0.5)
    return turned.T / (n - ddof) ** 0.5


def cholesky(covariance: Tensor) -> Tensor | None:
    """Lower triangular factor; None where the matrix is not positive definite."""
    lower, failed = lapack.dpotrf(_symmetric(covariance), lower=1, clean=1)
    return None if failed or not np.isfinite(lower[-1, -1]) else torch.from_numpy(lower)


def is_lower(factor: Tensor, block: int = 256) -> bool:
    """Whether a factor is square and all above its diagonal is zero, as in Cholesky's."""
    d, r = factor.shape
    columns = ((start, factor[: start + block, start : start + block]) for start in range(0, r, block))
    return d == r and not any(above.triu(1 - start).any() for start, above in columns)


def product(left: Tensor, right: Tensor) -> Tensor:
    """leftᵀ right; where left is a lower triangle, in half of the work."""
    if not is_lower(left):
        return left.T @ right
    return torch.from_numpy(blas.dtrmm(1.0, _columns(left), _columns(right), lower=1, trans_a=1))


def square(lower: Tensor) -> Tensor:
    """lowerᵀ lower of a lower triangle, of which only the lower triangle is filled: a third of the work."""
    return torch.from_numpy(lapack.dlauum(_columns(lower), lower=1)[0])


def congruence(factor: Tensor, covariance: Tensor) -> Tensor:
    """factorᵀ covariance factor, of which only the lower triangle is filled where the factor is one."""
    if not is_lower(factor):
        return factor.T @ (covariance @ factor)
    made, _ = lapack.dsygst(_symmetric(covariance), _columns(factor), itype=2, lower=1)
    return torch.from_numpy(made)


def eigenvalues(symmetric: Tensor) -> Tensor:
    """Ascending eigenvalues of a matrix whose lower triangle is read, by reduction from the first column on."""
    found = eigh(_columns(symmetric), lower=True, eigvals_only=True, driver="ev", check_finite=False)
    return torch.from_numpy(found)


def _columns(matrix: Tensor) -> np.ndarray:
    """As LAPACK wants it, column after column."""
    return np.asfortranarray(matrix.numpy())


def _symmetric(matrix: Tensor) -> np.ndarray:
    """The same of a matrix that is its own transpose, and need not be copied if it lies row after row."""
    return _columns(matrix.T if matrix.is_contiguous() else matrix)

"""Fréchet distance of two Gaussians (FID, FVD, FAD), and what a finite sample adds to it.

    FD = |mean1 - mean2|² + Tr S1 + Tr S2 - 2 Tr (S1 S2)^½

With S1 = A Aᵀ and S2 = B Bᵀ the last trace is the nuclear norm of Aᵀ B, the sum of its singular values: they *are* the
roots, so each is right to rounding, while the root of an eigenvalue near zero keeps only half of its digits. The
eigenvalues of (Aᵀ B)ᵀ (Aᵀ B) are several times faster to have, and their error is known beforehand: they are taken where
that error cannot be seen in the answer. Elsewhere they are taken of the same squares in an order in which small ones keep
their digits, and checked by the determinant; singular values are what is left. No matrix square root is ever formed.

Finite samples make the distance larger: between two samples of one distribution it is not zero. To second order, for
covariance eigenvalues λ and sample sizes n1, n2 (checked by simulation: 39.55 against 39.50 at S = 1, d = 400, n = 2,048),

    E[FD] = ½ (1/n1 + 1/n2) (2 Tr S + Σ_ij λi λj (1 + δij) / (λi + λj))

which stands beside every value as `bias`; `fvd_infinity` removes it by extrapolation (Chong & Forsyth 2020).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from videopoet.evaluation.factors import congruence, eigenvalues, factor, factor_of_features, is_lower, product, square
from videopoet.evaluation.statistics import GaussianStatistics

INVISIBLE = 1e-10  # share of the traces that the fast route may be off by
STEEP = 1e-5  # ratio of variances, given what went before, at which eigenvalues are not even tried
NEGATIVE = 1e-6  # share of the traces by which a distance may round below zero


@dataclass(frozen=True, kw_only=True)
class FrechetResult:
    """A distance with all that is needed to judge it; features' units squared.

    `value` is the distance of the samples, never below zero but by rounding. `bias` is what a value would be if both sets
    were samples of one Gaussian with their mean covariance: a value near it says only that no difference was seen.
    """

    value: float
    mean_term: float
    covariance_term: float
    bias: float
    n: tuple[int, int]
    dim: int
    ddof: int
    route: str  # "eigenvalues", "graded eigenvalues" or "singular values"
    error_bound: float  # of the value, estimated for the routes of eigenvalues; 0 for singular values


@dataclass(frozen=True, kw_only=True)
class ExtrapolatedDistance:
    """The distance at 1/n -> 0: `value` with the `slope` over 1/n, the fit's `r2` and the points (n, distance) it is of."""

    value: float
    slope: float
    r2: float
    points: tuple[tuple[int, float], ...]
    both_sides: bool
    seed: int


def frechet_distance(
    a: GaussianStatistics | Tensor | np.ndarray, b: GaussianStatistics | Tensor | np.ndarray, *, ddof: int = 1
) -> FrechetResult:
    """Distance of two sets given by their statistics or by their features (n, d).

    Features fewer than their dimensions are best given as they are: no d x d matrix is factored then.
    ddof: 1 as numpy, TF-GAN and torchmetrics; 0 as StyleGAN-V and cd-fvd.
    """
    sa, sb = _statistics(a), _statistics(b)
    if sa.dim != sb.dim:
        raise ValueError(f"features of {sa.dim} and {sb.dim} dimensions have no distance: use one detector for both")
    if sa.identity and sb.identity and sa.identity != sb.identity:
        raise ValueError(f"features of {sa.identity} and {sb.identity} have no distance: use one detector for both")
    covariances = sa.covariance(ddof), sb.covariance(ddof)
    traces = sum(float(c.trace()) for c in covariances)
    root = trace_of_root(_factor(a, sa, ddof), covariances[1], lambda: _factor(b, sb, ddof))
    mean_term = float((sa.mean - sb.mean).square().sum())
    covariance_term = traces - 2 * root.value
    value = mean_term + covariance_term
    if value < -NEGATIVE * traces:
        raise ValueError(f"the distance came out as {value:.3g} at traces of {traces:.3g}: the statistics are damaged")
    return FrechetResult(
        value=value,
        mean_term=mean_term,
        covariance_term=covariance_term,
        bias=frechet_bias((covariances[0] + covariances[1]) / 2, sa.n, sb.n),
        n=(sa.n, sb.n),
        dim=sa.dim,
        ddof=ddof,
        route=root.route,
        error_bound=2 * root.error_bound,
    )


def frechet_bias(covariance: Tensor, n1: int, n2: int) -> float:
    """Expected distance of samples of n1 and n2 from one Gaussian, to second order: good from n around d on."""
    spectrum = eigenvalues(covariance)
    spectrum = spectrum[spectrum > 0]
    total = 2 * spectrum.sum() + spectrum.sum() / 2  # the diagonal of the double sum a second time: λi / 2
    for row in spectrum.split(512):
        total = total + (row[:, None] * spectrum / (row[:, None] + spectrum)).sum()
    return 0.5 * (1 / n1 + 1 / n2) * float(total)


@dataclass(frozen=True, kw_only=True)
class Root:
    """Tr (S1 S2)^½, how it was computed, and how far rounding can have moved it."""

    value: float
    route: str
    error_bound: float


def trace_of_root(factor_a: Tensor, covariance_b: Tensor, factor_b: Callable[[], Tensor]) -> Root:
    """Tr (S1 S2)^½ from a factor (d, r) of S1, and S2, whose factor is asked for only if it is needed."""
    traces = float(factor_a.square().sum() + covariance_b.trace())
    if not _steep(factor_a):
        root = _from_squares(congruence(factor_a, covariance_b))
        if root.error_bound <= INVISIBLE * traces:
            return root
    crossed = product(factor_a, factor_b())
    root = _from_graded_squares(crossed)
    if root.error_bound <= INVISIBLE / 100 * traces:
        return root
    return Root(value=float(torch.linalg.svdvals(crossed).sum()), route="singular values", error_bound=0.0)


def _steep(factor_a: Tensor) -> bool:
    """Whether Cholesky's diagonal already tells that plain eigenvalues would lose digits: it saves their time."""
    diagonal = factor_a.diagonal().abs()
    return float(diagonal.min()) ** 2 < STEEP * float(diagonal.max()) ** 2 and is_lower(factor_a)


def _from_squares(squared: Tensor) -> Root:
    """The roots' sum from (Aᵀ B) (Aᵀ B)ᵀ, of which the lower triangle is read."""
    squares = eigenvalues(squared)
    roots, noise = squares.clamp_min(0).sqrt(), _noise(squares)
    # A square known to within `noise` has a root known to within noise / root, and never worse than sqrt(noise).
    bound = float((noise / roots.clamp_min(noise**0.5)).sum()) if noise else 0.0
    return Root(value=float(roots.sum()), route="eigenvalues", error_bound=bound)


def _from_graded_squares(crossed: Tensor) -> Root:
    """The same from R Rᵀ, R the triangle of Aᵀ B.

    R's rows, and therefore rows and columns of R Rᵀ, shrink from the first to the last along with the singular values.
    Householder's reduction from the first column on then rounds each entry to *its* last digit, and small eigenvalues are
    right in their own digits (Barlow & Demmel 1990), while those of (Aᵀ B)ᵀ (Aᵀ B) are right in the largest one's only.
    Values that do not shrink gradually, such as a thousand equal ones, spoil it. Whether they did is seen afterwards: the
    logarithms of the eigenvalues add up to that of the determinant, which R's diagonal has exactly. A difference of m, if
    one value r carries it, is an error of r m / 2, and none has more than noise / r: at most ½ √(m noise). Ten times that is
    stated, since several may carry it with signs of their own.
    """
    crossed = crossed if crossed.shape[0] >= crossed.shape[1] else crossed.T
    triangle = torch.linalg.qr(crossed[:, crossed.square().sum(0).argsort(descending=True)], mode="r").R
    squares = eigenvalues(square(triangle.T))
    roots, bound = squares.clamp_min(0).sqrt(), float("inf")
    if float(squares[0]) > 0:
        missing = abs(float(squares.log().sum() - 2 * triangle.diagonal().abs().log().sum()))
        bound = 5 * min(float(roots[-1]) * missing, (_noise(squares) * missing) ** 0.5)
    return Root(value=float(roots.sum()), route="graded eigenvalues", error_bound=bound)


def _noise(squares: Tensor) -> float:
    """What rounding moves eigenvalues by, at most: a share of the largest."""
    return 4 * len(squares) ** 0.5 * torch.finfo(torch.float64).eps * float(squares.abs().max())


def fvd_infinity(
    fake: Tensor | np.ndarray,
    real: Tensor | np.ndarray | GaussianStatistics,
    *,
    points: int = 15,
    least: int | None = None,
    both_sides: bool = False,
    seed: int = 0,
) -> ExtrapolatedDistance:
    """Distance of `fake` features (n, d) from `real`, at infinitely many of them: a line over 1/n through subsets.

    Sizes lie evenly in 1/n from `least` (default: the larger of n / 4 and twice the dimension, at most n / 2) to n.
    both_sides: subsets of the same size are drawn of `real` too (features are needed then), which also removes the bias
    of a finite reference; without it the reference counts as it is.
    """
    fake = torch.as_tensor(fake)
    n = len(fake)
    if both_sides:
        if isinstance(real, GaussianStatistics):
            raise ValueError("both_sides draws subsets of the reference: give its features, not its statistics")
        real = torch.as_tensor(real)
        n = min(n, len(real))
    least = least or min(n // 2, max(n // 4, 2 * fake.shape[1]))
    if points < 3 or not 2 <= least < n:
        raise ValueError(
            f"{points} sizes from {least} to {n} make no line: at least 3 sizes and more features are needed"
        )
    sizes = sorted({round(1 / x) for x in np.linspace(1 / n, 1 / least, points)})
    rng = np.random.default_rng(seed)
    reference = real if isinstance(real, GaussianStatistics) or both_sides else GaussianStatistics(real)

    def drawn(features: Tensor, size: int) -> Tensor:
        return features[torch.from_numpy(np.sort(rng.choice(len(features), size, replace=False)))]

    found = [
        (size, frechet_distance(drawn(fake, size), drawn(reference, size) if both_sides else reference).value)
        for size in sizes
    ]
    return _line(found, both_sides, seed)


def _line(found: Sequence[tuple[int, float]], both_sides: bool, seed: int) -> ExtrapolatedDistance:
    x = np.array([1 / size for size, _ in found])
    y = np.array([value for _, value in found])
    slope, intercept = np.polyfit(x, y, 1)
    spread = float(((y - y.mean()) ** 2).sum())
    left = float(((y - slope * x - intercept) ** 2).sum())
    return ExtrapolatedDistance(
        value=float(intercept),
        slope=float(slope),
        r2=1 - left / spread if spread else 1.0,
        points=tuple(found),
        both_sides=both_sides,
        seed=seed,
    )


def _statistics(given: GaussianStatistics | Tensor | np.ndarray) -> GaussianStatistics:
    return given if isinstance(given, GaussianStatistics) else GaussianStatistics(given)


def _factor(given: GaussianStatistics | Tensor | np.ndarray, statistics: GaussianStatistics, ddof: int) -> Tensor:
    if not isinstance(given, GaussianStatistics) and statistics.n <= statistics.dim:
        return factor_of_features(torch.as_tensor(given).detach().to("cpu", torch.float64), ddof)
    return factor(statistics.covariance(ddof), rank=statistics.n - 1)

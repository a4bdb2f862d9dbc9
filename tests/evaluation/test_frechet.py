"""The Fréchet distance against closed forms, 60-digit references and its own symmetries."""

import math

import mpmath
import numpy as np
import pytest
import torch

from videopoet.evaluation.factors import (
    cholesky,
    congruence,
    eigenvalues,
    factor,
    factor_of_features,
    is_lower,
    product,
    square,
)
from videopoet.evaluation.frechet import (
    _from_graded_squares,
    frechet_bias,
    frechet_distance,
    fvd_infinity,
    trace_of_root,
)
from videopoet.evaluation.statistics import GaussianStatistics

F64 = torch.float64


def rotation(d: int, seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.linalg.qr(torch.randn(d, d, dtype=F64, generator=generator))[0]


def spectrum(d: int, condition: float) -> torch.Tensor:
    return torch.logspace(0, -math.log10(condition), d, dtype=F64)


def symmetric(q: torch.Tensor, eigenvalues: torch.Tensor) -> torch.Tensor:
    made = (q * eigenvalues) @ q.T
    return (made + made.T) / 2


def distance(mean1, covariance1, mean2, covariance2, **how) -> float:
    moments = [GaussianStatistics.of_moments(m, c, 1000) for m, c in ((mean1, covariance1), (mean2, covariance2))]
    return frechet_distance(*moments, **how).value


@pytest.mark.parametrize("condition", [1e2, 1e6])
def test_commuting_covariances(condition):
    """Sum of (√a - √b)²."""
    d = 60
    q, a = rotation(d, 0), spectrum(d, condition)
    b = a.flip(0) * 3
    exact = float((a.sqrt() - b.sqrt()).square().sum()) + d
    made = distance(torch.zeros(d), symmetric(q, a), torch.ones(d), symmetric(q, b))
    assert made == pytest.approx(exact, rel=1e-12)


@pytest.mark.parametrize("condition", [1e2, 1e6, 1e12])
def test_covariances_that_do_not_commute(condition):
    """For S2 = T S1 T with T positive the distance is Tr (T - 1) S1 (T - 1)."""
    d = 100
    t = symmetric(rotation(d, 1), torch.linspace(0.5, 2, d, dtype=F64))
    s1 = symmetric(rotation(d, 0), spectrum(d, condition))
    s2 = t @ s1 @ t
    exact = float(((t - torch.eye(d)) @ s1 @ (t - torch.eye(d))).trace())
    made = distance(torch.zeros(d), s1, torch.zeros(d), (s2 + s2.T) / 2)
    assert abs(made - exact) < 1e-10 * float(s1.trace() + s2.trace())
    if condition == 1e12:  # where the eigenvalues of the product are wrong in the fifth digit
        eigenvalues = float(np.sqrt(np.linalg.eigvals((s1 @ s2).numpy()).astype(complex)).real.sum())
        wrong = abs(float(s1.trace() + s2.trace()) - 2 * eigenvalues - exact)
        assert abs(made - exact) < 1e-4 * wrong


@pytest.mark.parametrize("condition", [1e2, 1e8, 1e14])
def test_sixty_digits(condition):
    d = 10
    a = symmetric(rotation(d, 2), spectrum(d, condition))
    b = symmetric(rotation(d, 3), spectrum(d, condition).flip(0))
    with mpmath.workdps(60):
        ma, mb = (mpmath.matrix(x.tolist()) for x in (a, b))
        lower = mpmath.cholesky(ma)
        exact = float(sum(mpmath.sqrt(x) for x in mpmath.eigsy(lower.T * mb * lower, eigvals_only=True)))
    assert trace_of_root(factor(a), b, lambda: factor(b)).value == pytest.approx(exact, rel=1e-13)


@pytest.mark.parametrize("condition", [1e1, 1e3, 1e5, 1e7, 1e9, 1e12])
def test_the_fast_routes_keep_their_promise(condition):
    """Their error is below the bound they state, and they are not taken where that would show."""
    d = 80
    s1, s2 = (symmetric(rotation(d, seed), spectrum(d, condition)) for seed in (4, 5))
    a, b = factor(s1), factor(s2)
    made = trace_of_root(a, s2, lambda: b)
    exact = float(torch.linalg.svdvals(a.T @ b).sum())
    # singular values are themselves right to rounding only
    assert abs(made.value - exact) <= made.error_bound + 1e-13 * d * exact
    assert made.error_bound <= 1e-10 * float(s1.trace() + s2.trace())
    assert made.route == ("eigenvalues" if condition <= 1e3 else "graded eigenvalues") or 1e3 < condition < 1e9


D = 96
HOSTILE = {
    "gradual": spectrum(D, 1e14),
    "two heaps": torch.cat([torch.ones(D // 2), torch.full((D // 2,), 1e-8)]).double(),
    "few large": torch.cat([torch.full((3,), 1e4), torch.linspace(1e-6, 1e-5, D - 3)]).double(),
    "one small": torch.cat([torch.ones(D - 1), torch.tensor([1e-9])]).double(),
    "heaps of heaps": torch.logspace(0, -12, 6, dtype=F64).repeat_interleave(D // 6),
    "one zero": torch.cat([torch.linspace(1, 2, D - 1), torch.zeros(1)]).double(),
    "a third zero": torch.cat([spectrum(2 * D // 3, 1e3), torch.zeros(D // 3)]).double(),
}


@pytest.mark.parametrize("turned", [True, False])
@pytest.mark.parametrize("name", HOSTILE)
def test_spectra_that_spoil_a_route_are_noticed(name, turned):
    """Whatever the roots are and in whatever basis they come, the sum is right to what is promised."""
    roots = HOSTILE[name]
    if turned:
        crossed = (rotation(D, 0) * roots) @ rotation(D, 1).T
    else:
        crossed = torch.diag(roots.flip(0))
    exact = float(roots.sum())
    made = trace_of_root(crossed, torch.eye(D, dtype=F64), lambda: torch.eye(D, dtype=F64))
    assert abs(made.value - exact) <= made.error_bound + 1e-13 * exact
    assert made.error_bound <= 1e-10 * float(crossed.square().sum() + D)
    graded = _from_graded_squares(crossed)
    assert abs(graded.value - exact) <= graded.error_bound + 1e-13 * exact
    if name == "gradual":
        assert graded.error_bound <= 1e-11 * exact
    if name in ("two heaps", "few large") and turned:  # by more than the bound at which the route would be trusted
        assert abs(graded.value - exact) > 1e-12 * exact


def drawn_roots(kind: str, n: int, digits: float) -> torch.Tensor:
    """Roots of one kind over about so many digits."""
    uniform = torch.rand(n, dtype=F64)
    levels = torch.logspace(0, -digits, 4, dtype=F64)
    return {
        "gradual": torch.logspace(0, -digits, n, dtype=F64),
        "scattered": 10 ** (-digits * uniform),
        "two heaps": levels[[0, -1]][torch.arange(n) % 2],
        "heaps": levels[torch.randint(0, 4, (n,))],
        "two small": torch.cat([uniform[2:] + 0.5, 10 ** (-digits * uniform[:2])]),
        "one large": torch.cat([10 ** (digits / 2) * torch.ones(1, dtype=F64), uniform[1:]]),
    }[kind]


@pytest.mark.parametrize("kind", ["gradual", "scattered", "two heaps", "heaps", "two small", "one large"])
def test_what_the_determinant_lets_pass_is_right(kind):
    """Of random spectra, those that the graded route is taken for are right to 1e-12 of the traces, and to its bound."""
    taken = 0
    with torch.random.fork_rng():
        torch.manual_seed(0)
        for i in range(40):
            roots = drawn_roots(kind, 4 + i, 16 * float(torch.rand(())))
            crossed = (rotation(len(roots), 2 * i) * roots) @ rotation(len(roots), 2 * i + 1).T
            made, exact = _from_graded_squares(crossed), float(roots.sum())
            if made.error_bound <= 1e-12 * 2 * exact:
                taken += 1
                assert abs(made.value - exact) <= made.error_bound + 1e-13 * exact, f"{kind}, {i}"
    assert taken >= 5


def test_columns_without_rank_cost_the_fast_route_nothing():
    """As many features as dimensions have a factor of one column less, and no root of which nothing is known."""
    x, y = samples(40, 40, 0), samples(40, 40, 1)
    made = factor_of_features(x, 0)
    assert made.shape == (40, 39)
    assert torch.allclose(made @ made.T, GaussianStatistics(x).covariance(0), atol=1e-13)
    assert torch.allclose(factor_of_features(x + 1e6), factor_of_features(x), atol=1e-7)  # 9 digits are left of 16
    assert frechet_distance(x, y).route != "singular values"


@pytest.mark.parametrize("rows_first", [True, False])
@pytest.mark.parametrize("d", [1, 7, 24, 300])
def test_triangles_are_multiplied_as_any_matrix_is(d, rows_first):
    def laid_out(matrix):
        return matrix.contiguous() if rows_first else matrix.T.contiguous().T

    s = laid_out(symmetric(rotation(d, 0), spectrum(d, 1e3)) if d > 1 else torch.ones(1, 1, dtype=F64))
    other = laid_out(symmetric(rotation(d, 1), spectrum(d, 10)) if d > 1 else 3 * s)
    lower, second = laid_out(cholesky(s)), laid_out(cholesky(other))
    before = s.clone(), other.clone(), lower.clone()
    assert torch.allclose(lower, torch.linalg.cholesky(s), rtol=1e-10) and is_lower(lower)
    assert torch.allclose(congruence(lower, other).tril(), (lower.T @ other @ lower).tril(), rtol=1e-10)
    assert torch.allclose(product(lower, second), lower.T @ second, rtol=1e-10)
    assert torch.allclose(square(lower).tril(), (lower.T @ lower).tril(), rtol=1e-10)
    assert torch.allclose(eigenvalues(s.tril()), torch.linalg.eigvalsh(s), rtol=1e-10)
    thin = samples(d, max(1, d // 2), 3)
    assert torch.allclose(congruence(thin, other), thin.T @ other @ thin, rtol=1e-10)
    assert torch.allclose(product(thin, lower), thin.T @ lower, rtol=1e-10)
    assert all(torch.equal(*pair) for pair in zip(before, (s, other, lower)))  # nothing is overwritten
    assert cholesky(s - 2 * s.trace() * torch.eye(d)) is None
    if d > 1:
        spoilt = lower.clone()
        spoilt[0, -1] = 1e-9
        assert not is_lower(spoilt)


def test_a_singular_covariance_has_a_factor_too():
    x = samples(6, 20, 0)
    s = GaussianStatistics(x).covariance()
    made = factor(s, rank=5)
    assert made.shape == (20, 5) and torch.allclose(made @ made.T, s, atol=1e-12)


@pytest.mark.parametrize("condition", [1e2, 1e12])
def test_identical_covariances_are_at_zero(condition):
    s = symmetric(rotation(100, 0), spectrum(100, condition))
    assert abs(distance(torch.zeros(100), s, torch.zeros(100), s)) < 1e-10 * float(s.trace())


def samples(n: int, d: int, seed: int, scale: float = 1.0) -> torch.Tensor:
    return torch.randn(n, d, dtype=F64, generator=torch.Generator().manual_seed(seed)) * scale


def test_fewer_samples_than_dimensions():
    """Both ways to the factor agree; the distance of a set from itself is 0; a rank-deficient map is exact."""
    x, y = samples(30, 90, 0), samples(40, 90, 1, 1.5)
    direct, through = frechet_distance(x, y).value, frechet_distance(GaussianStatistics(x), GaussianStatistics(y)).value
    assert direct == pytest.approx(through, rel=1e-11)
    assert abs(frechet_distance(x, x).value) < 1e-10
    stretched = x * 1.25  # T = 1.25: (0.25)² Tr S + mean
    exact = 0.0625 * float(GaussianStatistics(x).covariance().trace() + x.mean(0).square().sum())
    assert frechet_distance(x, stretched).value == pytest.approx(exact, rel=1e-10)


def test_symmetries():
    x, y = samples(200, 12, 0), samples(150, 12, 1, 2) + 0.5
    base = frechet_distance(x, y).value
    q = rotation(12, 7)
    assert frechet_distance(y, x).value == pytest.approx(base, rel=1e-12)
    assert frechet_distance(x @ q, y @ q).value == pytest.approx(base, rel=1e-11)
    assert frechet_distance(3 * x, 3 * y).value == pytest.approx(9 * base, rel=1e-11)
    assert frechet_distance(x + 5, y + 5).value == pytest.approx(base, rel=1e-11)
    assert frechet_distance(x[torch.randperm(200)], y).value == pytest.approx(base, rel=1e-11)
    shifted = frechet_distance(x, x + 2)
    assert shifted.mean_term == pytest.approx(48) and abs(shifted.covariance_term) < 1e-11
    twice = torch.cat([x, x])
    assert frechet_distance(twice, y, ddof=0).value == pytest.approx(frechet_distance(x, y, ddof=0).value, rel=1e-11)


def test_blocks_add_up_and_one_dimension_is_closed():
    x, y = samples(50, 1, 0, 2), samples(60, 1, 1) + 3
    s1, s2 = x.std().item(), y.std().item()
    assert frechet_distance(x, y).value == pytest.approx((x.mean() - y.mean()).item() ** 2 + (s1 - s2) ** 2, rel=1e-12)
    a1, b1 = symmetric(rotation(5, 0), spectrum(5, 10)), symmetric(rotation(5, 1), spectrum(5, 100))
    a2, b2 = symmetric(rotation(4, 2), spectrum(4, 10)), symmetric(rotation(4, 3), spectrum(4, 100))
    zero = torch.zeros
    parts = distance(zero(5), a1, zero(5), b1) + distance(zero(4), a2, zero(4), b2)
    whole = distance(zero(9), torch.block_diag(a1, a2), zero(9), torch.block_diag(b1, b2))
    assert whole == pytest.approx(parts, rel=1e-11)


def test_two_samples_are_enough_and_one_is_not():
    assert frechet_distance(samples(2, 6, 0), samples(2, 6, 1)).value > 0
    with pytest.raises(ValueError, match="statistics of 1 features"):
        frechet_distance(samples(1, 6, 0), samples(2, 6, 1))


def test_ddof_scales_the_covariances():
    x, y = samples(16, 3, 0), samples(16, 3, 1, 2)
    one, zero = frechet_distance(x, y), frechet_distance(x, y, ddof=0)
    assert one.covariance_term == pytest.approx(zero.covariance_term * 16 / 15, rel=1e-12)
    assert one.mean_term == zero.mean_term


@pytest.mark.parametrize(("n", "flat", "steep"), [(256, 316.4, 2.135), (512, 158.2, 1.095), (1024, 79.1, 0.556),
                                                  (2048, 39.55, 0.274), (2990, 27.09, 0.190), (10_000, 8.10, 0.057),
                                                  (50_000, 1.62, 0.011)])  # fmt: skip
def test_the_bias_at_400_dimensions(n, flat, steep):
    """Unit variances by the closed form; variances 1 / i as they were simulated (Fréchet distances of two samples of n)."""
    steps = torch.arange(1, 401, dtype=F64)
    assert frechet_bias(torch.eye(400, dtype=F64), n, n) == pytest.approx(flat, abs=0.051 if flat > 100 else 0.005)
    assert frechet_bias(torch.diag(1 / steps), n, n) == pytest.approx(steep, rel=0.035)


def test_the_bias_is_what_finite_samples_add():
    d, n = 20, 400
    found = [frechet_distance(samples(n, d, 2 * i), samples(n, d, 2 * i + 1)) for i in range(20)]
    assert np.mean([result.value for result in found]) == pytest.approx(found[0].bias, rel=0.1)
    uneven = [frechet_distance(samples(300, d, 100 + i), samples(900, d, 200 + i)) for i in range(20)]
    assert np.mean([result.value for result in uneven]) == pytest.approx(uneven[0].bias, rel=0.1)


def test_the_extrapolation_removes_most_of_the_bias():
    d = 24
    real, fake = samples(6000, d, 0), samples(1200, d, 1) * 1.1
    true = d * 0.01
    made = fvd_infinity(fake, real)
    assert abs(made.value - true) < 0.35 * abs(frechet_distance(fake, real).value - true)
    assert made.slope > 0 and made.r2 > 0.9 and len(made.points) == 15
    assert made.points[-1][0] == 1200 and not made.both_sides
    assert made == fvd_infinity(fake, real) != fvd_infinity(fake, real, seed=1)
    both = fvd_infinity(fake, real[:1200], both_sides=True)
    assert abs(both.value - true) < 0.5 * abs(frechet_distance(fake, real[:1200]).value - true)


def test_what_cannot_be_compared_is_refused():
    with pytest.raises(ValueError, match="features of 3 and 4 dimensions"):
        frechet_distance(samples(9, 3, 0), samples(9, 4, 0))
    with pytest.raises(ValueError, match="features of a and b have no distance"):
        frechet_distance(*(GaussianStatistics(samples(9, 3, 0), identity=name) for name in "ab"))
    with pytest.raises(ValueError, match="draws subsets of the reference"):
        fvd_infinity(samples(99, 3, 0), GaussianStatistics(samples(99, 3, 0)), both_sides=True)
    with pytest.raises(ValueError, match="make no line"):
        fvd_infinity(samples(3, 3, 0), samples(9, 3, 0))

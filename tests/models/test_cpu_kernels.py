"""The CPU's few passes equal the plain formulas, forward and gradient."""

import pytest
import torch
import torch.nn.functional as F

from videopoet.models import cpu_kernels
from videopoet.models.cpu_kernels import RMSNorm, gated, rms_norm


@pytest.mark.parametrize("scale", [1.0, 1e-4], ids=["usual", "near eps"])
def test_rms_norm_is_torch_s(scale):
    torch.manual_seed(0)
    x = (torch.randn(3, 5, 8) * scale).requires_grad_()
    norm, plain, g = RMSNorm(8), torch.nn.RMSNorm(8), torch.randn(3, 5, 8)
    with torch.no_grad():
        plain.weight.copy_(norm.weight.add_(torch.randn(8)))
    torch.testing.assert_close(norm(x), plain(x))
    ours = torch.autograd.grad((norm(x) * g).sum(), [x, norm.weight])
    theirs = torch.autograd.grad((plain(x) * g).sum(), [x, plain.weight])
    for one, other in zip(ours, theirs):
        torch.testing.assert_close(one, other)


def test_weights_of_heads_broadcast():
    x, weight = torch.randn(2, 3, 4, 8), torch.randn(4, 8)
    each = torch.stack([F.rms_norm(x[:, :, h], (8,), weight[h]) for h in range(4)], 2)
    torch.testing.assert_close(rms_norm(x, weight), each)


def test_gradients_by_differences():
    x = torch.randn(2, 8, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda t: cpu_kernels._Normalize.apply(t, 1e-3), x)
    assert torch.autograd.gradcheck(cpu_kernels._Gated.apply, x)


def test_gating_is_silu_times_the_other_half():
    x, g = torch.randn(3, 10, requires_grad=True), torch.randn(3, 5)
    gate, up = x.chunk(2, -1)
    torch.testing.assert_close(gated(x), F.silu(gate) * up)
    (ours,), (theirs,) = (torch.autograd.grad((y * g).sum(), x) for y in (gated(x), F.silu(gate) * up))
    torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize(
    "function", [gated, lambda x: rms_norm(x, torch.ones(8, dtype=x.dtype))], ids=["gated", "rms_norm"]
)
def test_bfloat16_stays_close(function):
    x = torch.randn(4, 8)
    torch.testing.assert_close(function(x.bfloat16()).float(), function(x), rtol=0.02, atol=0.02)


def test_without_gradients_the_same_comes_out():
    x, weight = torch.randn(2, 3, 4, 8), torch.randn(4, 8)
    with torch.inference_mode():
        plain = rms_norm(x, weight), gated(x)
    for one, other in zip(plain, (rms_norm(x, weight), gated(x))):
        torch.testing.assert_close(one, other)

"""`convolve` is `F.conv3d`, from a faster kernel that also keeps the memory layout."""

import pytest
import torch
import torch.nn.functional as F
from torch._subclasses import FakeTensorMode

from videopoet.tokenizers.visual import convolution
from videopoet.tokenizers.visual.convolution import convolve

LAST = torch.channels_last_3d
SHAPES = {  # channels in and out, (t, h, w), kernel, stride
    "one frame out": (4, 6, (3, 8, 8), 3, (1, 1, 1)),
    "strided": (4, 6, (5, 8, 10), 3, (2, 2, 2)),
    "pointwise": (4, 6, (5, 8, 8), 1, (1, 1, 1)),
    "first layer": (3, 8, (7, 16, 16), 3, (1, 1, 1)),
}


def case(name: str, layout=LAST, dtype=torch.float32) -> tuple:
    c, o, size, k, stride = SHAPES[name]
    torch.manual_seed(0)
    x = torch.randn(1, c, *size, dtype=dtype).contiguous(memory_format=layout).requires_grad_()
    weight = torch.randn(o, c, k, k, k, dtype=dtype).contiguous(memory_format=layout).requires_grad_()
    return x, weight, torch.randn(o, dtype=dtype, requires_grad=True), stride, (0, k // 2, k // 2)


@pytest.mark.parametrize("layout", [LAST, torch.contiguous_format], ids=["last", "first"])
@pytest.mark.parametrize("name", SHAPES)
def test_values_and_both_derivatives_are_those_of_torch(name, layout):
    results = []
    for function in (convolve, F.conv3d):
        x, weight, bias, *rest = case(name, layout)
        out = function(x, weight, bias, *rest)
        first = torch.autograd.grad(out.square().sum(), (x, weight, bias), create_graph=True)
        second = torch.autograd.grad(sum(g.square().sum() for g in first), (x, weight, bias))
        results.append((out, *first, *second, function(x, weight, None, *rest)))
    for ours, theirs in zip(*results):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4 * float(theirs.detach().abs().max()))


@pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="a torch without oneDNN")
@pytest.mark.parametrize("name", SHAPES)
def test_small_inputs_stay_channels_last(name, monkeypatch):
    """As a sign of which kernel ran: torch's own choice for these sizes is another, and contiguous."""
    out = convolve(*case(name))
    assert out.is_contiguous(memory_format=LAST)
    monkeypatch.setattr(convolution, "_for_one_dnn", lambda *_: False)
    assert not convolve(*case(name)).is_contiguous(memory_format=LAST)


def test_autocast_is_honoured():
    arguments = case("one frame out")
    with torch.autocast("cpu", torch.bfloat16):
        assert convolve(*arguments).dtype == torch.bfloat16


@pytest.mark.parametrize("autocast", [False, True])
@pytest.mark.parametrize(
    "size, kernel",
    [((2, 6, 6), 3), ((3, 6, 6), 3), ((2, 6, 6), 5), ((3, 6, 6), 5), ((5, 6, 6), 5), ((6, 1, 6), 5), ((6, 6, 1), 7)],
)
def test_few_padded_frames_in_bfloat16_have_the_gradients_of_float32(size, kernel, autocast):
    """Of 2 frames under a kernel of 3, oneDNN writes a part of the weights' gradient and leaves the rest as it was."""
    torch.manual_seed(0)
    x, weight = torch.randn(2, 16, *size), torch.randn(16, 16, *[kernel] * 3)
    x, weight = (a.bfloat16().contiguous(memory_format=LAST) for a in (x, weight))
    upstream = torch.randn_like(x)
    gradients = []
    for dtype in (torch.float32, torch.float32 if autocast else torch.bfloat16):
        a, w = (each.to(dtype).requires_grad_() for each in (x, weight))
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast and bool(gradients)):
            out = convolve(a, w, None, (1, 1, 1), (kernel // 2,) * 3)
        for size in (100, 1000, 10_000, 100_000):
            torch.full((size,), torch.nan)  # what an unwritten gradient would show
        gradients.append(torch.autograd.grad(out, (a, w), upstream.to(out.dtype)))
    for true, found in zip(*gradients):
        assert float((found - true).norm() / true.norm()) < 0.02


def test_what_the_kernel_cannot_take_goes_to_torch():
    assert convolve(*case("strided", dtype=torch.float64)).dtype == torch.float64
    x, weight, *rest = case("strided")
    assert convolve(x.detach()[:0], weight, *rest).shape == (0, 6, 2, 4, 5)
    shape = convolve(x, weight, *rest).shape
    assert convolve(*(a.to("meta") for a in (x, weight, rest[0])), *rest[1:]).shape == shape
    detached = [a.detach() for a in (x, weight, rest[0])]
    with FakeTensorMode() as mode:
        fakes = [mode.from_tensor(a) for a in detached]
        assert convolve(*fakes, *rest[1:]).shape == shape

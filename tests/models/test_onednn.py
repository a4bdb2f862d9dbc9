"""Products through oneDNN equal torch's own, forward and gradient, and decoding never reads an old weight."""

import copy
import pickle

import pytest
import torch
import torch.nn.functional as F

from videopoet.models import onednn
from videopoet.models.cpu_kernels import Linear
from videopoet.models.cross_entropy import cross_entropy

SHAPES = pytest.mark.parametrize("shape", [(1, 8), (2, 1, 8), (2, 40, 8), (3, 50, 8)], ids=str)
needs_onednn = pytest.mark.skipif(not onednn.available(), reason="this build of torch has no oneDNN")


@pytest.fixture(params=[False, True], ids=["torch", "onednn"])
def either(request, monkeypatch):
    """Both ways of float32 products, whoever made this processor."""
    if request.param and not onednn.available():
        pytest.skip("this build of torch has no oneDNN")
    monkeypatch.setattr(onednn, "faster_than_mkl", lambda: request.param)


@SHAPES
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_a_linear_layer_is_torch_s(either, shape, bias, dtype):
    torch.manual_seed(0)
    layer, x = Linear(8, 12, bias=bias).to(dtype), torch.randn(shape, dtype=dtype, requires_grad=True)
    close = {} if dtype == torch.float32 else {"rtol": 0.02, "atol": 0.02}
    plain, g = F.linear(x, layer.weight, layer.bias), torch.randn(*shape[:-1], 12, dtype=dtype)
    torch.testing.assert_close(layer(x), plain, **close)
    for one, other in zip(*(torch.autograd.grad((y * g).sum(), [x, *layer.parameters()]) for y in (layer(x), plain))):
        torch.testing.assert_close(one, other, **close)
    with torch.inference_mode():
        for mode in (True, False, False):
            torch.testing.assert_close(layer.train(mode)(x), plain, **close)


def test_autocast_stays_autocast(either):
    layer, x = Linear(8, 12), torch.randn(3, 8)
    with torch.autocast("cpu", torch.bfloat16):
        assert layer(x).dtype == layer.eval()(x).dtype == torch.bfloat16


def test_a_chunked_cross_entropy_is_the_same(either):
    torch.manual_seed(0)
    hidden, rows = torch.randn(40, 8, requires_grad=True), torch.randn(30, 8, requires_grad=True)
    targets, weight = torch.randint(0, 30, (40,)), torch.full((40,), 1 / 40)
    ours = cross_entropy(hidden, rows, targets, weight, [(0, 10), (10, 30)])[0]
    logits = hidden @ rows.T
    low = torch.where(targets[:, None] < 10, logits[:, :10].logsumexp(-1, True), logits[:, 10:].logsumexp(-1, True))
    theirs = (low - logits.gather(1, targets[:, None])).mean()
    torch.testing.assert_close(ours, theirs)
    for one, other in zip(*(torch.autograd.grad(loss, [hidden, rows]) for loss in (ours, theirs))):
        torch.testing.assert_close(one, other)


@needs_onednn
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_a_changed_weight_is_read_anew(dtype):
    layer, x = Linear(8, 12, bias=False).to(dtype).eval(), torch.randn(2, 8, dtype=dtype)

    def agree() -> bool:
        with torch.inference_mode():
            return torch.allclose(layer(x), F.linear(x, layer.weight), rtol=0.02, atol=0.02)

    assert agree() and len(layer._kept) == 1
    with torch.no_grad():
        layer.weight.neg_()
    assert agree()
    layer.load_state_dict({"weight": layer.weight.detach() * 2})
    assert agree()
    layer.weight.data = torch.randn(12, 8, dtype=dtype)
    assert agree()
    layer.train().weight.data.mul_(3)  # unseen by the weight's version, as where averages of weights are swapped in
    assert layer.eval() is layer and agree()


@needs_onednn
def test_copies_and_files_hold_no_second_weights():
    layer = Linear(8, 12).eval()
    with torch.inference_mode():
        layer(torch.randn(2, 8))
    assert list(layer.state_dict()) == ["weight", "bias"]
    for other in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
        assert layer._kept and not other._kept

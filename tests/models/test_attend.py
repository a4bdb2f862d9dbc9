"""Every way to compute attention equals the dense mask, forward and gradient; what is hidden reaches nothing."""

import pytest
import torch
import torch.nn.functional as F
from conftest import LAYOUT

from videopoet.models.attend import (
    PackedPlan,
    PrefixPlan,
    attend,
    flex_mask,
    plan_attention,
    predicting,
    two_calls,
)
from videopoet.models.transformer import Transformer
from videopoet.pipeline import TASKS
from videopoet.sequence import Batch, Prefix, Segment, Sequence
from videopoet.vocabulary import Control, Modality

HEADS, WIDTH = 3, 8


def sequence(given: int, made: int, hidden: tuple[int, ...] = (), masked: bool = False) -> Sequence:
    """`given` tokens between markers, some of them not shown, then `made` tokens; masked ones share a block."""
    shown = torch.tensor([i not in hidden for i in range(given)], dtype=torch.bool)
    made_ids = torch.arange(made) % 7 + 300
    made_segment = Segment.generated(made_ids, Modality.VISUAL)
    if masked:
        made_segment = Segment._of(made_ids, Modality.VISUAL, None, None, predicted=True, causal=False)
    return Sequence.of(
        [
            Segment.marker(Control.BOS),
            Segment.given(torch.arange(given) + 5, Modality.VISUAL, shown=shown),
            Segment.marker(Control.BOV_O),
            made_segment,
        ]
    )


def masked_after_causal() -> Sequence:
    masked = Segment._of(torch.arange(4) + 300, Modality.VISUAL, None, None, predicted=True, causal=False)
    made = Segment.generated(torch.arange(3) + 300, Modality.VISUAL)
    return Sequence.of([Segment.marker(Control.BOS, Control.BOV_O), made, masked, made])


CASES = {
    "prefix": lambda: Batch.of([sequence(5, 9)] * 2),
    "hidden in the prefix": lambda: Batch.of([sequence(6, 8, (2, 3)), sequence(6, 8, (1, 4, 5)), sequence(6, 8)]),
    "all given": lambda: Batch.of([Sequence.whole([Segment.given(torch.arange(9), Modality.VISUAL)])] * 2),
    "all given, some hidden": lambda: Batch.of([sequence(7, 1, (3,)), sequence(7, 1, (0, 1))]),
    "all made": lambda: Batch.of([Sequence.of([Segment.generated(torch.arange(9), Modality.VISUAL)])]),
    "masked": lambda: Batch.of([sequence(5, 9, (2,), masked=True)] * 2),
    "masked after causal": lambda: Batch.of([masked_after_causal()]),
    "mixed prefixes": lambda: Batch.of([sequence(5, 9), sequence(9, 5), sequence(0, 14)]),
    "mixed prefixes, some hidden": lambda: Batch.of([sequence(5, 9, (1,)), sequence(9, 5)]),
    "packed": lambda: Batch.pack([[sequence(5, 6, (2,)), sequence(0, 4), sequence(3, 2)], [sequence(2, 9)]], length=30),
    "packed, masked": lambda: Batch.pack([[sequence(5, 6, masked=True), masked_after_causal()], [sequence(2, 9)]]),
}
SIGHTS = {
    "prefix": Prefix(length=7, hidden=False, predicts=False),
    "hidden in the prefix": Prefix(length=8, hidden=True, predicts=False),
    "all made": Prefix(length=1, hidden=False, predicts=False),
    "masked": Prefix(length=15, hidden=True, predicts=True),
    "masked after causal": None,
    "mixed prefixes, some hidden": None,
    "packed, masked": None,
}


@pytest.fixture(params=CASES, ids=list(CASES))
def batch(request) -> Batch:
    return CASES[request.param]()


def states(batch: Batch, dtype=torch.float64) -> tuple[torch.Tensor, torch.Tensor]:
    """Queries, keys and values in one leaf (b, n, 3, heads, d), and a direction that is zero at padding."""
    g = torch.Generator().manual_seed(0)
    b, n = batch.inputs.shape
    x = torch.randn(b, n, 3, HEADS, WIDTH, generator=g, dtype=dtype).requires_grad_()
    direction = torch.randn(b, HEADS, n, WIDTH, generator=g, dtype=dtype)
    return x, direction * (batch.document > 0)[:, None, :, None]


def outcome_of(x, plan, first=0):
    q, k, v = x.permute(2, 0, 3, 1, 4)
    return attend(q[:, :, first:], k, v, plan)


def outcome(x, direction, plan):
    out = outcome_of(x, plan)
    (gradient,) = torch.autograd.grad((out * direction).sum(), x)
    return out.detach(), gradient


def test_the_planned_way_equals_the_dense_mask(batch):
    plan = plan_attention(batch)
    x, direction = states(batch)
    (out, gradient), (dense, dense_gradient) = outcome(x, direction, plan), outcome(x, direction, batch.attention())
    shown = (batch.document > 0)[:, None, :, None]
    torch.testing.assert_close(out * shown, dense * shown)
    torch.testing.assert_close(gradient, dense_gradient)
    assert out.isfinite().all(), "padding gets some finite state"


def test_hidden_positions_have_zero_gradient(batch):
    x, direction = states(batch)
    _, gradient = outcome(x, direction, plan_attention(batch))
    assert (gradient[batch.document == 0] == 0).all()
    assert (gradient[batch.document > 0] != 0).any()


@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
def test_flex_equals_the_dense_mask(batch):
    """Forward only: flex attention has no backward pass on the CPU. It is what hidden and packed batches take on CUDA."""
    x = states(batch, torch.float32)[0].detach()
    with torch.no_grad():
        out, dense = (attend(*x.permute(2, 0, 3, 1, 4), p) for p in (flex_mask(batch), batch.attention()))
    shown = (batch.document > 0)[:, None, :, None]
    torch.testing.assert_close(out * shown, dense * shown, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", SIGHTS)
def test_sight_is_read_off_the_layout(name):
    assert CASES[name]().sight == SIGHTS[name]


@pytest.mark.parametrize("name", ["prefix", "hidden in the prefix", "packed", "mixed prefixes"])
def test_the_usual_batches_have_a_fast_way(name):
    assert isinstance(plan_attention(CASES[name]()), PrefixPlan | PackedPlan)


@pytest.mark.parametrize("task", TASKS.values(), ids=TASKS)
def test_every_task_has_a_fast_way(task, example):
    batch = Batch.of([Sequence.of(task.segments(example, LAYOUT))])
    assert isinstance(batch.sight, Prefix) and isinstance(plan_attention(batch), PrefixPlan)
    assert predicting(batch, plan_attention(batch))[1] == batch.sight.length - 1


@pytest.mark.parametrize("given", [0, 6])
def test_two_calls_equal_the_dense_mask(given):
    """The way of CUDA for a prefix that is shown as a whole, here on the CPU."""
    batch = Batch.of([sequence(given, 9)])
    q, k, v = states(batch)[0].permute(2, 0, 3, 1, 4)
    plan, dense = plan_attention(batch), attend(q, k, v, batch.attention())
    torch.testing.assert_close(two_calls(q, k, v, plan), dense)
    last, first = predicting(batch, plan)
    torch.testing.assert_close(two_calls(q[:, :, first:], k, v, last), dense[:, :, first:])


@pytest.mark.parametrize("hidden", [(), (1, 3)], ids=["shown", "hidden"])
def test_the_suffix_alone_equals_the_dense_mask(hidden):
    batch = Batch.of([sequence(6, 9, hidden)])
    x, direction = states(batch)
    last, first = predicting(batch, plan_attention(batch))
    (dense_gradient,) = torch.autograd.grad((outcome_of(x, batch.attention()) * direction)[:, :, first:].sum(), x)
    out = outcome_of(x, last, first)
    (gradient,) = torch.autograd.grad((out * direction[:, :, first:]).sum(), x)
    torch.testing.assert_close(gradient, dense_gradient)


@pytest.mark.parametrize("dtype, tolerance", [(torch.float32, 1e-5), (torch.bfloat16, 3e-2)], ids=["fp32", "bf16"])
def test_other_dtypes(dtype, tolerance):
    batch = CASES["hidden in the prefix"]()
    x, direction = states(batch, dtype)
    (out, gradient), (dense, dense_gradient) = (
        outcome(x, direction, p) for p in (plan_attention(batch), batch.attention())
    )
    shown = (batch.document > 0)[:, None, :, None]
    torch.testing.assert_close(out * shown, dense * shown, rtol=tolerance, atol=tolerance)
    torch.testing.assert_close(gradient, dense_gradient, rtol=tolerance, atol=tolerance)


def test_the_operator_is_well_formed():
    """Schema, fake kernel and autograd registration, as torch.compile needs them."""
    q, k, v = torch.randn(3, 1, 2, 7, 8, requires_grad=True).unbind(0)
    bias = torch.tensor([0.0, -torch.inf, 0.0])[None, None, None]
    operator = torch.ops.videopoet.prefix_attention.default
    for arguments in ((q, k, v, 3, bias), (q[:, :, 3:], k, v, 3, None), (q, k, v, 7, None)):
        torch.library.opcheck(operator, [a.detach() if isinstance(a, torch.Tensor) else a for a in arguments])


@pytest.mark.parametrize("recompute", [False, True])
def test_the_last_block_gives_the_same_states_without_the_prefix(batch, recompute):
    torch.manual_seed(0)
    transformer = Transformer(width=24, layers=2, heads=2, recompute=recompute).train()
    x = torch.randn(*batch.inputs.shape, 24)
    plan = plan_attention(batch)
    last = _, first = predicting(batch, plan)
    whole, part = transformer(x, batch.places, plan), transformer(x, batch.places, plan, last=last)
    shown = batch.document[:, first:] > 0
    torch.testing.assert_close(part[shown], whole[:, first:][shown])
    assert (batch.targets[:, :first] < 0).all(), "nothing that is predicted was left out"


def test_recomputed_gradients_are_the_same(batch):
    gradients = []
    for recompute in (False, True):
        torch.manual_seed(0)
        transformer = Transformer(width=24, layers=2, heads=2, recompute=recompute).train()
        torch.manual_seed(1)
        x = torch.randn(*batch.inputs.shape, 24, requires_grad=True)
        out = transformer(x, batch.places, plan_attention(batch))
        gradients.append(torch.autograd.grad(F.silu(out[batch.document > 0]).sum(), [x, *transformer.parameters()]))
    for plain, recomputed in zip(*gradients):
        torch.testing.assert_close(plain, recomputed)


@pytest.mark.gpu
@pytest.mark.parametrize("dtype, tolerance", [(torch.float32, 1e-4), (torch.bfloat16, 3e-2)], ids=["fp32", "bf16"])
def test_cuda_ways_equal_the_dense_mask(batch, dtype, tolerance):
    x, direction = (t.detach().cuda() for t in states(batch, dtype))
    x.requires_grad_()
    (out, gradient), (dense, dense_gradient) = (
        outcome(x, direction, p) for p in (plan_attention(batch.to("cuda")), batch.to("cuda").attention())
    )
    shown = (batch.document > 0)[:, None, :, None].cuda()
    torch.testing.assert_close(out * shown, dense * shown, rtol=tolerance, atol=tolerance)
    torch.testing.assert_close(gradient, dense_gradient, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("name", ["packed", "mixed prefixes"])
def test_packed_documents_are_read_off(name):
    batch = CASES[name]()
    covered = torch.zeros_like(batch.document)
    for document in batch.sight.documents:
        here = batch.document[document.row, document.start : document.stop]
        assert (here == here[0]).all() and here[0] > 0
        covered[document.row, document.start : document.stop] += 1
    assert torch.equal(covered, (batch.document > 0).long())

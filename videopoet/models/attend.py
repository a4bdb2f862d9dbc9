"""Who sees whom, and the fastest way to compute it on the machine at hand.

`plan_attention(batch)` is called once per batch, `attend(q, k, v, plan)` by every layer. Ways, each equal to the dense
mask of `Batch.attention()` at every shown position (tests/models/test_attend.py):

                          CPU                                        CUDA
    prefix, all shown     three fused calls, merged                  two: prefix, and suffix causal from the lower right
    prefix, some hidden   the same with a bias on the prefix's keys  flex, compiled
    packed                the same, document by document             flex, compiled
    anything else         dense mask                                 dense mask
"""

from dataclasses import dataclass, replace
from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention.bias import causal_lower_right
from torch.nn.attention.flex_attention import BlockMask, create_block_mask, flex_attention

from videopoet.models.prefix_attention import prefix_attention
from videopoet.sequence import Batch, Document, Packed, Prefix


@dataclass(frozen=True, kw_only=True)
class PrefixPlan:
    """Keys before `length` are seen by every query, keys after it causally. bias: as `prefix_attention` has it.

    only_suffix: the queries are those of the suffix; keys and values are all there.
    """

    length: int
    bias: Tensor | None = None
    only_suffix: bool = False


@dataclass(frozen=True, kw_only=True)
class PackedPlan:
    documents: tuple[Document, ...]


Plan = PrefixPlan | PackedPlan | BlockMask | Tensor | None  # a tensor is a mask, None lets all see all


def plan_attention(batch: Batch) -> Plan:
    """The plan of a batch, for the device its tensors are on."""
    match batch.sight:
        case Prefix(hidden=False, length=length):
            return None if length == batch.inputs.shape[1] else PrefixPlan(length=length)
        case Prefix() | Packed() if batch.inputs.is_cuda:
            return flex_mask(batch)
        case Prefix(length=length) if batch.inputs.device.type == "cpu":
            return PrefixPlan(length=length, bias=key_bias(batch.document[:, :length] > 0))
        case Packed(documents=documents) if batch.inputs.device.type == "cpu":
            return PackedPlan(documents=documents)
    return batch.attention()


def predicting(batch: Batch, plan: Plan) -> tuple[Plan, int]:
    """A plan that asks for no more states than predictions need, and the first position it asks for.

    The last position of the prefix predicts the first token made, and sees what the suffix's would: all before itself.
    """
    if isinstance(plan, PrefixPlan) and not batch.sight.predicts and plan.length > 1:
        bias = None if plan.bias is None else plan.bias[..., :-1]
        return replace(plan, length=plan.length - 1, bias=bias, only_suffix=True), plan.length - 1
    return plan, 0


def key_bias(shown: Tensor) -> Tensor:
    """bool (b, keys) -> float32 (b, 1, 1, keys) to be added to scores: 0 where shown, -inf where not."""
    return torch.zeros(shown.shape, device=shown.device).masked_fill_(~shown, -torch.inf)[:, None, None]


def attend(q: Tensor, k: Tensor, v: Tensor, plan: Plan) -> Tensor:
    """q (b, heads, rows, d), k and v (b, heads, n, d), all of one dtype -> (b, heads, rows, d)."""
    if q.shape[2] == 1 and q.device.type == "cpu" and q.dtype == torch.bfloat16 and (plan is None or type(plan) is Tensor):
        return attend(q.float(), k.float(), v.float(), plan).to(q.dtype)  # a third of the time of torch's own way
    if plan is None:
        return F.scaled_dot_product_attention(q, k, v)
    if isinstance(plan, PrefixPlan) and q.device.type in ("cpu", "meta"):  # plans are measured on the meta device
        return prefix_attention(q, k, v, plan.length, None if plan.bias is None else plan.bias.to(q.dtype))
    if isinstance(plan, PrefixPlan):
        return two_calls(q, k, v, plan)
    if isinstance(plan, PackedPlan):
        return _packed(q, k, v, plan.documents)
    if isinstance(plan, BlockMask):
        return _flex(q.is_cuda)(q, k, v, block_mask=plan)
    return F.scaled_dot_product_attention(q, k, v, attn_mask=plan.to(q.dtype) if plan.is_floating_point() else plan)


def two_calls(q: Tensor, k: Tensor, v: Tensor, plan: PrefixPlan) -> Tensor:
    """A prefix that is shown as a whole, by two kernels that every backend of CUDA has."""
    p, n = plan.length, k.shape[2]
    late = q if plan.only_suffix else q[:, :, p:]
    suffix = F.scaled_dot_product_attention(late, k, v, attn_mask=causal_lower_right(n - p, n))
    if plan.only_suffix:
        return suffix
    return torch.cat([F.scaled_dot_product_attention(q[:, :, :p], k[:, :, :p], v[:, :, :p]), suffix], 2)


def _packed(q: Tensor, k: Tensor, v: Tensor, documents: tuple[Document, ...]) -> Tensor:
    """Document by document; padding gets zeros."""
    rows: list[list[Tensor]] = [[] for _ in q]
    ends = [0] * len(q)
    for document in documents:
        r, here = document.row, slice(document.start, document.stop)
        assert ends[r] == document.start, "documents stand one after the other"
        parts = (x[r : r + 1, :, here] for x in (q, k, v))
        rows[r].append(prefix_attention(*parts, document.prefix))
        ends[r] = document.stop
    for r, end in enumerate(ends):
        rows[r].append(torch.zeros_like(q[r : r + 1, :, end:]))
    return torch.cat([torch.cat(row, 2) for row in rows])


def flex_mask(batch: Batch) -> BlockMask:
    """`Batch.attention()` for flex attention, which skips the blocks in which nobody sees anybody."""
    block, document = batch.block, batch.document

    def sees(b, h, i, j):
        return (block[b, j] <= block[b, i]) & (document[b, j] == document[b, i])

    rows, n = block.shape
    return create_block_mask(sees, rows, None, n, n, device=block.device)


@cache
def _flex(compiled: bool):
    """Flex attention is fused only where it is compiled; uncompiled it is right and slow."""
    return torch.compile(flex_attention, dynamic=True) if compiled else flex_attention

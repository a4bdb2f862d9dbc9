"""Attention of a prefix LM on the CPU in three fused calls, none of which touches a pair that the mask forbids.

    queries \\ keys   prefix        suffix
    prefix           every pair    -
    suffix           every pair    causal

The suffix's two parts are merged by their log-sum-exp, and both are given the merged one in the backward pass, which
makes their gradients those of the whole (as ring attention does). An operator of its own, so that `torch.compile` takes
it for one node whatever the lengths.
"""

import torch
from torch import Tensor

_forward = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
_backward = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward


def _lse_dtype(q: Tensor) -> torch.dtype:
    return torch.float64 if q.dtype == torch.float64 else torch.float32


@torch.library.custom_op("videopoet::prefix_attention", mutates_args=())
def _prefix_attention(q: Tensor, k: Tensor, v: Tensor, prefix: int, bias: Tensor | None) -> tuple[Tensor, Tensor]:
    """Output (b, heads, rows, d), contiguous as (b, rows, heads, d), and the log-sum-exp (b, heads, rows)."""
    rows, n = q.shape[2], k.shape[2]
    head = rows - (n - prefix)  # prefix queries: all, or none where only the suffix's states are wanted
    out = torch.empty_like(q.transpose(1, 2), memory_format=torch.contiguous_format).transpose(1, 2)
    lse = q.new_empty(q.shape[:3], dtype=_lse_dtype(q))
    before = k[:, :, :prefix], v[:, :, :prefix]
    if head:
        out[:, :, :head], lse[:, :, :head] = _forward(q[:, :, :head], *before, attn_mask=bias)
    if head < rows:
        late = q[:, :, head:]
        own, own_lse = _forward(late, k[:, :, prefix:], v[:, :, prefix:], 0.0, True)
        if prefix:
            given, given_lse = _forward(late, *before, attn_mask=bias)
            share = (given_lse - own_lse).sigmoid()[..., None].to(q.dtype)
            own_lse = torch.logaddexp(given_lse, own_lse)
            own = torch.lerp(own, given, share)
        out[:, :, head:], lse[:, :, head:] = own, own_lse
    return out, lse


@_prefix_attention.register_fake
def _(q, k, v, prefix, bias):
    out = torch.empty_like(q.transpose(1, 2), memory_format=torch.contiguous_format).transpose(1, 2)
    return out, q.new_empty(q.shape[:3], dtype=_lse_dtype(q))


@torch.library.custom_op("videopoet::prefix_attention_backward", mutates_args=())
def _prefix_attention_backward(
    grad: Tensor, q: Tensor, k: Tensor, v: Tensor, out: Tensor, lse: Tensor, prefix: int, bias: Tensor | None
) -> tuple[Tensor, Tensor, Tensor]:
    rows, n = q.shape[2], k.shape[2]
    head = rows - (n - prefix)
    dq, dk, dv = torch.empty_like(q), torch.zeros_like(k), torch.zeros_like(v)
    before, after, early, late = slice(prefix), slice(prefix, None), slice(head), slice(head, None)

    def part(queries: slice, keys: slice, causal: bool, bias: Tensor | None) -> Tensor:
        of_queries, of_keys = ([x[:, :, s] for x in xs] for s, xs in ((queries, (grad, q, out, lse)), (keys, (k, v))))
        grad_, q_, out_, lse_ = of_queries
        a, b, c = _backward(grad_, q_, *of_keys, out_, lse_, 0.0, causal, attn_mask=bias)
        dk[:, :, keys] += b
        dv[:, :, keys] += c
        return a

    if head:
        dq[:, :, early] = part(early, before, False, bias)
    if head < rows:
        dq[:, :, late] = part(late, after, True, None)
        if prefix:
            dq[:, :, late] += part(late, before, False, bias)
    return dq, dk, dv


@_prefix_attention_backward.register_fake
def _(grad, q, k, v, out, lse, prefix, bias):
    return torch.empty_like(q), torch.empty_like(k), torch.empty_like(v)


def _setup(ctx, inputs, output):
    q, k, v, ctx.prefix, bias = inputs
    ctx.save_for_backward(q, k, v, *output, bias)


def _differentiate(ctx, grad, _):
    q, k, v, out, lse, bias = ctx.saved_tensors
    return *_prefix_attention_backward(grad, q, k, v, out, lse, ctx.prefix, bias), None, None


_prefix_attention.register_autograd(_differentiate, setup_context=_setup)


def prefix_attention(q: Tensor, k: Tensor, v: Tensor, prefix: int, bias: Tensor | None = None) -> Tensor:
    """q (b, heads, rows, d), k and v (b, heads, n, d) on the CPU, all of one dtype -> (b, heads, rows, d).

    rows: all n, or the last n - prefix, the suffix alone.
    bias: float (b, 1, 1, prefix), -inf at prefix keys that nothing may see.
    """
    assert q.shape[2] in (k.shape[2], k.shape[2] - prefix)
    return _prefix_attention(q, k, v, prefix, bias)[0]

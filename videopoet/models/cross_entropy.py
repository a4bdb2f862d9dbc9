"""Cross-entropy over a large vocabulary in little memory.

Logits exist for a few positions at a time. The gradient of a position's loss with respect to its logits is known as soon
as they are, `weight * (softmax - one_hot)`, so it is turned into gradients of states and rows at once and the logits are
dropped: no position's logits are made twice and positions x vocabulary never exists, in neither pass.
"""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from videopoet.models.onednn import matmul, takes

LOGITS = 2**25  # logits that exist at one time: 128 MiB in float32, and as much for their softmax


class _CrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(ctx, hidden, rows, bias, targets, weight, ranges):
        device = "cpu" if hidden.is_meta else hidden.device.type  # the meta device has no autocast of its own
        dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else hidden.dtype
        h, w, b = hidden.to(dtype), rows.to(dtype), None if bias is None else bias.float()
        each = torch.zeros(len(targets), device=hidden.device)
        needs = ctx.needs_input_grad
        dh = torch.zeros_like(h) if needs[0] else None
        dw = torch.zeros_like(rows) if needs[1] else None
        db = torch.zeros_like(b) if needs[2] else None
        for start, stop in ranges:
            chosen = ((targets >= start) & (targets < stop)).nonzero().flatten() if len(ranges) > 1 else None
            size = max(1, LOGITS // (stop - start))
            for part in (torch.arange(len(targets), device=h.device) if chosen is None else chosen).split(size):
                # A run of positions is read in place; scattered ones are gathered.
                where = slice(int(part[0]), int(part[0]) + len(part)) if chosen is None else part
                t = (targets[where] - start)[:, None]
                logits = matmul(h[where], w[start:stop].T).float()
                if b is not None:
                    logits += b[start:stop]
                log_p = logits.log_softmax(-1)
                del logits
                each[where] = -log_p.gather(-1, t)[:, 0]
                if not any(needs):
                    continue
                d = log_p.exp_().scatter_add_(-1, t, log_p.new_full(t.shape, -1.0)).to(dtype)  # before the weight
                scale = weight[where, None]
                if db is not None:
                    db[start:stop] += scale[:, 0] @ d.float()
                if dh is not None:
                    dh[where] = matmul(d, w[start:stop]) * scale.to(dtype)
                if dw is not None:
                    _add_product(dw[start:stop], d.T, h[where] * scale.to(dtype))
                del d, log_p
        ctx.grads = dh if dh is None else dh.to(hidden.dtype), dw, None if db is None else db.to(bias.dtype)
        ctx.mark_non_differentiable(each)
        return (each * weight).sum(), each

    @staticmethod
    @once_differentiable
    def backward(ctx, grad, _):
        if ctx.grads is None:
            raise RuntimeError("the gradients of a chunked cross-entropy are given once: call its backward pass once")
        grads, ctx.grads = ctx.grads, None
        return *(None if g is None else g.mul_(grad.to(g.dtype)) for g in grads), None, None, None


def _add_product(total: Tensor, a: Tensor, b: Tensor) -> None:
    """`total += a @ b`; totals are kept in the dtype of the weights, products made in that of the computation."""
    if total.dtype == a.dtype and not takes(a, b):
        total.addmm_(a, b)
    else:
        total += matmul(a, b)


def cross_entropy(
    hidden: Tensor,
    rows: Tensor,
    targets: Tensor,
    weight: Tensor,
    ranges: Sequence[tuple[int, int]] | None = None,
    bias: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Logits `hidden @ rows.T + bias` against targets; hidden (p, d), rows (v, d), targets int64 (p,), bias (v,).

    weight: float (p,), how much each position counts in the sum that is differentiated; no gradient goes to it.
    ranges: [start, stop) that part [0, v): each position's softmax runs over the range its target stands in. None: over all.
    Returns the weighted sum, and the cross-entropy in nats of each position, float32 (p,), without gradient.
    """
    return _CrossEntropy.apply(hidden, rows, bias, targets, weight.float(), tuple(ranges or [(0, len(rows))]))

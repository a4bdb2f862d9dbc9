"""A training step without memory: weights and activations on torch's meta device, the batch's layout real.

The batch stays on the CPU, so that what is read off it (which positions are text, which ids are predicted) is known,
while every product of it with the model has a shape and a dtype and no data.
"""

import weakref
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

from videopoet.models.token_lm import TokenLM
from videopoet.sequence import Batch

INDEXED = {Tensor.__getitem__, Tensor.__setitem__, Tensor.index_put, Tensor.index_put_, F.embedding}
CAST = {F.linear, torch.matmul, Tensor.matmul, Tensor.__matmul__, torch.bmm, F.scaled_dot_product_attention}


class Shadow(TorchFunctionMode):
    """Lets real tensors meet those of the meta device: they follow them there, but for the indices of a lookup.

    autocast: products are made in this dtype, as `torch.autocast` has it on other devices; the copies of weights are kept
    as long as the mode is on.
    """

    def __init__(self, autocast: torch.dtype | None = None):
        super().__init__()
        self.autocast, self._copies = autocast, {}

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if func is torch.arange:  # is read number by number
            return func(*args, **{**kwargs, "device": "cpu"})
        if func is Tensor.to and not args[0].is_floating_point():  # masks and ids stay real
            args, kwargs = tree_map(lambda x: "cpu" if isinstance(x, torch.device) else x, (args, kwargs))
        leaves = [x for x in tree_leaves((args, kwargs)) if isinstance(x, Tensor)]
        if any(x.is_meta for x in leaves) and not all(x.is_meta for x in leaves):
            if (func in INDEXED and leaves[0].is_meta) or func is F.embedding:
                return func(*args, **kwargs)
            args, kwargs = tree_map(lambda x: x.to("meta") if isinstance(x, Tensor) else x, (args, kwargs))
        if func is F.rms_norm:
            return _FusedNorm.apply(*args, **kwargs)
        if self.autocast is not None and func in CAST:
            args, kwargs = tree_map(self._cast, (args, kwargs))
        return func(*args, **kwargs)

    def _cast(self, x):
        if not isinstance(x, Tensor) or not x.is_floating_point() or x.dtype == self.autocast:
            return x
        if not (x.is_leaf and x.requires_grad):
            return x.to(self.autocast)
        if id(x) not in self._copies:
            self._copies[id(x)] = x.to(self.autocast)
        return self._copies[id(x)]


class _FusedNorm(torch.autograd.Function):
    """What `F.rms_norm` keeps on a GPU, where it is one kernel: its input and one number per row."""

    @staticmethod
    def forward(ctx, x: Tensor, shape, weight: Tensor | None = None, eps: float | None = None) -> Tensor:
        ctx.save_for_backward(x, weight, x.new_empty((*x.shape[:-1], 1), dtype=torch.float32))
        return torch.empty_like(x, memory_format=torch.contiguous_format)

    @staticmethod
    def backward(ctx, grad: Tensor):
        x, weight, _ = ctx.saved_tensors
        return torch.empty_like(x), None, None if weight is None else torch.empty_like(weight), None


class LiveBytes(TorchDispatchMode):
    """Bytes of all tensors that were made since and are still held: `now`, and `peak`.

    Tensors of `known` are not among them, nor views of them, nor gradients of parameters once they are accumulated:
    `keep_out` these.
    """

    def __init__(self, known: Iterable[Tensor] = ()):
        super().__init__()
        self.now = self.peak = 0
        self._held: dict[int, int] = {x.untyped_storage()._cdata: 0 for x in known}

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for x in tree_leaves(out):
            if isinstance(x, Tensor):
                self._note(x.untyped_storage())
        return out

    def _note(self, storage) -> None:
        key = storage._cdata
        if key in self._held or not storage.nbytes():
            return
        self._held[key] = storage.nbytes()
        self.now += storage.nbytes()
        self.peak = max(self.peak, self.now)
        weakref.finalize(storage, self._drop, key)

    def _drop(self, key: int) -> None:
        self.now -= self._held.pop(key, 0)

    def keep_out(self, parameter: Tensor) -> None:
        """Count the parameter's gradient no longer."""
        self._drop(parameter.grad.untyped_storage()._cdata)
        self._held[parameter.grad.untyped_storage()._cdata] = 0


@dataclass(frozen=True, kw_only=True)
class StepBytes:
    """Bytes of one step beside weights, their gradients and optimizer states.

    kept: what the forward pass leaves for the backward pass. peak: the most at any time.
    untouched: names of trained weights that got no gradient.
    """

    kept: int
    peak: int
    untouched: tuple[str, ...] = ()


def measure_step(model: TokenLM, batch: Batch, autocast: torch.dtype | None = None) -> StepBytes:
    """One forward and backward pass of a model on the CPU or the meta device, in the dtype of its weights or under
    autocast. Gradients are those of the step and are dropped at the end."""
    meta = next(model.parameters()).is_meta
    live = LiveBytes((*model.parameters(), *model.buffers()))
    parameters = [p for p in model.parameters() if p.requires_grad]
    hooks = [p.register_post_accumulate_grad_hook(live.keep_out) for p in parameters]
    with ExitStack() as stack:
        stack.callback(_clean, model, hooks)
        if autocast is not None:
            stack.enter_context(torch.autocast("cpu", autocast))
        stack.enter_context(live)
        if meta:
            stack.enter_context(_shadowed(model, Shadow(autocast)))
        loss = model.loss(batch).total
        kept = live.now
        loss.backward()
        untouched = [name for name, p in model.named_parameters() if p.requires_grad and p.grad is None]
    return StepBytes(kept=kept, peak=live.peak, untouched=tuple(untouched))


@contextmanager
def _shadowed(model: TokenLM, shadow: Shadow) -> Iterator[None]:
    """The mode, in blocks that run again in the backward pass too: autograd calls these without the modes around it."""

    def inside(forward):
        def run(*arguments):
            with shadow:
                return forward(*arguments)

        return run

    for block in model.transformer.blocks:
        block.forward = inside(block.forward)
    try:
        with shadow:
            yield
    finally:
        for block in model.transformer.blocks:
            del block.forward


def _clean(model: nn.Module, hooks) -> None:
    for hook in hooks:
        hook.remove()
    model.zero_grad(set_to_none=True)

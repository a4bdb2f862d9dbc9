"""Counted operations are those that torch counts, and the attention's pairs those of the mask."""

from dataclasses import replace
from math import prod

import pytest
import torch
from conftest import EVERY_TASK, FACTORED, FLAT, LAYOUT, VOCABULARY, lm_spec
from torch.utils.flop_counter import FlopCounterMode

from videopoet import component
from videopoet.sequence import Batch, Sequence
from videopoet.tasks.base import Text
from videopoet.training.flops import StepFlops, matmul_peak, pairs, seen_of, step_flops, texts

INDEPENDENT = {**FACTORED, "class_path": "videopoet.models.token_io.IndependentFactors"}
STARTS = [0, 256, *(VOCABULARY.audio(k).start for k in range(2))]
IOS = {
    "factored": FACTORED,
    "flat": FLAT,
    "flat by kind": {**FLAT, "init_args": {**FLAT["init_args"], "starts": STARTS}},
    "factored by kind": {**FACTORED, "init_args": {**FACTORED["init_args"], "starts": STARTS}},
    "three factors": {**FACTORED, "init_args": {**FACTORED["init_args"], "factors": 3}},
    "independent": INDEPENDENT,
}


def rectangle(queries: int, keys: int, width: int) -> int:
    return 4 * queries * keys * width  # scores, and their use


def of_prefix_attention(q_shape, k_shape, v_shape, prefix, *args, out_shape=None, **kwargs) -> int:
    """Pair by pair: query i stands at position i + n - rows."""
    (b, heads, rows, d), n = q_shape, k_shape[2]
    seen = sum(prefix if i < prefix else i + 1 for i in range(n - rows, n))
    return rectangle(1, seen, b * heads * d)


def backward_of_it(grad_shape, q_shape, k_shape, v_shape, out_shape_, lse_shape, prefix, *args, **kwargs) -> int:
    return 2 * of_prefix_attention(q_shape, k_shape, v_shape, prefix)


def added_product(total_shape, a_shape, b_shape, *args, **kwargs) -> int:
    return 2 * a_shape[0] * a_shape[1] * b_shape[1]


def of_fused_attention(q_shape, k_shape, v_shape, *args, **kwargs) -> int:
    (b, heads, rows, d), n = q_shape, k_shape[2]
    return rectangle(rows, n, b * heads * d)


def of_onednn(x_shape, weight_shape, *args, **kwargs) -> int:
    return 2 * prod(x_shape) * weight_shape[0]


COUNTED_TOO = {
    torch.ops.mkldnn._linear_pointwise: of_onednn,
    torch.ops.videopoet.prefix_attention: of_prefix_attention,
    torch.ops.videopoet.prefix_attention_backward: backward_of_it,
    torch.ops.aten.addmm_: added_product,
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: of_fused_attention,
}


def counted(model, batch: Batch) -> int:
    with FlopCounterMode(display=False, custom_mapping=COUNTED_TOO) as counter:
        model.loss(batch).total.backward()
    return counter.get_total_flops()


def batch_of(name: str, example, rows: int = 2) -> Batch:
    return Batch.of([Sequence.of(EVERY_TASK[name].segments(replace(example, seed=5), LAYOUT))] * rows, task=name)


@pytest.mark.parametrize("io", IOS)
def test_exactly_what_torch_counts(io, example):
    model = component.instantiate(lm_spec(None, IOS[io])).train()
    for name, parameter in model.io.named_parameters():
        parameter.requires_grad_("bias" not in name)  # gradients of biases are sums, which torch counts as products
    batch = batch_of("text-to-video", example)
    assert batch.sight.hidden, "some text slots are empty"
    assert step_flops(model, batch).total.item() == counted(model, batch)


@pytest.mark.parametrize("name", ["unconditional", "video-to-audio", "stylization", "class-to-video"])
def test_of_any_prefix_task(name, example):
    model = component.instantiate(lm_spec(None)).train()
    batch = batch_of(name, example)
    assert step_flops(model, batch).total.item() == counted(model, batch)


def test_packed_rows_and_recomputed_blocks(example):
    model = component.instantiate(lm_spec(None)).train()
    parts = [Sequence.of(EVERY_TASK[name].segments(example, LAYOUT)) for name in ("text-to-image", "video-to-audio")]
    packed = Batch.pack([parts, parts[:1]])
    needed = step_flops(model, packed).total.item()
    assert needed == counted(model, packed)
    model.transformer.recompute = True
    assert counted(model, packed) > 1.2 * needed, "what is computed twice is not needed twice"


def test_a_frozen_text_encoder_has_no_backward_pass(example):
    model = component.instantiate(lm_spec(None)).train()
    trained = step_flops(model, batch_of("text-to-video", example)).text
    model.text_encoder.requires_grad_(False)
    batch = batch_of("text-to-video", example)
    assert step_flops(model, batch).total.item() == counted(model, batch)
    assert step_flops(model, batch).text < trained / 2


@pytest.mark.parametrize("name", EVERY_TASK)
def test_pairs_are_those_of_the_mask(name, example):
    shown = torch.ones(LAYOUT.text_length, dtype=torch.bool)
    full = Text(ids=example.text.ids, shown=shown)
    batch = batch_of(name, replace(example, text=full, label=full))
    mask = batch.attention()
    whole, last = pairs(batch)
    assert whole == mask.sum()
    assert pairs(replace(batch, sight=None)) == (whole, whole)
    first = batch.sight.length - 1 if last < whole else 0
    assert last == mask[:, :, first:].sum()


def test_the_drawn_numbers():
    assert seen_of(3, 5) == 18 and seen_of(5, 5) == 25 and seen_of(0, 4) == 10


def test_texts_are_runs_of_text_in_a_row(example):
    assert texts(batch_of("class-to-video", example, rows=3)) == (3, LAYOUT.text_length)
    assert texts(batch_of("unconditional", example)) == (0, 0)


def test_the_total_is_the_sum_of_the_parts():
    flops = StepFlops(trunk=1, attention=2, head=torch.tensor(4.0), text=8)
    assert flops.total == 15


def test_peak_of_this_machine():
    assert 1e8 < matmul_peak(torch.device("cpu"), torch.float32, size=256) < 1e16

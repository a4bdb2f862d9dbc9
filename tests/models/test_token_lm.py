"""The network: no leakage, cached decoding equals the full forward, factorised and flat loss and sampling agree."""

import copy
from collections import Counter
from dataclasses import replace

import pytest
import torch
from conftest import EVERY_TASK, FACTORED, FLAT, LAYOUT, VOCABULARY, lm_spec

from videopoet import component
from videopoet.models.attend import plan_attention
from videopoet.pipeline import TASKS
from videopoet.sampling.autoregressive import generate
from videopoet.sampling.conditions import unconditioned
from videopoet.sampling.rules import Draw, Guidance, Place, Temperature, TopK, TopP
from videopoet.sequence import Batch, Sequence
from videopoet.vocabulary import Modality

ALL_TASKS = pytest.mark.parametrize("task", EVERY_TASK.values(), ids=EVERY_TASK)


@pytest.fixture(scope="module", params=[FACTORED, FLAT], ids=["factored", "flat"])
def model(request, text_model):
    torch.manual_seed(0)
    return component.instantiate(lm_spec(text_model, request.param)).eval()


def batch_of(task, *examples) -> Batch:
    return Batch.of([Sequence.of(task.segments(e, LAYOUT)) for e in examples])


@ALL_TASKS
def test_no_leakage_from_later_tokens(model, task, example):
    """The state that predicts target i has zero gradient with respect to the input of every later position."""
    batch = batch_of(task, example)
    x = model.embed(batch).detach().requires_grad_()
    hidden = model.transformer(x, batch.places, plan_attention(batch))
    start = len(Sequence.whole(task.condition(example, LAYOUT)))
    n = hidden.shape[1]
    for i in {start - 1, (start + n) // 2, n - 2}:
        (gradient,) = torch.autograd.grad(hidden[0, i].sum(), x, retain_graph=True)
        assert gradient[0, i + 1 :].abs().max() == 0
        assert gradient[0, 0].abs().max() > 0


def by_length(example) -> list[list[Sequence]]:
    """Sequences of different tasks, and of one task with different pasts and spans, that are as long as each other."""
    groups: dict[tuple, list[Sequence]] = {}
    for task in EVERY_TASK.values():
        for seed in range(3):
            sequence = Sequence.of(task.segments(replace(example, seed=seed), LAYOUT))
            text = tuple((sequence.modality == Modality.TEXT).nonzero().flatten().tolist())
            groups.setdefault((len(sequence), text), []).append(sequence)
    return [group for group in groups.values() if len({tuple(s.modality.tolist()) for s in group}) > 1]


def test_a_batch_of_mixed_rows_equals_one_by_one(model, example):
    groups = by_length(example)
    assert len(groups) >= 3
    with torch.inference_mode():
        for group in groups:
            together, alone = Batch.of(group), [Batch.of([sequence]) for sequence in group]
            shown = together.document > 0
            hidden = torch.cat([model.hidden(one) for one in alone])
            torch.testing.assert_close(model.hidden(together)[shown], hidden[shown], atol=1e-5, rtol=1e-4)
            counts = torch.tensor([float((one.targets >= 0).sum()) for one in alone])
            losses = torch.stack([model.loss(one).total for one in alone])
            torch.testing.assert_close(model.loss(together).total, (losses * counts).sum() / counts.sum())


@ALL_TASKS
def test_nothing_that_is_made_reaches_the_condition(model, task, example):
    """The states of the condition have zero gradient with respect to the target's inputs and to hidden positions."""
    batch = batch_of(task, example)
    x = model.embed(batch).detach().requires_grad_()
    start = len(Sequence.whole(task.condition(example, LAYOUT)))
    shown = batch.document[0, :start] > 0
    (gradient,) = torch.autograd.grad(
        model.transformer(x, batch.places, batch.attention())[0, :start][shown].sum(), x
    )
    assert gradient[0, start:].abs().max() == 0
    assert (gradient[0, :start][~shown] == 0).all()


def test_padding_is_invisible(model, example):
    batch = batch_of(TASKS["text-to-video"], example)
    hidden = model.hidden(batch)
    padding = batch.document == 0
    changed = Batch(**{**vars(batch), "inputs": torch.where(padding, 7, batch.inputs)})
    assert padding.any()
    torch.testing.assert_close(model.hidden(changed)[~padding], hidden[~padding])


@ALL_TASKS
def test_cached_decoding_equals_the_full_forward(model, task, example):
    with torch.inference_mode():
        batch = batch_of(task, example)
        full = model.hidden(batch)
        start = len(Sequence.whole(task.condition(example, LAYOUT)))
        condition = Batch.of([Sequence.of(task.segments(example, LAYOUT)).head(start)])
        hidden, cache = model.prefill(condition, batch.inputs.shape[1])
        torch.testing.assert_close(hidden, full[:, start - 1], atol=1e-5, rtol=1e-4)
        for i in range(start, batch.inputs.shape[1]):
            modality = Modality(int(batch.modality[0, i]))
            hidden = model.step(batch.inputs[:, i], modality, batch.places[0, i], cache)
            torch.testing.assert_close(hidden, full[:, i], atol=1e-5, rtol=1e-4)


def test_bfloat16_decodes_what_float32_does(model, example):
    """Weights in bfloat16, as for sampling: cached decoding stays near the float32 forward, positions far out too."""
    batch, half = batch_of(TASKS["text-to-video"], example), copy.deepcopy(model).bfloat16()
    with torch.inference_mode():
        full, task = model.hidden(batch), TASKS["text-to-video"]
        start = len(Sequence.whole(task.condition(example, LAYOUT)))
        condition = Sequence.of(task.segments(example, LAYOUT)).head(start)
        hidden, cache = half.prefill(Batch.of([condition]), batch.inputs.shape[1])
        assert hidden.dtype == cache.keys.dtype == torch.bfloat16
        for i in range(start, batch.inputs.shape[1]):
            hidden = half.step(batch.inputs[:, i], Modality(int(batch.modality[0, i])), batch.places[0, i], cache)
            torch.testing.assert_close(hidden.float(), full[:, i], atol=0.1, rtol=0.05)
    torch.testing.assert_close(half.transformer.rotary(torch.full((1, 1, 2, 3), 257.0))[0],
                               model.transformer.rotary(torch.full((1, 1, 2, 3), 257.0))[0])  # fmt: skip


def test_image_logits_are_the_video_s_first_frame(model, example):
    image, video = (model.hidden(batch_of(TASKS[t], example)) for t in ("text-to-image", "text-to-video"))
    torch.testing.assert_close(video[:, : image.shape[1]], image, atol=1e-5, rtol=1e-4)


def run(model, task, examples, draw, seed=0):
    conditions = [task.condition(e, LAYOUT) for e in examples]
    return generate(
        model,
        conditions,
        unconditioned(conditions, model.text([""]) * len(examples), draw.guidance),
        task.target(replace(task.blank(LAYOUT), seed=examples[0].seed), LAYOUT),
        VOCABULARY,
        draw,
        seed,
    )


@ALL_TASKS
def test_sampled_ids_are_legal_and_reproducible(model, task, example):
    draw = Draw(filters=(Temperature(value=0.8), TopK(k=9), TopP(p=0.9)))
    made = run(model, task, [example], draw)
    lengths = Counter()
    for segment in task.target(example, LAYOUT):
        lengths.update({segment.modality: len(segment.ids)} if segment.predicted else {})
    assert {m: ids.shape[1] for m, ids in made.items()} == lengths
    if Modality.VISUAL in made:
        VOCABULARY.to_visual(made[Modality.VISUAL])
    if Modality.AUDIO in made:
        whole = task.complete(example, {m: ids[0] for m, ids in made.items()}, LAYOUT)
        assert whole.audio.shape == example.audio.shape
    again = run(model, task, [example], draw)
    assert all(torch.equal(again[m], made[m]) for m in made)


def test_a_row_does_not_depend_on_its_batch(model, example):
    task, draw = TASKS["text-to-video"], Draw(guidance=Guidance(text=2.0))
    both = run(model, task, [example, example], draw, seed=5)
    second = run(model, task, [example], draw, seed=6)
    assert torch.equal(both[Modality.VISUAL][1:], second[Modality.VISUAL])
    assert not torch.equal(both[Modality.VISUAL][0], both[Modality.VISUAL][1])


def test_guidance_one_is_none(model, example):
    task = TASKS["text-to-video"]
    plain, guided = (run(model, task, [example], Draw(guidance=g)) for g in (Guidance(), Guidance(text=1.0)))
    assert all(torch.equal(plain[m], guided[m]) for m in plain)


def test_image_tokens_are_the_video_s_first_under_one_seed(model, example):
    draw = Draw(guidance=Guidance(text=2.0))
    image, video = (run(model, TASKS[t], [example], draw, seed=3) for t in ("text-to-image", "text-to-video"))
    ids = image[Modality.VISUAL]
    assert torch.equal(ids, video[Modality.VISUAL][:, : ids.shape[1]])


def test_filters():
    logits, place = torch.tensor([[0.5, 0.3, 0.15, 0.05]]).log(), Place()
    assert torch.isfinite(TopK(k=2)(logits, place)).tolist() == [[True, True, False, False]]
    assert torch.isfinite(TopP(p=0.7)(logits, place)).tolist() == [[True, True, False, False]]
    assert torch.isfinite(TopP(p=0.1)(logits, place)).sum() == 1
    for bad in (lambda: Temperature(value=0), lambda: TopK(k=0), lambda: TopP(p=1.5)):
        with pytest.raises(ValueError, match="must be"):
            bad()

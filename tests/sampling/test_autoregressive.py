"""The loop over tokens: conditions taken away, rows by seed, and a number of device reads that does not grow."""

from dataclasses import replace
from unittest.mock import Mock, call

import pytest
import torch
from conftest import FACTORED, FLAT, LAYOUT, VOCABULARY, lm_spec
from torch.utils._python_dispatch import TorchDispatchMode

from videopoet import component
from videopoet.pipeline import TASKS
from videopoet.sampling import autoregressive
from videopoet.sampling.autoregressive import generate, num_tokens
from videopoet.sampling.conditions import unconditioned
from videopoet.sampling.graphs import GraphedStep
from videopoet.sampling.rules import Draw, Guidance, Temperature
from videopoet.sampling.schedules import Linear
from videopoet.sequence import Batch, Sequence
from videopoet.tasks.absent import present, without
from videopoet.tasks.base import Example
from videopoet.tasks.text_to_video import TextToVideo
from videopoet.vocabulary import Modality

READS = {"aten::item", "aten::_local_scalar_dense", "aten::is_nonzero", "aten::equal", "aten::nonzero"}


@pytest.fixture(scope="module", params=[FACTORED, FLAT], ids=["factored", "flat"])
def model(request, text_model):
    torch.manual_seed(0)
    return component.instantiate(lm_spec(text_model, request.param)).eval()


def run(model, task, examples, draw, seed=0, negative="", layout=LAYOUT):
    conditions = [task.condition(e, layout) for e in examples]
    further = unconditioned(conditions, model.text([negative]) * len(examples), draw.guidance)
    template = task.target(task.blank(layout), layout)
    return generate(model, conditions, further, template, VOCABULARY, draw, seed)


def same(a, b) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[m], b[m]) for m in a)


@pytest.mark.parametrize("name, modality", [("image-to-video", Modality.TEXT), ("image-to-video", Modality.VISUAL),
    ("class-to-video", Modality.TEXT), ("class-frame-prediction", Modality.VISUAL), ("audio-to-video", Modality.AUDIO),
    ("audio-visual-continuation", Modality.AUDIO), ("stylization-of-image", Modality.VISUAL)])  # fmt: skip
def test_a_dropped_condition_cannot_be_told(model, example, name, modality):
    """Without its text, class, pictures or sound, a row's next-token state does not depend on what these were."""
    task, none, text = TASKS[name], model.text([""])[0], model.text(["a blue square"])[0]
    assert modality in present(task.condition(example, LAYOUT))
    changes = {
        Modality.TEXT: {"text": text, "label": text},
        Modality.AUDIO: {"audio": (example.audio + 1) % 16},
        Modality.VISUAL: {
            "video": (example.video + 1) % 64,
            "streams": {stream: (codes + 1) % 64 for stream, codes in example.streams.items()},
        },
    }
    other = replace(example, **changes[modality])
    states = []
    for change in (lambda row: row, lambda row: without(row, modality, none)):
        rows = [change(task.condition(e, LAYOUT)) for e in (example, other)]
        assert len({len(Sequence.whole(row)) for row in rows}) == 1
        states.append(prefilled(model, rows))
    assert not torch.allclose(states[0][0], states[0][1], atol=1e-4)
    torch.testing.assert_close(states[1][0], states[1][1])


def prefilled(model, rows):
    with torch.inference_mode():
        batch = Batch.of([Sequence.whole(row) for row in rows])
        return model.prefill(batch, batch.inputs.shape[1] + 1)[0]


def test_copies_lack_one_condition_more_each(example):
    task = TASKS["image-to-video"]
    row, guidance = task.condition(example, LAYOUT), Guidance(text=2.0, visual=2.0)
    negative = example.text.__class__(ids=example.text.ids * 0 + 7, shown=example.text.shown)
    first, second = unconditioned([row], [negative], guidance)

    def of(segments, modality):
        return next(s for s in segments if s.modality is modality)

    assert (of(first, Modality.TEXT).ids == 7).all() and (of(second, Modality.TEXT).ids == 7).all()
    assert of(first, Modality.VISUAL).shown.all() and not of(second, Modality.VISUAL).shown.any()
    assert of(row, Modality.VISUAL).shown.all(), "the condition itself stays as it was"


def test_guidance_by_one_is_none_row_by_row(model, example):
    plain = run(model, TASKS["image-to-video"], [example], Draw())
    ones = Guidance(text=Linear(start=1, end=1), visual=Linear(start=1, end=1))
    assert Draw(guidance=ones).copies == 3
    assert same(run(model, TASKS["image-to-video"], [example], Draw(guidance=ones)), plain)
    guided = run(model, TASKS["image-to-video"], [example], Draw(guidance=Guidance(text=5.0, visual=5.0)))
    assert not same(guided, plain)


def test_a_negative_prompt_changes_what_is_drawn(model, example):
    draw = Draw(guidance=Guidance(text=6.0))
    plain, negative = (run(model, TASKS["text-to-image"], [example], draw, negative=n) for n in ("", "a blue square"))
    assert not same(plain, negative)


def test_a_batch_of_many_is_each_alone(model, example):
    task, draw = TASKS["image-to-video"], Draw(guidance=Guidance(text=2.0, visual=1.5))
    other = Example(text=model.text(["a blue square"])[0], video=(example.video + 5) % 64, audio=example.audio)
    seeds = [40, 7, 7]
    together = run(model, task, [example, other, example], draw, seeds)
    for i, e in enumerate((example, other, example)):
        alone = run(model, task, [e], draw, [seeds[i]])
        assert all(torch.equal(ids[i : i + 1], alone[m]) for m, ids in together.items())
    assert not torch.equal(together[Modality.VISUAL][1], together[Modality.VISUAL][2])


def test_a_constant_schedule_draws_the_same(model, example):
    plain, scheduled = (
        run(model, TASKS["text-to-video"], [example], Draw(filters=(Temperature(value=v),)))
        for v in (0.8, Linear(start=0.8, end=0.8))
    )
    assert same(plain, scheduled)


def test_the_copies_must_fit_the_guidance(model, example):
    row = TASKS["text-to-image"].condition(example, LAYOUT)
    template = TASKS["text-to-image"].target(Example.blank(LAYOUT), LAYOUT)
    with pytest.raises(ValueError, match="takes 1 further copies of 1 rows, 0 were given"):
        generate(model, [row], [], template, VOCABULARY, Draw(guidance=Guidance(text=2.0)))


def test_tokens_are_counted_as_progress_counts_them(model, example):
    for task in TASKS.values():
        blank, step = task.blank(LAYOUT), Mock()
        template = task.target(blank, LAYOUT)
        generate(
            model,
            [task.condition(replace(example, seed=blank.seed), LAYOUT)],
            [],
            template,
            VOCABULARY,
            Draw(),
            progress=step,
        )
        total = num_tokens(template)
        assert step.mock_calls == [call(i + 1, total) for i in range(total)]


class Reads(TorchDispatchMode):
    """Counts operations whose result the host has to read from the device."""

    count = 0

    def __torch_dispatch__(self, function, types, arguments=(), kwargs=None):
        self.count += function.name().split(".")[0] in READS
        return function(*arguments, **(kwargs or {}))


@pytest.mark.parametrize("graphed", [False, True], ids=["steps", "graphed steps"])
def test_reads_from_the_device_do_not_grow_with_the_tokens(model, example, graphed, monkeypatch):
    if graphed:  # what CUDA runs, without the recording
        monkeypatch.setattr(autoregressive, "partial", lambda _, cache: GraphedStep(model, cache))
    counts, task = [], TextToVideo(sound=False)
    draw = Draw(filters=(Temperature(value=0.9),), guidance=Guidance(text=2.0))
    for latent_frames in (2, 9):
        layout = replace(LAYOUT, lattice=(latent_frames, 2, 2))
        with Reads() as reads:
            run(model, task, [example], draw, layout=layout)
        counts.append(reads.count)
    assert counts[0] == counts[1] > 0

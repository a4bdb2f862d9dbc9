"""UL2's spans: their number and size are as published, and a stream is whole again with what was drawn."""

import dataclasses
from math import prod

import numpy as np
import pytest
import torch
from conftest import EVERY_TASK, LAYOUT

from videopoet.sequence import Sequence
from videopoet.tasks.denoise import Denoise
from videopoet.tasks.spans import Blocks, LatentFrames, Runs, Suffix
from videopoet.vocabulary import SENTINELS, Control, Modality, sentinel

LATTICE = (5, 16, 16)  # the paper's 1280 tokens
DENOISERS = {name: task for name, task in EVERY_TASK.items() if isinstance(task, Denoise)}


@pytest.mark.parametrize(
    "mean, rate, hidden, count, mode",
    [  # UL2, Table 1, at 1280 tokens
        (3, 0.15, 192, 64, Control.MODE_R),
        (8, 0.15, 192, 24, Control.MODE_R),
        (3, 0.5, 640, 213, Control.MODE_X),
        (8, 0.5, 640, 80, Control.MODE_X),
        (64, 0.15, 192, 3, Control.MODE_X),
        (64, 0.5, 640, 10, Control.MODE_X),
    ],
)
def test_published_runs(mean, rate, hidden, count, mode):
    runs, sizes = Runs(mean=mean, rate=rate), []
    for seed in range(20):
        spans = runs.draw(LATTICE, np.random.default_rng(seed))
        assert len(spans) == count and sum(map(len, spans)) == hidden
        for span, after in zip(spans, [*spans[1:], torch.tensor([1281])]):
            assert (span.diff() == 1).all() and span[-1] + 1 < after[0], "runs do not touch"
        sizes += [len(span) for span in spans]
    assert len(set(sizes)) > 2, "lengths are random"
    hidden_share = torch.bincount(
        torch.cat([torch.cat(runs.draw((1, 1, 40), np.random.default_rng(s))) for s in range(2000)])
    )
    assert len(hidden_share) == 40 and hidden_share.min() > 0, "every place is hidden at times"
    assert runs.mode(LATTICE) is mode


def test_the_sequential_denoiser_hides_the_end():
    (span,) = Suffix().draw(LATTICE, np.random.default_rng(0))
    assert span.tolist() == list(range(960, 1280)) and Suffix().mode(LATTICE) is Control.MODE_S
    sizes = {len(Suffix(least=0.1, rate=0.9).draw(LATTICE, np.random.default_rng(s))[0]) for s in range(20)}
    assert len(sizes) > 10 and min(sizes) >= 128 and max(sizes) <= 1152


def test_blocks_and_frames_are_whole():
    index = torch.arange(prod(LATTICE)).view(LATTICE)
    spans = Blocks(frames=2, rows=4, columns=4, rate=0.25).draw(LATTICE, np.random.default_rng(1))
    assert len(spans) == 12  # of a grid of 3 x 4 x 4
    for span in spans:
        t, h, w = np.unravel_index(int(span[0]), LATTICE)
        assert t % 2 == h % 4 == w % 4 == 0
        assert torch.equal(span, index[t : t + 2, h : h + 4, w : w + 4].flatten())
    frames = LatentFrames(rate=0.4).draw(LATTICE, np.random.default_rng(1))
    assert [len(frame) for frame in frames] == [256, 256] and all(frame[0] % 256 == 0 for frame in frames)


@pytest.mark.parametrize("task", DENOISERS.values(), ids=DENOISERS)
@pytest.mark.parametrize("seed", range(3))
def test_both_halves_together_are_the_stream(task, seed, example):
    """Every token stands once, in one half or the other; the sentinels pair up; what is drawn makes it whole."""
    example = dataclasses.replace(example, seed=seed)
    ids, modality, _ = LAYOUT.visual(example.video) if task.stream == "video" else LAYOUT.audio(example.audio)
    halves = []
    for segments in (task.condition(example, LAYOUT), task.target(example, LAYOUT)):
        whole = Sequence.whole(segments)
        content = whole.modality == modality
        marks = (whole.inputs >= SENTINELS[0]) & (whole.inputs < SENTINELS[-1] + 1) & ~content
        halves.append((whole.inputs[content], whole.inputs[marks]))
    given, made = halves
    assert sorted(given[1].tolist()) == sorted(made[1].tolist()) == [sentinel(i) for i in range(len(made[1]))]
    assert torch.equal(torch.cat([given[0], made[0]]).sort().values, ids.sort().values)
    drawn = torch.cat([s.ids for s in task.target(example, LAYOUT) if s.predicted])
    blanked = dataclasses.replace(example, video=example.video * 0 if task.stream == "video" else example.video)
    whole = task.complete(example, {modality: drawn}, LAYOUT)
    assert torch.equal(whole.video, example.video) and torch.equal(whole.audio, example.audio)
    if task.stream == "video":
        hidden = task.complete(blanked, {modality: drawn}, LAYOUT).video.flatten()
        assert (hidden != 0).sum() <= len(drawn), "nothing else is written"


@pytest.mark.parametrize("task", DENOISERS.values(), ids=DENOISERS)
def test_hidden_tokens_are_not_given(task, example):
    """The condition is the same whatever the hidden tokens are."""
    drawn = [s.ids for s in task.target(example, LAYOUT) if s.predicted]
    modality = Modality.VISUAL if task.stream == "video" else Modality.AUDIO
    legal = [LAYOUT.vocabulary.legal(int(i)) for ids in drawn for i in ids]
    other = torch.tensor([r.start + (int(i) - r.start + 1) % len(r) for i, r in zip(torch.cat(drawn), legal)])
    changed = task.complete(example, {modality: other}, LAYOUT)
    first, second = (Sequence.whole(task.condition(each, LAYOUT)) for each in (example, changed))
    assert torch.equal(first.inputs, second.inputs) and torch.equal(first.position, second.position)


def test_tokens_keep_their_places_in_the_stream(example):
    task = Denoise(spans=Blocks(frames=2, rows=1, columns=2, rate=0.5))
    whole = Sequence.whole(task.condition(example, LAYOUT))
    content = whole.modality == Modality.VISUAL
    _, _, position = LAYOUT.visual(example.video)
    spans = task.spans.draw(LAYOUT.lattice, np.random.default_rng(example.seed))
    kept = torch.ones(20, dtype=torch.bool)
    kept[torch.cat(spans)] = False
    assert torch.equal(whole.position[content], position[kept])


def test_more_spans_than_sentinels_start_again():
    assert sentinel(0) == 128 and sentinel(127) == 255 and sentinel(128) == 128


def test_another_stream_is_refused():
    with pytest.raises(ValueError, match="'video' or 'audio', not of 'flow'"):
        Denoise(stream="flow")

"""Vocabulary, sequences and tasks: the layout without a network."""

import dataclasses

import pytest
import torch
from conftest import EVERY_TASK, LAYOUT, VOCABULARY

from videopoet.pipeline import TASKS
from videopoet.sequence import IGNORE, Batch, Segment, Sequence
from videopoet.tasks.text_to_video import TextToVideo
from videopoet.vocabulary import Control, Modality, Vocabulary

ALL_TASKS = pytest.mark.parametrize("task", EVERY_TASK.values(), ids=EVERY_TASK)


def test_published_ranges():
    vocabulary = Vocabulary(visual_size=2**18, audio_levels=4, audio_codes=1024)
    assert (vocabulary.visual_start, vocabulary.audio_start, vocabulary.size) == (256, 262_400, 266_496)
    assert vocabulary.audio(3) == range(265_472, 266_496)


def test_codes_round_trip_and_legal_ranges_partition():
    codes = torch.arange(64)
    assert torch.equal(VOCABULARY.to_visual(VOCABULARY.from_visual(codes)), codes)
    audio = torch.randint(0, 16, (3, 21, 2))
    assert torch.equal(VOCABULARY.to_audio(VOCABULARY.from_audio(audio)), audio)
    covered = [id for id in range(VOCABULARY.size) if id in VOCABULARY.legal(id)]
    assert len(covered) == VOCABULARY.size
    assert {VOCABULARY.legal(i).start for i in range(320, 352)} == {320, 336}


@pytest.mark.parametrize("codes", [torch.tensor([64]), torch.tensor([-1])])
def test_codes_out_of_range_are_refused(codes):
    with pytest.raises(ValueError, match="the vocabulary has 64"):
        VOCABULARY.from_visual(codes)


def test_the_drawn_example():
    text = Segment.given(torch.tensor([7, 8]), Modality.TEXT)
    segments = [
        Segment.marker(Control.BOS, Control.TASK_VIDEO, Control.BOT_I),
        text,
        Segment.marker(Control.EOT_I, Control.BOV_O),
        Segment.generated(torch.tensor([300, 301, 302]), Modality.VISUAL),
    ]
    sequence = Sequence.of(segments)
    assert sequence.inputs.tolist() == [1, 32, 3, 7, 8, 4, 9, 300, 301]
    assert sequence.targets.tolist() == [IGNORE] * 6 + [300, 301, 302]
    assert sequence.block.tolist() == [0] * 7 + [1, 2]


def test_where_tokens_stand_and_aim():
    """Markers are counted; a clip's tokens stand at their places whatever comes before, and each aims at the next."""
    row = torch.tensor([[40.0, 33.0, 33.0], [40.0, 33.0, 34.0], [40.0, 34.0, 33.0]])
    segments = [
        Segment.marker(Control.BOS, Control.BOV_O),
        Segment.generated(torch.tensor([300, 301, 302]), Modality.VISUAL, row),
    ]
    sequence = Sequence.of([*segments, Segment.marker(Control.EOV_O, Control.EOS, generated=True)])
    assert sequence.position.tolist() == [[0] * 3, [1] * 3, *row.tolist(), [2] * 3]
    assert sequence.aim.tolist() == [[0] * 3, *row.tolist(), row[2].tolist(), [2] * 3]


@ALL_TASKS
def test_the_same_place_of_a_clip_has_one_position_in_every_task(task, example):
    """Given or made, visual and audio tokens stand where the clip has them; those of another clip one span before."""
    _, _, visual = LAYOUT.visual(example.video)
    _, _, audio = LAYOUT.audio(example.audio)
    span = torch.tensor([LAYOUT.lattice[0] * LAYOUT.frame_stride, 0, 0])
    own = {tuple(place) for place in torch.cat([visual, visual - span, audio]).round(decimals=3).tolist()}
    whole = Sequence.whole(task.segments(example, LAYOUT))
    clip = (whole.modality == Modality.VISUAL) | (whole.modality == Modality.AUDIO)
    assert {tuple(place) for place in whole.position[clip].round(decimals=3).tolist()} <= own
    made = Sequence.of(task.segments(example, LAYOUT))
    predicts = made.targets != IGNORE
    targets = whole.targets != IGNORE
    assert torch.equal(made.aim[predicts], whole.position[targets])
    assert torch.equal(made.aim[~predicts], made.position[~predicts])


@ALL_TASKS
def test_condition_is_the_head_of_the_training_sequence(task, example):
    condition = Sequence.whole(task.condition(example, LAYOUT))
    whole = Sequence.whole(task.segments(example, LAYOUT))
    for field in dataclasses.fields(Sequence)[:-1]:  # the last is the sample's key
        head, full = getattr(condition, field.name), getattr(whole, field.name)
        assert torch.equal(head, full[: len(head)]), field.name
    assert (condition.block == 0).all() and (condition.targets == IGNORE).all()
    prefilled = Sequence.of([*task.condition(example, LAYOUT), *task.target(task.blank(LAYOUT), LAYOUT)]).head(
        len(condition)
    )
    trained = Sequence.of(task.segments(example, LAYOUT)).head(len(condition))
    assert all(
        torch.equal(getattr(prefilled, n), getattr(trained, n)) for n in ("inputs", "position", "block", "shown")
    )


@ALL_TASKS
def test_length_depends_on_shapes_alone(task, example):
    length = len(Sequence.of(task.segments(task.blank(LAYOUT), LAYOUT)))
    for seed in range(5):
        seeded = dataclasses.replace(example, seed=seed)
        assert len(Sequence.of(task.segments(seeded, LAYOUT))) == length


@ALL_TASKS
def test_predicted_targets_are_what_is_made(task, example):
    """Every generated token is predicted once, in order, from the position just before it."""
    sequence = Sequence.of(task.segments(example, LAYOUT))
    made = [s.ids for s in task.target(example, LAYOUT) if s.predicted]
    assert torch.equal(sequence.targets[sequence.targets != IGNORE], torch.cat(made))
    shifted = sequence.targets[:-1]
    assert torch.equal(shifted[shifted != IGNORE], sequence.inputs[1:][shifted != IGNORE])


@ALL_TASKS
def test_causal_part_sees_only_what_is_before_it(task, example):
    batch = Batch.of([Sequence.of(task.segments(example, LAYOUT))])
    mask, start = batch.attention()[0, 0], len(Sequence.whole(task.condition(example, LAYOUT)))
    assert not mask.triu(1)[start:].any(), "a generated token sees a later one"
    assert not mask[:start, start:].any(), "the condition sees the target"
    shown = batch.document[0, :start] > 0
    assert mask[:start, :start][shown][:, shown].all(), "the condition is bidirectional"
    assert not mask[:, batch.document[0] == 0][batch.document[0] > 0].any(), "padding is visible"


def test_an_image_is_the_head_of_a_video(example):
    image = Sequence.of(TextToVideo(image=True).segments(example, LAYOUT))
    video = Sequence.of(TextToVideo().segments(example, LAYOUT))
    for field in dataclasses.fields(Sequence)[:-1]:  # the last is the sample's key
        head = getattr(image, field.name)
        assert torch.equal(head, getattr(video, field.name)[: len(head)]), field.name


def test_layout_is_invertible(example):
    ids, _, position = LAYOUT.audio(example.audio)
    assert torch.equal(LAYOUT.audio_codes(ids), example.audio)
    assert torch.equal(ids[:21] - VOCABULARY.audio_start, example.audio[:, 0]), "level by level, coarse first"
    assert (position[21] - LAYOUT.origin).tolist() == [0, 1, 0]
    ids, _, position = LAYOUT.visual(example.video)
    assert torch.equal(LAYOUT.visual_codes(ids), example.video)
    assert (position[-1] - LAYOUT.origin).tolist() == [16, 1, 1], "latent frame 4 stands at video frame 16"
    span = LAYOUT.lattice[0] * LAYOUT.frame_stride
    assert (position - LAYOUT.beside(example.video)[2]).unique(dim=0).tolist() == [[span, 0, 0]]
    assert torch.equal(LAYOUT.visual(example.video[3:], start=3)[2], position[12:])


def test_a_missing_stream_is_named(example):
    with pytest.raises(ValueError, match="TextToVideo needs audio, which sample 'sample' lacks"):
        TextToVideo().segments(dataclasses.replace(example, audio=None), LAYOUT)
    assert TextToVideo(sound=False).segments(dataclasses.replace(example, audio=None), LAYOUT)


def test_one_batch_has_one_length(example):
    short, long = (Sequence.of(TextToVideo(image=i).segments(example, LAYOUT)) for i in (True, False))
    with pytest.raises(ValueError, match="one sequence length"):
        Batch.of([short, long])


@pytest.mark.parametrize("name", ["text-to-video", "image-to-video"])
def test_a_corpus_without_sound_has_none_to_write(name, example):
    silent = dataclasses.replace(LAYOUT, audio_frames=0)
    segments = TASKS[name].segments(dataclasses.replace(example, audio=None), silent)
    assert Modality.AUDIO not in {segment.modality for segment in segments}
    assert segments[-1].ids.tolist() == [Control.EOS]

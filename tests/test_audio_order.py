"""Orders of audio tokens and the length of sound: without a network, then sampled by a tiny one."""

import dataclasses
import json

import pytest
import torch
from conftest import LAYOUT, VOCABULARY, lm_spec

from videopoet import component
from videopoet.data.mixture import layout_of
from videopoet.data.schema import TokenManifest
from videopoet.pipeline import TASKS
from videopoet.sampling.autoregressive import generate
from videopoet.sampling.rules import Draw
from videopoet.sequence import Sequence
from videopoet.tasks.audio_length import num_audio_frames, num_samples
from videopoet.tasks.audio_order import AudioOrder, Delayed, FrameMajor, LevelMajor
from videopoet.tasks.base import Example, Layout, read_layout
from videopoet.tokenizers.audio.codec import SoundStream
from videopoet.vocabulary import Modality

ORDERS = [LevelMajor(), FrameMajor(), Delayed(), Delayed(delay=3)]
ALL_ORDERS = pytest.mark.parametrize("order", ORDERS, ids=str)


def in_order(order: AudioOrder) -> Layout:
    return dataclasses.replace(LAYOUT, audio_order=order)


def test_the_drawn_places():
    assert LevelMajor().draw(4, 3) == (
        "LevelMajor()\nlevel 0 |  0  1  2  3\nlevel 1 |  4  5  6  7\nlevel 2 |  8  9 10 11"
    )
    assert FrameMajor().draw(4, 3) == (
        "FrameMajor()\nlevel 0 |  0  3  6  9\nlevel 1 |  1  4  7 10\nlevel 2 |  2  5  8 11"
    )
    assert Delayed().draw(4, 3) == (
        "Delayed(delay=1)\nlevel 0 |  0  1  3  6\nlevel 1 |  2  4  7  9\nlevel 2 |  5  8 10 11"
    )


@ALL_ORDERS
@pytest.mark.parametrize("frames, levels", [(1, 1), (1, 4), (5, 1), (2, 4), (106, 4)])
def test_every_order_is_an_invertible_permutation(order, frames, levels):
    assert sorted(order.places(frames, levels).flatten().tolist()) == list(range(frames * levels))
    grid = torch.randn(2, 3, frames, levels)
    written = order.write(grid)
    assert torch.equal(order.read(written, levels), grid)
    for frame, level in [(0, 0), (frames - 1, levels - 1), (frames // 2, levels // 2)]:
        assert torch.equal(written[..., order.places(frames, levels)[frame, level]], grid[..., frame, level])


@ALL_ORDERS
def test_a_code_comes_after_the_coarser_ones_and_the_earlier_ones_of_its_level(order):
    places = order.places(9, 4)
    assert (places.diff(dim=0) > 0).all() and (places.diff(dim=1) > 0).all()


def test_musicgen_steps():
    """Step s holds level k of frame s - k; within a step the coarse level first."""
    places = Delayed().places(6, 4)
    steps = {int(places[frame, level]): frame + level for frame in range(6) for level in range(4)}
    assert [steps[place] for place in range(24)] == sorted(steps.values())
    assert [int(places[s - k, k]) for s, k in ((4, 0), (4, 1), (4, 2), (4, 3))] == [10, 11, 12, 13]


def test_the_ends_of_the_delay():
    assert torch.equal(Delayed(delay=0).places(7, 3), FrameMajor().places(7, 3))
    assert torch.equal(Delayed(delay=7).places(7, 3), LevelMajor().places(7, 3))
    with pytest.raises(ValueError, match="delay is -1"):
        Delayed(delay=-1)


@ALL_ORDERS
def test_a_missing_token_is_named(order):
    with pytest.raises(ValueError, match="41 audio tokens do not divide into 2 levels"):
        in_order(order).audio_codes(torch.full((41,), VOCABULARY.audio_start))


@ALL_ORDERS
def test_codes_to_ids_and_positions_and_back(order, example):
    layout = in_order(order)
    ids, modality, position = layout.audio(example.audio)
    assert modality == Modality.AUDIO and torch.equal(layout.audio_codes(ids), example.audio)
    assert torch.equal(layout.audio_codes(ids.expand(2, -1)), example.audio.expand(2, -1, -1))
    for (frame, level), place in zip([(0, 0), (3, 1), (20, 0)], order.places(21, 2)[[0, 3, 20], [0, 1, 0]]):
        assert ids[place] == VOCABULARY.audio(level).start + example.audio[frame, level]
        assert (position[place] - layout.origin).tolist() == pytest.approx([frame * 17 / 21, level, 0], abs=1e-5)
    # The same pairs of id and position whatever the order.
    plain_ids, _, plain_position = LAYOUT.audio(example.audio)
    pairs, plain_pairs = (
        sorted(zip(i.tolist(), p.tolist())) for i, p in ((ids, position), (plain_ids, plain_position))
    )
    assert pairs == plain_pairs


def test_level_major_is_what_it_was(example):
    """The formulas from before there were orders: models trained by them must read the same sequence."""
    ids, _, position = LAYOUT.audio(example.audio)
    assert torch.equal(ids, VOCABULARY.from_audio(example.audio).T.flatten())
    level, frame = torch.meshgrid(torch.arange(2), torch.arange(21), indexing="ij")
    expected = torch.stack([frame * (17 / 21), level, torch.zeros_like(level)], -1).reshape(-1, 3)
    assert torch.equal(position, expected + LAYOUT.origin) and LAYOUT.audio_order == LevelMajor()


@ALL_ORDERS
def test_the_order_travels_with_the_model(order):
    layout = in_order(order)
    assert read_layout(json.loads(json.dumps(layout.facts()))) == layout


def test_a_model_that_does_not_say_is_level_major():
    facts = LAYOUT.facts()
    del facts["audio_order"]
    assert read_layout(facts).audio_order == LevelMajor()


@pytest.mark.parametrize("origin", [None, 7])
def test_a_model_whose_clips_begin_elsewhere_is_refused(origin):
    with pytest.raises(
        ValueError, match=rf"{'elsewhere' if origin is None else 'from 7'}, here they stand from {LAYOUT.origin}"
    ):
        read_layout(LAYOUT.facts() | {"origin": origin})


def test_an_order_out_of_a_file_is_built_from_the_tasks_only():
    with pytest.raises(ValueError, match="refusing"):
        read_layout(LAYOUT.facts() | {"audio_order": {"class_path": "os.system", "init_args": {"command": "true"}}})


@ALL_ORDERS
@pytest.mark.parametrize("name", ["text-to-video", "video-to-audio"])
def test_sampling_draws_each_place_from_its_own_level(order, name, example, text_model):
    torch.manual_seed(0)
    layout, task = in_order(order), TASKS[name]
    model = component.instantiate(lm_spec(text_model)).eval()
    condition = task.condition(dataclasses.replace(example, text=model.text(["a red circle"])[0]), layout)
    template = task.target(Example.blank(layout), layout)
    made = generate(model, [condition], (), template, VOCABULARY, Draw())[Modality.AUDIO]
    codes = layout.audio_codes(made)  # raises ValueError for an id of another level
    assert codes.shape == (1, 21, 2) and len(codes.unique()) > 2
    # What was drawn is what training would lay out: the same ids in the same places of the same sequence.
    trained = Sequence.whole(task.target(dataclasses.replace(example, audio=codes[0]), layout))
    assert torch.equal(trained.targets[(trained.targets >= VOCABULARY.audio_start)], made[0])


LENGTHS = [  # frames, fps, Hz, hop -> samples, audio frames
    (17, 8, 16_000, 320, 34_000, 106),
    (41, 8, 16_000, 320, 82_000, 256),
    (17, 8, 16_000, 640, 34_000, 53),
    (17, 8, 24_000, 320, 51_000, 159),
    (1, 8, 16_000, 320, 2_000, 6),
    (17, 30_000 / 1001, 16_000, 320, 9_076, 28),
]


@pytest.mark.parametrize("frames, fps, rate, hop, samples, audio_frames", LENGTHS)
def test_the_length_rule(frames, fps, rate, hop, samples, audio_frames):
    assert num_samples(frames, fps, rate) == samples
    assert num_audio_frames(frames, fps, rate, hop) == audio_frames


def test_the_tokenizer_follows_the_length_rule():
    """33,920 samples and the 80 after them are 106 frames of 4 codes."""
    codec = SoundStream(num_filters=2, dimension=4, num_lstm_layers=0, codebook_size=16).eval()
    for samples in (33_920, num_samples(17, 8, codec.sample_rate)):
        assert codec.encode(torch.zeros(1, 1, samples)).shape == (1, num_audio_frames(17, 8, 16_000, codec.hop), 4)


@pytest.mark.parametrize("frames, audio_frames", [(17, 106), (41, 256)])
def test_an_audio_frame_lasts_as_long_in_every_clip(frames, audio_frames):
    manifest = TokenManifest(fps=8.0, frames=frames, height=8, width=8, sample_rate=16_000, fingerprints={},
                             visual_lattice=((frames - 1) // 4 + 1, 1, 1), visual_codebook_size=64, audio_levels=4,
                             audio_frames=audio_frames, audio_codebook_size=1024, audio_hop=320)  # fmt: skip
    layout = layout_of(manifest, 8, Delayed())
    assert layout.frames_per_audio_frame == 0.16 and layout.audio_order == Delayed()
    last = layout.audio(torch.zeros(50, 4, dtype=torch.long))[2][:, 0].max()
    assert last - layout.origin == pytest.approx(49 * 0.16, abs=1e-5)
    silent = dataclasses.replace(manifest, audio_frames=0)
    assert layout_of(silent, 8).audio_frames == 0

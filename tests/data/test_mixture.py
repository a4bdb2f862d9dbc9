"""The mixture: a schedule that is a pure function of the step, and batches that say what the task says."""

import dataclasses
from collections import Counter

import numpy as np
import pytest
import torch
from conftest import LAYOUT

from videopoet.data.mixture import Mixture, MixtureDataModule, layout_of
from videopoet.data.schedule import CYCLE, Schedule, Share
from videopoet.data.schema import TokenManifest
from videopoet.data.shards import ShardReader, ShardWriter
from videopoet.pipeline import TASKS
from videopoet.sequence import IGNORE
from videopoet.tasks.base import Text
from videopoet.vocabulary import Modality

SHARES = {name: Share(task=task, weight=w) for (name, task), w in zip(TASKS.items(), (60, 5, 15, 10, 10))}


def tokenize(prompts):
    """Stands in for a text encoder: the id of each word is its length."""
    texts = []
    for prompt in prompts:
        ids = torch.tensor([len(word) for word in prompt.split()] + [1])
        padded = torch.nn.functional.pad(ids, (0, LAYOUT.text_length - len(ids)))
        texts.append(Text(ids=padded, shown=torch.arange(LAYOUT.text_length) < len(ids)))
    return texts


@pytest.fixture(scope="module")
def tokens(tmp_path_factory):
    """Sample i has visual codes i throughout and the caption of i + 1 words."""
    folder = tmp_path_factory.mktemp("tokens") / "shards"
    manifest = TokenManifest(fps=8.0, frames=17, height=16, width=16, sample_rate=16000, fingerprints={"visual": "aa"},
                             visual_lattice=(5, 2, 2), visual_codebook_size=64, audio_frames=21, audio_levels=2,
                             audio_codebook_size=16)  # fmt: skip
    with ShardWriter(folder, prefix="tokens", max_samples=4) as writer:
        for i in range(10):
            audio = np.full((21, 2), i, np.uint8)
            visual = np.full((5, 2, 2), i, np.uint8)
            writer.write(
                f"{i:03d}", {"visual": visual, "audio": audio, "json": {"captions": [" ".join(["ab"] * (i + 1))]}}
            )
        writer.finish(manifest)
    return folder


def mixture(tokens, **how) -> Mixture:
    reader = ShardReader(tokens, "tokens")
    layout = layout_of(reader.manifest, LAYOUT.text_length)
    return Mixture(reader, layout, tokenize, SHARES, **{"seed": 1, "tokens_per_batch": 300, "drop_text": 0.0} | how)


def test_the_manifest_gives_the_layout(tokens):
    assert layout_of(ShardReader(tokens).manifest, LAYOUT.text_length) == LAYOUT


def test_every_cycle_holds_each_task_by_its_weight():
    schedule = Schedule(SHARES, seed=3)
    for cycle in range(3):
        names = Counter(schedule(cycle * CYCLE + i)[0] for i in range(CYCLE))
        assert names == {name: share.weight for name, share in SHARES.items()}


def test_visits_count_up_one_by_one():
    schedule, seen = Schedule(SHARES, seed=3), Counter()
    for step in range(3 * CYCLE):
        name, visit = schedule(step)
        assert visit == seen[name]
        seen[name] += 1


def test_a_first_stage_has_its_own_weights_and_visits_go_on_counting():
    firsts = {"text-to-image": 3, "text-to-video": 1}
    shares = {name: dataclasses.replace(share, first_weight=firsts.get(name, 0)) for name, share in SHARES.items()}
    schedule, seen = Schedule(shares, seed=3, first_places=2 * CYCLE), Counter()
    for step in range(4 * CYCLE):
        name, visit = schedule(step)
        assert visit == seen[name]
        seen[name] += 1
        if step == 2 * CYCLE - 1:
            assert seen == {"text-to-image": 75 * 2, "text-to-video": 25 * 2}
    alone = Schedule(SHARES, seed=3)
    assert [schedule(step)[0] for step in range(200, 400)] == [alone(step)[0] for step in range(200, 400)]
    assert [Schedule(SHARES, 3, 200)(step) for step in range(400)] == [alone(step) for step in range(400)]
    only_later = {"a": Share(task=TASKS["frame-prediction"], first_weight=0)}
    assert Schedule(only_later, 0, first_places=100)(7) == ("a", 7)
    with pytest.raises(ValueError, match="first_steps is 250: the first stage is a multiple of 100"):
        Schedule(SHARES, 0, 250)


def test_thirds_still_fill_a_cycle():
    thirds = {name: Share(task=TASKS["text-to-video"], weight=1) for name in "abc"}
    assert sorted(Schedule(thirds, 0).counts.values()) == [33, 33, 34]
    with pytest.raises(ValueError, match="at least one task of positive weight"):
        Schedule({"a": Share(task=TASKS["text-to-video"], weight=0)}, 0)


def test_a_batch_is_a_pure_function_of_its_step(tokens):
    one, other = mixture(tokens), mixture(tokens)
    for step in (7, 3, 250):
        a, b = one[step], other[step]
        assert a.task == b.task and a.step == step
        assert torch.equal(a.inputs, b.inputs)


def test_ranks_agree_on_the_task_and_share_out_the_samples(tokens):
    whole = mixture(tokens, world_size=2, rank=0)
    for step in range(20):
        parts = [mixture(tokens, world_size=2, rank=rank)[step] for rank in (0, 1)]
        assert parts[0].task == parts[1].task
        assert parts[0].inputs.shape == parts[1].inputs.shape == whole[step].inputs.shape


def test_ranks_cover_every_sample_once(tokens):
    seen = []
    schedule = mixture(tokens)
    size = schedule.batch_sizes["video-to-audio"]
    steps = [s for s in range(200) if schedule.schedule(s)[0] == "video-to-audio"][:10]
    for step in steps:
        for rank in (0, 1):
            batch = mixture(tokens, world_size=2, rank=rank)[step]
            seen += batch.inputs[:, 3].tolist()
    counts = Counter(seen[: 10 * (len(seen) // 10)])
    assert len(counts) == 10 and max(counts.values()) - min(counts.values()) <= 1, (size, counts)


def test_tokens_per_batch_are_about_constant(tokens):
    schedule = mixture(tokens, tokens_per_batch=2000)
    for step in range(30):
        assert 0.8 * 2000 < schedule[step].inputs.numel() <= 2000


def test_nothing_is_padded_but_text_slots(tokens):
    batch = next(b for b in (mixture(tokens)[s] for s in range(50)) if b.task == "text-to-video")
    assert ((batch.document == 0) <= (batch.modality == Modality.TEXT)).all()


def test_dropped_text_is_the_empty_prompt(tokens):
    batch = next(b for b in (mixture(tokens, drop_text=1.0)[s] for s in range(50)) if b.task == "text-to-video")
    text = batch.inputs[:, (batch.modality[0] == Modality.TEXT)]
    assert (text[:, 0] == 1).all() and (text[:, 1:] == 0).all()


def test_text_belongs_to_its_sample(tokens):
    batch = next(b for b in (mixture(tokens)[s] for s in range(50)) if b.task == "text-to-video")
    code = batch.targets[batch.targets != IGNORE].reshape(len(batch.inputs), -1)[:, 0] - 256
    words = (batch.document * (batch.modality == Modality.TEXT)).sum(1) - 1
    assert torch.equal(words, code + 1)


def test_a_silent_corpus_trains_on_what_needs_no_sound(tokens):
    reader = ShardReader(tokens, "tokens")
    layout = dataclasses.replace(layout_of(reader.manifest, LAYOUT.text_length), audio_frames=0)
    with pytest.warns(UserWarning, match="left out.*video-to-audio needs audio"):
        silent = Mixture(reader, layout, tokenize, SHARES, seed=1, tokens_per_batch=300, drop_text=0.0)
    assert set(silent.schedule.counts) == set(SHARES) - {"video-to-audio"}
    assert all(Modality.AUDIO not in silent[step].modality for step in range(10))


def test_shards_of_other_tokenizers_are_refused(tokens, shipped):
    module = MixtureDataModule(str(tokens), SHARES, {"visual": str(shipped / "visual.safetensors")})
    module.tokenize = tokenize
    with pytest.raises(ValueError, match=r"made by the visual tokenizer aa, the configured one is [0-9a-f]{16}: run"):
        module.metadata()

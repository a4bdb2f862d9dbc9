"""The mixture: a schedule that is a pure function of the step, and batches that say what the task says."""

import dataclasses
from collections import Counter

import numpy as np
import pytest
import torch
from conftest import EVERY_TASK, LAYOUT

from videopoet import component
from videopoet.conditions.registry import CONDITIONS
from videopoet.data.batching import Packed
from videopoet.data.labels import BounceLabel, Label
from videopoet.data.mixture import Mixture, MixtureDataModule, layout_of
from videopoet.data.order import Deal
from videopoet.data.packing import fill, trim
from videopoet.data.schedule import CYCLE, BySamples, ByTokens, Schedule, Share
from videopoet.data.schema import TokenManifest
from videopoet.data.shards import ShardReader, ShardWriter
from videopoet.pipeline import TASKS
from videopoet.sequence import IGNORE, Batch, Sequence
from videopoet.tasks.base import Text
from videopoet.vocabulary import Modality

SHARES = {name: Share(task=task, weight=w) for (name, task), w in zip(TASKS.items(), (60, 5, 15, 10, 10))}

MANIFEST = TokenManifest(fps=8.0, frames=17, height=16, width=16, sample_rate=16000, fingerprints={"visual": "aa"},
                         visual_lattice=(5, 2, 2), visual_codebook_size=64, audio_frames=21, audio_levels=2,
                         audio_codebook_size=16)  # fmt: skip


def tokenize(prompts):
    """Stands in for a text encoder: the id of each word is its length."""
    prompts = [" ".join(prompt.split()[: LAYOUT.text_length - 1]) for prompt in prompts]
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
    with ShardWriter(folder, prefix="tokens", max_samples=4) as writer:
        for i in range(10):
            audio = np.full((21, 2), i, np.uint8)
            visual = np.full((5, 2, 2), i, np.uint8)
            writer.write(
                f"{i:03d}", {"visual": visual, "audio": audio, "json": {"captions": [" ".join(["ab"] * (i + 1))]}}
            )
        writer.finish(MANIFEST)
    return folder


def mixture(tokens, shares=SHARES, **how) -> Mixture:
    reader = ShardReader(tokens, "tokens")
    layout = layout_of(reader.manifest, LAYOUT.text_length)
    return Mixture(reader, layout, tokenize, shares, **{"seed": 1, "tokens_per_step": 300, "drop_text": 0.0} | how)


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
    whole = mixture(tokens, deal=Deal(parts=2))
    for step in range(20):
        parts = [mixture(tokens, deal=Deal(parts=2, world_size=2, rank=rank))[step] for rank in (0, 1)]
        assert parts[0].task == parts[1].task
        assert 2 * len(parts[0].inputs) == 2 * len(parts[1].inputs) == len(whole[step].inputs)


def test_ranks_cover_every_sample_once(tokens):
    seen = []
    schedule = mixture(tokens)
    size = schedule.batch_sizes["video-to-audio"]
    steps = [s for s in range(200) if schedule.schedule(s)[0] == "video-to-audio"][:10]
    for step in steps:
        for rank in (0, 1):
            batch = mixture(tokens, deal=Deal(parts=2, world_size=2, rank=rank))[step]
            seen += batch.inputs[:, 3].tolist()
    counts = Counter(seen[: 10 * (len(seen) // 10)])
    assert len(counts) == 10 and max(counts.values()) - min(counts.values()) <= 1, (size, counts)


def test_tokens_per_step_are_about_constant(tokens):
    schedule = mixture(tokens, tokens_per_step=2000)
    for step in range(30):
        batch = schedule[step]
        assert 0.8 * 2000 < len(batch.inputs) * schedule.lengths[batch.task] <= 2000


def test_nothing_is_padded_but_text_slots(tokens):
    batch = next(b for b in (mixture(tokens)[s] for s in range(50)) if b.task == "text-to-video")
    assert ((batch.document == 0) <= (batch.modality == Modality.TEXT)).all()


def test_dropped_text_is_the_empty_prompt(tokens):
    batch = next(b for b in (mixture(tokens, drop_text=1.0)[s] for s in range(50)) if b.task == "text-to-video")
    text = batch.inputs[:, (batch.modality[0] == Modality.TEXT)]
    assert (text[:, 0] == 1).all() and (text[:, 1:] == 0).all()


@pytest.mark.parametrize(
    "share, hidden", [({"drop_visual": 1.0}, Modality.VISUAL), ({"drop_audio": 1.0}, Modality.AUDIO)]
)
def test_dropped_conditions_are_seen_by_nothing_and_targets_stay(world_tokens, share, hidden):
    reader = ShardReader(world_tokens, "tokens")
    how = {"seed": 1, "tokens_per_step": 800, "drop_text": 0.0, "label": BounceLabel()}
    plain, dropped = (
        Mixture(reader, layout_of(reader.manifest, LAYOUT.text_length), tokenize, MIX, **how, **drops)
        for drops in ({}, share)
    )
    met = set()
    for name in plain.shares:
        whole, lacking = (each.sequence(name, 5) for each in (plain, dropped))
        given = (whole.modality == hidden) & (whole.block == 0)
        met |= {name} if given.any() else set()
        assert torch.equal(lacking.shown, whole.shown & ~given)
        assert torch.equal(lacking.inputs, whole.inputs) and torch.equal(lacking.targets, whole.targets)
    assert len(met) > 2


def test_conditions_are_dropped_in_the_asked_share(world_tokens):
    reader = ShardReader(world_tokens, "tokens")
    mixed = Mixture(reader, layout_of(reader.manifest, LAYOUT.text_length), tokenize, MIX, seed=1, tokens_per_step=800,
                    drop_text=0.0, drop_visual=0.3, label=BounceLabel())  # fmt: skip
    seen = [bool(mixed.sequence("video-to-audio", place).shown.all()) for place in range(200)]
    assert 0.6 < sum(seen) / len(seen) < 0.8
    with pytest.raises(ValueError, match=r"1.5 of the conditions cannot be dropped: give drop_text"):
        Mixture(reader, mixed.layout, tokenize, MIX, seed=1, tokens_per_step=800, drop_text=1.5, label=BounceLabel())


def test_text_belongs_to_its_sample(tokens):
    batch = next(b for b in (mixture(tokens)[s] for s in range(50)) if b.task == "text-to-video")
    code = batch.targets[batch.targets != IGNORE].reshape(len(batch.inputs), -1)[:, 0] - 256
    words = (batch.document * (batch.modality == Modality.TEXT)).sum(1) - 1
    assert torch.equal(words, code + 1)


def test_a_silent_corpus_trains_on_what_needs_no_sound(tokens):
    reader = ShardReader(tokens, "tokens")
    layout = dataclasses.replace(layout_of(reader.manifest, LAYOUT.text_length), audio_frames=0)
    with pytest.warns(UserWarning, match="left out.*video-to-audio needs audio"):
        silent = Mixture(reader, layout, tokenize, SHARES, seed=1, tokens_per_step=300, drop_text=0.0)
    assert set(silent.schedule.counts) == set(SHARES) - {"video-to-audio"}
    assert all(Modality.AUDIO not in silent[step].modality for step in range(10))


def test_shards_of_other_tokenizers_are_refused(tokens, shipped):
    module = MixtureDataModule(str(tokens), SHARES, {"visual": str(shipped / "visual.safetensors")})
    module.tokenize = tokenize
    with pytest.raises(ValueError, match=r"made by the visual tokenizer aa, the configured one is [0-9a-f]{16}: run"):
        module.metadata()


# --- every task, every rank

MIX = {name: Share(task=task, weight=4) for name, task in EVERY_TASK.items()}


def whole(folder, **how) -> Mixture:
    """All tasks over the world's tokens, which have every stream; the label is what the body does."""
    reader = ShardReader(folder, "tokens")
    layout = layout_of(reader.manifest, LAYOUT.text_length)
    defaults = {"seed": 1, "tokens_per_step": 400, "drop_text": 0.0, "label": BounceLabel()}
    return Mixture(reader, layout, tokenize, MIX, **defaults | how)


def test_every_task_is_trained_on_the_world(world_tokens):
    """Every task gets steps; the batch of each has the task's head and samples that have what it needs."""
    mixed, seen = whole(world_tokens), {}
    for step in range(CYCLE):
        batch = mixed[step]
        seen.setdefault(batch.task, batch)
    assert set(seen) == set(MIX)
    for name, batch in seen.items():
        head = MIX[name].task.condition(MIX[name].task.blank(LAYOUT), LAYOUT)[0].ids
        assert (batch.inputs[:, : len(head)] == head).all(), name
        assert len(batch.inputs) == mixed.batch_sizes[name]


@pytest.mark.parametrize("world_size", [2, 3])
def test_ranks_share_out_what_one_rank_would_train_on(world_tokens, world_size):
    """Same task on all ranks at every step, on any number of ranks; place p of a task is the same sequence everywhere."""
    how = {"tokens_per_step": 400 * world_size}
    alone = whole(world_tokens, deal=Deal(parts=world_size), **how)
    deals = [Deal(parts=world_size, world_size=world_size, rank=rank) for rank in range(world_size)]
    ranks = [whole(world_tokens, deal=deal, **how) for deal in deals]
    for step in (*range(8), 250):
        name, visit = alone.schedule(step)
        assert {rank.schedule(step) for rank in ranks} == {(name, visit)}
        size = alone.batch_sizes[name] // world_size
        for r, rank in enumerate(ranks):
            batch = rank[step]
            places = range((visit * world_size + r) * size, (visit * world_size + r + 1) * size)
            expected = [alone.sequence(name, place) for place in places]
            assert batch.task == name and len(batch.inputs) == size
            for row, sequence in zip(range(size), expected):
                shown = batch.document[row] > 0
                assert torch.equal(batch.inputs[row][shown], sequence.inputs[sequence.shown])
                assert torch.equal(batch.position[row][shown], sequence.position[sequence.shown])


def test_a_variable_past_and_spans_change_from_sample_to_sample(world_tokens):
    mixed = whole(world_tokens)
    pasts = {int((mixed.sequence("variable-past", p).block == 0).sum()) for p in range(40)}
    assert len(pasts) == 4, "1 to 4 latent frames"
    assert len({tuple(mixed.sequence("denoise-r", p).modality.tolist()) for p in range(12)}) > 6
    assert len({len(mixed.sequence("denoise-r", p)) for p in range(12)}) == 1


def test_weights_are_shares_of_tokens_or_of_samples(tokens):
    two = {name: Share(task=TASKS[name], weight=1) for name in ("text-to-video", "text-to-image")}
    reader = ShardReader(tokens, "tokens")
    how = {"seed": 1, "tokens_per_step": 3000, "drop_text": 0.0}
    for weigh, expected in ((ByTokens(), lambda m: 50), (BySamples(), None)):
        mixed = Mixture(reader, LAYOUT, tokenize, two, weigh=weigh, **how)
        counts, sizes = mixed.schedule.counts, mixed.batch_sizes
        if expected:
            assert counts == {"text-to-video": 50, "text-to-image": 50}
        else:
            samples = [counts[name] * sizes[name] for name in two]
            assert abs(samples[0] / sum(samples) - 0.5) < 0.03 and sizes["text-to-image"] > 2 * sizes["text-to-video"]


def test_a_weight_too_small_to_be_dealt_is_refused():
    shares = {"a": Share(task=TASKS["frame-prediction"], weight=1000), "b": Share(task=TASKS["text-to-video"])}
    with pytest.raises(ValueError, match=r"b would never be trained: 0\.10 of 100 places"):
        Schedule(shares, 0)


def test_tasks_without_their_streams_are_left_out_by_name(tokens):
    """These shards have no streams and no label is configured: what needs them is left out, the rest is trained."""
    reader = ShardReader(tokens, "tokens")
    with pytest.warns(UserWarning, match="inpainting-central needs inpainting_central.*class-to-video needs label"):
        mixed = Mixture(reader, LAYOUT, tokenize, MIX, seed=1, tokens_per_step=400, drop_text=0.0)
    left = {name for name in MIX if set(MIX[name].task.needs(LAYOUT)) <= {"text", "video", "audio"}}
    assert set(mixed.schedule.counts) == left and 0 < len(left) < len(MIX)
    only = {"inpainting-central": MIX["inpainting-central"]}
    with pytest.warns(UserWarning), pytest.raises(ValueError, match="no task of the mixture can be trained"):
        Mixture(reader, LAYOUT, tokenize, only, seed=1, tokens_per_step=400, drop_text=0.0)


def test_metadata_says_how_streams_are_made(world_tokens, shipped):
    files = {name: str(shipped / f"{name}.safetensors") for name in ("visual", "audio")}
    some = {name: MIX[name] for name in ("inpainting-central", "text-to-video", "stylization")}
    some["stylization"] = dataclasses.replace(some["stylization"], guidance={"visual": 3.0})
    module = MixtureDataModule(str(world_tokens), some, files)
    module.tokenize = tokenize
    facts = module.metadata()
    assert set(facts["streams"]) == {"inpainting_central", "flow_depth"} and set(facts["tasks"]) == set(some)
    assert component.instantiate(facts["streams"]["flow_depth"]) == CONDITIONS["flow_depth"]
    assert facts["guidance"] == {"stylization": {"visual": 3.0}}
    with pytest.raises(ValueError, match="guidance by text: take audio, visual"):
        Share(task=TASKS["audio-to-video"], guidance={"text": 2.0})
    with pytest.raises(ValueError, match="audio guidance is nan, it must be at least 0"):
        Share(task=TASKS["audio-to-video"], guidance={"audio": float("nan")})


# --- padding


def test_padding_of_the_whole_mixture_is_small(world_tokens):
    """At the demo's proportions (28 text slots, captions of 11 to 20 pieces) under alternating gradient descent."""
    reader = ShardReader(world_tokens, "tokens")
    lattice = dataclasses.replace(LAYOUT, text_length=28)

    def pieces(prompts):
        return [dataclasses.replace(t, ids=t.ids[:28], shown=torch.arange(28) < 2 + len(p.split()))
                for t, p in zip(tokenize(prompts), prompts)]  # fmt: skip

    big = BigLattice(reader)
    layout = dataclasses.replace(lattice, lattice=(5, 8, 8), audio_frames=53)
    mixed = Mixture(big, layout, pieces, MIX, seed=1, tokens_per_step=4000, drop_text=0.1, label=BounceLabel())
    batches = [mixed[step] for step in range(CYCLE)]
    empty = sum(int((b.document == 0).sum()) for b in batches) / sum(b.inputs.numel() for b in batches)
    assert 0 < empty < 0.02
    for batch in batches:
        assert ((batch.document == 0) <= (batch.modality == Modality.TEXT)).all(), "only text slots are ever empty"
        assert float(batch.padding) == pytest.approx(float((batch.document == 0).float().mean()))
        assert (batch.document > 0).any(0).all(), "no place is empty in every row"


class BigLattice:
    """The captions of a reader with codes of another size."""

    def __init__(self, reader):
        self.reader, self.folder, self.manifest = reader, reader.folder, reader.manifest

    def __len__(self):
        return len(self.reader)

    def has(self, field):
        return self.reader.has(field)

    def sources(self):
        return self.reader.sources()

    def expect(self, indices):
        self.reader.expect(indices)

    def read(self, index, fields=None, needs=()):
        record = self.reader.read(index, fields, needs)
        grids = {name: np.zeros((5, 8, 8), np.int64) for name in record if name not in ("__key__", "json", "audio")}
        return record | grids | ({"audio": np.zeros((53, 2), np.int64)} if "audio" in record else {})


def test_trimming_changes_nothing_that_is_shown(world_tokens):
    mixed = whole(world_tokens)
    sequences = [mixed.sequence("text-to-image", place) for place in range(5)]
    trimmed = trim(sequences)
    assert len(trimmed[0]) < len(sequences[0])
    for before, after in zip(sequences, trimmed):
        for field in dataclasses.fields(Sequence)[:-1]:  # the last is the sample's key
            assert torch.equal(getattr(before, field.name)[before.shown], getattr(after, field.name)[after.shown])


# --- packing


def test_rows_are_filled():
    assert fill([5, 4, 3, 3], 8, 2) == [[0, 2], [1, 3]]
    assert fill([9, 8], 8, 1) == [[1]], "what does not fit is left out"


def test_packed_rows_are_a_pure_function_and_nearly_full(world_tokens):
    reader = ShardReader(world_tokens, "tokens")
    how = {
        "seed": 1,
        "tokens_per_step": 1200,
        "drop_text": 0.0,
        "batching": Packed(length=200),
        "label": BounceLabel(),
    }
    mixed, again = (Mixture(reader, LAYOUT, tokenize, MIX, **how) for _ in range(2))
    for step in (0, 3):
        batch = mixed[step]
        assert batch.inputs.shape == (6, 200) and torch.equal(batch.inputs, again[step].inputs)
        # six rows for 26 tasks of very different lengths: few fit what is left of a row
        assert float(batch.padding) < 0.07 and int(batch.document.max()) > 1
    deals = [Deal(parts=2, world_size=2, rank=rank) for rank in (0, 1)]
    ranks = [Mixture(reader, LAYOUT, tokenize, MIX, **how, deal=deal) for deal in deals]
    assert not torch.equal(ranks[0][0].inputs, ranks[1][0].inputs)
    with pytest.raises(ValueError, match=r"rows hold 50 tokens, .* take longer rows"):
        Mixture(reader, LAYOUT, tokenize, MIX, **how | {"batching": Packed(length=50)})


@dataclasses.dataclass(frozen=True, kw_only=True)
class LongCaption(Label):
    words: int

    def __call__(self, source):
        return "long" if source["words"] >= self.words else None


def test_a_task_may_learn_from_some_of_the_samples_only(tmp_path):
    folder = tmp_path / "shards"
    with ShardWriter(folder, prefix="tokens", max_samples=4) as writer:
        for i in range(10):
            grids = {"visual": np.full((5, 2, 2), i, np.uint8), "audio": np.full((21, 2), i, np.uint8)}
            writer.write(f"{i:03d}", {**grids, "json": {"captions": ["a"], "source": {"words": i}}})
        writer.finish(MANIFEST)
    few = Share(task=TASKS["audio-to-video"], only=LongCaption(words=7))
    mixed = mixture(folder, {"audio-to-video": few, "video-to-audio": Share(task=TASKS["video-to-audio"])})
    keys = {name: Counter(mixed.sequence(name, place).key for place in range(30)) for name in mixed.shares}
    assert keys["audio-to-video"] == {"007": 10, "008": 10, "009": 10} and len(keys["video-to-audio"]) == 10
    assert "3 audio-to-video" in mixed.identity() and "10 video-to-audio" in mixed.identity()
    none = {"audio-to-video": dataclasses.replace(few, only=LongCaption(words=10))}
    with pytest.raises(ValueError, match=r"no sample of .* has audio and a class by LongCaption\(words=10\)"):
        mixture(folder, none).check()


def test_packed_documents_see_themselves_alone(world_tokens):
    mixed = whole(world_tokens)
    sequences = [mixed.sequence(name, 0) for name in ("denoise-r", "frame-prediction", "audio-to-video")]
    batch, start = Batch.pack([sequences], 200), 0
    mask = batch.attention()[0, 0]
    for number, sequence in enumerate(sequences, 1):
        here = slice(start, start + len(sequence))
        assert (batch.document[0, here] == number).all()
        assert torch.equal(mask[here, here], Batch.of([sequence]).attention()[0, 0])
        assert not mask[here, here.stop :].any() and not mask[here, :start].any()
        start += len(sequence)
    assert (batch.document[0, start:] == 0).all() and (batch.targets[0, start:] == IGNORE).all()
    with pytest.raises(ValueError, match="pack fewer"):
        Batch.pack([sequences], 100)

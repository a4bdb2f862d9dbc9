"""One order for any number of ranks, workers and turns of accumulation, at any point of a run."""

import random
from collections import Counter

import lightning
import numpy as np
import pytest
import torch
from conftest import LAYOUT
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.strategies import SingleDeviceStrategy
from test_mixture import SHARES, tokenize
from torch.utils.data import DataLoader

from videopoet.data.batching import OneLength, Packed
from videopoet.data.clips import ClipDataModule, ClipSchedule
from videopoet.data.mixture import Mixture, layout_of
from videopoet.data.order import TABLE, Deal, Origin, _feistel, _round_keys, sample_indices
from videopoet.data.schedule import Share
from videopoet.data.schema import Clip, MediaManifest, TokenManifest
from videopoet.data.shards import ShardReader, ShardWriter
from videopoet.data.steps import StepDataModule
from videopoet.pipeline import TASKS

SAMPLES = 23
DEALS = [(1, 1), (2, 1), (1, 4), (3, 2), (4, 3), (12, 1)]  # ranks, accumulation: all divide 12 parts


@pytest.fixture(scope="module")
def tokens(tmp_path_factory):
    folder = tmp_path_factory.mktemp("elastic") / "shards"
    manifest = TokenManifest(fps=8.0, frames=17, height=16, width=16, sample_rate=16000, fingerprints={},
                             visual_lattice=(5, 2, 2), visual_codebook_size=64, audio_frames=21, audio_levels=2,
                             audio_codebook_size=16)  # fmt: skip
    with ShardWriter(folder, max_samples=4) as writer:
        for i in range(SAMPLES):
            grids = {"visual": np.full((5, 2, 2), i, np.uint8), "audio": np.full((21, 2), i % 16, np.uint8)}
            writer.write(f"{i:03d}", {**grids, "json": {"captions": ["ab"]}})
        writer.finish(manifest)
    return folder


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    folder = tmp_path_factory.mktemp("elastic") / "clips"
    with ShardWriter(folder, max_samples=4) as writer:
        for i in range(SAMPLES):
            writer.write(f"{i:03d}", Clip(key="", video=np.full((5, 4, 4, 3), 10 * i, np.uint8), audio=None).record())
        writer.finish(MediaManifest(fps=8.0, frames=5, height=4, width=4, sample_rate=16000))
    return folder


class Noted(Mixture):
    """Notes what it read, as task and place: the sample and all that is drawn with it follow from these."""

    def sequence(self, name, place):
        self.noted.append((name, place))
        return super().sequence(name, place)


def mixture(
    tokens, world_size=1, accumulation=1, origin=None, batching=None, shares=SHARES, rank=0, tokens_per_step=2400
):
    reader = ShardReader(tokens, "tokens")
    deal = Deal(parts=12, world_size=world_size, rank=rank, accumulation=accumulation)
    made = Noted(reader, layout_of(reader.manifest, LAYOUT.text_length), tokenize, shares, seed=3, drop_text=0.1,
                 tokens_per_step=tokens_per_step, deal=deal, origin=origin, batching=batching)  # fmt: skip
    made.noted = []
    return made


def trained(tokens, steps, world_size=1, accumulation=1, **how) -> Counter:
    """What all ranks train on in these steps."""
    found = Counter()
    for rank in range(world_size):
        rank = mixture(tokens, world_size, accumulation, rank=rank, **how)
        for step in steps:
            for turn in range(step * accumulation, (step + 1) * accumulation):
                assert rank[turn].step == step
        found.update(rank.noted)
    return found


# --- the order


@pytest.mark.parametrize("num_samples", [1, 2, 3, 7, 64, 1000, 1025])
def test_the_order_without_a_table_is_a_permutation(num_samples):
    orders = [[_feistel(num_samples, _round_keys(1, 0, e), p) for p in range(num_samples)] for e in range(3)]
    assert all(sorted(order) == list(range(num_samples)) for order in orders)
    if num_samples > 60:
        assert len(set(map(tuple, orders))) == 3
        moved = np.corrcoef(orders[0], range(num_samples))[0, 1]
        assert abs(moved) < 0.35, "neighbours do not stay together"


def test_an_order_over_very_many_samples_costs_no_walk():
    many = 10**9 + 7
    assert many > TABLE
    far = sample_indices(many, 5, 7 * many - 3, 6)
    assert len(set(far)) == 6 and all(0 <= index < many for index in far)
    assert far[2:4] == sample_indices(many, 5, 7 * many - 1, 2)


@pytest.mark.parametrize(("world_size", "accumulation"), DEALS)
def test_a_deal_gives_every_part_once(world_size, accumulation):
    deals = [Deal(parts=12, world_size=world_size, rank=rank, accumulation=accumulation) for rank in range(world_size)]
    for step in (0, 5):
        turns = range(step * accumulation, (step + 1) * accumulation)
        dealt = [(deal(turn)[0], part) for turn in turns for deal in deals for part in deal(turn)[1]]
        assert dealt == [(step, part) for part in range(12)], "in order, so that turns are runs of the order"


def test_a_world_size_that_does_not_divide_is_refused():
    with pytest.raises(ValueError, match=r"5 ranks x 1 turns .* 12 parts .* one of 1, 2, 3, 4, 6, 12"):
        Deal(parts=12, world_size=5)


# --- the mixture


@pytest.mark.parametrize("batching", [OneLength(), Packed(length=150)], ids=["one length", "packed"])
@pytest.mark.parametrize(("world_size", "accumulation"), DEALS[1:])
def test_a_step_trains_on_the_same_samples_however_it_is_shared(tokens, world_size, accumulation, batching):
    alone = trained(tokens, range(6), batching=batching)
    assert trained(tokens, range(6), world_size, accumulation, batching=batching) == alone


def test_packed_rows_are_the_same_however_they_are_shared(tokens):
    alone = mixture(tokens, batching=Packed(length=150))[3]
    shared = [mixture(tokens, 2, 3, rank=rank, batching=Packed(length=150)) for rank in range(2)]
    rows = [rank[turn].inputs for turn in range(9, 12) for rank in shared]
    assert torch.equal(torch.cat(rows), alone.inputs)


@pytest.mark.parametrize("batching", [OneLength(), Packed(length=150)], ids=["one length", "packed"])
def test_a_run_resumed_anywhere_by_anyone_trains_on_the_rest(tokens, batching):
    """Ten steps, cut at random places, each stretch on other ranks and accumulation: the samples of the whole run."""
    whole, rng = trained(tokens, range(10), batching=batching), random.Random(5)
    for _ in range(3):
        cuts, found, origin = sorted(rng.sample(range(1, 10), 3)), Counter(), None
        for start, stop in zip([0, *cuts], [*cuts, 10]):
            world_size, accumulation = rng.choice(DEALS)
            how = {"origin": origin, "batching": batching}
            found += trained(tokens, range(start, stop), world_size, accumulation, **how)
            origin = Origin(step=stop, positions=mixture(tokens, **how).positions(stop))
        assert found == whole


def test_orders_go_on_where_they_stopped_with_another_size_of_batch_and_other_weights(tokens):
    """Places of every task are taken one after the other, none twice and none left out; a new task starts at 0."""
    fewer = {name: SHARES[name] for name in list(SHARES)[:3]}
    found = trained(tokens, range(30), shares=fewer)
    origin = Origin(step=30, positions=mixture(tokens, shares=fewer).positions(30))
    heavier = {name: Share(task=task, weight=1) for name, task in TASKS.items()}
    found += trained(tokens, range(30, 60), 2, origin=origin, shares=heavier, tokens_per_step=4800)
    assert set(found.values()) == {1}
    for name in TASKS:
        places = sorted(place for task, place in found if task == name)
        assert places == list(range(len(places))), name


@pytest.mark.parametrize("num_workers", [0, 1, 3])
def test_workers_change_nothing(tokens, num_workers):
    loader = DataLoader(mixture(tokens, 2), batch_size=None, sampler=range(5, 12), num_workers=num_workers)
    expected = mixture(tokens, 2)
    for turn, batch in zip(range(5, 12), loader, strict=True):
        assert torch.equal(batch.inputs, expected[turn].inputs) and batch.task == expected[turn].task


# --- clips


@pytest.mark.parametrize(("world_size", "accumulation"), DEALS)
def test_clips_come_once_an_epoch_on_any_ranks_resumed_anywhere(clips, world_size, accumulation):
    def indices(steps, world_size, accumulation, origin=None):
        found = []
        for rank in range(world_size):
            deal = Deal(parts=12, world_size=world_size, rank=rank, accumulation=accumulation)
            made = ClipSchedule(
                ShardReader(clips), samples_per_step=12, image_batch_ratio=0.25, deal=deal, origin=origin
            )
            for turn in range(steps.start * accumulation, steps.stop * accumulation):
                kind = made.is_image_step(deal(turn)[0])
                found += [(kind, index) for index in made.indices(turn)]
        return Counter(found), made.positions(steps.stop)

    whole, _ = indices(range(23 * 4), 1, 1)
    assert whole == Counter({(False, i): 36 for i in range(SAMPLES)} | {(True, i): 48 for i in range(SAMPLES)})
    before, positions = indices(range(17), 2, 1)
    after, _ = indices(range(17, 92), world_size, accumulation, Origin(step=17, positions=positions))
    assert before + after == whole


# --- in Lightning


class Recorder(lightning.LightningModule):
    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))
        self.seen: list[tuple[int, int]] = []
        self.stepped: list[int] = []  # batches seen at each optimizer step

    def training_step(self, batch, index):
        self.seen += [(batch.step, round(float((v + 1) * 12.75))) for v in batch.video[:, 0, 0, 0, 0]]
        return self.weight * batch.video.mean()

    def optimizer_step(self, *args, **kwargs):
        super().optimizer_step(*args, **kwargs)
        self.stepped.append(len(self.seen))

    def configure_optimizers(self):
        assert self.trainer.estimated_stepping_batches
        return torch.optim.SGD(self.parameters(), lr=0.1)


class Late(SingleDeviceStrategy):
    """Reads the checkpoint after optimizers are set up, as DeepSpeed does."""

    restore_checkpoint_after_setup = property(lambda self: True)


def fit(clips, folder, resume=None, accumulate=1, cut=None, workers=0, batch_size=6, strategy="auto", **how):
    module = Recorder()
    data = ClipDataModule(str(clips), batch_size=batch_size, num_workers=workers,
                          **{"samples_per_step": 12, "image_batch_ratio": 0.25} | how)  # fmt: skip

    class Cut(lightning.Callback):
        """Saves and ends within a step, before its accumulation is whole."""

        def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
            if batch_idx == cut:
                trainer.save_checkpoint(folder / "cut.ckpt")
                raise KeyboardInterrupt

    trainer = lightning.Trainer(accelerator="cpu", max_steps=8, accumulate_grad_batches=accumulate, logger=False,
                                strategy=strategy, enable_progress_bar=False, enable_model_summary=False,
                                callbacks=[Cut(), ModelCheckpoint(folder, filename="{step}", every_n_train_steps=1,
                                                                  save_top_k=-1)])  # fmt: skip
    try:
        trainer.fit(module, data, ckpt_path=resume)
    except SystemExit:
        assert cut is not None
    return module


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("before", [2, 4])
@pytest.mark.parametrize("after", [2, 3, 6])
def test_lightning_goes_on_with_another_accumulation(clips, tmp_path, before, after):
    whole = fit(clips, tmp_path / "whole", accumulate=before).seen
    assert len(whole) == 6 * 12 + 2 * 48, "8 steps, two of them of images"
    resumed = fit(clips, tmp_path / "b", tmp_path / "whole" / "step=5.ckpt", accumulate=after, workers=1)
    assert sorted(resumed.seen) == sorted(sample for sample in whole if sample[0] >= 5)
    assert resumed.stepped == [12, 24, 72], "the optimizer steps at the ends of the data's steps"


@pytest.mark.filterwarnings("ignore")
def test_a_step_cut_short_is_trained_again_from_its_beginning(clips, tmp_path):
    whole = fit(clips, tmp_path, accumulate=4).seen
    fit(clips, tmp_path, accumulate=4, cut=9)  # the second batch of step 2
    resumed = fit(clips, tmp_path / "b", tmp_path / "cut.ckpt", accumulate=2)
    assert sorted(resumed.seen) == sorted(sample for sample in whole if sample[0] >= 2)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("workers", [0, 1])
def test_a_loader_made_before_the_checkpoint_was_read_is_made_anew(clips, tmp_path, workers):
    whole = fit(clips, tmp_path, accumulate=2).seen
    late = Late(device=torch.device("cpu"))
    resumed = fit(clips, tmp_path / "b", tmp_path / "step=5.ckpt", accumulate=2, workers=workers, strategy=late)
    assert resumed.seen == [sample for sample in whole if sample[0] >= 5]


@pytest.mark.filterwarnings("ignore::lightning.fabric.utilities.warnings.PossibleUserWarning")
def test_another_order_than_the_checkpoint_was_of_is_said(clips, tmp_path):
    fit(clips, tmp_path, accumulate=2)
    with pytest.warns(UserWarning, match="the samples or the seed are not those of the checkpoint"):
        fit(clips, tmp_path / "b", tmp_path / "step=5.ckpt", accumulate=2, seed=9)


def test_batches_too_large_are_refused_with_the_remedy(clips, tmp_path):
    with pytest.raises(ValueError, match=r"12 clips on 1 ranks x 1 .* batches of 12, at most 5 .*batches=3"):
        fit(clips, tmp_path, batch_size=5)
    with pytest.raises(ValueError, match=r"1 ranks x 5 turns .* 12 parts"):
        fit(clips, tmp_path, accumulate=5)


def test_a_data_module_says_where_every_order_is(clips):
    data = ClipDataModule(str(clips), batch_size=4, num_workers=0)
    data.setup("fit")
    assert isinstance(data, StepDataModule) and data.state_dict() == {"next_step": 0}

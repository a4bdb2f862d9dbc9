import lightning
import numpy as np
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from torch.utils.data import DataLoader, DistributedSampler

from videopoet.data.clips import IMAGES_PER_CLIP, ClipBatch, ClipDataModule, ClipSchedule
from videopoet.data.order import Deal, sample_indices
from videopoet.data.schema import Clip, MediaManifest
from videopoet.data.shards import ShardReader, ShardWriter

SAMPLES = 11


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    """Clip i shows brightness 10 i and sounds 100 i throughout, frame 0 one step brighter; each third is silent."""
    folder = tmp_path_factory.mktemp("clips") / "shards"
    with ShardWriter(folder, max_samples=4) as writer:
        for number in range(SAMPLES):
            video = np.full((5, 4, 6, 3), 10 * number, np.uint8)
            video[0] += 1
            audio = None if number % 3 == 0 else np.full(10000, 100 * number, np.int16)
            writer.write(f"{number:03d}", Clip(key="", video=video, audio=audio).record())
        writer.finish(MediaManifest(fps=8.0, frames=5, height=4, width=6, sample_rate=16000))
    return str(folder)


def schedule(shards, **how):
    return ClipSchedule(ShardReader(shards), **{"samples_per_step": 2} | how)


def numbers(batch: ClipBatch) -> list[int]:
    return ((batch.video[:, 0, 0, 0, 0] + 1) * 127.5 / 10).round().int().tolist()


# --- order


def test_every_epoch_is_another_permutation():
    epochs = [sample_indices(7, 3, 7 * epoch, 7) for epoch in range(4)]
    assert all(sorted(epoch) == list(range(7)) for epoch in epochs)
    assert len(set(map(tuple, epochs))) == 4


def test_a_position_does_not_depend_on_how_it_is_reached():
    whole = sample_indices(7, 3, 0, 40)
    assert [sample_indices(7, 3, position, 1)[0] for position in range(40)] == whole
    assert sample_indices(7, 3, 5, 20) == whole[5:25]
    assert sample_indices(7, 4, 0, 40) != whole and sample_indices(7, 3, 0, 40, stream=1) != whole
    with pytest.raises(ValueError, match="0 samples"):
        sample_indices(0, 3, 0, 1)


# --- batches


def test_clips_are_cut_to_the_first_frames(shards):
    whole, cut = (schedule(shards, num_frames=n, image_batch_ratio=0.5) for n in (None, 4))
    assert torch.equal(cut[0].video, whole[0].video[:, :, :4]) and cut[0].audio.shape[2] == 8000
    assert torch.equal(cut[1].video, whole[1].video), "an image has one frame anyway"
    with pytest.raises(ValueError, match=r"num_frames is 6, the clips of .* have 5"):
        schedule(shards, num_frames=6)


def test_a_batch_holds_the_scheduled_clips_in_range(shards):
    clips = schedule(shards, seed=5)
    batch = clips[3]
    assert batch.video.shape == (2, 3, 5, 4, 6) and batch.audio.shape == (2, 1, 10000) and batch.step == 3
    assert batch.video.dtype == batch.audio.dtype == torch.float32
    assert numbers(batch) == clips.indices(3)
    for index, audio in zip(clips.indices(3), batch.audio):
        expected = 0.0 if index % 3 == 0 else 100 * index / 32767
        torch.testing.assert_close(audio, torch.full((1, 10000), expected))


@pytest.mark.parametrize("ratio", [0.0, 0.3, 1.0])
def test_ranks_share_out_every_sample_once_an_epoch(shards, ratio):
    """Two ranks together take what one rank with their joint batch takes, whatever the image share."""
    how = {"samples_per_step": 4, "image_batch_ratio": ratio}
    ranks = [schedule(shards, deal=Deal(parts=2, world_size=2, rank=rank), **how) for rank in range(2)]
    joint = schedule(shards, **how)
    for step in range(50):
        assert ranks[0].indices(step) + ranks[1].indices(step) == joint.indices(step)
    taken = [index for step in range(50) if not joint.is_image_step(step) for index in joint.indices(step)]
    for epoch in range(len(taken) // SAMPLES):
        assert sorted(taken[epoch * SAMPLES : (epoch + 1) * SAMPLES]) == list(range(SAMPLES))


def test_image_steps_take_first_frames_of_more_clips_and_all_of_them(shards):
    clips = schedule(shards, image_batch_ratio=0.25)
    steps = [step for step in range(44) if clips.is_image_step(step)]
    assert steps == list(range(3, 44, 4))
    batch = clips[3]
    assert batch.video.shape == (2 * IMAGES_PER_CLIP, 3, 1, 4, 6) and batch.audio.shape == (8, 1, 2000)
    torch.testing.assert_close((batch.video + 1) * 127.5 % 10, torch.ones_like(batch.video), atol=1e-3, rtol=0)
    assert sorted(index for step in steps for index in clips.indices(step)) == sorted(list(range(SAMPLES)) * 8)


def test_a_batch_moves_between_devices_whole(shards):
    batch = schedule(shards)[0].to("meta")
    assert batch.video.is_meta and batch.audio.is_meta and batch.step == 0


@pytest.mark.parametrize(
    ("field", "array"),
    [
        ("video", np.zeros((5, 4, 6, 3), np.float32)),
        ("video", np.zeros((9, 4, 6, 3), np.uint8)),
        ("audio", np.zeros(9)),
    ],
)
def test_samples_unlike_the_manifest_are_named(tmp_path, field, array):
    with ShardWriter(tmp_path / "shards") as writer:
        writer.write("odd", {"video": np.zeros((5, 4, 6, 3), np.uint8), "json": {}} | {field: array})
        writer.finish(MediaManifest(fps=8.0, frames=5, height=4, width=6, sample_rate=16000))
    with pytest.raises(ValueError, match=rf"shard-000000.tar: odd.{field}.npy: expected"):
        schedule(tmp_path / "shards", samples_per_step=1)[0]


# --- in Lightning


class Recorder(lightning.LightningModule):
    """Trains one number; remembers the batches it saw."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))
        self.seen: list[tuple[int, list[int]]] = []
        self.validated: list[list[int]] = []

    def training_step(self, batch, index):
        self.seen.append((batch.step, numbers(batch)))
        return self.weight * batch.video.mean()

    def validation_step(self, batch, index):
        self.validated.append(numbers(batch))

    def configure_optimizers(self):
        assert self.trainer.estimated_stepping_batches  # as every cosine schedule does; it builds the loader early
        return torch.optim.SGD(self.parameters(), lr=0.1)


def fit(shards, folder, resume=None, every=1, num_workers=0, batch_size=2, **trainer):
    module = Recorder()
    data = ClipDataModule(
        shards, batch_size=batch_size, validation_shards=shards, num_validation_batches=2, num_workers=num_workers
    )
    lightning.Trainer(
        **{"max_epochs": None, "val_check_interval": None, "num_sanity_val_steps": 0} | trainer,
        accelerator="cpu",
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[ModelCheckpoint(folder, filename="{step}", every_n_train_steps=every, save_top_k=-1)],
    ).fit(module, data, ckpt_path=resume)
    return module


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("num_workers", [0, 1])
def test_a_resumed_run_sees_what_the_whole_run_would_have(shards, tmp_path, num_workers):
    whole = fit(shards, tmp_path, max_steps=9, num_workers=num_workers).seen
    assert [step for step, _ in whole] == list(range(9))
    rest = fit(shards, tmp_path / "b", tmp_path / "step=4.ckpt", max_steps=9, num_workers=num_workers).seen
    assert rest == whole[4:]


@pytest.mark.filterwarnings("ignore")
def test_resuming_is_exact_under_accumulation_and_validation(shards, tmp_path):
    how = dict(max_steps=5, accumulate_grad_batches=2, val_check_interval=3)
    whole = fit(shards, tmp_path, **how)
    assert len(whole.seen) == 10 and len(whole.validated) == 6
    assert whole.validated[:2] == whole.validated[2:4] == whole.validated[4:]
    assert fit(shards, tmp_path / "b", tmp_path / "step=2.ckpt", **how).seen == whole.seen[4:]


@pytest.mark.filterwarnings("ignore")
def test_epochs_go_on_where_the_last_one_stopped(shards, tmp_path):
    whole = fit(shards, tmp_path, max_epochs=3, max_steps=-1).seen
    assert [step for step, _ in whole] == list(range(3 * (SAMPLES // 2)))
    for step in (2, 5, 7):
        rest = fit(shards, tmp_path / f"{step}", tmp_path / f"step={step}.ckpt", max_epochs=3, max_steps=-1).seen
        assert rest == whole[step:]


@pytest.mark.filterwarnings("ignore")
def test_a_finished_run_can_be_made_longer(shards, tmp_path):
    whole = fit(shards, tmp_path, max_steps=8).seen
    fit(shards, tmp_path / "a", max_steps=5)
    assert fit(shards, tmp_path / "b", tmp_path / "a" / "step=5.ckpt", max_steps=8).seen == whole[5:]


def test_lightning_leaves_the_sharing_out_to_the_schedule(shards):
    data = ClipDataModule(shards, num_workers=0)
    data.setup("fit")
    loader = data.train_dataloader()
    assert isinstance(loader, DataLoader) and isinstance(loader.sampler, DistributedSampler)
    assert data.val_dataloader() == []


def test_shards_of_tokens_or_nothing_are_refused(tmp_path):
    with pytest.raises(ValueError, match="no such folder"):
        ClipDataModule(str(tmp_path / "absent")).setup("fit")

"""A run killed at any moment goes on with the samples it has not trained on, on another number of ranks."""

import os
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import lightning
import numpy as np
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint

from videopoet.data.clips import ClipDataModule, ClipSchedule
from videopoet.data.schema import Clip, MediaManifest
from videopoet.data.shards import ShardReader, ShardWriter

SAMPLES, STEPS, PER_STEP = 23, 40, 6
HERE = Path(__file__).resolve()


class Writing(lightning.LightningModule):
    """Trains one number, and writes down what it trained on and when."""

    def __init__(self, note: Path, wait: float):
        super().__init__()
        self.weight, self.note, self.wait = torch.nn.Parameter(torch.ones(())), note, wait

    def training_step(self, batch, index):
        numbers = [str(round(float((v + 1) * 12.75))) for v in batch.video[:, 0, 0, 0, 0]]
        with open(f"{self.note}.{self.trainer.global_rank}", "a") as file:
            file.write(f"{batch.step} {' '.join(numbers)}\n")
        time.sleep(self.wait)
        return ((self.weight - batch.video.mean()) ** 2).mean()

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.05)


def fit(shards, folder, devices=1, accumulate=1, resume=None, wait=0.0) -> Writing:
    module = Writing(Path(folder) / "seen", wait)
    data = ClipDataModule(str(shards), batch_size=PER_STEP, samples_per_step=PER_STEP, num_workers=1)
    Path(folder).mkdir(exist_ok=True)
    checkpoint = ModelCheckpoint(folder, filename="{step}", every_n_train_steps=1, save_top_k=-1)
    lightning.Trainer(accelerator="cpu", devices=devices, strategy="ddp" if devices > 1 else "auto", max_steps=STEPS,
                      accumulate_grad_batches=accumulate, logger=False, enable_progress_bar=False,
                      enable_model_summary=False, callbacks=[checkpoint]).fit(module, data, ckpt_path=resume)  # fmt: skip
    return module


def seen(folder) -> list[tuple[int, int]]:
    """(step, sample) of whole lines."""
    lines = [line for path in folder.glob("seen.*") for line in path.read_text().splitlines(keepends=True)]
    rows = [line.split() for line in lines if line.endswith("\n")]
    return [(int(step), int(number)) for step, *numbers in rows for number in numbers]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.timeout(900)
def test_killed_on_two_ranks_and_resumed_on_one(tmp_path):
    with ShardWriter(tmp_path / "shards", max_samples=4) as writer:
        for i in range(SAMPLES):
            writer.write(f"{i:03d}", Clip(key="", video=np.full((5, 4, 4, 3), 10 * i, np.uint8), audio=None).record())
        writer.finish(MediaManifest(fps=8.0, frames=5, height=4, width=4, sample_rate=16000))
    first = tmp_path / "first"
    first.mkdir()
    env = os.environ | {"PYTHONPATH": str(HERE.parents[2]), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(HERE), str(tmp_path / "shards"), str(first)]
    child = subprocess.Popen(
        command, env=env, start_new_session=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    deadline = time.monotonic() + 600
    while len(list(first.glob("step=*.ckpt"))) < 5 and time.monotonic() < deadline:
        time.sleep(0.02)
    os.killpg(child.pid, signal.SIGKILL)
    child.wait()
    stopped = max(int(path.stem.removeprefix("step=")) for path in first.glob("step=*.ckpt"))
    assert 5 <= stopped < STEPS, "it was killed on the way"
    assert len({path.name for path in first.glob("seen.*")}) == 2

    resumed = fit(tmp_path / "shards", tmp_path / "second", accumulate=3, resume=first / f"step={stopped}.ckpt")
    trained = [each for each in seen(first) if each[0] < stopped] + seen(tmp_path / "second")
    order = ClipSchedule(ShardReader(tmp_path / "shards"), samples_per_step=PER_STEP)
    assert Counter(trained) == Counter((step, index) for step in range(STEPS) for index in order.indices(step))

    never = fit(tmp_path / "shards", tmp_path / "third")
    torch.testing.assert_close(resumed.weight, never.weight, rtol=0, atol=1e-5)


if __name__ == "__main__":
    fit(*sys.argv[1:], devices=2, wait=0.05)

"""The stream: WebDataset's reading under the mixture's schedule, resumed statistically and saying so."""

import fsspec
import lightning
import numpy as np
import pytest
import torch
from test_shards import clip, same, write

from videopoet.data.clips import ClipDataModule
from videopoet.data.faults import ShardFault
from videopoet.data.index import index_path
from videopoet.data.schema import Clip
from videopoet.data.shards import ShardReader
from videopoet.data.streaming import Streaming, StreamReader

COUNT = 12


@pytest.fixture
def shards(tmp_path):
    write(tmp_path / "shards", count=COUNT)
    return tmp_path / "shards"


def stream(folder, start=0, rank=0, buffer=5):
    with pytest.warns(UserWarning, match="streaming: resuming is statistical"):
        reader = StreamReader(folder, "media", streaming=Streaming(buffer=buffer), rank=rank)
    reader.begin(3, start)
    return reader


def test_a_stream_gives_whole_samples_of_all_shards_mixed(shards):
    reader = stream(shards)
    found = [Clip.from_record(reader.read(0)) for _ in range(60)]
    numbers = [int(each.key[:6]) for each in found]
    assert all(same(each, clip(number)) for each, number in zip(found, numbers))
    assert set(numbers) == set(range(COUNT)) and numbers[:COUNT] != sorted(numbers[:COUNT])
    assert found[0].video.flags.writeable


def test_a_stream_of_a_url(shards):
    fs = fsspec.filesystem("memory")
    fs.put(f"{shards}/", "/streamed/", recursive=True)
    try:
        found = [stream("memory://streamed").read(0) for _ in range(2)]
    finally:
        fs.rm("/streamed", recursive=True)
    assert all(same(Clip.from_record(each), clip(int(each["__key__"][:6]))) for each in found)


def test_a_stream_depends_on_seed_rank_and_start_alone(shards):
    def keys(**how):
        reader = stream(shards, **how)
        return [reader.read(0)["__key__"] for _ in range(20)]

    assert keys() == keys() and keys() != keys(rank=1) and keys() != keys(start=7)


def test_samples_that_lack_what_is_needed_are_passed_over(shards):
    reader = stream(shards)
    records = [reader.read(0, ("video", "audio"), needs=("audio",)) for _ in range(20)]
    assert all(record.keys() == {"__key__", "video", "audio"} for record in records)
    with pytest.raises(ShardFault, match="none of 10000 samples has smell"):
        reader.read(0, needs=("smell",))


def test_a_damaged_shard_is_told_of_and_the_stream_goes_on(shards):
    content = (shards / "clips-000001.tar").read_bytes()
    (shards / "clips-000001.tar").write_bytes(content[:2000])
    (shards / "clips-000002.tar").unlink()
    reader, reasons, good = stream(shards), set(), 0
    for _ in range(60):
        try:
            record = reader.read(0)
            good += same(Clip.from_record(record), clip(int(record["__key__"][:6])))
        except ShardFault as fault:
            reasons.add(fault.reason)
            assert "clips-00000" in str(fault)
    assert reasons == {"truncated", "vanished"} and good > 10
    for path in shards.glob("*.tar"):
        path.unlink()
    with pytest.raises(ShardFault, match="is missing"):  # and no endless search
        stream(shards).read(0)


def test_streaming_needs_no_index_and_makes_none(shards):
    for path in shards.glob("*.tar"):
        index_path(path).unlink()
    stream(shards).read(0)
    assert not list(shards.glob("*.index"))
    with pytest.raises(ValueError, match="a stream knows no labels"):
        next(iter(stream(shards).sources()))


class Recorder(lightning.LightningModule):
    def __init__(self):
        super().__init__()
        self.weight, self.steps = torch.nn.Parameter(torch.zeros(())), []

    def training_step(self, batch, index):
        self.steps.append(batch.step)
        assert batch.video.shape == (2, 3, 5, 4, 4)
        return self.weight * batch.video.mean()

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("num_workers", [0, 2])
def test_training_on_a_stream(shards, num_workers):
    module = Recorder()
    data = ClipDataModule(str(shards), batch_size=2, num_workers=num_workers, streaming=Streaming(buffer=4))
    lightning.Trainer(accelerator="cpu", max_steps=6, logger=False, enable_checkpointing=False,
                      enable_progress_bar=False, enable_model_summary=False).fit(module, data)  # fmt: skip
    assert module.steps == list(range(6)), "steps come in order whatever worker made them"
    assert isinstance(data.schedule.reader, ShardReader) and np.isfinite(float(module.weight))

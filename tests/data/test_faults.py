"""What cannot be read is left out, counted and named; too much of it ends the run on all ranks alike."""

import io
import json
import os
import shutil
import subprocess
import sys
import tarfile
import time
from pathlib import Path

import lightning
import numpy as np
import pytest
import torch
from conftest import LAYOUT
from jsonargparse import ArgumentParser
from test_mixture import SHARES, tokenize

from videopoet.data.clips import ClipDataModule, ClipSchedule
from videopoet.data.faults import REASONS, Broken, FailureBudget, Ledger, ShardFault, Substitution
from videopoet.data.index import index_path, scan, write_index
from videopoet.data.mixture import Mixture, layout_of
from videopoet.data.order import Deal
from videopoet.data.patience import Patience
from videopoet.data.remote import Storage
from videopoet.data.schema import MANIFEST, Clip, MediaManifest, TokenManifest
from videopoet.data.shards import ShardReader, ShardWriter
from videopoet.data.streaming import Streaming

HURRY = Storage(patience=Patience(attempts=3, first_wait=0.01, timeout=0.3))
SAMPLES, PER_SHARD = 12, 4
MANY = FailureBudget(max_samples=1000)


def write(folder):
    """Clip i shows brightness 10 i; shards of four."""
    with ShardWriter(folder, max_samples=PER_SHARD) as writer:
        for i in range(SAMPLES):
            audio = np.full(10000, i, np.int16)
            writer.write(f"{i:03d}", Clip(key="", video=np.full((5, 4, 4, 3), 10 * i, np.uint8), audio=audio).record())
        writer.finish(MediaManifest(fps=8.0, frames=5, height=4, width=4, sample_rate=16000))
    return folder


@pytest.fixture
def shards(tmp_path):
    return write(tmp_path / "shards")


def members(path):
    with tarfile.open(path) as tar:
        return {info.name: tar.extractfile(info).read() for info in tar}


def rewrite(path, contents):
    """A tar of these members, its size, checksum and index being in order: what is wrong is inside."""
    with tarfile.open(path, "w", format=tarfile.USTAR_FORMAT) as tar:
        for name, content in contents.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    rows, stamp = scan(path)
    write_index(path, rows, stamp)
    manifest = path.with_name(MANIFEST)
    said = json.loads(manifest.read_text())
    shard = next(shard for shard in said["shards"] if shard["name"] == path.name)
    shard |= {"bytes": stamp.bytes, "sha256": stamp.sha256}
    manifest.write_text(json.dumps(said))


def npy(array):
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=False)
    return buffer.getvalue()


def truncated(path):
    path.write_bytes(path.read_bytes()[:5000])


def truncated_without_index(path):
    truncated(path)
    index_path(path).unlink()


def flipped(path):
    content = bytearray(path.read_bytes())
    for at in range(700, len(content) - 1024, 512):
        content[at] ^= 64
    path.write_bytes(content)


def flipped_without_index(path):
    flipped(path)
    index_path(path).unlink()


def missing_member(path):
    rewrite(path, {name: content for name, content in members(path).items() if not name.endswith(".json")})


def wrong_type(path):
    video = npy(np.zeros((5, 4, 4, 3), np.float32))
    rewrite(path, {name: video if ".video" in name else content for name, content in members(path).items()})


def wrong_shape(path):
    video = npy(np.zeros((9, 4, 4, 3), np.uint8))
    rewrite(path, {name: video if ".video" in name else content for name, content in members(path).items()})


def pickled(path):
    buffer = io.BytesIO()
    np.save(buffer, np.array([{"a": 1}], dtype=object), allow_pickle=True)
    rewrite(path, {n: buffer.getvalue() if ".video" in n else content for n, content in members(path).items()})


def empty(path):
    path.write_bytes(b"")
    index_path(path).unlink()


def emptied(path):
    rewrite(path, {})


def vanished(path):
    path.unlink()


DAMAGES = [
    (truncated, "truncated"),
    (truncated_without_index, "truncated"),
    (flipped, "damaged"),
    (flipped_without_index, "damaged"),
    (wrong_type, "unlike the manifest"),
    (wrong_shape, "unlike the manifest"),
    (pickled, "damaged"),
    (empty, "empty shard"),
    (emptied, "empty shard"),
    (vanished, "vanished"),
]


def schedule(folder, budget=MANY, **how):
    reader = ShardReader(folder, tolerant=True, storage=HURRY)
    return ClipSchedule(reader, **{"samples_per_step": 6} | how, substitution=Substitution(budget, 0))


def shown(batch):
    return [round(float((v + 1) * 12.75)) for v in batch.video[:, 0, 0, 0, 0]]


# --- one fault


@pytest.mark.parametrize(("damage", "reason"), DAMAGES, ids=[damage.__name__ for damage, _ in DAMAGES])
def test_what_cannot_be_read_has_a_substitute_and_is_counted(shards, damage, reason):
    intact = schedule(shards)
    expected = [intact.indices(turn) for turn in range(4)]
    damage(shards / "shard-000001.tar")
    left_out = 0
    tolerant, again = schedule(shards), schedule(shards)
    for turn, indices in enumerate(expected):
        batch = tolerant[turn]
        faulty = [i for i in indices if PER_SHARD <= i < 2 * PER_SHARD]
        assert batch.video.shape == (6, 3, 5, 4, 4), "the batch keeps its shape"
        for index, found in zip(indices, shown(batch)):
            assert found == index or index in faulty, "nothing else changes its place"
        left_out += len(faulty)
        assert len(batch.faults) >= len(faulty) or damage is truncated
        assert {fault.reason for fault in batch.faults} <= {reason}
        assert all("shard-000001.tar" in fault.shard and fault.shard in fault.message for fault in batch.faults)
        assert shown(again[turn]) == shown(batch), "substitutes are a function of the place"
    assert left_out == 2 * PER_SHARD, "two epochs"


def test_a_truncated_shard_still_gives_what_is_whole(shards):
    path = shards / "shard-000001.tar"
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    reader, read = ShardReader(shards, tolerant=True), 0
    for i in range(4, 8):
        try:
            assert reader[i]["video"][0, 0, 0, 0] == 10 * i
            read += 1
        except ShardFault as fault:
            assert fault.reason == "truncated"
    assert 0 < read < 4


def test_a_member_that_a_task_needs_is_missed(tmp_path):
    manifest = TokenManifest(fps=8.0, frames=17, height=16, width=16, sample_rate=16000, fingerprints={},
                             visual_lattice=(5, 2, 2), visual_codebook_size=64, audio_frames=21, audio_levels=2,
                             audio_codebook_size=16)  # fmt: skip
    with ShardWriter(tmp_path / "shards", max_samples=4) as writer:
        for i in range(8):
            grids = {"visual": np.full((5, 2, 2), i, np.uint8), "audio": np.zeros((21, 2), np.uint8)}
            writer.write(f"{i:03d}", {**grids, "json": {"captions": ["ab"]}})
        writer.finish(manifest)
    path = tmp_path / "shards" / "shard-000001.tar"
    whole = members(path)
    for change, reason in [
        (lambda name, c: None if name.endswith("visual.npy") else c, "missing member"),
        (lambda name, c: None if name.endswith("json") else c, "missing member"),
        (lambda name, c: npy(np.full((5, 2, 2), 64, np.uint8)) if "visual" in name else c, "unlike the manifest"),
        (lambda name, c: npy(np.zeros((4, 2, 2), np.uint8)) if "visual" in name else c, "unlike the manifest"),
        (lambda name, c: npy(np.zeros((5, 2, 2), np.float32)) if "visual" in name else c, "unlike the manifest"),
    ]:
        changed = {name: change(name, content) for name, content in whole.items()}
        rewrite(path, {name: content for name, content in changed.items() if content is not None})
        reader = ShardReader(tmp_path / "shards", "tokens", tolerant=True)
        layout = layout_of(reader.manifest, LAYOUT.text_length)
        made = Mixture(reader, layout, tokenize, SHARES, seed=3, drop_text=0.0, tokens_per_step=800,
                       substitution=Substitution(MANY, 3))  # fmt: skip
        reasons = {fault.reason for turn in range(6) for fault in made[turn].faults}
        assert reasons == {reason}


def test_without_a_budget_the_fault_is_raised(shards):
    vanished(shards / "shard-000001.tar")
    strict = schedule(shards, budget=None)
    with pytest.raises(ShardFault, match=r"shard-000001.tar: is missing; build or copy it again"):
        for turn in range(2):
            strict[turn]
    with pytest.raises(ValueError, match="is missing"):
        ShardReader(shards)


def test_a_shard_that_vanishes_while_it_is_read_is_noticed(shards):
    tolerant = schedule(shards)
    assert not tolerant[0].faults and not tolerant[1].faults
    tolerant.reader.close()  # as when many shards are open
    vanished(shards / "shard-000001.tar")
    assert {fault.reason for turn in (2, 3) for fault in tolerant[turn].faults} == {"vanished"}


# --- storage


class Failing:
    """Fails so many times, then answers; each answer takes so many seconds."""

    def __init__(self, times=0, seconds=0.0, error=None):
        self.times, self.seconds, self.asked = times, seconds, 0
        self.error = error or OSError(5, "Input/output error")

    def __call__(self):
        self.asked += 1
        time.sleep(self.seconds)
        if self.asked <= self.times:
            raise self.error
        return "answer"


def test_storage_is_asked_again_with_growing_waits(monkeypatch):
    waits = []
    monkeypatch.setattr(time, "sleep", lambda seconds: waits.append(seconds) if seconds else None)
    patience = Patience(attempts=6, first_wait=1.0, longest_wait=5.0)
    assert patience.ask("a", Failing(times=5), limited=False) == "answer"
    assert waits == [1, 2, 4, 5, 5]
    failing = Failing(times=99)
    with pytest.raises(ShardFault, match=r"a: the storage failed 6 times \(OSError: .*Input/output error\)") as caught:
        patience.ask("a", failing, limited=False)
    assert failing.asked == 6 and caught.value.reason == "storage"
    missing = Failing(times=9, error=FileNotFoundError())
    with pytest.raises(ShardFault, match="is missing") as caught:
        patience.ask("a", missing, limited=False)
    assert missing.asked == 1 and caught.value.reason == "vanished"


def test_storage_that_does_not_answer_is_given_up():
    start = time.monotonic()
    with pytest.raises(ShardFault, match=r"TimeoutError: no answer in 0.1 s"):
        Patience(attempts=2, first_wait=0.01, timeout=0.1).ask("a", Failing(seconds=5), limited=True)
    assert time.monotonic() - start < 2


def test_a_shard_that_cannot_be_read_is_left_alone_for_a_while(shards, monkeypatch):
    reader = ShardReader(shards, tolerant=True, storage=HURRY)
    reader[4]
    reader.close()
    asked = []

    def fail(path, flags):
        asked.append(path)
        raise OSError(5, "Input/output error")

    with monkeypatch.context() as patch:
        patch.setattr(os, "open", fail)
        for _ in range(3):
            with pytest.raises(ShardFault) as caught:
                reader[4]
            assert caught.value.reason == "storage"
        assert len(asked) == 1 + 3, "one read and the three attempts of its patience"
    later = time.monotonic() + 61
    monkeypatch.setattr(time, "monotonic", lambda: later)
    assert reader[4]["__key__"] == "004"


# --- the budget


def test_a_budget_is_a_number_and_a_share():
    budget = FailureBudget(max_samples=3, max_share=0.01)
    assert [budget.spent(n, 100) for n in (0, 3, 4)] == [False, False, True]
    assert [budget.spent(n, 1000) for n in (4, 10, 11)] == [False, False, True]
    assert FailureBudget(max_samples=0, max_share=0).spent(1, 10**9)
    with pytest.raises(ValueError, match="share in"):
        FailureBudget(max_share=2)


def test_a_ledger_counts_by_reason_and_goes_on_after_a_resume():
    ledger = Ledger(FailureBudget(max_samples=3, max_share=0))
    counts = [0] * len(REASONS)
    counts[1] = 2
    assert not ledger.enter(100, counts)
    again = Ledger(FailureBudget(max_samples=3, max_share=0))
    again.load_state_dict(ledger.state_dict())
    assert again.enter(100, counts)
    assert again.said() == "4 of 200 samples left out (4 damaged)"
    assert not again.enter(100, [0] * len(REASONS)), "what was allowed before is no reason to stop now"


def test_no_substitute_makes_a_broken_batch_and_no_hang(shards):
    for path in shards.glob("*.tar"):
        path.unlink()
    batch = schedule(shards, budget=FailureBudget(attempts=5))[3]
    assert isinstance(batch, Broken) and batch.step == 3 and len(batch.faults) == 5
    assert batch.to("meta") is batch


def test_budget_storage_and_stream_are_values_in_yaml():
    parser = ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(ClipDataModule, "data")
    said = {
        "shards": "s3://bucket/shards",
        "failures": {"max_share": 0.01},
        "storage": {"cache": "/scratch", "cache_bytes": 1000, "patience": {"timeout": 5.0}},
        "streaming": {"buffer": 10},
    }
    data = parser.instantiate_classes(parser.parse_object({"data": said})).data
    assert data.failures == FailureBudget(max_share=0.01) and data.streaming == Streaming(buffer=10)
    assert data.storage == Storage(cache="/scratch", cache_bytes=1000, patience=Patience(timeout=5.0))


# --- in training


class Recorder(lightning.LightningModule):
    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))
        self.seen = []

    def training_step(self, batch, index):
        self.seen += shown(batch)
        return self.weight * batch.video.mean()

    def validation_step(self, batch, index):
        shown(batch)

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


def fit(folder, steps=4, budget=None, rank_trainer=None, **how):
    module, data = Recorder(), ClipDataModule(str(folder), batch_size=6, failures=budget, storage=HURRY,
                                              **{"num_workers": 0} | how)  # fmt: skip
    trainer = lightning.Trainer(accelerator="cpu", max_steps=steps, logger=False, enable_checkpointing=False,
                                enable_progress_bar=False, enable_model_summary=False, **(rank_trainer or {}))  # fmt: skip
    trainer.fit(module, data)
    return module, data, trainer


@pytest.mark.filterwarnings("ignore:.*does not have many workers", "ignore:.*validation_step", "ignore:.*smaller than")
@pytest.mark.parametrize("num_workers", [0, 2])
def test_training_goes_on_and_says_what_it_left_out(shards, num_workers):
    flipped(shards / "shard-000001.tar")
    with pytest.warns(UserWarning, match=r"left out and counted \(damaged\): .*shard-000001.tar"):
        module, data, trainer = fit(shards, num_workers=num_workers)
    assert len(module.seen) == 24 and not {4, 5, 6, 7} & set(module.seen)
    assert data.ledger.left_out["damaged"] >= 8 and data.ledger.drawn == 24
    assert trainer.callback_metrics["data/left_out"] == data.ledger.left_out.total()
    assert trainer.callback_metrics["data/left_out/damaged"] >= 8
    assert data.state_dict()["faults"]["left_out"] == dict(data.ledger.left_out)


@pytest.mark.filterwarnings("ignore")
def test_training_ends_with_the_name_of_the_shard_when_the_budget_is_spent(shards):
    flipped(shards / "shard-000001.tar")
    cause = r"shard-000001.tar: member .* is damaged .* of \d+ samples left out \(\d+ damaged\); the budget is"
    with pytest.raises(ValueError, match=cause):
        fit(shards, budget=FailureBudget(max_samples=3))


@pytest.mark.filterwarnings("ignore")
def test_validation_takes_no_substitutes(shards, tmp_path):
    validation = write(tmp_path / "validation")
    fit(shards, validation_shards=str(validation))
    flipped(validation / "shard-000001.tar")
    with pytest.raises(ValueError, match=r"validation/shard-000001.tar: member .* is damaged"):
        fit(shards, validation_shards=str(validation))


RANKS = """
import sys, warnings; warnings.simplefilter("ignore")
sys.path[:0] = [{tests!r}, {data!r}]
from test_faults import *
if __name__ == "__main__":
    try:
        how = {{"devices": 2, "strategy": "ddp", "num_nodes": 1}}
        module, data, trainer = fit({folder!r}, budget=FailureBudget(max_samples={budget}), steps=3, rank_trainer=how)
        said = data.ledger.said()
    except ValueError as error:
        said = str(error)
    Path({folder!r}).with_name("said" + os.environ["LOCAL_RANK"]).write_text(said)
    os._exit(0)  # all is written; gloo's threads now and then abort an ordinary exit
"""


@pytest.mark.timeout(280)
@pytest.mark.parametrize("budget", [100, 2])
def test_two_ranks_go_on_or_end_together(shards, tmp_path, budget):
    """A fault that one rank meets is counted by both; none waits for the other."""
    flipped(shards / "shard-000001.tar")
    here = Path(__file__).parent
    code = RANKS.format(tests=str(here.parent), data=str(here), folder=str(shards), budget=budget)
    (tmp_path / "ranks.py").write_text(code)
    env = os.environ | {"PYTHONPATH": str(here.parents[1]), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2", "--rdzv_backend", "c10d",
               "--rdzv_endpoint", "localhost:0", str(tmp_path / "ranks.py")]  # fmt: skip
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=250)
    assert done.returncode == 0, done.stdout + done.stderr
    said = {path.read_text() for path in tmp_path.glob("said*")}
    assert len(list(tmp_path.glob("said*"))) == 2 and len(said) == 1, "both ranks count and say the same"
    expected = " of 36 samples left out" if budget == 100 else "shard-000001.tar: member"
    assert expected in said.pop()


def test_a_folder_copied_in_part_is_an_error_at_once_where_nothing_is_tolerated(shards, tmp_path):
    shutil.copytree(shards, tmp_path / "copy")
    truncated(tmp_path / "copy" / "shard-000002.tar")
    with pytest.raises(ValueError, match=r"shard-000002.tar: has 5000 bytes, the manifest says"):
        ShardReader(tmp_path / "copy")


def test_ranks_deal_faults_to_whom_they_belong(shards):
    """The substitute of a place is the same whoever takes it."""
    flipped(shards / "shard-000001.tar")
    alone = [shown(schedule(shards)[turn]) for turn in range(4)]
    for rank in range(3):
        deal = Deal(parts=6, world_size=3, rank=rank)
        mine = schedule(shards, deal=deal)
        for turn in range(4):
            assert shown(mine[turn]) == alone[turn][2 * rank : 2 * rank + 2]

"""Building at scale: the same bytes however many processes build and wherever they are killed; nothing twice, nothing lost."""

import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from media_samples import numbered, tone, write

from videopoet.data import building
from videopoet.data.building import LOCK, WORK, Build, Plan
from videopoet.data.captions import Caption
from videopoet.data.ingest import build_shards
from videopoet.data.inputs import Input, units_of
from videopoet.data.rejections import REJECTED, Rejection, read_rejected
from videopoet.data.schema import MediaManifest
from videopoet.data.shards import ShardReader
from videopoet.data.work import Place, run_tasks

ROOT = Path(__file__).parents[2]
HOW = dict(frames=5, fps=8.0, size=16, files_per_shard=2)
NUM_FILES = 7  # in 4 shards, the last of one file


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def beside(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.parent.iterdir())


@pytest.fixture(scope="module")
def videos(tmp_path_factory) -> Path:
    """Seven files: one with sound, one of two clips, one that is none, one too short."""
    folder = tmp_path_factory.mktemp("source") / "videos"
    folder.mkdir()
    write(folder / "0.mp4", numbered(5), audio=tone(5 / 8))
    write(folder / "1.mp4", numbered(10))
    (folder / "2.mp4").write_bytes(b"no video")
    for number in (3, 5, 6):
        write(folder / f"{number}.mp4", numbered(5 + number))
    write(folder / "4.mp4", numbered(3))
    (folder / "5.txt").write_text("a grey field")
    return folder


@pytest.fixture(scope="module")
def clean(videos, tmp_path_factory) -> dict[str, bytes]:
    """What an undisturbed process builds of them."""
    out = tmp_path_factory.mktemp("clean") / "out"
    report = build_shards(videos, out, **HOW)
    assert (report.files, report.clips, report.clips_with_audio, report.clips_with_captions) == (7, 8, 1, 2)
    assert report.reasons == {"too short": 1, "unreadable": 1}
    assert [shard.samples for shard in ShardReader(out).manifest.shards] == [3, 1, 2, 2]
    names = {name for name in contents(out) if name.endswith(".index")}
    assert contents(out).keys() - names == {"build.json", "manifest.json", REJECTED} | {
        f"clips-00000{i}.tar" for i in range(4)
    }
    return contents(out)


@pytest.mark.parametrize("workers", [1, 4])
def test_any_number_of_workers_gives_the_same_bytes(videos, clean, tmp_path, workers):
    build_shards(videos, tmp_path / "out", **HOW, workers=workers)
    assert contents(tmp_path / "out") == clean and beside(tmp_path / "out") == ["out"]


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 0, 1)])
def test_ranks_share_the_shards_and_the_last_one_writes_the_manifest(videos, clean, tmp_path, order):
    out = tmp_path / "out"
    reports = [build_shards(videos, out, **HOW, place=Place(rank=rank, ranks=3)) for rank in order]
    assert reports[:2] == [None, None] and reports[2].clips == 8 and contents(out) == clean
    late = build_shards(videos, out, **HOW, place=Place(rank=1, ranks=3))
    assert late == reports[2] and contents(out) == clean and beside(out) == ["out"]


def test_a_share_never_built_is_built_by_another_number_of_ranks(videos, clean, tmp_path):
    out = tmp_path / "out"
    assert build_shards(videos, out, **HOW, place=Place(rank=0, ranks=2)) is None  # rank 1 never came
    done = {path.name: path.stat().st_mtime_ns for path in (tmp_path / ".out.part").glob("*.tar")}
    assert sorted(done) == ["clips-000000.tar", "clips-000002.tar"]
    assert build_shards(videos, out, **HOW, place=Place(rank=1, ranks=4)) is None
    assert build_shards(videos, out, **HOW).clips == 8 and contents(out) == clean
    assert {name: (out / name).stat().st_mtime_ns for name in done} == done, "what was whole is not built again"


def killed_at(videos: Path, out: Path, place: int) -> None:
    """Kill this process once something has taken its name for the place-th time."""
    replace, times = os.replace, iter(range(1000))

    def deadly(*arguments):
        replace(*arguments)
        if next(times) == place:
            os.kill(os.getpid(), signal.SIGKILL)

    os.replace = deadly
    build_shards(videos, out, **HOW)


def test_killed_at_any_step_the_same_command_makes_the_same_folder(videos, clean, tmp_path):
    """Every step is a name taken: of the plan, of each shard and receipt, of manifest and folder."""
    for place in range(1000):
        out = tmp_path / f"{place}" / "out"
        out.parent.mkdir()
        child = multiprocessing.get_context("fork").Process(target=killed_at, args=(videos, out, place))
        child.start()
        child.join()
        if child.exitcode == 0:
            break
        assert child.exitcode == -signal.SIGKILL
        there = {path.name for path in out.iterdir()} if out.exists() else clean.keys()
        assert there >= clean.keys(), "whole or not there"
        build_shards(videos, out, **HOW, workers=0)
        assert contents(out) == clean and beside(out) == ["out"], f"killed at step {place}"
    assert place >= 17, "1 plan, 4 times 3 of a unit, and 4 of publishing"


def test_kill_minus_9_with_workers_leaves_none_of_them_and_loses_nothing(videos, clean, tmp_path):
    """The command itself, killed as soon as a shard is whole; its workers end too."""
    out = tmp_path / "out"
    command = [sys.executable, "-m", "videopoet.cli", "shards", "build", videos, "--out", out, "--frames", "5", "--size",
               "16", "--files-per-shard", "2", "--workers"]  # fmt: skip
    process = subprocess.Popen([*map(str, command), "2"], cwd=ROOT, env=os.environ | {"PYTHONPATH": str(ROOT)})
    receipts = tmp_path / ".out.part" / WORK
    while process.poll() is None and not list(receipts.glob("[0-9]*.json")):
        time.sleep(0.002)
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    workers = children.read_text().split() if children.is_file() else []
    process.kill()
    process.wait()
    until = time.monotonic() + 60
    while (alive := [pid for pid in workers if is_running(pid)]) and time.monotonic() < until:
        time.sleep(0.1)
    assert not alive, "workers outlive the command"
    assert build_shards(videos, out, **HOW, workers=1).clips == 8
    assert contents(out) == clean and beside(out) == ["out"]


def is_running(pid: str) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def test_ranks_at_the_same_time_by_the_environment_of_torchrun(videos, clean, tmp_path):
    out = tmp_path / "out"
    command = [sys.executable, "-m", "videopoet.cli", "shards", "build", str(videos), "--out", str(out), "--frames", "5",
               "--size", "16", "--files-per-shard", "2"]  # fmt: skip
    ranks = [
        subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, env=os.environ
                         | {"PYTHONPATH": str(ROOT), "RANK": f"{rank}", "WORLD_SIZE": "2", "LOCAL_RANK": f"{rank}"})
        for rank in range(2)
    ]  # fmt: skip
    said = [rank.communicate()[0] for rank in ranks]
    assert [rank.returncode for rank in ranks] == [0, 0] and contents(out) == clean and beside(out) == ["out"]
    assert any("8 clips of 7 files" in text for text in said)
    assert all("8 clips of 7 files" in text or "its share" in text for text in said)


# --- what is refused


def test_going_on_with_other_settings_or_inputs_is_refused_with_what_to_do(videos, tmp_path):
    source, out = tmp_path / "videos", tmp_path / "out"
    shutil.copytree(videos, source)
    build_shards(source, out, **HOW, place=Place(rank=0, ranks=2))
    with pytest.raises(
        ValueError, match=r"begun with other.*files_per_shard 2 is now 3.*or delete .*\.out\.part to begin"
    ):
        build_shards(source, out, **HOW | {"files_per_shard": 3})
    write(source / "8.mp4", numbered(5))
    with pytest.raises(ValueError, match="list of 7 inputs is now another, of 8"):
        build_shards(source, out, **HOW)
    (source / "8.mp4").unlink()
    (source / "5.txt").write_text("another caption")
    with pytest.raises(ValueError, match="list of 7 inputs is now another, of 7"):
        build_shards(source, out, **HOW)
    shutil.rmtree(tmp_path / ".out.part")
    assert build_shards(source, out, **HOW).clips == 8


def test_a_shard_that_vanished_is_named_and_made_again(videos, clean, tmp_path):
    out, staging = tmp_path / "out", tmp_path / ".out.part"
    build_shards(videos, out, **HOW, place=Place(rank=0, ranks=2))
    (staging / "clips-000002.tar").unlink()
    with pytest.raises(ValueError, match=r"clips-000002.tar: is gone .* run the command again"):
        build_shards(videos, out, **HOW)
    assert build_shards(videos, out, **HOW).clips == 8 and contents(out) == clean


def test_overwriting_keeps_the_old_folder_until_the_new_one_is_whole(videos, clean, tmp_path):
    out = tmp_path / "out"
    build_shards(videos, out, **HOW)
    other = HOW | {"size": 8, "overwrite": True}
    assert build_shards(videos, out, **other, place=Place(rank=0, ranks=2)) is None and contents(out) == clean
    assert build_shards(videos, out, **other, place=Place(rank=1, ranks=2)).clips == 8
    assert ShardReader(out).manifest.height == 8 and beside(out) == ["out"]


# --- who publishes


@pytest.fixture
def build(tmp_path) -> Build:
    """Three units, all written; the last held a rejection only."""
    manifest = MediaManifest(fps=8.0, frames=1, height=2, width=2, sample_rate=16000)
    build = Build(tmp_path / "out", Plan.of({}, ["abc"], 3, 3), manifest, prefix="clips")
    assert build.open()
    for unit in range(2):
        record = {"video": np.full((1, 2, 2, 3), unit, np.uint8), "json": {"captions": ["x"] * unit, "source": {}}}
        build.write(unit, [(f"{unit}", record)])
    build.write(2, [Rejection(file="c", kind="strange", reason="no")])
    return build


def test_a_dead_publishers_lock_is_taken_over_and_a_living_ones_awaited(build, monkeypatch):
    dead = subprocess.Popen(["true"])
    dead.wait()
    host = building._who().rpartition("-")[0]
    (build.work / LOCK).write_text(f"{host}-{dead.pid}")
    begun = time.monotonic()
    assert build.publish(lambda manifest, totals: manifest).samples == 2 and time.monotonic() - begun < 20
    assert list(read_rejected(build.out)) == [Rejection(file="c", kind="strange", reason="no")]

    other = Build(build.out, Plan.of({"a": 1}, ["abc"], 1, 0), build.manifest, prefix="clips", overwrite=True)
    monkeypatch.setattr(building, "PATIENCE", 0.5)
    assert other.open()
    (other.work / LOCK).write_text("another_machine-17")
    begun = time.monotonic()
    with pytest.raises(ValueError, match="gave a clip"):  # no units, no samples: refused before any lock
        other.publish(lambda manifest, totals: manifest)
    third = Build(build.out, Plan.of({"a": 2}, ["abc"], 1, 1), build.manifest, prefix="clips", overwrite=True)
    third.open()
    third.write(0, [("0", {"video": np.zeros((1, 2, 2, 3), np.uint8), "json": {"captions": []}})])
    (third.work / LOCK).write_text("another_machine-17")
    assert third.publish(lambda manifest, totals: manifest).samples == 1 and time.monotonic() - begun >= 0.5


def test_two_that_publish_at_once_leave_one_whole_folder(build):
    context = multiprocessing.get_context("fork")
    processes = [context.Process(target=build.publish, args=(lambda manifest, totals: manifest,)) for _ in range(4)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0] * 4
    assert beside(build.out) == ["out"] and len(ShardReader(build.out)) == 2
    build.publish(lambda manifest, totals: manifest)
    assert beside(build.out) == ["out"] and WORK not in contents(build.out)


def test_a_unit_beyond_the_limit_of_a_tar_goes_on_in_another(tmp_path, videos):
    build_shards(videos, tmp_path / "out", **HOW | {"files_per_shard": 64}, samples_per_shard=3)
    names = [shard.name for shard in ShardReader(tmp_path / "out").manifest.shards]
    assert names == ["clips-000000.tar", "clips-000000_001.tar", "clips-000000_002.tar"]
    assert len({record["__key__"] for record in ShardReader(tmp_path / "out")}) == 8


# --- units, ranks, workers


@pytest.mark.parametrize("seed", range(5))
def test_units_cover_the_inputs_once_in_order_within_both_limits(seed):
    rng = np.random.default_rng(seed)
    inputs = [Input(file=f"{i // 3}", start=i % 3, bytes=int(size)) for i, size in enumerate(rng.integers(0, 900, 40))]
    units = units_of(inputs, files=6, most_bytes=1000)
    assert [i for unit in units for i in unit] == list(range(40)) and all(1 <= len(unit) <= 6 for unit in units)
    for unit in units:
        assert sum(inputs[i].bytes / 3 for i in unit[:-1]) < 1000
    assert units == units_of([Input(**vars(entry)) for entry in inputs], files=6, most_bytes=1000)
    assert units_of([], 6, 1000) == []


def test_a_film_is_a_shard_of_its_own_and_a_caption_changes_no_assignment():
    inputs = [Input(file=name, bytes=size) for name, size in (("a", 10), ("film", 5000), ("b", 10))]
    assert units_of(inputs, files=64, most_bytes=1000) == [range(0, 2), range(2, 3)]
    said = [Input(file=entry.file, bytes=entry.bytes, caption=Caption(texts=("x",))) for entry in inputs]
    assert units_of(said, files=64, most_bytes=1000) == [range(0, 2), range(2, 3)]


TORCHRUN = {"RANK": "3", "WORLD_SIZE": "8", "LOCAL_RANK": "1"}
SLURM = {"SLURM_PROCID": "5", "SLURM_NTASKS": "16", "SLURM_LOCALID": "2"}


@pytest.mark.parametrize(
    ("environment", "place"),
    [({}, (0, 1, 0)), (TORCHRUN, (3, 8, 1)), (SLURM, (5, 16, 2)), (SLURM | TORCHRUN, (3, 8, 1)),
     (SLURM | {"SLURM_JOB_ID": "7", "SLURM_STEP_ID": "0"}, (5, 16, 2)),
     (SLURM | {"SLURM_JOB_ID": "7", "SLURM_PROCID": "0"}, (0, 1, 0)),  # in a batch script, not under srun
     ({"RANK": "0"}, (0, 1, 0))],
)  # fmt: skip
def test_the_launchers_environment_says_which_rank_this_is(environment, place):
    assert Place.here(environment) == Place(rank=place[0], ranks=place[1], local_rank=place[2])


@pytest.mark.parametrize("environment", [{"RANK": "8", "WORLD_SIZE": "8"}, {"RANK": "x", "WORLD_SIZE": "8"}])
def test_a_rank_that_cannot_be_is_refused(environment):
    with pytest.raises(ValueError, match=r"RANK=. WORLD_SIZE=8|RANK=., WORLD_SIZE=8"):
        Place.here(environment)


def test_shares_are_all_units_once():
    for ranks in (1, 2, 3, 7):
        shares = [i for rank in range(ranks) for i in Place(rank=rank, ranks=ranks).mine(17)]
        assert sorted(shares) == list(range(17))


class Failing:
    """A job that fails, or dies, at one of its tasks."""

    def __init__(self, how: str):
        self.how = how

    def start(self, worker: int):
        def do(task, advance):
            advance(1)
            if task == 2 and self.how == "error":
                raise ValueError("task 2 cannot be done")
            if task == 2 and self.how == "death":
                os._exit(1)

        return do


@pytest.mark.parametrize(
    ("how", "said"), [("error", "task 2 cannot be done"), ("death", "a worker process died.*to go on")]
)
def test_a_workers_failure_ends_the_work_with_its_reason(how, said):
    with pytest.raises(ValueError, match=said):
        run_tasks(Failing(how), iter(range(50)), 50, workers=2, title="tasks", total=50)


def test_a_plan_that_cannot_be_read_is_refused_and_a_folder_of_others_left_alone(tmp_path, videos):
    (tmp_path / ".out.part").mkdir()
    (tmp_path / ".out.part" / "build.json").write_text("{")
    with pytest.raises(ValueError, match=r"is no plan of this program; delete .*\.out\.part to begin anew"):
        build_shards(videos, tmp_path / "out", **HOW)
    (tmp_path / "project").mkdir()
    (tmp_path / "project" / "build.json").write_text('{"plan": "of my house"}')
    with pytest.raises(ValueError, match="exists and is not a shard folder; choose another name"):
        build_shards(videos, tmp_path / "project", **HOW, overwrite=True)

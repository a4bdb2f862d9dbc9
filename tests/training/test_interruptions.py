"""Runs that end badly and go on: killed without warning on two ranks, told to go, on two nodes."""

import json
import os
import random
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import ranks
import yaml
from conftest import lm_spec
from test_configs import ROOT, TINY
from test_deepspeed import close, launch

pytestmark = pytest.mark.timeout(1800)


@pytest.fixture(scope="module")
def plan(world_tokens, shipped, text_model) -> dict:
    files = {name: str(shipped / f"{name}.safetensors") for name in ("visual", "audio")}
    tasks = ["text-to-video", "text-to-image", "frame-prediction"]  # the last reads no text
    strategy = {"class_path": "lightning.pytorch.strategies.DDPStrategy", "init_args": {"find_unused_parameters": True}}
    whole = {"spec": lm_spec(text_model), "tokens": str(world_tokens), "tokenizers": files, "tasks": tasks}
    return whole | {"strategy": strategy}


def read(log: Path) -> dict[int, float]:
    """Losses by step; of a step trained twice the later."""
    return {step: loss for step, loss in map(json.loads, log.read_text().splitlines())}


def test_killed_on_two_ranks_and_resumed_is_never_stopped(plan, tmp_path):
    """A rank dies by kill -9 in any step; the last checkpoint goes on to the losses of a run that nothing befell."""
    step = random.randint(3, 7)  # the first checkpoint is of step 2
    folders = {name: tmp_path / name for name in ("never", "killed")}
    for folder in folders.values():
        folder.mkdir()
    runs = {
        name: {"steps": 8, "log": str(f / "log"), "folder": str(f / "kept"), "ema": True} for name, f in folders.items()
    }
    launch(plan | {"runs": {"never": runs["never"]}}, folders["never"])
    launch(plan | {"runs": {"killed": runs["killed"] | {"kill_at": step}}}, folders["killed"], fails=True)
    assert max(read(folders["killed"] / "log")) == step - 1, f"killed in step {step}"
    launch(plan | {"runs": {"resumed": runs["killed"] | {"resume": "last"}}}, folders["killed"])
    never, resumed = read(folders["never"] / "log"), read(folders["killed"] / "log")
    assert sorted(never) == list(range(8))
    close(resumed, never, 1e-6)


def cli(*arguments: str, folder: Path, **how) -> subprocess.Popen:
    environment = {k: v for k, v in os.environ.items() if k not in ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_PORT")}
    environment |= {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "PYTHONPATH": str(ROOT)} | how.pop("env", {})
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    return subprocess.Popen([sys.executable, *arguments], env=environment, cwd=folder, **pipes)


@pytest.fixture(scope="module")
def demo(world_tokens, shipped, text_model, tmp_path_factory) -> Path:
    """The demo's language model shrunk to the tiny world, with its checkpoints and averages."""
    text = yaml.safe_load((ROOT / "configs/demo/lm.yaml").read_text())
    text["model"]["init_args"]["model"] = lm_spec(text_model)
    files = {name: str(shipped / f"{name}.safetensors") for name in ("visual", "audio")}
    text["data"]["init_args"] |= {"tokens": str(world_tokens), "validation_tokens": None, "tokenizers": files,
                                  "tokens_per_batch": 200, "first_steps": 0}  # fmt: skip
    folder = tmp_path_factory.mktemp("demo")
    (folder / "lm.yaml").write_text(yaml.safe_dump(text))
    keep = {
        "dirpath": str(folder / "kept"),
        "save_last": True,
        "every_n_train_steps": 50,
        "enable_version_counter": False,
    }
    callbacks = [{"class_path": "videopoet.training.ema.EMA"},
                 {"class_path": "lightning.pytorch.callbacks.ModelCheckpoint", "init_args": keep}]  # fmt: skip
    (folder / "kept.yaml").write_text(
        yaml.safe_dump({"trainer": {"callbacks": callbacks, "enable_checkpointing": True}})
    )
    return folder


def overlays(demo: Path, strategy: str) -> list[str]:
    files = [demo / "lm.yaml", TINY, demo / "kept.yaml", ROOT / f"configs/strategy/{strategy}.yaml"]
    return [argument for file in files for argument in ("-c", str(file))]


def test_deepspeed_trains_stops_resumes_and_samples_from_the_command_line(demo, tmp_path, shipped):
    """Told to go by SIGTERM to one rank, both save and leave; `last` goes on; the folder is sampled from as it is."""
    fit = ["-m", "videopoet.cli", "fit", *overlays(demo, "deepspeed_zero2"), "--trainer.devices=2"]
    first = cli(*fit, "--trainer.max_steps=100000", folder=demo)
    try:
        while not list(demo.glob("kept/*.ckpt")):
            assert first.poll() is None, first.communicate()[0][-3000:]
            time.sleep(0.5)
        first.send_signal(signal.SIGTERM)
        said = first.communicate(timeout=800)[0]
    finally:
        first.kill()
    assert first.returncode == 143, said[-3000:]
    assert "SIGTERM at step" in said and (demo / "kept/last.ckpt/weights.safetensors").is_file()
    stopped = int(said.split("SIGTERM at step ")[1].split(",")[0])

    again = cli(*fit, f"--trainer.max_steps={stopped + 2}", "--ckpt_path=last", folder=demo)
    said = again.communicate(timeout=800)[0]
    assert again.returncode == 0 and "next: videopoet export" in said, said[-3000:]
    command = ["sample", "text-to-video", "--prompt", "a red circle", "--model", str(demo / "kept/last.ckpt")]
    sampled = cli("-m", "videopoet.cli", *command, "--out", str(tmp_path / "x.mp4"), folder=tmp_path)
    said = sampled.communicate(timeout=800)[0]
    assert sampled.returncode == 0 and (tmp_path / "x.mp4").stat().st_size > 500, said[-3000:]


@pytest.mark.slow  # two agents with a process each, beside each other
def test_two_nodes_on_one_machine(plan, tmp_path):
    """torchrun's agents meet at a port of their own; each starts one rank, as two machines would."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    run = {"steps": 4, "log": str(tmp_path / "log")}
    plan = plan | {"tasks": ["text-to-video"]}
    (tmp_path / "plan.json").write_text(json.dumps(plan | {"devices": 1, "num_nodes": 2, "runs": {"whole": run}}))
    agents = [
        cli("-m", "torch.distributed.run", "--nnodes=2", "--nproc-per-node=1", f"--node-rank={node}", "--rdzv-id=7",
            "--rdzv-backend=c10d", f"--rdzv-endpoint=127.0.0.1:{port}", "--local-addr=127.0.0.1", ranks.__file__,
            str(tmp_path / "plan.json"), folder=tmp_path)
        for node in range(2)
    ]  # fmt: skip
    said = [agent.communicate(timeout=600)[0] for agent in agents]
    assert [agent.returncode for agent in agents] == [0, 0], said
    alone = tmp_path / "alone"
    alone.mkdir()
    ranks.train(plan, {"steps": 4, "log": str(alone / "log")}, 1, "auto")  # one process, twice the samples
    close(read(tmp_path / "log"), read(alone / "log"))

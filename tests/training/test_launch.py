"""The launchers are real files: they parse, and start what they say, shown by stand-ins that print their arguments."""

import os
import subprocess
from pathlib import Path

import pytest
import yaml
from test_configs import ROOT

LAUNCH = ROOT / "tools/launch"


def stand_in(folder: Path, name: str) -> None:
    (folder / name).write_text('#!/bin/sh\nfor word in "$@"; do echo "$word"; done\n')
    (folder / name).chmod(0o755)


def started(folder: Path, command: list[str], **environment: str) -> list[str]:
    path = f"{folder}:{os.environ['PATH']}"
    done = subprocess.run(
        command, env=os.environ | environment | {"PATH": path}, cwd=folder, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def test_slurm_starts_one_task_per_gpu_and_goes_on_from_the_last_checkpoint(tmp_path):
    stand_in(tmp_path, "srun")
    script, configs = str(LAUNCH / "slurm.sbatch"), ["configs/lm/base.yaml", "configs/strategy/fsdp2.yaml"]
    said = started(
        tmp_path, ["bash", script, *configs], SLURM_NNODES="4", SLURM_SUBMIT_DIR=str(tmp_path), FIT="--a=1 --b"
    )
    assert said[1:3] == [".venv/bin/videopoet", "fit"]
    assert said[3:7] == ["-c", configs[0], "-c", configs[1]]
    assert {"--trainer.num_nodes=4", "--trainer.devices=8", "--ckpt_path=last", "--a=1", "--b"} <= set(said)
    options = [line.split()[1] for line in Path(script).read_text().splitlines() if line.startswith("#SBATCH")]
    assert {"--requeue", "--signal=USR1@120", "--ntasks-per-node=8", "--gpus-per-node=8"} <= set(options)
    assert subprocess.run(["bash", script], capture_output=True, cwd=tmp_path).returncode == 2


def test_torchrun_meets_where_it_is_told(tmp_path):
    stand_in(tmp_path, "torchrun")
    stand_in(tmp_path, "videopoet")
    script = str(LAUNCH / "torchrun.sh")
    said = started(tmp_path, [script, "-c", "x.yaml"], MEETING="first:1234", NODES="1:4", RANKS="2")
    assert {"--nnodes=1:4", "--nproc-per-node=2", "--rdzv-endpoint=first:1234", "--rdzv-backend=c10d"} <= set(said)
    assert said[said.index("--no-python") + 1 :] == [
        str(tmp_path / "videopoet"),
        "fit",
        "-c",
        "x.yaml",
        "--ckpt_path=last",
    ]
    assert subprocess.run([script], capture_output=True).returncode == 2


def test_kubernetes_gives_time_to_save():
    service, job = yaml.safe_load_all((LAUNCH / "kubernetes.yaml").read_text())
    pod = job["spec"]["template"]["spec"]
    command = pod["containers"][0]["args"][0]
    assert command.startswith("exec torchrun ") and "--ckpt_path=last" in command
    assert pod["terminationGracePeriodSeconds"] >= 120 and job["spec"]["completionMode"] == "Indexed"
    assert f"{job['metadata']['name']}-0.{service['metadata']['name']}:29400" in command
    assert service["spec"]["ports"][0]["port"] == 29400 and service["spec"]["selector"] == {"job-name": "videopoet"}
    for word in command.split():
        if word.endswith(".yaml"):
            assert (ROOT / word).is_file(), word


@pytest.mark.parametrize("path", sorted(LAUNCH.iterdir()), ids=lambda path: path.name)
def test_a_launcher_says_what_it_is_and_how_it_is_started(path):
    comments = "\n".join(line for line in path.read_text().splitlines() if line.startswith("#"))
    assert f"tools/launch/{path.name}" in comments and len(comments) > 300

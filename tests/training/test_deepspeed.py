"""ZeRO and FSDP2 on two processes, and DDP: what they compute is what one process computes; checkpoints go anywhere."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import ranks
import torch
from conftest import lm_spec
from safetensors.torch import load_file

from videopoet import component
from videopoet.models.token_lm import TokenLM
from videopoet.training import checkpoints
from videopoet.training.export import export
from videopoet.training.sharded import WEIGHTS

pytestmark = pytest.mark.timeout(1800)  # seconds on a machine of one's own, minutes on a crowded one

ZERO = "videopoet.training.zero.DeepSpeed"
SHARDED = {
    # No weight is small enough to stay whole, and buckets are smaller than the model: what large models live through.
    "zero1": {"class_path": ZERO, "init_args": {"stage": 1, "bucket_size": 5000}},
    "zero2": {"class_path": ZERO, "init_args": {"stage": 2, "bucket_size": 5000}},
    "zero3": {"class_path": ZERO, "init_args": {"stage": 3, "bucket_size": 5000, "persistence_threshold": 0}},
    "fsdp2": {"class_path": "videopoet.training.fsdp2.FSDP2"},
}


@pytest.fixture(scope="module")
def plan(world_tokens, shipped, text_model) -> dict:
    files = {name: str(shipped / f"{name}.safetensors") for name in ("visual", "audio")}
    return {"spec": lm_spec(text_model), "tokens": str(world_tokens), "tokenizers": files}


def launch(plan: dict, folder: Path, devices: int = 2, fails: bool = False) -> dict:
    """Run a plan on processes of its own."""
    path = folder / "plan.json"
    path.write_text(json.dumps(plan | {"devices": devices}))
    environment = {k: v for k, v in os.environ.items() if k not in ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_PORT")}
    environment |= {"OMP_NUM_THREADS": "1", "DS_ACCELERATOR": "cpu", "CUDA_VISIBLE_DEVICES": ""}
    command = [sys.executable, ranks.__file__, str(path)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=800, cwd=folder)
    if fails:
        assert done.returncode != 0
        return {}
    assert (folder / "results.json").exists(), done.stderr[-4000:]
    results = json.loads((folder / "results.json").read_text())
    return {n: r | {"losses": {int(k): v for k, v in r["losses"].items()}} for n, r in results.items()}


@pytest.fixture(scope="module")
def alone(plan, tmp_path_factory) -> dict:
    """The same samples in one process, without any strategy."""
    folder = tmp_path_factory.mktemp("alone")
    runs = {
        "whole": {"steps": 6, "ema": True, "save": str(folder / "whole.ckpt")},
        "bf16": {"steps": 4, "precision": "bf16-mixed"},
        "accumulated": {"steps": 2, "accumulate": 2},
    }
    results = {name: ranks.train(plan, run, 1, "auto") for name, run in runs.items()}
    return results | {"weights": checkpoints.read(folder / "whole.ckpt").state}


@pytest.fixture(scope="module", params=SHARDED)
def together(request, plan, tmp_path_factory):
    """Two processes: a whole run saved on the way, its second half again from there, bfloat16, accumulation."""
    folder = tmp_path_factory.mktemp(request.param)
    half, end, again = (str(folder / f"{name}.ckpt") for name in ("half", "end", "again"))
    runs = {
        "whole": {"steps": 6, "ema": True, "save_at": [3, half], "save": end, "validate": half},
        "resumed": {"steps": 6, "ema": True, "resume": half, "save": again},
        "bf16": {"steps": 4, "precision": "bf16-mixed"},
        "accumulated": {"steps": 2, "accumulate": 2, "recompute": True},
    }
    whole = plan | {"strategy": SHARDED[request.param], "runs": runs}
    return request.param, whole, folder, launch(whole, folder)


def close(found: dict, expected: dict, tolerance: float = 1e-5) -> None:
    assert found.keys() == expected.keys()
    for step, loss in expected.items():
        assert found[step] == pytest.approx(loss, rel=tolerance), (step, found, expected)


def test_losses_are_those_of_one_process(together, alone):
    _, _, _, results = together
    close(results["whole"]["losses"], alone["whole"]["losses"])
    close(results["accumulated"]["losses"], alone["accumulated"]["losses"])
    close(results["bf16"]["losses"], alone["bf16"]["losses"], 1e-2)
    losses = list(results["whole"]["losses"].values())
    assert losses[-1] < losses[0] - 0.05, "it trains"


def test_a_resumed_run_is_the_run_that_never_stopped(together):
    _, _, folder, results = together
    assert results["resumed"]["steps"] == 6
    close(results["resumed"]["losses"], {s: v for s, v in results["whole"]["losses"].items() if s >= 3}, 1e-7)
    end, again = (load_file(folder / f"{name}.ckpt" / WEIGHTS) for name in ("end", "again"))
    for name in end:
        torch.testing.assert_close(again[name], end[name], rtol=0, atol=0, msg=name)


def test_another_number_of_ranks_goes_on(together, plan):
    """One process takes up what two left, twice: the conversion is made once and found again."""
    _, whole, folder, results = together
    run = {"steps": 6, "ema": True, "resume": str(folder / "half.ckpt"), "save": str(folder / "one.ckpt")}
    for _ in range(2):
        found = ranks.train(plan, run, 1, ranks.strategy_of(whole["strategy"]))
        close(found["losses"], {s: v for s, v in results["whole"]["losses"].items() if s >= 3})
    end, one = (load_file(folder / f"{name}.ckpt" / WEIGHTS) for name in ("end", "one"))
    for name in end:
        torch.testing.assert_close(one[name], end[name], rtol=1e-4, atol=1e-5, msg=name)


def test_averages_are_those_of_one_process(together, alone):
    _, _, folder, _ = together
    weights = load_file(folder / "end.ckpt" / WEIGHTS)
    assert weights.keys() == alone["weights"].keys()
    for name, value in alone["weights"].items():
        torch.testing.assert_close(weights[name], value, rtol=1e-3, atol=1e-4, msg=name)


def test_validation_reads_a_checkpoint(together, plan):
    """Under ZeRO the file of averaged weights, as one process does that loads it."""
    name, _, folder, results = together
    found = results["whole"]["validation"]
    assert found == pytest.approx(3.99, abs=0.5), "three steps have been taken"
    if name != "fsdp2":
        assert found == pytest.approx(ranks.validate(plan, folder / "half.ckpt" / WEIGHTS), rel=1e-5)


def test_a_checkpoint_is_exported_and_sampled_from(together, tmp_path):
    from videopoet.pipeline import VideoPoet

    _, _, folder, _ = together
    export(folder / "end.ckpt", tmp_path / "lm.safetensors", half=False)
    model = component.load(tmp_path / "lm.safetensors", TokenLM)
    assert model.metadata["steps"] == 6 and "files" not in model.metadata
    poet = VideoPoet.from_pretrained(folder / "end.ckpt")
    for (name, ours), theirs in zip(poet.model.named_parameters(), model.parameters(), strict=True):
        assert torch.equal(ours, theirs), name
    assert poet.generate("text-to-video", prompt="a red circle")[0].video.shape == (17, 16, 16, 3)


def test_the_folder_is_whole_or_not_there(together):
    _, _, folder, _ = together
    assert not list(folder.glob("*.part")) and not list(folder.glob("*.old"))


@pytest.mark.parametrize("name", SHARDED)
def test_bad_batches_are_left_out(name, plan):
    """One that is no number, which DeepSpeed sees by itself, and one that is only far too high."""
    run = {"steps": 6, "poison": {2: float("nan"), 4: 50.0}}
    found, expected = (ranks.train(plan, run, 1, each)["losses"] for each in (ranks.strategy_of(SHARDED[name]), "auto"))
    close({step: found[step] for step in (0, 1, 3, 5)}, {step: expected[step] for step in (0, 1, 3, 5)})
    unharmed = ranks.train(plan, {"steps": 6}, 1, "auto")["losses"]
    assert found[5] != pytest.approx(unharmed[5], rel=1e-6), "two updates fewer"
    assert found[5] < unharmed[0] + 0.1, "and no harm done"

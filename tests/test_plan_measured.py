"""What is planned is what torch's allocator gives out in small real runs: in one process, and on two ranks."""

import json
import os
import subprocess
import sys
from contextlib import nullcontext
from dataclasses import replace
from functools import partial

import memory_of_ranks
import pytest
import torch
from allocator import Allocator
from conftest import FACTORED, FLAT
from gpu_kernels import gpu_kernels
from test_plan import STAGE, on_meta, spec

from videopoet import component
from videopoet.planning.memory import States, measure_activations, states
from videopoet.planning.shadow import measure_step

ROWS = 16


def test_the_account_is_exact():
    """Of tensors whose sizes are known, given out and taken back, within an operation too."""
    with Allocator() as memory:
        x = torch.ones(1000)
        memory.mark("one")
        y = x + x
        del x
        memory.mark("other")
        z = (y + y).sum()
        memory.mark("sum")
    assert memory.held == {"one": 4000, "other": 4000, "sum": 4004} and z == 4000
    assert memory.peak == {"one": 4000, "other": 8000, "sum": 8004}


@pytest.mark.parametrize("io", [FACTORED, FLAT], ids=["factored", "flat"])
@pytest.mark.parametrize("autocast", [None, torch.bfloat16], ids=["float32", "autocast"])
@pytest.mark.parametrize("recompute", [False, True], ids=["kept", "recomputed"])
def test_one_process_takes_what_was_planned(io, autocast, recompute):
    """Weights, gradients and AdamW to the byte; what is saved for the backward pass, and the most at any time."""
    made, batch = spec(io, recompute=recompute), memory_of_ranks.batch_of(ROWS)
    precision = "32-true" if autocast is None else "bf16-mixed"
    with gpu_kernels(), Allocator() as memory:
        memory.mark("start")
        model = component.instantiate(made).train()
        optimizer = torch.optim.AdamW(model.parameters(), foreach=True)
        memory.mark("built")
        for turn in ("first", ""):  # states are made by the first step
            with nullcontext() if autocast is None else torch.autocast("cpu", autocast):
                loss = model.loss(batch).total
                memory.mark(turn + "forward")
                loss.backward()
            del loss
            memory.mark(turn + "backward")
            optimizer.step()
            memory.mark(turn + "stepped")
            optimizer.zero_grad()
            memory.mark(turn + "end")
    held = {name: bytes - memory.held["start"] for name, bytes in memory.held.items()}
    peak = {name: bytes - memory.held["start"] for name, bytes in memory.peak.items()}

    plan = states(on_meta(made), STAGE["ZeRO-0 (DDP)"], precision, gpus=1)
    step = measure_step(on_meta(made), batch, autocast)
    assert held["built"] == plan.parameters
    assert held["stepped"] - held["end"] == plan.gradients
    assert held["end"] - held["built"] == plan.optimizer
    assert plan.communication == 0
    assert peak["stepped"] == pytest.approx(plan.resident + plan.step, rel=0.01)
    assert held["forward"] - held["firstend"] == pytest.approx(step.kept, rel=0.1)
    assert max(peak["forward"], peak["backward"]) - held["firstend"] == pytest.approx(step.peak, rel=0.1)
    build = partial(on_meta, spec(io))
    planned = plan.total(measure_activations(build, batch, precision, 0, recompute)(ROWS))
    assert max(peak.values()) == pytest.approx(planned, rel=0.1)


ZERO = {"class_path": "videopoet.training.zero.DeepSpeed"}
BUCKET = 100_000  # numbers: a model of 1.9 million fills many
SMALL = {"bucket_size": BUCKET}
WHOLE = {"class_path": "lightning.pytorch.strategies.DDPStrategy"}
RUNS = {
    "ddp": ("ZeRO-0 (DDP)", {"strategy": WHOLE | {"init_args": {"gradient_as_bucket_view": True}}}),
    "ddp, copies": ("ZeRO-0 (DDP)", {"strategy": WHOLE}),
    "zero1": ("ZeRO-1", {"strategy": ZERO | {"init_args": SMALL | {"stage": 1}}}),
    "zero1, accumulated": ("ZeRO-1", {"strategy": ZERO | {"init_args": SMALL | {"stage": 1}}, "accumulate": 2}),
    "zero2": ("ZeRO-2", {"strategy": ZERO | {"init_args": SMALL | {"stage": 2}}}),
    "zero3": ("ZeRO-3", {"strategy": ZERO | {"init_args": SMALL | {"stage": 3, "persistence_threshold": 0}}}),
}


@pytest.fixture(scope="module")
def ranks(text_model, tmp_path_factory) -> dict:
    """What the first of two ranks held, by strategy; one launch for all."""
    folder, made = tmp_path_factory.mktemp("memory"), spec(width=192)
    made["init_args"]["text_encoder"]["init_args"]["sentencepiece"] = text_model
    plan = {"spec": made, "rows": 2, "precision": "bf16-mixed", "runs": {name: run for name, (_, run) in RUNS.items()}}
    (folder / "plan.json").write_text(json.dumps(plan))
    environment = {k: v for k, v in os.environ.items() if k not in ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_PORT")}
    environment |= {"OMP_NUM_THREADS": "1", "DS_ACCELERATOR": "cpu", "CUDA_VISIBLE_DEVICES": ""}
    command = [sys.executable, memory_of_ranks.__file__, str(folder / "plan.json")]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=1600, cwd=folder)
    assert (folder / "memory.json").exists(), done.stderr[-4000:]
    return json.loads((folder / "memory.json").read_text())


def planned(name: str) -> States:
    stage, run = RUNS[name]
    views = run["strategy"].get("init_args", {}).get("gradient_as_bucket_view", False)
    strategy = replace(STAGE[stage], bucket=BUCKET, views=views)
    return states(on_meta(spec(width=192)), strategy, "bf16-mixed", gpus=2, accumulate=run.get("accumulate", 1))


@pytest.mark.slow  # half a minute on a machine of one's own, many on a crowded one
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("name", RUNS)
def test_ranks_take_what_was_planned(name, ranks):
    """Before the last batch and after its passes, and the most in the optimizer's step and at any time."""
    agree(name, ranks[name]["held"], ranks[name]["peak"], planned(name))


def agree(name: str, held: dict, peak: dict, plan: States) -> None:
    # Lightning drops old gradients after the forward pass; DDP's lie in its buckets, ZeRO-3's in a buffer that stays.
    # Before the last of two turns of accumulation, those of the first are there.
    stays = plan.gradients + plan.communication if name.startswith("ddp") else 0
    stays = plan.gradients if name in ("zero3", "zero1, accumulated") else stays
    copies = plan.communication if name.startswith("ddp") else 0
    # Of ZeRO-3's gathered weights some are not seen to be let go of: at most all that the other rank holds.
    gathered = plan.parameters if name == "zero3" else 0

    def near(found: int, expected: int) -> bool:
        return 0.9 * expected <= found <= 1.1 * (expected + gathered)

    assert near(held["before"], plan.parameters + plan.optimizer + stays)
    assert near(held["backward"], plan.resident + copies)
    assert near(peak["stepped"], plan.resident + plan.step)
    stage = 0 if name.startswith("ddp") else 2
    batch = memory_of_ranks.batch_of(2)
    activations = measure_activations(partial(on_meta, spec(width=192)), batch, "bf16-mixed", stage, False)(2)
    most = max(peak[part] for part in ("forward", "backward", "stepped"))
    assert most == pytest.approx(plan.total(activations), rel=0.1)

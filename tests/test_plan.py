"""The command that plans and what it reads; little predicts much. What real runs take: test_plan_measured.py."""

import json
from functools import partial
from pathlib import Path

import pytest
import torch
import yaml
from conftest import EVERY_TASK, FACTORED, LAYOUT, lm_spec
from gpu_kernels import gpu_kernels

from videopoet import component
from videopoet.cli import main
from videopoet.commands.plan import strategies_of
from videopoet.data.order import Deal
from videopoet.planning.config import build_mixture, build_model, merge, mixture_settings, places, read_config
from videopoet.planning.memory import STRATEGIES, dtypes, first_rows, measure_activations, states
from videopoet.planning.shadow import measure_step
from videopoet.sequence import Batch, Sequence

ROOT = Path(__file__).parents[1]
STAGE = {s.name: s for s in STRATEGIES}


def spec(io=FACTORED, width=64, layers=4, **trunk) -> dict:
    made = lm_spec(None, io)
    made["init_args"]["transformer"]["init_args"] |= {"width": width, "layers": layers, **trunk}
    made["init_args"]["io"] = {**io, "init_args": {**io["init_args"], "width": width}}
    return made


def on_meta(made: dict):
    with torch.device("meta"):
        return component.instantiate(made).train()


@pytest.fixture
def batch(example) -> Batch:
    return Batch.of([Sequence.of(EVERY_TASK["text-to-video"].segments(example, LAYOUT))] * 4)


def test_a_model_of_16_bits_keeps_less(batch):
    real, meta = component.instantiate(spec()).train().bfloat16(), on_meta(spec()).bfloat16()
    half, whole = measure_step(meta, batch), measure_step(on_meta(spec()), batch)
    assert half.kept < 0.7 * whole.kept
    with gpu_kernels():
        assert half.peak == pytest.approx(measure_step(real, batch).peak, rel=0.1)


def test_zero_shares_what_it_says():
    model = on_meta(spec())
    n = sum(p.numel() for p in model.parameters())
    held = {name: states(model, s, "bf16-mixed", gpus=8) for name, s in STAGE.items()}
    one, two, three = (held[f"ZeRO-{k}"] for k in (1, 2, 3))
    assert one.gradients == two.gradients == three.gradients == pytest.approx(2 * n / 8, abs=2)
    assert states(model, STAGE["ZeRO-1"], "bf16-mixed", 8, accumulate=2).gradients == 2 * n, "until all are there"
    assert one.optimizer == two.optimizer == three.optimizer == pytest.approx(12 * n / 8, abs=12)
    assert one.parameters == two.parameters == pytest.approx(8 * three.parameters, rel=0.01)
    off = held["ZeRO-2, offload"]
    assert off.optimizer == off.gradients == 0 and off.host == pytest.approx(16 * n / 8, rel=0.01)
    assert held["ZeRO-3, offload"].host == pytest.approx(18 * n / 8, rel=0.01)
    assert states(model, STAGE["ZeRO-1"], "32-true", 8).parameters == held["ZeRO-0 (DDP)"].parameters


@pytest.mark.parametrize("recompute", [False, True], ids=["kept", "recomputed"])
def test_measured_small_predicts_large(batch, recompute):
    """From two depths and two sizes of the batch to a real run of more layers and other rows."""
    made = spec(layers=7)
    found = measure_activations(partial(on_meta, made), batch, "32-true", 0, recompute)
    real = component.instantiate(spec(layers=7, recompute=recompute)).train()
    with gpu_kernels():
        for rows in (3, 4):
            assert found(rows) == pytest.approx(measure_step(real, first_rows(batch, rows)).peak, rel=0.02)
    assert found.most_rows(found(3)) == 3 and found.most_rows(found(3) - 1) == 2 and found.most_rows(0) == 0


def test_precisions():
    assert dtypes("bf16-mixed", 0) == (torch.float32, torch.bfloat16)
    assert dtypes("bf16-mixed", 2) == (torch.bfloat16, None)
    assert dtypes(32, 1) == (torch.float32, None)
    with pytest.raises(ValueError, match="no plan for trainer"):
        dtypes("64-true", 0)


DEMO = ["-c", str(ROOT / "configs/demo/lm.yaml"), "--lattice", "5", "8", "8", "--audio-frames", "53", "--audio-levels", "2",
        "--data.init_args.tokens_per_batch=4000", "--trainer.max_steps=1000"]  # fmt: skip


def plan_json(capsys, *arguments) -> dict:
    main(["plan", "--json", *arguments])
    return json.loads(capsys.readouterr().out)


def test_the_command_plans_a_preset(capsys):
    found = plan_json(capsys, *DEMO, "--gpus", "4", "--fast-dev-run")
    work, rows = found["work"], found["rows"]
    assert len(rows) == 2 * len(STRATEGIES)
    assert found["lengths"]["text-to-video"] == 28 + 320 + 106 + 8  # eight markers: tasks/base.py draws them
    assert work["tokens"] == pytest.approx(1000 * work["tokens_per_step"])
    assert 0.9 * 4 * 4000 < work["tokens_per_step"] <= 4 * 4000
    seconds = work["hours"] * 3600 * 4 * 989.4e12 * 0.4
    assert seconds == pytest.approx(work["flops_per_step"] * 1000)
    assert set(found["fast_dev_run"]) == set(found["lengths"])
    for row in rows:
        held = row["states"]
        resident = held["parameters"] + held["gradients"] + held["optimizer"]
        assert row["total"] == resident + max(held["communication"] + row["activations"], held["step"])
        assert row["fits"] == (row["total"] <= 80e9 * 0.92)
        assert row["fits"] <= (row["most_tokens"] >= 4000 - max(found["lengths"].values()))
    assert found["configured"]["fits"] and not found["advice"]
    tokens = plan_json(capsys, *DEMO, "--gpus", "4", "--tokens", "1e9")["work"]
    assert tokens["tokens"] == pytest.approx(1e9, rel=1e-3)
    step = plan_json(capsys, *DEMO, "--gpus", "4", "--data.init_args.tokens_per_step=8000", "--data.init_args.parts=4")
    assert 0.7 * 8000 < step["work"]["tokens_per_step"] <= 8000 and step["tokens_per_batch"] == 2000


def test_what_fit_would_refuse_is_said(capsys):
    step = [*DEMO, "--data.init_args.tokens_per_step=64000", "--data.init_args.parts=16"]
    assert not plan_json(capsys, *step, "--gpus", "16")["refused"]
    assert "set trainer.accumulate_grad_batches=8" in plan_json(capsys, *step, "--gpus", "2")["refused"]
    assert "cannot share out the 16 parts" in plan_json(capsys, *step, "--gpus", "3")["refused"]


def test_what_does_not_fit_is_told_what_to_change(capsys):
    arguments = [*DEMO, "--gpus", "8"]
    needed = plan_json(capsys, *arguments)["configured"]
    memory = ["--memory", str((needed["total"] - needed["activations"] / 2) / 0.92 / 1e9)]
    found = plan_json(capsys, *arguments, *memory)
    assert not found["configured"]["fits"] and found["advice"]
    fitting = plan_json(capsys, *arguments, *memory, *found["advice"][0].split())
    assert fitting["configured"]["fits"], found["advice"][0]
    with pytest.raises(SystemExit):
        main(["plan", *arguments, "--gpu", "abacus"])
    assert "no numbers of 'abacus'" in capsys.readouterr().err
    main(["plan", *arguments, *memory])
    assert "does not fit" in capsys.readouterr().out


def test_8b_takes_a_step_without_memory():
    config = read_config([ROOT / "configs/lm/8b.yaml"], ["--data.init_args.tokens_per_batch=4000"])
    model = build_model(config)
    assert sum(p.numel() for p in model.parameters()) > 10e9 and all(p.is_meta for p in model.parameters())
    place = places(build_mixture(config, model))["text-to-video"]
    found = measure_step(model, place.batch, torch.bfloat16)
    assert found.untouched == () and 10e9 < found.kept < found.peak < 60e9
    assert all(p.grad is None for p in model.parameters())


@pytest.mark.parametrize("size", ["300m", "1b", "8b"])
def test_a_presets_step_is_shared_out_as_its_header_says(size):
    """16 devices x 3 batches x 30,000 tokens; 64 devices too."""
    config = read_config([ROOT / f"configs/lm/{size}.yaml"])
    data, turns = config["data"]["init_args"], config["trainer"]["accumulate_grad_batches"]
    assert turns == 3 and data["tokens_per_step"] == 16 * turns * data["tokens_per_batch"] == 16 * 3 * 30_000
    for devices in (16, 64):
        assert Deal(parts=data["parts"], world_size=devices, accumulation=turns).shares == devices * turns


def test_a_table_that_outweighs_few_blocks_hides_nothing(batch):
    """Gradients of a large table are the most that few recomputed blocks need; many blocks are heavier than it."""
    flat = {"class_path": "videopoet.models.token_io.Flat", "init_args": {"vocabulary_size": 20_000}}
    made = spec(io=flat, layers=40, recompute=True)
    found = measure_activations(partial(on_meta, made), batch, "32-true", 0, True)
    assert found.by_row > 0 and found(4) == measure_step(on_meta(made), batch).peak


def test_configs_are_laid_over_each_other(tmp_path):
    config = read_config([ROOT / "configs/lm/8b.yaml"], ["--trainer.max_steps=7"])
    assert config["trainer"]["max_steps"] == 7 and config["data"]["class_path"].endswith("MixtureDataModule")
    assert config["model"]["init_args"]["model"]["init_args"]["transformer"]["init_args"]["layers"] == 40
    assert merge({"a": {"b": 1, "c": 2}, "tasks": {"x": 1}}, {"a": {"b": 3}, "tasks": {"y": 2}}) == {
        "a": {"b": 3, "c": 2}, "tasks": {"y": 2}}  # fmt: skip
    below, above = {"tasks": {"x": {"task": 1, "weight": 2}, "z": {}}}, {"tasks": {"x": {"weight": 3}}}
    assert merge(below, above) == {"tasks": {"x": {"task": 1, "weight": 3}}}
    (tmp_path / "bad.yaml").write_text("a: [")
    for files, overrides, message in (
        ([tmp_path / "none.yaml"], [], "no file at"),
        ([tmp_path / "bad.yaml"], [], "is no YAML"),
        ([ROOT / "configs/lm/base.yaml"], ["--x"], "is no override"),
    ):
        with pytest.raises(ValueError, match=message):
            read_config(files, overrides)


@pytest.mark.parametrize("path", ["configs/demo/lm.yaml", "configs/mixture/base.yaml"])
def test_other_trainings_of_language_models_can_be_planned(path):
    config = read_config([ROOT / path])
    config["data"]["init_args"]["tokens"] = "nowhere"
    model = build_model(config)
    mixture = build_mixture(config, model, (5, 8, 8), 53, 2)
    found = places(mixture)
    assert sum(place.count for place in found.values()) == 100 and set(found) == {
        n for n, s in mixture_settings(config)["tasks"].items() if s.weight}  # fmt: skip


def test_what_is_no_language_model_is_refused():
    with pytest.raises(ValueError, match="plans are of language models"):
        build_model(read_config([ROOT / "configs/demo/visual_tokenizer.yaml"]))
    with pytest.raises(ValueError, match="no mixture"):
        mixture_settings(yaml.safe_load((ROOT / "configs/demo/visual_tokenizer.yaml").read_text()))
    config = read_config([ROOT / "configs/lm/base.yaml"])
    config["model"]["init_args"]["model"]["init_args"]["text_encoder"]["init_args"]["name_or_path"] = "some/model"
    with pytest.raises(ValueError, match="sizes of 'some/model' are not known"):
        build_model(config)


@pytest.mark.parametrize("path", sorted((ROOT / "configs/strategy").glob("*.yaml")), ids=lambda path: path.stem)
def test_every_overlay_of_a_strategy_is_planned_or_refused(path):
    trainer = read_config([path])["trainer"]
    if path.stem == "fsdp2":
        with pytest.raises(ValueError, match=r"no plan for .*FSDP2: plans are of DDP and DeepSpeed"):
            strategies_of(trainer)
        return
    number, known = strategies_of(trainer)
    assert known[number].arguments == f"-c configs/strategy/{path.name}", "what is advised is what is meant"
    assert known[number].views


def test_strategies_by_lightnings_names():
    for said, name in (
        ("auto", "ZeRO-0 (DDP)"),
        ("ddp_find_unused_parameters_true", "ZeRO-0 (DDP)"),
        ("deepspeed", "ZeRO-2"),
        ("deepspeed_stage_3_offload", "ZeRO-3, offload"),
    ):
        number, known = strategies_of({"strategy": said})
        assert known[number].name == name and known[number].views == (number > 0), "it copies gradients into buckets"
    small = {"class_path": "videopoet.training.zero.DeepSpeed", "init_args": {"stage": 1, "bucket_size": 7}}
    number, known = strategies_of({"strategy": small})
    assert known[number].name == "ZeRO-1" and {s.bucket for s in known} == {7}

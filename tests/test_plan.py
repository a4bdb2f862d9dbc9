"""A plan is what a real run takes: bytes of weights, gradients and AdamW to the byte, activations to a few percent."""

import json
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import pytest
import torch
import yaml
from conftest import EVERY_TASK, FACTORED, FLAT, LAYOUT, lm_spec

from videopoet import component
from videopoet.cli import main
from videopoet.models import cpu_kernels, onednn
from videopoet.planning.config import build_mixture, build_model, merge, mixture_settings, places, read_config
from videopoet.planning.memory import STRATEGIES, dtypes, first_rows, measure_activations, states
from videopoet.planning.shadow import measure_step
from videopoet.sequence import Batch, Sequence

ROOT = Path(__file__).parents[1]
STAGE = {s.strategy: s for s in STRATEGIES}


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


class FusedNorm(torch.autograd.Function):
    """`F.rms_norm` as one kernel: keeps its input and one number per row."""

    @staticmethod
    def forward(ctx, x, shape, weight=None, eps=None):
        r = x.float().pow(2).mean(-1, keepdim=True).add(1e-6).rsqrt()
        ctx.save_for_backward(x, weight, r)
        return (x * r.to(x.dtype) * (1 if weight is None else weight)).to(x.dtype)

    @staticmethod
    def backward(ctx, grad):
        weight = ctx.saved_tensors[1]
        return grad, None, None if weight is None else torch.zeros_like(weight), None


@pytest.fixture
def gpu_kernels(monkeypatch):
    """Has the CPU keep what a GPU's kernels keep, inside of a `with`: it has other kernels for norms, gates and products."""

    @contextmanager
    def patched():
        with monkeypatch.context() as patch:
            patch.setattr(cpu_kernels, "_plain", lambda x: True)
            patch.setattr(onednn, "faster_than_mkl", lambda: False)
            patch.setattr(torch.nn.functional, "rms_norm", lambda *a, **k: FusedNorm.apply(*a, **k))
            yield

    return patched


def kept_by_autograd(model, batch, autocast) -> int:
    """Bytes of what the forward pass saves beside the weights, by autograd's own account."""
    weights = {p.untyped_storage().data_ptr() for p in model.parameters()}
    saved = {}

    def pack(x):
        if x.untyped_storage().data_ptr() not in weights:
            saved[x.untyped_storage().data_ptr()] = x.untyped_storage()
        return x

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            loss = model.loss(batch)
    assert loss.total.isfinite()
    return sum(storage.nbytes() for storage in saved.values())


@pytest.mark.parametrize("autocast", [None, torch.bfloat16], ids=["float32", "autocast"])
@pytest.mark.parametrize("recompute", [False, True], ids=["kept", "recomputed"])
def test_activations_are_those_of_a_real_step(batch, autocast, recompute, gpu_kernels):
    made = spec(recompute=recompute)
    real = component.instantiate(made).train()
    planned = measure_step(on_meta(made), batch, autocast)
    with gpu_kernels():
        measured, saved = measure_step(real, batch, autocast), kept_by_autograd(real, batch, autocast is not None)
    assert planned.kept == pytest.approx(measured.kept, rel=0.1)
    assert planned.peak == pytest.approx(measured.peak, rel=0.1)
    if not recompute:  # what is recomputed is not saved by hooks, but held by the checkpoint
        # The cross-entropy keeps its gradients by itself, of the states and of the tables.
        tables = sum(p.numel() for p in (*real.io.heads.parameters(), *real.io.head_flat.parameters())) * 4
        assert 0.88 * planned.kept < saved + tables <= planned.kept, "what autograd saves is nearly all that lives"


def test_a_model_of_16_bits_keeps_less(batch, gpu_kernels):
    real, meta = component.instantiate(spec()).train().bfloat16(), on_meta(spec()).bfloat16()
    half, whole = measure_step(meta, batch), measure_step(on_meta(spec()), batch)
    assert half.kept < 0.7 * whole.kept
    with gpu_kernels():
        assert half.peak == pytest.approx(measure_step(real, batch).peak, rel=0.1)


@pytest.mark.parametrize("io", [FACTORED, FLAT], ids=["factored", "flat"])
def test_states_are_those_of_a_real_step(io, batch):
    model = component.instantiate(spec(io)).train()
    optimizer = torch.optim.AdamW(model.parameters())
    model.loss(batch).total.backward()
    optimizer.step()
    held = states(on_meta(spec(io)), STAGE["ddp"], "32-true", gpus=1)
    tensors = [*model.parameters(), *model.buffers()]
    assert held.parameters == sum(x.numel() * x.itemsize for x in tensors)
    assert held.gradients == sum(p.grad.numel() * p.grad.itemsize for p in model.parameters())
    assert held.optimizer == sum(x.numel() * x.itemsize for s in optimizer.state.values() for x in s.values())
    assert held.communication == 0
    assert states(on_meta(spec(io)), STAGE["ddp"], "bf16-mixed", gpus=2).communication == held.gradients


def test_zero_shares_what_it_says():
    model = on_meta(spec())
    n = sum(p.numel() for p in model.parameters())
    held = {s.strategy: states(model, s, "bf16-mixed", gpus=8) for s in STRATEGIES}
    one, two, three = (held[f"deepspeed_stage_{k}"] for k in (1, 2, 3))
    assert one.gradients == 2 * n and two.gradients == three.gradients == pytest.approx(2 * n / 8, abs=2)
    assert one.optimizer == two.optimizer == three.optimizer == pytest.approx(12 * n / 8, abs=12)
    assert one.parameters == two.parameters == pytest.approx(8 * three.parameters, rel=0.01)
    off = held["deepspeed_stage_2_offload"]
    assert off.optimizer == off.gradients == 0 and off.host == pytest.approx(16 * n / 8, rel=0.01)
    assert held["deepspeed_stage_3_offload"].host == pytest.approx(18 * n / 8, rel=0.01)
    assert states(model, STAGE["deepspeed_stage_1"], "32-true", 8).parameters == held["ddp"].parameters


@pytest.mark.parametrize("stage", ["deepspeed_stage_2", "deepspeed_stage_3"])
def test_zero_as_deepspeed_estimates_it(stage):
    """Weights, gradients and states agree with DeepSpeed's own formula; its gathered weights are those of one layer."""
    zero = pytest.importorskip("deepspeed.runtime.zero", exc_type=ImportError)
    model = on_meta(spec(width=128, layers=6))
    n, held = sum(p.numel() for p in model.parameters()), states(model, STAGE[stage], "bf16-mixed", gpus=4)
    mine = held.parameters + held.gradients + held.optimizer + held.step
    if stage.endswith("2"):
        _, theirs = zero.stage_1_and_2.estimate_zero2_model_states_mem_needs(n, 4, 1, cpu_offload=False)
    else:
        _, theirs, _ = zero.stage3.estimate_zero3_model_states_mem_needs(n, 0, 4, 1, cpu_offload=False)
        mine -= held.step // 2  # 18 bytes there for the 2 + 2 + 12 and half of the gradients in float32
    assert mine == pytest.approx(theirs, rel=0.1)


@pytest.mark.parametrize("recompute", [False, True], ids=["kept", "recomputed"])
def test_measured_small_predicts_large(batch, recompute, gpu_kernels):
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
        resident = sum(row["states"][name] for name in ("parameters", "gradients", "optimizer", "communication"))
        assert row["total"] == resident + max(row["activations"], row["states"]["step"])
        assert row["fits"] == (row["total"] <= 80e9 * 0.92)
        assert row["fits"] <= (row["most_tokens"] >= 4000 - max(found["lengths"].values()))
    assert found["configured"]["fits"] and not found["advice"]
    tokens = plan_json(capsys, *DEMO, "--gpus", "4", "--tokens", "1e9")["work"]
    assert tokens["tokens"] == pytest.approx(1e9, rel=1e-3)


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

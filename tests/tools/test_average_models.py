"""The mean of models: every weight, and what travels with the first."""

import sys
from pathlib import Path

import pytest
import torch

from videopoet import component

sys.path.insert(0, str(Path(__file__).parents[2] / "tools"))
from average_models import average


def test_the_mean_is_of_every_weight(shipped, tmp_path):
    source = shipped / "lm.safetensors"
    model = component.load(source)
    first, second = tmp_path / "a.safetensors", tmp_path / "b.safetensors"
    for path, shift in ((first, 0.25), (second, 0.75)):
        state = {n: v + shift if v.is_floating_point() else v for n, v in model.state_dict().items()}
        component.save(path, model.spec, state, {**model.metadata, "steps": round(4 * shift)}, half=False)
    average(tmp_path / "mean.safetensors", [first, second])
    made = component.load(tmp_path / "mean.safetensors")
    assert made.metadata["steps"] == 1 and made.spec == model.spec
    for name, value in model.state_dict().items():
        expected = value + 0.5 if value.is_floating_point() else value
        torch.testing.assert_close(made.state_dict()[name], expected, atol=2e-3, rtol=1e-3)  # stored in float16


def test_only_models_of_one_configuration_have_a_mean(shipped, tmp_path):
    lm, visual = shipped / "lm.safetensors", shipped / "visual.safetensors"
    with pytest.raises(ValueError, match="is of another configuration than"):
        average(tmp_path / "mean.safetensors", [lm, visual])
    with pytest.raises(ValueError, match="name at least 2"):
        average(tmp_path / "mean.safetensors", [lm])
    assert not list(tmp_path.iterdir())

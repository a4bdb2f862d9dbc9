"""The presets of published size, built without memory: the header's parameter counts are true."""

import re
from pathlib import Path

import pytest
import torch
import yaml

from videopoet import component
from videopoet.vocabulary import Vocabulary

FOLDER = Path(__file__).parents[2] / "configs" / "lm"
NAMES = {"300m": 300, "1b": 1000, "8b": 8000}


def merged(base, over):
    if not isinstance(base, dict) or not isinstance(over, dict):
        return over
    return {**base, **{key: merged(base.get(key), value) for key, value in over.items()}}


@pytest.fixture(scope="module", params=NAMES)
def preset(request):
    base, over = (yaml.safe_load((FOLDER / f"{name}.yaml").read_text()) for name in ("base", request.param))
    return request.param, merged(base, over)["model"]["init_args"]["model"]["init_args"]


def test_header_counts_are_true_and_near_the_name(preset):
    name, spec = preset
    with torch.device("meta"):
        trunk, io = component.instantiate(spec["transformer"]), component.instantiate(spec["io"])
        others = [torch.nn.Linear(2048, trunk.width), torch.nn.Embedding(4, trunk.width)]  # T5-XL's states, modalities
    io.check(Vocabulary(visual_size=2**18, audio_levels=4, audio_codes=1024))
    count = sum(p.numel() for p in trunk.parameters())
    total = count + sum(p.numel() for part in (io, *others) for p in part.parameters())
    header = (FOLDER / f"{name}.yaml").read_text()
    stated = re.search(r"([\d.]+) M parameters without embeddings and ([\d.]+) M with", header).groups()
    assert stated == (f"{count / 1e6:.1f}", f"{total / 1e6:.1f}")
    assert abs(count / 1e6 / NAMES[name] - 1) < 0.02


def test_base_is_the_smallest(preset):
    name, spec = preset
    base = yaml.safe_load((FOLDER / "base.yaml").read_text())["model"]["init_args"]["model"]["init_args"]
    shape = {"width", "layers", "heads"}
    same = all(spec["transformer"]["init_args"][key] == base["transformer"]["init_args"][key] for key in shape)
    assert same == (name == "300m")


BUDGETS = {"300m": 10e9, "1b": 37e9, "8b": 58e9}  # tokens (VideoPoet, Fig. 8)


def config(name: str) -> dict:
    return merged(*(yaml.safe_load((FOLDER / f"{each}.yaml").read_text()) for each in ("base", name)))


@pytest.mark.parametrize("name", BUDGETS)
def test_steps_make_the_published_budget_on_16_devices_and_a_quarter_of_them_is_mostly_images(name):
    found = config(name)
    trainer, data = found["trainer"], found["data"]["init_args"]
    batches = trainer["max_steps"] * trainer["accumulate_grad_batches"]
    assert batches * 16 * data["tokens_per_batch"] == pytest.approx(BUDGETS[name], rel=0.01)
    assert data["first_steps"] == pytest.approx(trainer["max_steps"] / 4, abs=50) and data["first_steps"] % 100 == 0


def test_two_stages_of_images_and_videos():
    """90 % images in the first quarter of training, 10 % after it (VideoPoet, §3.4)."""
    found = config("base")
    tasks, trainer, data = found["data"]["init_args"]["tasks"], found["trainer"], found["data"]["init_args"]
    assert data["first_steps"] == trainer["max_steps"] / 4
    for key, share in (("first_weight", 0.9), ("weight", 0.1)):
        total = sum(task[key] for task in tasks.values())
        assert tasks["text-to-image"][key] / total == pytest.approx(share)


def test_adaptation_starts_from_a_checkpoint_with_data_and_rate_of_its_own():
    above, below = yaml.safe_load((FOLDER / "adapt.yaml").read_text()), config("base")
    assert above["start_from"].endswith(".safetensors")
    assert above["data"]["init_args"]["tokens"] != below["data"]["init_args"]["tokens"]
    assert above["model"]["init_args"]["learning_rate"] <= below["model"]["init_args"]["learning_rate"] / 10
    assert {"text-to-video", "image-to-video"} <= set(above["data"]["init_args"]["tasks"])

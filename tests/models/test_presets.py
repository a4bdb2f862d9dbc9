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

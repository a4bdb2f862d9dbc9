"""CLIP of open_clip's names: a network written from its published code, converted, gives the features it gave."""

import gzip
import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import nn

from videopoet.evaluation.detectors.vision_transformers import CLIP, CLIP_MEAN, CLIP_STD

SCRIPT = Path(__file__).parents[2] / "tools" / "convert_clip.py"
MERGES = ["t h", "th e</w>", "c a", "ca t</w>"]
SIZE = 512 + len(MERGES) + 2


@pytest.fixture(scope="module")
def tool():
    spec = importlib.util.spec_from_file_location("convert_clip", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class QuickGELU(nn.Module):
    def forward(self, x):
        return x * torch.sigmoid(1.702 * x)


class Block(nn.Module):
    def __init__(self, width: int, heads: int, act: nn.Module):
        super().__init__()
        self.attn, self.ln_1, self.ln_2 = nn.MultiheadAttention(width, heads), nn.LayerNorm(width), nn.LayerNorm(width)
        self.mlp = nn.Sequential()
        self.mlp.add_module("c_fc", nn.Linear(width, 3 * width))
        self.mlp.add_module("gelu", act)
        self.mlp.add_module("c_proj", nn.Linear(3 * width, width))

    def forward(self, x, mask=None):  # n b d
        y = self.ln_1(x)
        x = x + self.attn(y, y, y, need_weights=False, attn_mask=mask)[0]
        return x + self.mlp(self.ln_2(x))


class Tower(nn.Module):
    def __init__(self, width: int, heads: int, act: nn.Module):
        super().__init__()
        self.resblocks = nn.ModuleList([Block(width, heads, act) for _ in range(2)])

    def forward(self, x, mask=None):
        x = x.transpose(0, 1)
        for block in self.resblocks:
            x = block(x, mask)
        return x.transpose(0, 1)


class Vision(nn.Module):
    def __init__(self, act: nn.Module):
        super().__init__()
        self.class_embedding, self.positional_embedding = (
            nn.Parameter(torch.randn(128)),
            nn.Parameter(torch.randn(5, 128)),
        )
        self.proj, self.conv1 = nn.Parameter(torch.randn(128, 24) / 11), nn.Conv2d(3, 128, 16, 16, bias=False)
        self.ln_pre, self.transformer, self.ln_post = nn.LayerNorm(128), Tower(128, 4, act), nn.LayerNorm(128)

    def forward(self, x):
        x = self.conv1(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.class_embedding.expand(len(x), 1, -1), x], 1) + self.positional_embedding
        return self.ln_post(self.transformer(self.ln_pre(x))[:, 0]) @ self.proj


class OpenCLIP(nn.Module):
    """open_clip's CLIP at toy size: heads of the vision tower are 32 wide, those of the text tower 64."""

    def __init__(self, act: nn.Module):
        super().__init__()
        self.visual, self.transformer = Vision(act), Tower(64, 1, act)
        self.token_embedding, self.positional_embedding = nn.Embedding(SIZE, 64), nn.Parameter(torch.randn(16, 64))
        self.ln_final, self.text_projection = nn.LayerNorm(64), nn.Parameter(torch.randn(64, 24) / 8)
        self.logit_scale = nn.Parameter(torch.tensor(1.0))

    def text(self, ids):
        mask = torch.full((16, 16), float("-inf")).triu(1)
        x = self.transformer(self.token_embedding(ids) + self.positional_embedding, mask)
        return self.ln_final(x)[torch.arange(len(x)), ids.argmax(-1)] @ self.text_projection


@pytest.fixture
def files(tmp_path):
    with gzip.open(tmp_path / "merges.txt.gz", "wt", encoding="utf-8") as file:
        file.write("\n".join(['"bpe_simple_vocab_16e6.txt#version: 0.2', *MERGES, "not r", ""]))
    return tmp_path


def convert(tool, files: Path, network: nn.Module, *words: str) -> CLIP:
    save_file({n: t.contiguous() for n, t in network.state_dict().items()}, files / "open_clip_model.safetensors")
    arguments = [
        str(files / "open_clip_model.safetensors"),
        "--vocabulary",
        str(files / "merges.txt.gz"),
        "--out",
        str(files / "out"),
    ]
    tool.run(tool.parser().parse_args([*arguments, *words]))
    return CLIP(files / "out")


@pytest.mark.parametrize("quick", [True, False])
def test_features_are_those_of_the_network(tool, files, quick):
    torch.manual_seed(0)
    network = OpenCLIP(QuickGELU() if quick else nn.GELU()).eval()
    config = {"model_cfg": {"quick_gelu": quick, "vision_cfg": {"head_width": 32}, "text_cfg": {"heads": 1}}}
    (files / "open_clip_config.json").write_text(json.dumps(config))
    detector = convert(tool, files, network, "--config", str(files / "open_clip_config.json"))
    pictures = np.random.default_rng(0).integers(
        0, 256, (2, 1, 32, 32, 3), dtype=np.uint8
    )  # its own size: nothing resized
    pixels = (torch.from_numpy(pictures[:, 0]).float() / 255 - torch.tensor(CLIP_MEAN)) / torch.tensor(CLIP_STD)
    with torch.no_grad():
        wanted = network.visual(pixels.permute(0, 3, 1, 2))
        # "the cat" by its merges, "a" by its byte; 0 behind the end, as open_clip pads
        rows = [[SIZE - 2, 513, 515, SIZE - 1], [SIZE - 2, 256 + ord("a") - ord("!"), SIZE - 1]]
        said = network.text(torch.tensor([row + [0] * (16 - len(row)) for row in rows]))
    assert detector.name == "CLIP ViT-128/16"
    assert torch.allclose(detector(pictures), wanted, atol=1e-4)
    assert torch.allclose(detector.text_features(["The cat", "a"]), said, atol=1e-4)
    assert F.cosine_similarity(said[0], said[1], dim=0) < 0.99  # captions do differ


def test_what_is_no_clip_is_refused(tool, files):
    network = OpenCLIP(QuickGELU())
    with pytest.raises(ValueError, match="--config, or say --openai"):
        convert(tool, files, network)
    network.visual.extra = nn.Parameter(torch.zeros(1))
    with pytest.raises(ValueError, match=r"visual\.extra"):
        convert(tool, files, network, "--openai")
    del network.visual.extra
    (files / "timm.json").write_text(json.dumps({"model_cfg": {"vision_cfg": {"timm_model_name": "x"}}}))
    with pytest.raises(ValueError, match="timm_model_name"):
        convert(tool, files, network, "--config", str(files / "timm.json"))
    with gzip.open(files / "merges.txt.gz", "wt", encoding="utf-8") as file:
        file.write("header\na b")
    with pytest.raises(ValueError, match="a vocabulary of 518 is of 4"):
        convert(tool, files, network, "--openai")

"""An older language model turned into a start: within a row, its queries meet keys as they did."""

import sys
from pathlib import Path

import pytest
import torch

from videopoet import component
from videopoet.models.attention import rotate
from videopoet.models.token_lm import TokenLM
from videopoet.tasks.base import read_layout

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "tools"))
import convert_queries


def scores(model, x, position, aim) -> torch.Tensor:
    """Products of queries and keys of the first layer, (heads, n, n)."""
    attention = model.transformer.blocks[0].attention
    q, k, _ = attention.qkv(x).unflatten(-1, (3, attention.heads, -1)).unbind(-3)
    q, k = attention.norm_q(q), attention.norm_k(k)
    turned = rotate(torch.stack([q, k], 2), model.transformer.rotary(torch.stack([aim, position], 2)))
    return torch.einsum("bnhd,bmhd->bhnm", *turned.unbind(2))


def test_queries_of_a_row_meet_the_same_keys(shipped, tmp_path):
    old, target = shipped / "lm.safetensors", tmp_path / "turned.safetensors"
    convert_queries.main([str(old), str(target)])
    before, after = component.load(old, TokenLM), component.load(target, TokenLM)
    x, position = torch.randn(1, 6, before.transformer.width), torch.tensor([[[40.0, 35, 33 + i] for i in range(6)]])
    aim = position + torch.tensor([0.0, 0.0, 1.0])
    with torch.no_grad():
        was, now = scores(before, x, position, position), scores(after, x, position, aim)
        torch.testing.assert_close(now, was, atol=1e-2, rtol=1e-2)  # the weights are stored in 16 bits
        assert not torch.allclose(scores(before, x, position, aim), was, atol=1e-2), "the test would notice"
    assert read_layout(after.metadata["layout"]).origin


def test_a_file_that_is_no_language_model_is_refused(shipped, tmp_path):
    with pytest.raises(ValueError, match="TokenLM"):
        convert_queries.main([str(shipped / "audio.safetensors"), str(tmp_path / "x")])

"""The sheet shows originals untouched, one line per tokenizer below, and refuses what it cannot write."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from videopoet.data.bounce_files import write_world_shards
from videopoet.data.shards import ShardReader
from videopoet.evaluation.reconstruction_sheet import SCALE, spread

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def tool():
    spec = importlib.util.spec_from_file_location("draw_reconstructions", ROOT / "tools" / "draw_reconstructions.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_originals_above_reconstructions_below(tool, tmp_path):
    write_world_shards(tmp_path / "clips", 3, seed=11)
    tool.main([str(tmp_path / "clips"), "--clips", "2", "--out", str(tmp_path / "x.png")])
    drawn = np.asarray(Image.open(tmp_path / "x.png"))[::SCALE, ::SCALE]
    assert drawn.shape == (2 * 64, 2 * 64, 3)
    for column, video in enumerate(spread(ShardReader(tmp_path / "clips", "media"), 2)):
        original, made = drawn[:64, 64 * column :][:, :64], drawn[64:, 64 * column :][:, :64]
        assert (original == video[8]).all()
        assert 0 < np.abs(made.astype(float) - original).mean() < 16, "close to the original, and not it"


def test_another_suffix_is_refused(tool, tmp_path, capsys):
    with pytest.raises(SystemExit):
        tool.main([str(tmp_path), "--out", "x.jpg"])
    assert "the picture is a .png" in capsys.readouterr().err

"""The ablation runner knows every row, measures what it says, and goes on where it was cut off."""

import argparse
import importlib.util
import json
from pathlib import Path

import pytest
from conftest import VISUAL
from PIL import Image

from videopoet import component
from videopoet.data.bounce_files import write_world_shards
from videopoet.tokenizers.visual.autoencoder import VideoTokenizer

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def tool():
    spec = importlib.util.spec_from_file_location("run_ablation", ROOT / "tools" / "run_ablation.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_overlay_is_a_row_of_one_table(tool):
    rows = [path for paths in tool.tables().values() for path in paths]
    assert sorted(rows) == sorted(p for p in (ROOT / "configs/ablation").glob("*.yaml") if p.stem != "base")
    assert {"table5a", "table5b", "table5c", "vocabulary_lfq", "vocabulary_vq"} == set(tool.tables())


def test_measures_of_a_trained_tokenizer(tool, tmp_path):
    shipped = component.load(ROOT / "videopoet/shipped/visual.safetensors", VideoTokenizer)
    write_world_shards(tmp_path / "clips", 2, seed=7)
    found = tool.measure(shipped, tmp_path / "clips", None)
    assert found["bits"] == 5 * 8 * 8 * 12 and found["psnr_rgb"] > 24 and 0.5 < found["ssim_luma"] <= 1
    assert 1 < found["codes_used"] <= 2 * 320


def test_finished_rows_are_not_trained_again(tool, tmp_path, monkeypatch):
    trained = []

    def train(path, settings, a):
        trained.append(path.stem)
        component.save(
            tool.weights(a, path.stem), VISUAL, component.instantiate(VISUAL).state_dict(), {"images": False}
        )
        return tool.Row(config=path.stem, what="x", settings=settings, parameters=1, bits=1.0, psnr_rgb=1.0,
                        ssim_luma=1.0, codes_used=1, seconds=1.0)  # fmt: skip

    monkeypatch.setattr(tool, "train", train)
    for _ in range(2):
        tool.main(["table5a", "--quick", "--out", str(tmp_path)])
    assert len(trained) == 4 and len((tmp_path / "table5a.jsonl").read_text().splitlines()) == 4
    assert json.loads((tmp_path / "table5a.jsonl").read_text().splitlines()[0])["config"] == trained[0]
    tool.weights(argparse.Namespace(out=tmp_path), trained[2]).unlink()  # lost weights are a lost row
    tool.main(["table5a", "--quick", "--out", str(tmp_path)])
    assert trained[4:] == [trained[2]]
    assert Image.open(tmp_path / "table5a.png").size == (8 * 2 * 64, 5 * 2 * 64)
    assert "not to be quoted" in (tmp_path / "table5a.md").read_text()


def test_data_must_be_named(tool, capsys):
    with pytest.raises(SystemExit):
        tool.main(["table5a"])
    assert "name --train and --validation" in capsys.readouterr().err

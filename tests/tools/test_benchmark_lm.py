"""The benchmark runs with whatever peers there are, and its correctness column can fail. Speed is nobody's test."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

TOOLS = Path(__file__).parents[2] / "tools"
SHAPE = {"dim": 32, "layers": 2, "heads": 2, "ffn": 64, "vocabulary": 128, "seq": 32, "prefix": 8, "tokens": 4}


def run(*arguments) -> subprocess.CompletedProcess:
    command = [sys.executable, str(TOOLS / "benchmark_lm.py"), "--quick", "--shape", json.dumps(SHAPE), *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=280)


def test_every_table(tmp_path):
    out = tmp_path / "numbers.json"
    result = run("--peers", "transformers Llama", "--lengths", "16", "32", "--out", str(out))
    assert result.returncode == 0, result.stderr
    rows = json.loads(out.read_text())
    assert {row["table"] for row in rows} == {"train", "sample", "vocabulary", "length"}
    assert {row["contestant"] for row in rows if row["table"] == "sample"} == {"ours", "transformers Llama"}
    for row in rows:
        assert row.get("correct", True) and row.get("cpu_s", 1) > 0
    peer = [row for row in rows if row["table"] == "train" and row["contestant"] == "transformers Llama"]
    assert [row["ratio"] for row in peer] == [1.0, 1.0], "the only peer is the best peer"


def test_peers_that_are_not_there_are_named(tmp_path):
    result = run("--peers", "litgpt", "--only", "train")
    assert result.returncode == 0, result.stderr
    assert "ours" in result.stdout
    if "litgpt is left out" in result.stdout:
        assert "pip install" in result.stdout and "--peer-python" in result.stdout


@pytest.fixture
def contestants(monkeypatch):
    monkeypatch.syspath_prepend(str(TOOLS))
    import lm_contestants

    return lm_contestants


def test_a_wrong_mask_and_a_wrong_cache_are_found(contestants):
    shape = contestants.Shape(**SHAPE)
    right = contestants.ours(shape)
    with torch.no_grad():  # blocks start close to the identity: let them mix
        for block in right.model.transformer.blocks:
            block.attention.out.weight.normal_()
            block.mlp.out.weight.normal_()
    assert contestants.correctness(right, shape)["correct"]

    def wrong(**change):
        return contestants.correctness(contestants.Contestant(**{**vars(right), **change}), shape)

    leaks = wrong(logits=lambda t: (right.logits(t)[0] + right.logits(t)[0].mean(1, keepdim=True), 0))
    assert not leaks["causal"] and not leaks["correct"]
    head = contestants.ours(contestants.Shape(**SHAPE | {"prefix": 1}))
    head.model.load_state_dict(right.model.state_dict())
    assert not wrong(logits=head.logits)["prefix"], "a causal model is no prefix LM"
    late = wrong(step=lambda ids, position: right.step(ids, position - 1))
    assert late["cache"] > 1e-3 and not late["correct"]


def test_the_model_trains_on_the_peers_loss(contestants):
    """Ours gives the same loss by its own way as by the logits that the peers' way reads."""
    shape = contestants.Shape(**SHAPE)
    ours = contestants.ours(shape)
    tokens = torch.randint(0, shape.vocabulary, (1, shape.seq))
    plain = contestants.from_logits(shape, ours.model, ours.logits, None, None)
    torch.testing.assert_close(ours.train(tokens), plain.train(tokens))

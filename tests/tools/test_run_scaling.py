"""The scaling study: every size trained once, counted and measured; a table and a plot that can be read."""

import importlib.util
import json
from pathlib import Path
from xml.etree import ElementTree

import pytest

from videopoet.evaluation.svg_plot import Panel, draw

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def tool():
    spec = importlib.util.spec_from_file_location("run_scaling", ROOT / "tools" / "run_scaling.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def arguments(tmp_path) -> list[str]:
    for name in ("train", "validation", "text.model"):
        (tmp_path / name).touch()
    names = {"tokens": "train", "validation": "validation", "text-model": "text.model", "out": "out"}
    return [f"--{option}={tmp_path / name}" for option, name in names.items()]


def point(tool, size, settings, k):
    return tool.Point(size=size.name, settings=settings, parameters=size.weights, steps=3, tokens=10**k, flops=10.0**k,
                      loss=5.0 / k, accuracy=0.1 * k, ceiling=0.98, seconds=1.0)  # fmt: skip


def test_sizes_that_are_done_are_not_trained_again(tool, arguments, tmp_path, monkeypatch):
    trained = []

    def train(size, settings, a):
        trained.append(size.name)
        return point(tool, size, settings, len(trained))

    monkeypatch.setattr(tool, "train_and_measure", train)
    for _ in range(2):
        tool.main(arguments)
    assert trained == [size.name for size in tool.SIZES]
    rows = json.loads((tmp_path / "out/scaling.json").read_text())
    assert [row["size"] for row in rows] == trained and rows[0]["flops"] == 10
    assert all(name in (tmp_path / "out/scaling.md").read_text() for name in trained)
    picture = ElementTree.fromstring((tmp_path / "out/scaling.svg").read_text())
    assert sum(e.tag.endswith("circle") for e in picture.iter()) == 2 * len(trained)
    tool.main([*arguments, "--seed=1"])
    assert len(trained) == 2 * len(tool.SIZES), "other settings are other runs"
    tool.main([*arguments, "--sizes", "32x1", "48x2"])
    assert trained[6:] == ["32 x 1"], "the other is known"


def test_tokens_follow_size(tool, arguments):
    a = tool.argparse.Namespace(tokens_per_parameter=5, tokens_per_batch=1000, least_steps=1)
    for size in tool.SIZES:
        assert tool.steps_of(size, a) * 1000 == pytest.approx(5 * size.weights, rel=0.01)
        assert 0.2 < tool.first_steps(tool.steps_of(size, a)) / tool.steps_of(size, a) < 0.4
    assert len({size.learning_rate for size in tool.SIZES}) == 3


def test_missing_data_is_named(tool, capsys, tmp_path):
    with pytest.raises(SystemExit):
        tool.main(["--out", str(tmp_path), "--tokens", "nowhere"])
    assert "nothing at nowhere" in capsys.readouterr().err


def test_a_plot_has_what_it_is_given():
    panel = Panel(title="a < b", x_label="x", y_label="y", points=[(1e9, 2.0, "one"), (1e12, 1.0, "two")], log_y=True,
                  level=(0.9, "best"))  # fmt: skip
    drawn = draw([panel])
    circles = [e for e in ElementTree.fromstring(drawn).iter() if e.tag.endswith("circle")]
    (x0, y0), (x1, y1) = ((float(c.get("cx")), float(c.get("cy"))) for c in circles)
    assert x0 < x1 and y0 < y1 and all(word in drawn for word in ("one", "two", "best", "a &lt; b"))
    with pytest.raises(ValueError, match="needs positive numbers"):
        draw([Panel(title="", x_label="", y_label="", points=[(0.0, 1.0, "")])])


@pytest.mark.timeout(600)
def test_a_size_is_trained_counted_and_goes_on(tool, world_tokens, shipped, text_model, tmp_path, monkeypatch):
    """On the tests' own tokens, with their own tokenizers; the run that was cut off is counted as a whole."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(tool, "SHIPPED", shipped)
    asked = []

    def evaluate(poet, task, n, seed):
        asked.append((task, n, poet.geometry.frames))
        return ({"attribute_accuracy": 0.5, "ceiling": 0.9},)

    monkeypatch.setattr(tool, "evaluate", evaluate)
    fit, small = tool.fit, []
    io = "--model.init_args.model.init_args.io.init_args"
    small += [f"{io}.vocabulary_size=352", f"{io}.visual_size=64", "--trainer.precision=32-true", "--trainer.devices=1"]
    small += ["--model.init_args.model.init_args.text_encoder.init_args.length=32", "--trainer.accelerator=cpu"]
    monkeypatch.setattr(tool, "fit", lambda arguments: fit([*arguments, *small, "--trainer.enable_progress_bar=false"]))
    a = tool.argparse.Namespace(
        out=tmp_path, tokens=world_tokens, validation=world_tokens, text_model=text_model, tokens_per_parameter=0.0,
        tokens_per_batch=300, least_steps=2, validation_batches=1, n=1, seed=0)  # fmt: skip
    size = tool.Size(width=32, layers=1)
    first = tool.train_and_measure(size, "s", a)
    assert first.steps == 2 and first.tokens > 300 and first.flops > first.tokens * 6 * 12 * 32**2 * 0.5
    assert 0 < first.loss < 10 and asked == [("text-to-video", 1, 17)]
    a.least_steps = 4
    second = tool.train_and_measure(size, "s", a)  # goes on from the checkpoint
    assert second.steps == 4 and 1.5 * first.tokens < second.tokens < 3 * first.tokens

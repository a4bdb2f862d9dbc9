"""The ablation of tasks: rows of one budget, each measured on every task, trained once."""

import importlib.util
import json
from pathlib import Path

import pytest
import yaml

from videopoet.evaluation.bounce_trials import TRIALS
from videopoet.tasks.registry import TASKS

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def tool():
    spec = importlib.util.spec_from_file_location("run_task_ablation", ROOT / "tools" / "run_task_ablation.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_rows_part_the_mixture(tool):
    tasks = yaml.safe_load(tool.CONFIG.read_text())["data"]["init_args"]["tasks"]
    rows = tool.rows(tasks)
    kinds = ["text-to-video", "self-supervised", "all"]
    assert list(rows) == [*kinds, *(f"{kind} + UL2" for kind in kinds)]
    assert all(name in tasks for names in rows.values() for name in names)
    assert set(rows["all + UL2"]) == set(tasks)
    for name in tool.SELF_SUPERVISED:  # nothing that reads text is among them
        assert not {"text", "label"} & set(TASKS[name].reads(None) if name not in ("unconditional",) else ())
    assert set(tool.MEASURED) <= set(TRIALS)


def test_rows_are_trained_once_and_measured_on_every_task(tool, tmp_path, monkeypatch):
    trained, measured = [], []

    def train(a, tasks, kept, file, settings):
        trained.append(file.stem)
        file.write_text(json.dumps(settings))

    def evaluate(poet, task, n, seed):
        measured.append(task)
        return ({"attribute_accuracy": 0.5, "ceiling": 0.9, "floor": 0.1},)

    class Poet:
        def __init__(self, visual, audio, model):
            self.model = model

    class Model:
        metadata = {"seconds": 1.0}

        def parameters(self):
            return []

    monkeypatch.setattr(tool, "train", train)
    monkeypatch.setattr(
        tool, "trained", lambda file, settings: file.is_file() and json.loads(file.read_text()) == settings
    )
    monkeypatch.setattr(tool, "evaluate", evaluate)
    monkeypatch.setattr(tool, "VideoPoet", Poet)
    monkeypatch.setattr(tool.component, "load", lambda path: Model())
    (tmp_path / "text.model").touch()
    arguments = [
        "--quick",
        f"--out={tmp_path / 'out'}",
        f"--tokens={tmp_path}",
        f"--text-model={tmp_path / 'text.model'}",
    ]
    for _ in range(2):
        tool.main(arguments)
    assert len(trained) == 6 and len(measured) == 2 * 6 * len(tool.MEASURED)
    page = (tmp_path / "out" / "table.md").read_text()
    assert "| text-to-video | 50.0 | 50.0* |" in page and "| all + UL2 | 50.0 | 50.0 |" in page and "| (floor) | 10.0 |" in page
    tool.main([*arguments, "--seed=1"])
    assert len(trained) == 12, "other settings are other rows"

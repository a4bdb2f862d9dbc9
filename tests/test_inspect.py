"""`videopoet inspect mixture`: every task laid out, shares that add up, with shards and without."""

import re
from pathlib import Path

import pytest
import torch
import yaml
from conftest import EVERY_TASK, LAYOUT

from videopoet import component
from videopoet.cli import main
from videopoet.commands.inspect import build, read_settings
from videopoet.data.drawing import runs_of
from videopoet.sequence import IGNORE, Sequence
from videopoet.tasks.audio_order import FrameMajor
from videopoet.tasks.registry import TASKS


@pytest.fixture
def config(tmp_path, world_tokens) -> str:
    tasks = {name: {"task": component.spec_of(task), "weight": 4} for name, task in TASKS.items()}
    tasks["audio-to-video"]["only"] = {"class_path": "videopoet.data.labels.Struck"}
    label = {"class_path": "videopoet.data.labels.BounceLabel"}
    settings = {"tokens": str(world_tokens), "tokens_per_batch": 400, "tasks": tasks, "label": label}
    data = {"class_path": "videopoet.data.mixture.MixtureDataModule", "init_args": settings}
    path = tmp_path / "mixture.yaml"
    path.write_text(yaml.safe_dump({"data": data}))
    return str(path)


def rows(said: str) -> dict[str, list[str]]:
    """Cells of the table's rows by task."""
    cells = [[cell.strip() for cell in line.strip("│ ").split("│")] for line in said.splitlines() if "│" in line]
    return {row[0]: row[1:] for row in cells}


@pytest.mark.parametrize("there", [True, False], ids=["shards", "blank"])
def test_every_task_is_drawn_and_counted(config, shipped, there, tmp_path, capsys):
    arguments = ["inspect", "mixture", "-c", config, "--model", str(shipped), "--steps", "100"]
    if not there:
        text = open(config).read()
        open(config, "w").write(re.sub("tokens: .*", "tokens: nowhere", text))
    main(arguments)
    said = capsys.readouterr().out
    assert ("blank examples: no token shards at nowhere" in said) == (not there)
    assert all(f"{name}: " in said for name in TASKS)
    table = rows(said)
    assert set(TASKS) | {"all"} <= set(table)
    assert {row[2] for name, row in table.items() if name in TASKS} <= {"3.0", "4.0"}, "100 steps, dealt out evenly"
    for column in (2, 3, 4, 5):
        assert abs(sum(float(table[name][column]) for name in TASKS) - 100) < 2
    assert table["frame-prediction"][6] == "0.00" and float(table["text-to-image"][6]) > 0


@pytest.mark.parametrize("there", [True, False], ids=["shards", "blank"])
def test_sound_is_drawn_in_the_order_of_the_config(config, shipped, there):
    settings = read_settings([Path(config)]) | {"audio_order": FrameMajor()}
    if not there:
        settings["tokens"] = "nowhere"
    mixture, _ = build(settings, None, component.load(shipped / "lm.safetensors"), 1)
    assert mixture.layout.audio_order == FrameMajor()


@pytest.mark.parametrize("task", EVERY_TASK.values(), ids=EVERY_TASK)
def test_runs_cover_the_sequence_and_its_loss(task, example):
    sequence = Sequence.of(task.segments(example, LAYOUT))
    runs = runs_of(sequence)
    assert [run.start for run in runs] == [0, *(run.stop for run in runs[:-1])] and runs[-1].stop == len(sequence)
    for run in runs:
        assert len(set(sequence.modality[run.start : run.stop].tolist())) == 1
        assert run.shown == int(sequence.shown[run.start : run.stop].sum())
        assert run.causal == bool((sequence.block[run.start : run.stop] > 0).all())
    assert sum(run.predicted for run in runs) == int((sequence.targets[:-1] != IGNORE).sum())
    assert all(run.causal for run in runs if run.predicted) and torch.is_tensor(sequence.inputs)


def test_mistakes_are_one_line(config, shipped, tmp_path, capsys):
    other = tmp_path / "other.yaml"
    other.write_text("data: {class_path: videopoet.data.clips.ClipDataModule}")
    for arguments, message in (
        (["-c", str(tmp_path / "none.yaml")], "no file at"),
        (["-c", str(other)], "has no mixture"),
        (["-c", config, "--task", "text-to-vidoe", "--model", str(shipped)], "no task text-to-vidoe in this mixture"),
        (["-c", config, "--steps", "0"], "--steps 0"),
    ):
        with pytest.raises(SystemExit):
            main(["inspect", "mixture", *arguments])
        error = capsys.readouterr().err.strip()
        assert message in error and "Traceback" not in error

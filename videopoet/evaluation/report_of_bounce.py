"""The trials of the built-in world as a report like any other, which `videopoet evaluate compare` reads."""

from pathlib import Path
from typing import Any

from videopoet.evaluation.makers import files_of
from videopoet.evaluation.measures import Measured
from videopoet.evaluation.protocol import digest, plain
from videopoet.evaluation.report_file import FORMAT, as_record, versions

ORACLE = 2  # raised when the oracle or the held-out scenes change: older numbers do not compare


def report_of_bounce(
    trials: dict[str, dict], *, model: Path, draw: Any, guidance: dict[str, dict[str, float]], seed: int
) -> dict[str, Any]:
    """trials: task -> what `bounce.evaluate` reports. Accuracies in [0, 1]; the ceiling is that of the tokenizers.

    guidance: what the model says of its tasks, where the draw leaves it open.
    """
    spec = {"world": "bounce", "oracle": ORACLE, "tasks": {task: sorted(t["attributes"]) for task, t in trials.items()}}
    records = []
    for task, trial in trials.items():
        ceilings = trial["ceiling_attributes"]
        found = {task: (trial["attribute_accuracy"], trial["ceiling"])}
        found |= {f"{task}: {name}": (value, ceilings.get(name)) for name, value in trial["attributes"].items()}
        records += [as_record(Measured(metric=name, value=value, ceiling=ceiling, n={"scenes": trial["n"]}), [])
                    for name, (value, ceiling) in found.items()]  # fmt: skip
    return {
        "format": FORMAT,
        "protocol": {
            "name": "bounce",
            "title": "held-out scenes of the built-in world",
            "hash": digest(spec),
            "spec": spec,
        },
        "measures": records,
        "left_out": [],
        "samples": {"seed": seed, "maker": {"weights": files_of(model), "draw": plain(draw), "guidance": guidance}},
        "data": {"world": "bounce"},
        "complaints": [],
        "versions": versions(),
    }

#!/usr/bin/env python3
"""The mean of models that trained on from one another: often better than any of them (Wortsman et al. 2022, "Model soups").

example: python tools/average_models.py MEAN.safetensors A.safetensors B.safetensors

All must be exported parts of one configuration. Checkpoints are exported first (`videopoet export`). What travels with the
mean (tasks, layout, guidance) is the first one's.
"""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from videopoet import component
from videopoet.commands.safely import run_safely


def average(target: Path, sources: list[Path]) -> None:
    """Writes the mean. Raises ValueError for fewer than two models and for models of other configurations."""
    if len(sources) < 2:
        raise ValueError(f"a mean of {len(sources)} model: name at least 2")
    first, *others = (component.load(path) for path in sources)
    for path, other in zip(sources[1:], others):
        if other.spec != first.spec:
            raise ValueError(f"{path} is of another configuration than {sources[0]}: only models of one have a mean")
    states = [model.state_dict() for model in (first, *others)]
    mean = {
        name: sum(state[name].double() for state in states).div(len(states)).to(value.dtype)
        if value.is_floating_point()
        else value
        for name, value in states[0].items()
    }
    component.save(target, first.spec, mean, first.metadata)


def run(arguments: argparse.Namespace) -> None:
    average(arguments.target, arguments.sources)
    print(f"{arguments.target}: the mean of {len(arguments.sources)} models")


def parser() -> argparse.ArgumentParser:
    text = (__doc__ or "").strip().splitlines()
    root = argparse.ArgumentParser(description=text[0], epilog=text[2])
    root.add_argument("target", type=Path, help="where the mean is written")
    root.add_argument("sources", type=Path, nargs="+", help="exported models")
    root.set_defaults(run=run)
    return root


if __name__ == "__main__":
    run_safely(parser().parse_args(), [])

"""`videopoet chain STEP STEP ...`: several tasks by one command, each given what the one before made."""

import argparse
import difflib
import shlex
from pathlib import Path

import yaml

from videopoet.commands.progress import token_bar
from videopoet.commands.sample import (
    COMMANDS,
    Command,
    check_out,
    contents,
    given_arguments,
    how_of,
    load_model,
    request_of,
    write,
)

EPILOG = """\
a step is a task and its options as in 'videopoet sample', without --out:
  videopoet chain "text-to-image --prompt 'a small red square falls and rebounds on a plain dark background'" \\
                  "image-to-video --prompt 'a small red square falls and rebounds on a plain dark background'" --out x.mp4
or all of them from a YAML file, a list of {task: ..., prompt: ..., top-k: ...}:
  videopoet chain steps.yaml --out x.mp4
A step that reads a picture gets the last frame made before, one that reads a video the whole; a file it names is read
instead.
"""


def add(commands) -> None:
    chain = commands.add_parser(
        "chain",
        help="several tasks, each given what the one before made",
        description="Run several tasks, each given what the one before made, and write what the last one makes.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    chain.add_argument("steps", nargs="+", metavar="STEP", help="a task and its options, quoted; or one YAML file")
    chain.add_argument(
        "--out", type=Path, required=True, help="file to write: .mp4, or .png where the last step says so"
    )
    chain.add_argument(
        "--model", type=Path, metavar="DIR", help="folder of a model, or a checkpoint (default: shipped)"
    )
    chain.set_defaults(run=run)


def run(namespace: argparse.Namespace) -> None:
    """Parse every step before the model is loaded, take them, write the last result."""
    from videopoet.chain import Step
    from videopoet.chain import run as run_chain

    steps = [read_step(words, number) for number, words in enumerate(words_of(namespace.steps), 1)]
    check_out(namespace.out, steps[-1][0].suffix, steps[-1][0].task)
    hows = [how_of(options) for _, options in steps]
    poet = load_model(namespace.model)
    total = sum(getattr(options, "candidates", 1) * poet.num_tokens(command.task) for command, options in steps)
    chain = [
        Step(task=command.task, request=request_of(options, poet), how=how)
        for (command, options), how in zip(steps, hows)
    ]
    with token_bar(f"{len(chain)} steps", total) as progress:
        media = run_chain(poet, chain, progress=progress)
    write(namespace.out, media)
    print(f"{namespace.out}: {', '.join(contents(media))}, by {' -> '.join(step.task for step in chain)}")


def words_of(steps: list[str]) -> list[list[str]]:
    """The words of each step, from the command line or from a YAML file."""
    if len(steps) > 1 or Path(steps[0]).suffix not in (".yaml", ".yml"):
        return [shlex.split(step) for step in steps]
    path = Path(steps[0])
    if not path.is_file():
        raise ValueError(f"no file at {path}")
    try:
        listed = yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise ValueError(f"{path} is not YAML: {error}") from None
    if not isinstance(listed, list) or not all(isinstance(step, dict) and "task" in step for step in listed):
        raise ValueError(f"{path} must be a list of steps, each with a task: - {{task: text-to-video, prompt: ...}}")
    named = [{name.replace("_", "-"): value for name, value in step.items()} for step in listed]
    return [
        [
            str(step["task"]),
            *(word for name, value in step.items() if name != "task" for word in (f"--{name}", str(value))),
        ]
        for step in named
    ]


def read_step(words: list[str], number: int) -> tuple[Command, argparse.Namespace]:
    """A step's command and its options. Raises ValueError for an unknown task; other mistakes end as argparse does."""
    task = words[0] if words else ""
    commands = {command.task: command for command in COMMANDS}
    if task not in commands:
        near = difflib.get_close_matches(task, commands, 1)
        hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(commands)}"
        raise ValueError(f"step {number} of the chain has no task '{task}': {hint}")
    parser = argparse.ArgumentParser(prog=f"videopoet chain: step {number}, {task}", add_help=False)
    given_arguments(parser, commands[task], needed=False)
    return commands[task], parser.parse_args(words[1:])

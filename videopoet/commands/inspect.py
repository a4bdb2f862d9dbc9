"""`videopoet inspect mixture`: what a mixture trains on, without training."""

import argparse
from dataclasses import replace
from pathlib import Path


def add(commands) -> None:
    inspect = commands.add_parser("inspect", help="look at what would be trained")
    mixture = inspect.add_subparsers(title="things", metavar="THING", required=True).add_parser(
        "mixture",
        help="one example of every task as a numbered layout, and the share of steps, tokens and padding of each",
        description="Reads the tasks of a training config. Examples and padding come from the config's token shards; "
        "where these are not there, from blank examples with one caption, in the layout of a model.",
        epilog="example: videopoet inspect mixture -c configs/demo/lm.yaml",
    )
    mixture.add_argument(
        "-c", "--config", type=Path, action="append", required=True, metavar="FILE",
        help="YAML of 'videopoet fit'; may be repeated, later ones laid over earlier ones",
    )  # fmt: skip
    mixture.add_argument("--tokens", type=Path, metavar="DIR", help="token shards (default: the config's)")
    mixture.add_argument("--model", type=Path, metavar="DIR", help="whose text encoder and layout (default: shipped)")
    mixture.add_argument("--task", action="append", metavar="NAME", help="lay out this task only; may be repeated")
    mixture.add_argument("--steps", type=int, default=200, help="steps counted in the table (default 200)")
    mixture.add_argument("--start", type=int, default=0, help="the first step counted (default 0)")
    mixture.add_argument("--world-size", type=int, default=1, help="ranks that share a step (default 1)")
    mixture.set_defaults(run=run_mixture)


def run_mixture(arguments: argparse.Namespace) -> None:
    from rich.console import Console

    from videopoet import component
    from videopoet.data.drawing import draw_sequence, shares_table
    from videopoet.models.token_lm import TokenLM
    from videopoet.pipeline import SHIPPED

    a = arguments
    if a.steps < 1 or a.world_size < 1 or a.start < 0:
        raise ValueError(f"--steps {a.steps} and --world-size {a.world_size} must be at least 1, --start {a.start} 0")
    settings = read_settings(a.config)
    model = component.load((a.model or SHIPPED) / "lm.safetensors", TokenLM)
    mixture, source = build(settings, a.tokens, model, a.world_size)
    console = Console(width=132, highlight=False)
    unknown = [name for name in a.task or () if name not in mixture.shares]
    if unknown:
        raise ValueError(f"no task {unknown[0]} in this mixture: there are {', '.join(mixture.shares)}")
    for name in a.task or mixture.shares:
        console.print(draw_sequence(name, mixture.sequence(name, 0)))
    console.print(shares_table(mixture, range(a.start, a.start + a.steps)))
    console.print(f"{a.steps} steps from step {a.start}, {a.world_size} rank(s), {source}")


def read_settings(paths: list[Path]) -> dict:
    """What training configs, laid one over the other, say of their mixture, tasks and behaviours built."""
    from videopoet.planning.config import mixture_settings, read_config

    return mixture_settings(read_config(paths))


def build(settings: dict, tokens: Path | None, model, world_size: int):
    """The mixture and a word on where its examples come from."""
    from videopoet.data.blank import BlankShards, of_any_sample
    from videopoet.data.mixture import Mixture, layout_of
    from videopoet.data.order import Deal
    from videopoet.data.schema import MANIFEST
    from videopoet.data.shards import ShardReader
    from videopoet.tasks.base import read_layout

    folder, order = tokens or Path(settings.get("tokens", "")), settings.pop("audio_order", None)
    settings.pop("tokens", None)

    def tokenize(prompts: list[str]):
        return model.text(prompts, truncate=True)

    if tokens is not None or (folder / MANIFEST).is_file():
        reader, source = ShardReader(folder, "tokens"), f"examples of {folder}"
        layout = layout_of(reader.manifest, len(tokenize([""])[0].ids), order)
    else:
        layout = read_layout(model.metadata["layout"])
        layout = layout if order is None else replace(layout, audio_order=order)
        settings["tasks"] = of_any_sample(settings["tasks"])
        reader = BlankShards(layout, settings["tasks"])
        source = f"blank examples: no token shards at {folder}"
    how = {"seed": 0, "tokens_per_batch": 8192, "drop_text": 0.1} | settings
    shares, each, parts = how.pop("tasks"), how.pop("tokens_per_batch"), how.pop("parts", 64)
    whole = how.pop("tokens_per_step", None)
    how["deal"] = Deal(parts=parts if whole else world_size, world_size=world_size)
    return Mixture(reader, layout, tokenize, shares, tokens_per_step=whole or each * world_size, **how), source

"""The `videopoet` command."""

import argparse
import sys

from videopoet.commands import (
    benchmarks,
    chain,
    corpus,
    demo,
    evaluate,
    inspect,
    plan,
    preference,
    sample,
    tokenizer,
    train,
)
from videopoet.commands.safely import run_safely

EPILOG = """\
from media files to a model, and from a prompt to an mp4:
  videopoet shards build MY_VIDEOS --out shards            cut clips, write WebDataset tars
  videopoet tokenize shards --out tokens                   clips -> codes
  videopoet fit -c configs/demo/lm.yaml                    train (any part; a LightningCLI)
  videopoet export last.ckpt --out lm.safetensors          checkpoint -> one shippable file
  videopoet sample text-to-video --prompt "a small red circle falls and rebounds on a plain dark background" --out x.mp4
  videopoet chain "text-to-video --prompt '...'" frame-prediction --out x.mp4    several tasks in a row
  videopoet evaluate bounce --task text-to-video --n 64    measure against a world whose truth is known
"""


def parser() -> argparse.ArgumentParser:
    """The whole command line."""
    root = argparse.ArgumentParser(
        prog="videopoet",
        description="VideoPoet in the open: text, images, video and sound to video with sound, by next-token prediction.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = root.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for module in (corpus, tokenizer, inspect, plan, train, sample, chain, evaluate, benchmarks, preference, demo):
        module.add(commands)
    return root


def main(arguments: list[str] | None = None) -> None:
    """Run a command. A user's mistake ends in one line on stderr and exit code 2, never in a traceback."""
    arguments = sys.argv[1:] if arguments is None else arguments
    root = parser()
    namespace, rest = root.parse_known_args(arguments)
    if rest and not getattr(namespace, "passes_rest", False):
        root.error(f"unrecognized arguments: {' '.join(rest)}")
    run_safely(namespace, rest)


if __name__ == "__main__":
    main()

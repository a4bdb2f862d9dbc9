"""How tokens are drawn, as arguments of every command that samples."""

import argparse
from dataclasses import replace
from pathlib import Path


def sampling_arguments(
    parser: argparse.ArgumentParser, *, text: bool = True, visual: bool = True, audio: bool = True
) -> None:
    """How tokens are drawn. A value may change over the sample: 1.1:0.8 goes straight from the first to the second.

    text, visual, audio: the conditions that there are to guide by.
    """
    add = parser.add_argument_group("drawing tokens (A:B changes from A to B over the sample)").add_argument
    add("--temperature", type=value, metavar="T", help="above 1 more varied, below 1 safer")
    add("--top-k", type=value, metavar="K", help="draw from the k likeliest tokens only")
    add("--top-p", type=value, metavar="P", help="draw from the likeliest tokens that make up this probability")
    if text:
        add("--guidance", type=value, metavar="S", help="how strongly the prompt is followed; 1 is none")
    trained = "1 is none (default: as the model says). For models trained without it now and then (drop_visual, drop_audio)"
    if visual:
        add("--visual-guidance", type=value, metavar="S", help=f"how strongly a given picture is followed; {trained}")
    if audio:
        add("--audio-guidance", type=value, metavar="S", help=f"how strongly a given sound is followed; {trained}")


def value(text: str):
    """A number, or A:B."""
    from videopoet.sampling.schedules import Linear

    try:
        start, *end = (float(part) for part in text.split(":"))
    except ValueError:
        raise argparse.ArgumentTypeError(f"'{text}' is neither a number nor two as in 1.1:0.8") from None
    if len(end) > 1:
        raise argparse.ArgumentTypeError(f"'{text}' has {len(end) + 1} numbers: give one, or two as in 1.1:0.8")
    return Linear(start=start, end=end[0]) if end else start


def draw_of(namespace: argparse.Namespace):
    """The `Draw` the arguments describe; what is not named stays as the default."""
    from videopoet.pipeline import DEFAULT_DRAW
    from videopoet.sampling.rules import Draw, Temperature, TopK, TopP

    a = namespace
    filters = (Temperature(value=a.temperature),) if a.temperature is not None else DEFAULT_DRAW.filters
    filters += (TopK(k=a.top_k),) if a.top_k is not None else ()
    filters += (TopP(p=a.top_p),) if a.top_p is not None else ()
    arguments = {"text": "guidance", "visual": "visual_guidance", "audio": "audio_guidance"}
    scales = {condition: getattr(a, name, None) for condition, name in arguments.items()}
    named = {condition: scale for condition, scale in scales.items() if scale is not None}
    return Draw(filters=filters, guidance=replace(DEFAULT_DRAW.guidance, **named))


def ranking_arguments(parser: argparse.ArgumentParser) -> None:
    """How many candidates are made, and what chooses between them."""
    parser.add_argument("--candidates", type=int, default=1, metavar="N", help="make N and keep the best (default 1)")
    parser.add_argument(
        "--rank",
        metavar="BY",
        help="what says which is best: oracle (of the built-in world), or the folder of a CLIP model",
    )


def ranking_of(namespace: argparse.Namespace) -> dict:
    """What `VideoPoet.generate` takes of it, nothing where there is no prompt to rank by. Raises ValueError for candidates
    that nothing ranks."""
    from videopoet.sampling.scorers import ClipScorer, OracleScorer

    if not hasattr(namespace, "candidates"):
        return {}
    if namespace.candidates < 1:
        raise ValueError(f"--candidates is {namespace.candidates}: at least 1 is needed")
    if (namespace.candidates > 1) != (namespace.rank is not None):
        raise ValueError("--candidates and --rank go together: --candidates 4 --rank oracle")
    if namespace.rank is None:
        return {}
    scorer = OracleScorer() if namespace.rank == "oracle" else ClipScorer(Path(namespace.rank))
    return {"num_candidates": namespace.candidates, "scorer": scorer}

"""`videopoet evaluate NAME`: a protocol of configs/evaluation, or a YAML file, from data to report; `compare`, `selftest`."""

import argparse
import os
from contextlib import contextmanager
from pathlib import Path

from videopoet.commands.drawing import draw_of, sampling_arguments
from videopoet.evaluation.shelf import header, names

FILE = "FILE.yaml"


class Protocols(dict):
    """Parsers by name; a path of a YAML file has the parser of `FILE`."""

    def __contains__(self, name: object) -> bool:
        return super().__contains__(name) or (
            isinstance(name, str) and name.endswith((".yaml", ".yml")) and name != FILE
        )

    def __missing__(self, name: str):
        if name in self and FILE in self.keys():
            return self[FILE]
        raise KeyError(name)


class ByNameOrPath(argparse._SubParsersAction):
    """Sub-commands by name, one of which stands for every path of a YAML file."""

    def __init__(self, *arguments, **named):
        super().__init__(*arguments, **named)
        self._name_parser_map = self.choices = Protocols()


def add(protocols) -> None:
    """One sub-command for each protocol, one for files, `compare` and `selftest`."""
    for name, path in names().items():
        said = header(path).replace("%", "%%")
        arguments(protocols.add_parser(name, help=said.partition("\n")[0], description=said, epilog=example(name),
                                       formatter_class=argparse.RawDescriptionHelpFormatter))  # fmt: skip
    arguments(protocols.add_parser(FILE, help="a protocol of your own, by its path", epilog=example("mine.yaml")))
    compare = protocols.add_parser(
        "compare",
        help="two reports side by side, where they can be compared",
        description="Refuses, and says why, where protocol, networks, data or counts differ.",
        epilog="example: videopoet evaluate compare before.json after.json",
    )
    compare.add_argument("reports", nargs=2, type=Path, metavar="REPORT", help="JSON files that --out wrote")
    compare.add_argument("--plot", type=Path, metavar="SVG", help="draw both")
    compare.set_defaults(run=run_compare)
    selftest = protocols.add_parser(
        "selftest",
        help="published values that need no data: are these I3D weights the published ones, and are they used alike?",
        description="FVD of black against white clips, as two public implementations print it. An error where it is another.",
        epilog="example: videopoet evaluate selftest --weights i3d=i3d_pretrained_400.pt",
    )
    selftest.add_argument("--weights", type=pairs, default={}, metavar="i3d=PATH", help="the file (default: "
                          "i3d_pretrained_400.pt in $VIDEOPOET_EVALUATION_WEIGHTS)")  # fmt: skip
    selftest.set_defaults(run=run_selftest)


def example(name: str) -> str:
    return f"example: videopoet evaluate {name} --model DIR --data DIR --weights ROLE=PATH --out report.json"


def arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--model", type=Path, metavar="DIR", help="folder of a model, or a tokenizer's file (default: the shipped one)")
    add("--data", type=Path, required=True, metavar="DIR", help="folder with the annotations and videos as published")
    add("--out", type=Path, metavar="JSON", help="write the report; samples and features lie beside it in JSON.work")
    add("--work", type=Path, metavar="DIR", help="where samples and features lie (default: beside --out)")
    add(
        "--weights", type=pairs, default={}, metavar="ROLE=PATH,...", help="files, folders or hub names of the networks"
    )
    add("--stand-in", type=pairs, default={}, metavar="ROLE=NAME,...", help="surrogates in place of networks whose weights "
        "are not at hand; NAME ? lists them. Their numbers compare with nothing published")  # fmt: skip
    add("--without", type=words, default=set(), metavar="ROLE,...", help="leave out what needs these networks")
    add("--samples", type=Path, metavar="DIR", help="score samples of another model instead of making any: files named as "
        "--plan says, or an .npz of pictures (arr_0)")  # fmt: skip
    add(
        "--plan", type=Path, metavar="JSONL", help="write the samples that are to be made, with their prompts, and stop"
    )
    add("--seed", type=int, default=0, help="sample i draws from seed + i (default 0)")
    add(
        "--limit",
        type=int,
        metavar="N",
        help="at most N samples and real clips: a trial, compared with nothing published",
    )
    add(
        "--allow-partial",
        action="store_true",
        help="measure although videos are missing or counts are not as published",
    )
    add("--plot", type=Path, metavar="SVG", help="draw the measures")
    add("--patience", type=float, default=900.0, metavar="SECONDS", help="rank 0 takes over what other ranks have not made "
        "for so long (default 900)")  # fmt: skip
    sampling_arguments(parser)
    parser.set_defaults(run=run)


def pairs(text: str) -> dict[str, str]:
    """ "clip=a,i3d=b" -> {"clip": "a", "i3d": "b"}."""
    found = {}
    for part in filter(None, text.split(",")):
        role, equals, value = part.partition("=")
        if not equals or not role or not value:
            raise argparse.ArgumentTypeError(f"'{part}' is not ROLE=VALUE")
        found[role.strip()] = value.strip()
    return found


def words(text: str) -> set[str]:
    return {word.strip() for word in text.split(",") if word.strip()}


def run(namespace: argparse.Namespace) -> None:
    """Data, samples, features, numbers, report."""
    from rich.console import Console

    from videopoet.evaluation import runner
    from videopoet.evaluation.protocol import read_protocol
    from videopoet.evaluation.report_file import table, write_report
    from videopoet.evaluation.report_plot import draw
    from videopoet.evaluation.sampling import Share, write_plan
    from videopoet.evaluation.study import Run

    a, protocol, share = namespace, read_protocol(namespace.protocol), Share.of_environment()
    if a.plan is None and a.out is None:
        raise ValueError("--out names the report to write (or --plan the list of samples)")
    for what, path in (("--plan", a.plan), ("--out", a.out)):
        check_folder(what, path)
    check_svg(a.plot)
    work = a.work or (a.out or a.plan).with_name((a.out or a.plan).name + ".work")
    with bars(quiet=share.rank > 0) as progress:
        how = Run(data=a.data, work=work, seed=a.seed, limit=a.limit, allow_partial=a.allow_partial, share=share,
                  patience=a.patience, progress=progress)  # fmt: skip
        if a.plan is not None:
            _, wishes, complaints = runner.plan(protocol, how)
            write_plan(a.plan, wishes, a.seed)
            print("\n".join([f"{len(wishes)} samples to make in {a.plan}", *complaints]))
            return
        nets = runner.networks(protocol, a.weights, a.stand_in, a.without)
        report = runner.measure(protocol, how, nets, None if a.samples else maker_of(protocol, a), a.samples)
    if report is None:
        return
    write_report(a.out, report)
    Console(width=160).print(table(report))
    print(f"report in {a.out}, samples and features in {work}")
    if a.plot is not None:
        a.plot.write_text(draw([report], [a.model.name if a.model else "shipped"]), encoding="utf-8")
        print(f"plot in {a.plot}")


def maker_of(protocol, a: argparse.Namespace):
    """The model, or its tokenizers where the protocol reconstructs."""
    from videopoet import component
    from videopoet.commands.sample import best_device, load_model
    from videopoet.evaluation.makers import Generator, Reconstructor
    from videopoet.pipeline import SHIPPED

    folder = a.model or SHIPPED
    if protocol.task != "reconstruct":
        return Generator(load_model(folder), folder, draw_of(a))
    from videopoet.tokenizers.audio.tokenizer import AudioTokenizer
    from videopoet.tokenizers.visual.autoencoder import VideoTokenizer

    visual = folder / "visual.safetensors" if folder.is_dir() else folder
    audio = folder / "audio.safetensors"
    loaded = component.load(visual, VideoTokenizer).to(best_device())
    heard = component.load(audio, AudioTokenizer).to(best_device()) if folder.is_dir() and audio.is_file() else None
    return Reconstructor(loaded, folder, heard if protocol.source.sound else None)


def check_folder(what: str, path: Path | None) -> None:
    if path is not None and not path.parent.is_dir():
        raise ValueError(f"the folder of {what} {path} does not exist: make it first")


def check_svg(path: Path | None) -> None:
    check_folder("--plot", path)
    if path is not None and path.suffix.lower() != ".svg":
        raise ValueError(f"--plot {path}: plots are SVG, name a file that ends in .svg (browsers open it)")


@contextmanager
def bars(quiet: bool):
    """One bar for each stage, with counts and the time left; needs no terminal, and vanishes when done."""
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TextColumn("left"),
               TimeRemainingColumn())  # fmt: skip
    with Progress(*columns, transient=True, disable=quiet or os.environ.get("VIDEOPOET_QUIET") == "1") as shown:

        def stage(what: str, total: int):
            number = shown.add_task(what, total=total)
            return lambda steps=1: shown.advance(number, steps)

        yield stage


def run_selftest(namespace: argparse.Namespace) -> None:
    """The table; an error where a value is not the published one."""
    from rich.console import Console

    from videopoet.evaluation.selftest import selftest

    if unknown := sorted(set(namespace.weights) - {"i3d"}):
        raise ValueError(f"no published value is known for '{unknown[0]}': give i3d=PATH")
    view, right = selftest(namespace.weights.get("i3d"))
    Console(width=160).print(view)
    if not right:
        raise ValueError("not the published values: these are other weights, or something changes what they see")


def run_compare(namespace: argparse.Namespace) -> None:
    """A table of what can be compared; an error where nothing can."""
    from rich.console import Console

    from videopoet.evaluation.report_file import compare, comparison_table, read_report
    from videopoet.evaluation.report_plot import draw

    check_svg(namespace.plot)
    reports = [read_report(path) for path in namespace.reports]
    labels = tuple(path.stem for path in namespace.reports)
    labels = labels if labels[0] != labels[1] else tuple(str(path) for path in namespace.reports)
    found, refused = compare(*reports)
    if found:
        Console(width=140).print(comparison_table(found, labels))
    for name, why in refused.items():
        print(f"not compared: {name}: {'; '.join(why)}")
    if not found:
        raise ValueError(f"{labels[0]} and {labels[1]} have no number that can be compared")
    if namespace.plot is not None:
        namespace.plot.write_text(draw(reports, labels), encoding="utf-8")
        print(f"plot in {namespace.plot}")

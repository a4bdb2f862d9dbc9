"""`videopoet preference`: a page on which people compare two videos, and what their answers say."""

import argparse
import json
from pathlib import Path


def add(commands) -> None:
    preference = commands.add_parser(
        "preference", help="ask people: a side-by-side page, and the analysis of its answers"
    )
    parts = preference.add_subparsers(title="parts", metavar="PART", required=True)
    add_page(parts)
    add_analyse(parts)


def add_page(parts) -> None:
    page = parts.add_parser(
        "page",
        help="write a page that shows two videos of one prompt side by side, five questions each",
        description="The page opens from the disk, loads nothing and sends nothing; raters save their answers as a file. "
        "Sides and order are drawn for every rater, and only OUT.key.json, written beside the page, knows which video is "
        "whose: keep it. Videos belong together by prompt: the caption (captions.jsonl, clip.txt), or the name without "
        "-number, or what `videopoet benchmark` logged.",
        epilog="example: videopoet preference page --set ours=out/ours --set theirs=out/theirs --out out/study",
    )
    page.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="NAME=DIR",
        help="a folder of videos; twice or more, each with each",
    )
    page.add_argument("--out", type=Path, required=True, metavar="PATH", help="a new folder, or one file called *.html")
    page.add_argument("--against", metavar="NAME", help="compare every set with this one alone")
    page.add_argument("--limit", type=int, metavar="N", help="so many prompts, drawn by the seed (default: all)")
    page.add_argument("--title", default="Which video is better?", help="the page's heading")
    page.add_argument("--seed", type=int, default=0, help="of hidden names, order and sides (default 0)")
    page.set_defaults(run=run_page)


def add_analyse(parts) -> None:
    analyse = parts.add_parser(
        "analyse",
        aliases=["analyze"],
        help="preference per question with intervals, sign test, Elo and agreement of raters",
        epilog="example: videopoet preference analyse out/study.key.json answers/*.json --out out/preference.json",
    )
    analyse.add_argument("key", type=Path, help="the page's key, OUT.key.json")
    analyse.add_argument("answers", type=Path, nargs="+", help="the files that raters saved")
    analyse.add_argument("--out", type=Path, help="write the report as JSON")
    analyse.add_argument("--draws", type=int, default=2000, help="of the bootstrap (default 2000)")
    analyse.add_argument("--seed", type=int, default=0, help="of the bootstrap (default 0)")
    analyse.set_defaults(run=run_analyse)


def run_page(namespace: argparse.Namespace) -> None:
    from videopoet.data.progress import bar
    from videopoet.evaluation.preference.page import key_path, write_page
    from videopoet.evaluation.preference.study import build

    study, alone = build(
        folders_of(namespace.set),
        seed=namespace.seed,
        title=namespace.title,
        against=namespace.against,
        limit=namespace.limit,
    )
    clips = len({clip.id for pair in study.pairs for clip in pair.clips})
    with bar("videos", clips) as advance:
        write_page(study, namespace.out, progress=advance)
    for name, number in alone.items():
        if number:
            print(f"note: {number} videos of '{name}' have no counterpart and are left out")
    page = namespace.out if namespace.out.suffix == ".html" else namespace.out / "index.html"
    print(f"{page}: {len(study.pairs)} pairs of {len(study.sets)} sets")
    print(f"{key_path(namespace.out)}: which video is whose; keep it from the raters")


def folders_of(texts: list[str]) -> dict[str, Path]:
    """NAME=DIR texts as a dictionary; ValueError where one is none or a name comes twice."""
    folders: dict[str, Path] = {}
    for text in texts:
        name, equals, folder = text.partition("=")
        if not (name and equals and folder):
            raise ValueError(f"--set {text}: needs a name and a folder, as --set ours=out/ours")
        if name in folders:
            raise ValueError(f"--set {text}: the name '{name}' is taken")
        folders[name] = Path(folder)
    return folders


def run_analyse(namespace: argparse.Namespace) -> None:
    from rich.console import Console

    from videopoet.evaluation.preference.analysis import analyse
    from videopoet.evaluation.preference.answers import read_answers, read_key

    if namespace.draws < 1:
        raise ValueError(f"--draws is {namespace.draws}: at least 1 is needed")
    if namespace.out is not None and not namespace.out.parent.is_dir():
        raise ValueError(f"the folder of --out {namespace.out} does not exist: make it first")
    key = read_key(namespace.key)
    report = analyse(key, read_answers(namespace.answers, key), draws=namespace.draws, seed=namespace.seed)
    console = Console(width=140)
    console.print(comparison_table(report))
    if len(report["sets"]) > 2:
        console.print(strength_table(report))
    print(
        f"{report['raters']} raters, {report['prompts']} prompts, {report['pairs']} pairs, {report['answers']} answers"
    )
    for warning in report["warnings"]:
        print(f"note: {warning}")
    if namespace.out is not None:
        namespace.out.write_text(json.dumps(report, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
        print(f"report in {namespace.out}")


def comparison_table(report: dict):
    """Two sets and a question a row."""
    from rich.table import Table

    view = Table(title="preferred, %; intervals of 95 %, over raters and prompts where it says score")
    for name in ("first", "second", "question", "first", "same", "second", "score", "interval", "sign test p", "alpha"):
        view.add_column(name, justify="left" if len(view.columns) < 3 else "right")
    for row in report["comparisons"]:
        shares = [f"{100 * row['preferred'][name] / row['answers']:.0f}" for name in ("first", "same", "second")]
        low, high = row["score_bootstrap_95"]
        alpha = report["agreement"][row["axis"]]["alpha_nominal"]
        view.add_row(
            row["first"],
            row["second"],
            row["axis"].replace("_", " "),
            *shares,
            f"{100 * row['score']:.0f}",
            f"{100 * low:.0f} - {100 * high:.0f}",
            f"{row['sign_test']['p_holm']:.3g}",
            "" if alpha is None else f"{alpha:.2f}",
        )
    return view


def strength_table(report: dict):
    """Elo per question."""
    from rich.table import Table

    view = Table(title="strength (Bradley-Terry on the scale of Elo), intervals of 95 %")
    for name in ("question", *report["sets"]):
        view.add_column(name, justify="right" if view.columns else "left")
    for row in report["strengths"]:
        cells = []
        for name in report["sets"]:
            low, high = (row["elo_bootstrap_95"] or {}).get(name, (float("nan"),) * 2)
            cells.append(f"{row['elo'][name]:.0f} ({low:.0f} - {high:.0f})" if row["elo"] else "none: " + row["cause"])
        view.add_row(row["axis"].replace("_", " "), *cells)
    return view

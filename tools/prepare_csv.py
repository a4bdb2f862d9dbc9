"""Tables of videos with captions and times (WebVid, Panda-70M, one's own) -> listings for `videopoet shards build`.

    python tools/prepare_csv.py --tables results_10M_train.csv --videos webvid --out out/webvid
    python tools/prepare_csv.py --tables panda70m_training_2m.csv --videos panda --min-score 0.43 --out out/panda
    videopoet shards build webvid --listing out/webvid/results_10M_train.jsonl --out out/webvid/shards

Columns are known by their usual names; --column says others (--column id=clip --column caption=what_is_seen):

  id       videoid, video_id, youtube_id, clip_id, id: also the end of `url`, where there is no such column
  path     path, file, filename, file_name, video; WebVid's page_dir/videoid is looked for too
  caption  caption, text, name, description, title, sentence
  start    start, start_time, time_start; end: end, end_time, time_end, in seconds or h:m:s
  span     timestamp: a list of [start, end], with a list of captions and of scores beside it (Panda-70M)
  score    matching_score, score, similarity

A sample with times is looked for as a file of its own (ID_0.mp4, ID_segment_0.mp4 ...), then as a span of ID.mp4.
Every table becomes a split of its name.
"""

import argparse
import ast
from collections.abc import Iterator
from math import inf
from pathlib import Path
from urllib.parse import parse_qs, urlparse

from videopoet.commands.safely import run_safely
from videopoet.data.importers import Files, Item, one_line, read_table, seconds, summary, write_listings

COLUMNS = {
    "id": ("videoid", "video_id", "youtube_id", "clip_id", "id"),
    "path": ("path", "file", "filename", "file_name", "video"),
    "caption": ("caption", "text", "name", "description", "title", "sentence"),
    "start": ("start", "start_time", "time_start"),
    "end": ("end", "end_time", "time_end"),
    "span": ("timestamp", "timestamps"),
    "score": ("matching_score", "score", "similarity"),
    "url": ("url", "contenturl"),
}


def cell(row: dict[str, str], what: str, chosen: dict[str, str]) -> str:
    """What a row says of one of `COLUMNS`, "" where nothing."""
    names = (chosen[what],) if what in chosen else COLUMNS[what]
    return next((row[name] for name in names if row.get(name)), "")


def listed(text: str, where: str) -> list | None:
    """The list that a cell holds, as Python or JSON writes it; None where it holds none."""
    if not text.startswith("["):
        return None
    try:
        return list(ast.literal_eval(text))
    except (ValueError, SyntaxError) as error:
        raise ValueError(f"{where}: {text[:60]!r} is no list") from error


def spans_of(row: dict[str, str], chosen: dict[str, str], where: str) -> list[tuple[float, float]]:
    """From which to which second the samples of a row last; none where it does not say."""
    pairs = listed(cell(row, "span", chosen), where)
    pairs = [[cell(row, "start", chosen), cell(row, "end", chosen)]] if pairs is None else pairs
    try:
        return [(seconds(start), seconds(end)) for start, end in pairs if start != "" and end != ""]
    except (ValueError, TypeError) as error:
        raise ValueError(f"{where}: {error}") from None


def items(path: Path, chosen: dict[str, str]) -> Iterator[Item]:
    """Every sample of every row."""
    for number, row in enumerate(read_table(path, chosen.values()), start=1):
        where = f"{path}, row {number}"
        url, file, name = (cell(row, what, chosen) for what in ("url", "path", "id"))
        name = name or (parse_qs(urlparse(url).query).get("v") or [Path(urlparse(url).path).stem])[0]
        whole = tuple(filter(None, (file, f"{row['page_dir']}/{name}" if row.get("page_dir") else "", name)))
        if not whole:
            raise ValueError(f"{where}: no id, path or url among {', '.join(row)}; name the column by --column id=...")
        spans = spans_of(row, chosen, where)
        said = []
        for what in ("caption", "score"):
            text = cell(row, what, chosen)
            values = listed(text, where) if spans else None
            said.append([text] * max(1, len(spans)) if values is None else values)
            if len(said[-1]) != max(1, len(spans)):
                raise ValueError(f"{where}: {len(said[-1])} entries of {what} for {len(spans)} spans")
        for i, (caption, score) in enumerate(zip(*said)):
            start, end = spans[i] if spans else (None, None)
            extra = {"id": name, "url": url, "score": float(score) if score != "" else ""}
            yield Item(
                split=path.stem,
                names=(f"{name}_{i}", f"{name}_segment_{i}") if spans else whole,
                uncut=whole if spans else (),
                start=start,
                end=end,
                captions=tuple(filter(None, (one_line(caption),))),
                extra={key: value for key, value in extra.items() if value != ""},
            )


def run(a: argparse.Namespace) -> None:
    chosen = {}
    for word in a.column:
        what, _, name = word.partition("=")
        if what not in COLUMNS or not name:
            raise ValueError(f"--column {word}: say one of {', '.join(COLUMNS)}, '=', and a column's name")
        chosen[what] = name.lower()
    files = Files(a.videos)
    found = (item for path in a.tables for item in items(path, chosen) if item.extra.get("score", inf) >= a.min_score)
    print(summary(write_listings(found, files, a.out, a.tables), files, a.out))


def parser() -> argparse.ArgumentParser:
    root = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    root.add_argument("--tables", type=Path, nargs="+", required=True, metavar="FILE", help="CSV or TSV with a heading")
    root.add_argument("--videos", type=Path, required=True, metavar="DIR")
    root.add_argument("--out", type=Path, required=True, metavar="DIR", help="gets a listing a table and import.json")
    root.add_argument(
        "--column", action="append", default=[], metavar="WHAT=NAME", help="a column's name; may be repeated"
    )
    root.add_argument("--min-score", type=float, default=-inf, help="leave out samples that score less")
    root.set_defaults(run=run)
    return root


if __name__ == "__main__":
    run_safely(parser().parse_args(), [])

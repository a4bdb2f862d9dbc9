"""Captions beside media files: `clip.txt`, `clip.json`, or one `captions.jsonl` for the whole folder."""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

LISTING = "captions.jsonl"
SIDECARS = (".json", ".txt")
Span = tuple[str, float, float | None]  # file, from second, to second (None: its end)


@dataclass(frozen=True, kw_only=True)
class Caption:
    """What is said about one file, and whatever else its sidecar holds."""

    texts: tuple[str, ...] = ()
    extra: dict[str, Any] = field(default_factory=dict)

    def __add__(self, other: "Caption") -> "Caption":
        return Caption(texts=tuple(dict.fromkeys(self.texts + other.texts)), extra=self.extra | other.extra)


def read_listing(path: Path) -> dict[Span, Caption]:
    """A listing, if it is there: one `{"file": "a/b.mp4", "caption": "..."}` per line, by path relative to the folder.

    `"captions": [...]` gives several; a file may have several lines. `"start": 3.5, "end": 9` (seconds, either may be
    left out) speaks of that span of the file. ValueError names the line that cannot be used.
    """
    captions: dict[Span, Caption] = {}
    if not path.is_file():
        return captions
    with path.open(encoding="utf-8-sig") as lines:
        for number, line in enumerate(lines, start=1):
            if line.strip():
                where = f"{path}, line {number}"
                entry = _parse(line, where)
                span = _span(entry, where)
                captions[span] = captions.get(span, Caption()) + _caption(entry, where)
    return captions


def _span(entry: dict[str, Any], where: str) -> Span:
    name, start, end = (entry.pop(field, default) for field, default in (("file", None), ("start", 0), ("end", None)))
    if not isinstance(name, str) or not name:
        raise ValueError(f'{where}: needs a "file" with the path relative to the folder')
    start = start or 0
    numbers = [time for time in (start, end) if time is not None]
    if any(isinstance(time, bool) or not isinstance(time, int | float) for time in numbers):
        raise ValueError(f'{where}: "start" and "end" must be seconds, not {start!r} and {end!r}')
    if not 0 <= start < (float("inf") if end is None else end):
        raise ValueError(f"{where}: a span from {start} to {end} s holds nothing; 0 <= start < end is needed")
    return Path(name).as_posix(), float(start), None if end is None else float(end)


def read_sidecars(path: Path) -> Caption:
    """Captions of `path` from `path.json` and `path.txt` (one caption a line); ValueError if one cannot be read.

    In JSON they stand under "caption", "text" or, several, under "captions".
    """
    caption = Caption()
    sidecar = path.with_suffix(".json")
    if sidecar.is_file():
        caption += _caption(_parse(_text(sidecar), str(sidecar)), str(sidecar))
    sidecar = path.with_suffix(".txt")
    if sidecar.is_file():
        lines = (" ".join(line.split()) for line in _text(sidecar).splitlines())
        caption += Caption(texts=tuple(filter(None, lines)))
    return caption


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: not UTF-8 text ({error})") from error


def _parse(text: str, where: str) -> dict[str, Any]:
    try:
        entry = json.loads(text)
    except json.JSONDecodeError as error:
        raise ValueError(f"{where}: not JSON ({error})") from error
    if not isinstance(entry, dict):
        raise ValueError(f'{where}: needs an object with "caption" or "captions", not {type(entry).__name__}')
    return entry


def _caption(entry: dict[str, Any], where: str) -> Caption:
    texts = entry.pop("captions", [])
    for name in ("caption", "text"):
        if name in entry and isinstance(texts, list):
            texts = [entry.pop(name), *texts]
    if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
        raise ValueError(f'{where}: "caption" must be a text and "captions" a list of texts')
    return Caption(texts=tuple(dict.fromkeys(filter(None, (text.strip() for text in texts)))), extra=entry)

"""Captions beside media files: `clip.txt`, `clip.json`, or one `captions.jsonl` for the whole folder."""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

LISTING = "captions.jsonl"


@dataclass(frozen=True, kw_only=True)
class Caption:
    """What is said about one file, and whatever else its sidecar holds."""

    texts: tuple[str, ...] = ()
    extra: dict[str, Any] = field(default_factory=dict)

    def __add__(self, other: "Caption") -> "Caption":
        return Caption(texts=tuple(dict.fromkeys(self.texts + other.texts)), extra=self.extra | other.extra)


def read_listing(folder: Path) -> dict[str, Caption]:
    """`captions.jsonl` of `folder`, if any: one `{"file": "a/b.mp4", "caption": "..."}` per line, by relative path.

    `"captions": [...]` gives several; a file may have several lines. ValueError names the line that cannot be used.
    """
    path = folder / LISTING
    captions: dict[str, Caption] = {}
    if not path.is_file():
        return captions
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        if not line.strip():
            continue
        where = f"{path}, line {number}"
        entry = _parse(line, where)
        name = entry.pop("file", None)
        if not isinstance(name, str):
            raise ValueError(f'{where}: needs a "file" with the path relative to the folder')
        name = Path(name).as_posix()
        captions[name] = captions.get(name, Caption()) + _caption(entry, where)
    return captions


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

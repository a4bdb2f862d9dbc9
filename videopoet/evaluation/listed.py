"""What the datasets share: annotations are found by their published names, videos by theirs, what lacks is named."""

from collections.abc import Callable, Iterable
from pathlib import Path

from videopoet.data.importers import Files, Item, sha256
from videopoet.evaluation.protocol import Contents, Entry


def annotations_in(folder: Path, names: Iterable[str], what: str) -> Path:
    """The first of the names that lies in the folder or up to two folders below. ValueError naming all of them."""
    if not folder.is_dir():
        raise ValueError(f"no folder {folder} of {what}")
    names = list(names)
    for name in names:
        found = sorted([*folder.glob(name), *folder.glob(f"*/{name}"), *folder.glob(f"*/*/{name}")])
        if found:
            return found[0]
    raise ValueError(f"{folder} holds none of {', '.join(names)}: put {what}'s annotations there")


def contents(
    items: Iterable[Item], files: Files, sources: Iterable[Path], *, label: Callable[[Item], str] = lambda item: "",
    expected: int | None = None,
) -> Contents:  # fmt: skip
    """Entries in the annotations' order, each named after the first of its file names.

    A video that is only there uncut counts as missing: cut it first, so that what is scored is a file of its own.
    """
    entries, missing, seen = [], [], set()
    for item in items:
        key = item.names[0].removesuffix(".avi")
        if key in seen:
            continue
        seen.add(key)
        path = files.find(item.names)
        if path is None:
            missing.append(key)
            continue
        entries.append(Entry(key=key, path=files.folder / path, captions=item.captions, label=label(item)))
    complaints = []
    if missing:
        complaints.append(f"{len(missing)} of {len(entries) + len(missing)} videos are missing, first {missing[0]}")
    if expected is not None and len(entries) + len(missing) != expected:
        complaints.append(f"the annotations name {len(entries) + len(missing)} videos instead of {expected}")
    facts = {"videos": len(entries), "captions": sum(len(e.captions) for e in entries)}
    hashes = {path.name: sha256(path) for path in sources}
    return Contents(entries=tuple(entries), missing=tuple(missing), sources=hashes, facts=facts,
                    complaints=tuple(complaints))  # fmt: skip

"""What a benchmark wants: which videos, of which prompts, under which names."""

import hashlib
import json
from abc import ABC, abstractmethod
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

from videopoet.evaluation.exporters.names import check_name


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One line of a benchmark's prompt file. image: the file of the given first frame, where the benchmark gives one."""

    prompt: str
    dimensions: tuple[str, ...] = ()
    image: str = ""


@dataclass(frozen=True, kw_only=True)
class Sample:
    """One video to be made. paths: where it lies, below the folder of videos; several where dimensions share it."""

    prompt: str
    index: int
    paths: tuple[str, ...]
    image: str = ""


@dataclass(frozen=True, kw_only=True)
class Benchmark(ABC):
    """One public benchmark: `read` its prompt file, `samples` of the entries.

    dimensions: only these, where the benchmark has several; () is all. The knobs of a benchmark are the fields of its
    class. `wanted` are the counts of the published prompt file, by which a wrong or cut file is noticed.
    """

    name: ClassVar[str]
    reads: ClassVar[str]  # what --prompts is, in words
    wanted: ClassVar[dict[str, int]]
    task: ClassVar[str] = "text-to-video"
    known_dimensions: ClassVar[tuple[str, ...]] = ()
    notes: ClassVar[tuple[str, ...]] = ()

    dimensions: tuple[str, ...] = ()

    def __post_init__(self):
        for name in self.dimensions:
            if name not in self.known_dimensions:
                known = ", ".join(self.known_dimensions) or "none"
                raise ValueError(f"{self.name} has no dimension '{name}', it has: {known}")

    @abstractmethod
    def read(self, path: Path) -> list[Entry]:
        """The entries of the prompt file, in its order. Raises ValueError with file and place where it is not one."""

    @abstractmethod
    def samples(self, entries: Sequence[Entry]) -> list[Sample]:
        """All videos to be made, in the order in which they are numbered. Raises ValueError for unfit prompts."""

    def plan(self, path: Path, *, allow_partial: bool = False) -> list[Sample]:
        """The videos that `path` asks for.

        Raises ValueError where the file is not the published one by its counts (allow_partial: any counts will do),
        where a prompt cannot be a name, and where two videos would have one name.
        """
        entries = self.read(path)
        if not entries:
            raise ValueError(f"{path}: has no prompt")
        counted = self.counts(entries)
        wrong = [f"{counted[what]} {what}, {count} are published" for what, count in self.published().items()
                 if counted[what] != count]  # fmt: skip
        if wrong and not allow_partial:
            raise ValueError(f"{path}: {'; '.join(wrong)}: use the published file, or --allow-partial for a part of it")
        samples = self.samples(self.chosen(entries))
        if not samples:
            raise ValueError(f"{path}: no prompt of the dimensions {', '.join(self.dimensions)}")
        check_paths(samples)
        return samples

    def published(self) -> dict[str, int]:
        """The counts of the published file, of the edition that the knobs name."""
        return self.wanted

    def counts(self, entries: Sequence[Entry]) -> dict[str, int]:
        """What `wanted` says of the published file."""
        return {"entries": len(entries), "prompts": len({entry.prompt for entry in entries})}

    def chosen(self, entries: Sequence[Entry]) -> list[Entry]:
        """The entries of the wanted dimensions, with these dimensions alone."""
        if not self.dimensions:
            return list(entries)
        kept = [replace(e, dimensions=tuple(d for d in e.dimensions if d in self.dimensions)) for e in entries]
        return [entry for entry in kept if entry.dimensions]


def check_paths(samples: Iterable[Sample]) -> None:
    """Raises ValueError where a path cannot be written, or two videos share one."""
    owner: dict[str, Sample] = {}
    for sample in samples:
        for path in sample.paths:
            for part in path.split("/"):
                check_name(part)
            if path in owner:
                raise ValueError(
                    f"two videos would be {path!r}: {owner[path].index} of prompt {owner[path].prompt!r} and "
                    f"{sample.index} of {sample.prompt!r}: make the prompts differ where they are names"
                )
            owner[path] = sample


def merged(entries: Iterable[Entry]) -> list[Entry]:
    """One entry per prompt, in order of first appearance, with the dimensions of all that say the same."""
    dimensions, first = defaultdict(dict), {}
    for entry in entries:
        first.setdefault(entry.prompt, entry)
        dimensions[entry.prompt].update(dict.fromkeys(entry.dimensions))
        if entry.image != first[entry.prompt].image:
            raise ValueError(f"prompt {entry.prompt!r} stands with the images {first[entry.prompt].image!r} and "
                             f"{entry.image!r}: their videos would have one name")  # fmt: skip
    return [replace(entry, dimensions=tuple(dimensions[prompt])) for prompt, entry in first.items()]


def read_text(path: Path) -> str:
    """A text file, with or without byte-order mark; ValueError where it is none."""
    if not path.is_file():
        raise ValueError(f"{path}: {'is a folder, a file is needed' if path.is_dir() else 'no such file'}")
    try:
        return path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: not UTF-8 text ({error})") from None


def read_lines(path: Path) -> list[str]:
    """Prompts, one a line, ends of lines dropped and nothing else.

    Lines end at newlines only: `str.splitlines` would also cut at U+2028 and shift all numbers after it. An empty line
    is an error for the same reason.
    """
    lines = read_text(path).replace("\r\n", "\n").split("\n")
    while lines and not lines[-1].strip():
        lines.pop()
    for number, line in enumerate(lines, 1):
        if not line.strip():
            raise ValueError(f"{path}, line {number}: empty, and videos are numbered by lines: remove it")
    return lines


def read_json(path: Path) -> Any:
    """A JSON file; ValueError with file and place where it is none."""
    try:
        return json.loads(read_text(path))
    except json.JSONDecodeError as error:
        raise ValueError(f"{path}: not JSON ({error})") from None


def text_field(item: Any, name: str, where: str) -> str:
    """A field that must be a text with something in it."""
    if not isinstance(item, dict) or not isinstance(item.get(name), str) or not item[name].strip():
        raise ValueError(f'{where}: needs an object with a text "{name}"')
    return item[name]


def read_full_info(path: Path, known: Iterable[str]) -> list[Entry]:
    """The VBench family's JSON: a list of {"prompt_en": text, "dimension": [names], ...}, with "image_name" for images."""
    items, known = read_json(path), tuple(known)
    if not isinstance(items, list):
        raise ValueError(f"{path}: needs a list of entries, not {type(items).__name__}")
    entries = []
    for number, item in enumerate(items):
        where = f"{path}, entry {number}"
        prompt = text_field(item, "prompt_en", where)
        dimensions = item.get("dimension")
        if not isinstance(dimensions, list) or not dimensions or not all(d in known for d in dimensions):
            raise ValueError(f'{where}: "dimension" is {dimensions!r}, a list of some of {", ".join(known)} is needed')
        image = text_field(item, "image_name", where) if "image_name" in item else ""
        entries.append(Entry(prompt=prompt, dimensions=tuple(dimensions), image=image))
    return entries


def fingerprint(path: Path) -> str:
    """SHA-256 of a file, or of the names and contents of the files right in a folder."""
    digest = hashlib.sha256()
    files = sorted(p for p in path.iterdir() if p.is_file()) if path.is_dir() else [path]
    for file in files:
        if path.is_dir():
            digest.update(file.name.encode() + b"\0" + hashlib.sha256(file.read_bytes()).digest())
        else:
            digest.update(file.read_bytes())
    return digest.hexdigest()

"""The protocols that come with the package, by name: nothing here needs torch, so that the command line's help is quick."""

from pathlib import Path

#: A link to configs/evaluation in the repository.
FOLDER = Path(__file__).parent / "protocols"


def names() -> dict[str, Path]:
    """Name -> YAML file."""
    return {path.stem: path for path in sorted(FOLDER.glob("*.yaml"))}


def header(path: Path) -> str:
    """The comments at the head of a YAML."""
    lines = []
    for line in path.read_text(encoding="utf-8").splitlines():
        if not line.startswith("#"):
            break
        lines.append(line.removeprefix("#").removeprefix(" "))
    return "\n".join(lines)

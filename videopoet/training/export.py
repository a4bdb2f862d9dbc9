"""Training checkpoint -> shipped component."""

from pathlib import Path

from videopoet import component
from videopoet.training import checkpoints
from videopoet.training.sharded import portable


def export(checkpoint: str | Path, out: str | Path, *, half: bool = True, int8: str | None = None) -> int:
    """Write the trained part of a checkpoint as a component and return its size in bytes.

    A checkpoint is a file, or the folder that a strategy which deals weights out to ranks writes. With weight averaging
    the averaged weights are what it holds as its own. The written file is loaded once, so that what ships is known to
    fit. Raises ValueError for anything but a checkpoint of `videopoet fit`.
    """
    trained = checkpoints.read(checkpoint)
    component.save(out, portable(trained.spec), trained.state, trained.metadata, half=half, int8=int8)
    component.load(out)
    return Path(out).stat().st_size

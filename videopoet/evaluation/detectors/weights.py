"""Where a detector's weights are: a file that is named, or one folder that the user filled. Nothing is downloaded."""

import hashlib
import json
import os
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor, nn

from videopoet import component
from videopoet.data.files import whole_or_nothing
from videopoet.foreign_weights import read_state

FOLDER = "VIDEOPOET_EVALUATION_WEIGHTS"  # environment variable: a folder with the files below under their own names
TRUSTED = "trusted.json"  # in that folder: sha256 of its files when they were first used


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """A file that somebody published. `sha256`: its first digits where they are known; the whole where it is."""

    file: str
    source: str
    sha256: str = ""

    def find(self, given: str | Path | None) -> Path:
        """`given`, or the file in $VIDEOPOET_EVALUATION_WEIGHTS, converted or not. Raises ValueError naming what to get."""
        folder = os.environ.get(FOLDER)
        names = [Path(self.file).with_suffix(".safetensors").name, self.file]
        places = [Path(given)] if given is not None else [Path(folder) / name for name in names] if folder else []
        found = next((place for place in places if place.is_file()), None)
        if found is None:
            known = f" (sha256 {self.sha256}...)" if self.sha256 else ""
            tried = f"{', '.join(map(str, places))} is not there" if places else "no file was named"
            raise ValueError(f"{tried}: get {self.file}{known}, {self.source}; name it as weights, or put it into the folder "
                             f"of ${FOLDER}")  # fmt: skip
        if self.sha256 and found.name == self.file and not sha256_of(found).startswith(self.sha256):
            raise ValueError(
                f"{found} has sha256 {sha256_of(found)[:16]}..., {self.file} has {self.sha256}...: get it anew"
            )
        return found


def load_weights(module: nn.Module, path: Path, keep=lambda name: True) -> dict[str, str]:
    """Fit a state file strictly; returns {file name: sha256}. `keep` leaves out tensors that the module has no use for."""
    state: dict[str, Tensor] = {name: tensor for name, tensor in read_state(path).items() if keep(name)}
    for name, tensor in module.state_dict().items():  # files of old torch count no batches
        if name.endswith("num_batches_tracked"):
            state.setdefault(name, tensor)
    component.fit(module, state, str(path))
    digest = sha256_of(path)
    _trust(path, digest)
    return {path.name: digest}


def _trust(path: Path, digest: str) -> None:
    """Note the hash of a file of $VIDEOPOET_EVALUATION_WEIGHTS at its first use. Raises ValueError where it changed since."""
    folder = os.environ.get(FOLDER)
    if not folder or path.resolve().parent != Path(folder).resolve():
        return
    book = Path(folder, TRUSTED)
    known = json.loads(book.read_text(encoding="utf-8")) if book.is_file() else {}
    if known.setdefault(path.name, digest) != digest:
        raise ValueError(
            f"{path} has sha256 {digest[:16]}..., when it was first used it had {known[path.name][:16]}...: bring that file "
            f"back, or, if the new one is meant, take its line out of {book}"
        )
    if os.access(folder, os.W_OK):
        with whole_or_nothing(book) as part:
            part.write_text(json.dumps(known, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def sha256_of(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()

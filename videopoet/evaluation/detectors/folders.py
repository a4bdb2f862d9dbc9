"""Models of `transformers` from folders, or from the hub where asked: safetensors, never a pickle, never by themselves."""

import json
from pathlib import Path

from videopoet.evaluation.detectors.weights import sha256_of

WEIGHTS = "*.safetensors"
TEXT = ("*.json", "*.txt")


def folder_of(source: str | Path, what: str, *, download: bool, revision: str | None = None) -> Path:
    """The folder itself, or the one of a name in the hub's cache; fetched only with download=True.

    Raises ValueError naming what is needed where it is not there.
    """
    folder = Path(source)
    if not folder.is_dir():
        from huggingface_hub import snapshot_download

        try:
            folder = Path(
                snapshot_download(
                    str(source), revision=revision, allow_patterns=[WEIGHTS, *TEXT], local_files_only=not download
                )
            )
        except (OSError, ValueError) as error:
            cause = str(error).strip().splitlines()[0]
            hint = "" if download else "; a name on the hub is fetched only with download=True"
            raise ValueError(f"{source}: no folder and not in the hub's cache ({cause}){hint}") from None
    needed = [name for name in ("config.json", WEIGHTS) if not list(folder.glob(name))]
    if needed:
        raise ValueError(f"{folder} lacks {' and '.join(needed)} of {what}: pickled weights (.bin) are not read, save them "
                         "again as safetensors where you trust them")  # fmt: skip
    return folder


def hashes(folder: Path) -> dict[str, str]:
    """sha256 of every file of weights."""
    return {path.name: sha256_of(path) for path in sorted(folder.glob(WEIGHTS))}


def loaded(cls, folder: Path, optional: tuple[str, ...] = ()):
    """`cls.from_pretrained(folder)` without the network; ValueError where it does not fit.

    transformers fills parameters that a file lacks with random numbers and warns: here that is an error, but for names
    that begin with one of `optional`.
    """
    kind = getattr(getattr(cls, "config_class", None), "model_type", None)
    try:
        if not hasattr(cls, "config_class"):  # a tokenizer, or a class that looks for the right model itself
            return cls.from_pretrained(folder, local_files_only=True)
        said = json.loads((folder / "config.json").read_text(encoding="utf-8")).get("model_type")
        if said != kind:
            raise ValueError(f"{folder} holds a model of type {said!r}, {cls.__name__} is {kind!r}")
        made, report = cls.from_pretrained(
            folder, local_files_only=True, use_safetensors=True, output_loading_info=True
        )
    except (OSError, RuntimeError) as error:
        raise ValueError(f"{folder} holds no {cls.__name__}: {str(error).strip().splitlines()[0]}") from None
    absent = sorted(name for name in report["missing_keys"] if not name.startswith(optional or "\0"))
    wrong = sorted(str(name) for name in report.get("mismatched_keys", ()))
    if absent or wrong:
        raise ValueError(f"{folder} does not fill {len(absent) + len(wrong)} tensors of {cls.__name__}, first "
                         f"{(absent + wrong)[0]}: it holds another model")  # fmt: skip
    return made.float().eval()

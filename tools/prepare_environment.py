"""Make torchaudio importable beside a CPU build of torch.

torchaudio's wheel carries one compiled extension, `_torchaudio.abi3.so`, that links CUDA's libraries. Beside a torch
without CUDA, `import torchaudio` fails on it, and so does everything that imports torchaudio: encodec, and the audio
processors of transformers. Without the file torchaudio imports as a build without extension: its signal processing
(resampling, spectrograms, filters) is pure PyTorch; only `forced_align` and `rnnt_loss` are gone.

Run once by the environment's own Python; running it again changes nothing:

    .venv/bin/python tools/prepare_environment.py

Beside a CUDA build of torch nothing is touched.
"""

import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

EXTENSION = "_torchaudio.abi3.so"
# encodec and transformers are here because both probe torchaudio when they are imported.
PACKAGES = ("torchaudio", "encodec", "lightning", "transformers")


def package_folder(name: str) -> Path:
    """Folder of an installed package, found without importing it (importing torchaudio is what may fail)."""
    spec = find_spec(name)
    if spec is None or spec.origin is None:
        sys.exit(f"{name} is not installed for {sys.executable}: run `make setup` again")
    return Path(spec.origin).parent


def remove_cuda_extension() -> None:
    """Delete torchaudio's CUDA-linked extension, only where torch is built without CUDA and only inside a venv."""
    import torch

    if torch.version.cuda or torch.version.hip:
        print(f"torch {torch.__version__} has its GPU libraries: torchaudio stays as it is")
        return
    extension = package_folder("torchaudio") / "lib" / EXTENSION
    if not extension.exists():
        print(f"torch {torch.__version__} has no CUDA: torchaudio is already without its CUDA extension")
        return
    if sys.prefix == sys.base_prefix:
        sys.exit(f"{sys.executable} is not in a virtual environment: its torchaudio is not changed. Use `make setup`")
    extension.unlink()
    print(f"torch {torch.__version__} has no CUDA: removed torchaudio's CUDA-linked {EXTENSION}")


def check_imports() -> None:
    """Import what the project stands on, in a fresh interpreter; exits with the failing package's last error line."""
    for name in PACKAGES:
        result = subprocess.run([sys.executable, "-c", f"import {name}"], capture_output=True, text=True)
        if result.returncode != 0:
            cause = (result.stderr.strip().splitlines() or ["no message"])[-1]
            sys.exit(f"`import {name}` fails after set-up: {cause}. Delete .venv and run `make setup` again")
    print(f"{', '.join(PACKAGES)}: import")


if __name__ == "__main__":
    remove_cuda_extension()
    check_imports()

"""Training checkpoint -> shipped component."""

from pathlib import Path

import torch

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


def export_decoder(checkpoint: str | Path, tokenizer: str | Path, out: str | Path) -> int:
    """Write the component `tokenizer` with the decoder of a checkpoint, and return its size in bytes.

    All else stays as the file has it, number formats and fingerprint included, so tokens and models of them stay valid;
    `decoder_steps` in its metadata says how long the decoder was trained. Raises ValueError where the checkpoint's
    encoder or codebooks are not those of the file: its decoder speaks of other codes.
    """
    trained, whole = checkpoints.read(checkpoint), component.load(tokenizer)
    other = component.instantiate(portable(trained.spec))
    component.fit(other, trained.state, str(checkpoint))
    state, ours = other.state_dict(), whole.state_dict()
    strange = list(state.keys() ^ ours.keys())
    for name in (name for name in ours if name in state and not name.startswith("decoder.")):
        # An average of equal weights rounds them; what is written are the file's own.
        if ours[name].shape != state[name].shape or not torch.allclose(ours[name], state[name], rtol=1e-4):
            strange.append(name)
    if strange:
        raise ValueError(
            f"{checkpoint} has another {min(strange)} than {tokenizer}, so its decoder is of other codes: train it by "
            f"AudioDecoderTraining with --start_from={tokenizer}, or export the whole of it without --decoder-of"
        )
    whole.load_state_dict(ours | {name: value for name, value in state.items() if name.startswith("decoder.")})
    whole.metadata = whole.metadata | {"decoder_steps": trained.metadata["steps"]}
    component.save_again(out, whole)
    assert component.read_fingerprint(out) == whole.fingerprint, "a decoder has no part in it"
    return Path(out).stat().st_size

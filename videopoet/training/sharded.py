"""What strategies that deal weights out to ranks have in common: whole checkpoints, and the weights in one file.

A checkpoint of theirs is a folder: what the ranks need to go on, and beside it `weights.safetensors`, the trained part
as `videopoet export` writes it, in float32. Sampling, exporting and starting another training read that file alone.
"""

import shutil
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from videopoet import component

WEIGHTS = "weights.safetensors"


class Sharded(ABC):
    """Mixed into a Lightning strategy.

    averages: tensors like `shards`, kept by `training.ema.EMA`. Where there are any, the weights file gets them.
    """

    averages: list[Tensor] | None = None
    partitions_weights: bool  # whether a rank alone can run the model between steps

    @abstractmethod
    def shards(self) -> list[Tensor]:
        """This rank's part of the weights in float32, as the optimizer keeps them."""

    @abstractmethod
    def gathered(self, weight: nn.Parameter) -> Tensor:
        """The whole of a trained weight, from the shards of all ranks, on each of them. All ranks must call it."""

    @abstractmethod
    def scatter(self, weight: nn.Parameter, value: Tensor) -> None:
        """Write this rank's part of a whole value into the shards."""

    @contextmanager
    def averaged(self) -> Iterator[None]:
        """Within, the shards hold the averages, if there are any."""
        self._swap()
        try:
            yield
        finally:
            self._swap()

    @torch.no_grad()
    def _swap(self) -> None:
        for shard, average in zip(self.shards(), self.averages or [], strict=self.averages is not None):
            kept = shard.clone()
            shard.copy_(average)
            average.copy_(kept)

    def save_checkpoint(self, checkpoint: dict, filepath: str | Path, storage_options=None) -> None:
        """Written beside its place and moved there when every rank is done: what is found at `filepath` is whole."""
        path = Path(self.broadcast(filepath))
        part = path.with_name(path.name + ".part")
        if self.is_global_zero:
            remove(part)
        self.barrier()
        super().save_checkpoint(checkpoint, part, storage_options)
        if "component" in checkpoint:
            with self.averaged():
                self._write_weights(checkpoint, part / WEIGHTS)
        self.barrier()
        if self.is_global_zero:
            replace(part, path)
        self.barrier()

    @torch.no_grad()
    def _write_weights(self, checkpoint: dict, path: Path) -> None:
        part, state = checkpoint["component"], {}
        for name, tensor in getattr(self.lightning_module, part["name"]).state_dict(keep_vars=True).items():
            if isinstance(tensor, nn.Parameter) and tensor.requires_grad:
                tensor = self.gathered(tensor)
            if self.is_global_zero:
                state[name] = tensor.detach().to("cpu", copy=True)
        if self.is_global_zero:
            component.save(path, portable(part["spec"]), state, facts(checkpoint), half=False)

    @torch.no_grad()
    def restore_averages(self, path: str | Path) -> None:
        """Take the averages from a checkpoint's weights file; any number of ranks may have written it."""
        state = load_file(Path(path) / WEIGHTS)
        self.averages = [shard.detach().clone() for shard in self.shards()]
        with self.averaged():
            for name, weight in getattr(self.lightning_module, self.lightning_module.component).named_parameters():
                if weight.requires_grad:
                    self.scatter(weight, state[name].to(self.root_device))


def portable(spec):
    """The spec without `sentencepiece` paths: the text model's bytes travel in the weights."""
    if isinstance(spec, dict):
        return {key: None if key == "sentencepiece" else portable(value) for key, value in spec.items()}
    return [portable(item) for item in spec] if isinstance(spec, list | tuple) else spec


def facts(checkpoint: dict) -> dict:
    """What travels with the weights: the module's metadata, steps, and the files of the tokenizers it was trained with."""
    files = checkpoint["component"].get("files", {})
    return {"steps": checkpoint["global_step"], **checkpoint.get("metadata", {}), **({"files": files} if files else {})}


def remove(path: Path) -> None:
    """A file or a folder, if it is there."""
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def replace(new: Path, old: Path) -> None:
    """Put `new` in the place of `old`, file or folder. A folder that was there is first moved to `NAME.old`."""
    aside = old.with_name(old.name + ".old")
    remove(aside)
    if old.is_dir():
        old.rename(aside)
    elif old.exists():
        old.unlink()
    new.rename(old)
    remove(aside)

"""`videopoet fit`: the Lightning CLI for every trainable part."""

import os
import warnings
from pathlib import Path

import lightning
import torch
from jsonargparse import ActionConfigFile
from lightning import Callback, LightningDataModule, LightningModule
from lightning.pytorch.callbacks import Checkpoint, RichProgressBar
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI

from videopoet.training.ema import check_averaging
from videopoet.training.numbers import default_callbacks
from videopoet.training.preemption import Preemption
from videopoet.training.start import Exported, Start


class SpecCallback(Callback):
    """Writes into every checkpoint how to rebuild the trained part, so that a checkpoint can be exported by itself."""

    def __init__(self, spec: dict, files: dict[str, str] | None = None):
        """files: the tokenizers' files, by which a checkpoint can be sampled from without being exported."""
        self.spec, self.files = spec, files or {}

    def on_train_end(self, trainer, pl_module) -> None:
        """Save the very end: ModelCheckpoint saves every so many steps only. Runs before averaging ends."""
        for callback in trainer.checkpoint_callbacks:
            if callback.save_last and not trainer.interrupted:
                trainer.save_checkpoint(Path(callback.dirpath) / "last.ckpt", weights_only=False)

    def on_save_checkpoint(self, trainer, pl_module, checkpoint: dict) -> None:
        checkpoint["component"] = {"name": pl_module.component, "spec": self.spec, "files": self.files}


class OneLineParser(LightningArgumentParser):
    """Says what is wrong with the arguments in one line, without pages of usage."""

    def error(self, message: str, ex: Exception | None = None) -> None:
        raise ValueError(f"{message} (see videopoet fit --help)")


class FitCLI(LightningCLI):
    """Models and data are named by `class_path`; a rich progress bar and a self-contained checkpoint come with it."""

    def init_parser(self, **kwargs) -> LightningArgumentParser:
        kwargs.setdefault("dump_header", [f"lightning.pytorch=={lightning.__version__}"])
        parser = OneLineParser(**kwargs)
        parser.add_argument("-c", "--config", action=ActionConfigFile, help="Path to a configuration file in YAML.")
        return parser

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        help = "Weights to start from: an exported file, or a Start by class_path. A resumed run does not read them."
        parser.add_argument("--start_from", type=Start | str | None, default=None, help=help)

    def before_instantiate_classes(self) -> None:
        if "TORCHELASTIC_RUN_ID" in os.environ:  # what torchrun started counts, and may change between restarts
            self.config.fit.trainer.num_nodes = int(os.environ["GROUP_WORLD_SIZE"])
            self.config.fit.trainer.devices = int(os.environ["LOCAL_WORLD_SIZE"])
        if self.config.fit.trainer.enable_progress_bar is not False:
            self.trainer_defaults["callbacks"] = [RichProgressBar()]

    def before_fit(self) -> None:
        check_averaging(self.trainer)
        model, data = self.config.fit.model.as_dict(), self.config.fit.data.as_dict()
        files = {name: str(path) for name, path in (data.get("init_args", {}).get("tokenizers") or {}).items()}
        callbacks = self.trainer.callbacks
        callbacks[:0] = default_callbacks(self.trainer, data)
        callbacks.insert(0, SpecCallback(model["init_args"][self.model.component], files))
        if not any(isinstance(callback, Preemption) for callback in callbacks):  # after averages, before checkpoints
            place = next((i for i, c in enumerate(callbacks) if isinstance(c, Checkpoint)), len(callbacks))
            callbacks.insert(place, Preemption())
        start = self.config_init.fit.start_from
        if start is not None and self.config.fit.ckpt_path is None:
            start = Exported(file=start) if isinstance(start, str) else start
            self.model.started_from = start.fill(getattr(self.model, self.model.component))

    def after_fit(self) -> None:
        best = self.trainer.checkpoint_callback
        if best is not None and best.last_model_path and self.trainer.is_global_zero:
            print(f"next: videopoet export {best.last_model_path} --out PART.safetensors")


def fit(arguments: list[str]) -> FitCLI:
    """Run `fit` with LightningCLI arguments, e.g. `["-c", "configs/demo/lm.yaml", "--trainer.max_steps=10"]`."""
    warnings.filterwarnings("ignore", message="LightningCLI's args parameter")  # `videopoet` read the command line
    warnings.filterwarnings("ignore", message=".*your dataloader is not resumable")  # the data module's cursor is exact
    warnings.filterwarnings("ignore", message="Using ModelCheckpoint with manual optimization")  # saving after is meant
    warnings.filterwarnings("ignore", message="It is recommended to use `self.log")  # ranks validate the same batches
    run = FitCLI(
        LightningModule,
        LightningDataModule,
        subclass_mode_model=True,
        subclass_mode_data=True,
        seed_everything_default=0,
        save_config_kwargs={"overwrite": True},
        args=["fit", "--weights_only=true", *arguments],
    )
    leave_together()
    return run


def leave_together() -> None:
    """Close the connections between ranks when all are done: gloo aborts a rank whose neighbour is gone already."""
    distributed = torch.distributed.is_available() and torch.distributed.is_initialized()
    if distributed and torch.distributed.get_world_size() > 1:
        torch.distributed.barrier()
        torch.distributed.destroy_process_group()

"""DeepSpeed's ZeRO as a Lightning strategy: on GPUs, and on CPUs with gloo, where tests run it."""

import os
from argparse import Namespace
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from io import StringIO
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.accelerators import CUDAAccelerator
from lightning.pytorch.plugins.precision import DeepSpeedPrecision
from lightning.pytorch.strategies import DDPStrategy, DeepSpeedStrategy
from safetensors.torch import load_file
from torch import Tensor, nn

from videopoet.training.sharded import WEIGHTS, Sharded

TAG = "checkpoint"  # Lightning's name of the folder in which DeepSpeed keeps its files
UNIVERSAL = "universal"


class ExactInputs(DeepSpeedPrecision):
    """Batches stay as they are: positions in bfloat16 would be wrong from 257 on."""

    def convert_input(self, data: Any) -> Any:
        return data


class DeepSpeed(Sharded, DeepSpeedStrategy):
    """ZeRO stage 1 (optimizer), 2 (and gradients) or 3 (and weights dealt out to ranks), with torch's AdamW.

    `bf16-mixed` and `bf16-true` mean the same here: weights in bfloat16, their fp32 originals with the optimizer.
    Gradients are clipped by norm. A checkpoint is a folder; a run with another number of ranks converts it first
    (`universal/` in it), once. A stage goes on with checkpoints of the same stage only; `--start_from` takes any.

    offload_optimizer, offload_parameters: keep these in the memory of the host; parameters with stage 3 only.
    bucket_size: numbers sent at a time.
    persistence_threshold: with stage 3, weights of up to so many numbers stay whole on every rank.
    more: anything else of DeepSpeed's configuration, laid over what these make.

    Raises ValueError for combinations that DeepSpeed does not have.
    """

    def __init__(
        self,
        stage: int = 2,
        offload_optimizer: bool = False,
        offload_parameters: bool = False,
        bucket_size: int = 200_000_000,
        persistence_threshold: int = 100_000,
        more: dict[str, Any] | None = None,
    ):
        if stage not in (1, 2, 3):
            raise ValueError(f"ZeRO has stages 1, 2 and 3, not {stage}")
        if offload_parameters and stage < 3:
            raise ValueError(f"stage {stage} keeps the weights whole on every rank: offload_parameters needs stage 3")
        if not torch.cuda.is_available():
            os.environ.setdefault("DS_ACCELERATOR", "cpu")
        zero: dict[str, Any] = {
            "stage": stage,
            "contiguous_gradients": True,
            "overlap_comm": True,
            "allgather_bucket_size": bucket_size,
            "reduce_bucket_size": bucket_size,
        }
        if stage == 3:
            zero["stage3_param_persistence_threshold"] = persistence_threshold
        pinned = {"device": "cpu", "pin_memory": torch.cuda.is_available()}
        zero |= {"offload_optimizer": pinned} if offload_optimizer else {}
        zero |= {"offload_param": dict(pinned)} if offload_parameters else {}
        config = {
            "zero_allow_untested_optimizer": True,
            "zero_force_ds_cpu_optimizer": False,  # DeepSpeed's own would be compiled first
            "zero_optimization": zero,
            "train_micro_batch_size_per_gpu": 1,  # DeepSpeed's own throughput, which nothing shows
        }
        try:
            super().__init__(config=config | (more or {}))
        except ImportError as error:
            raise ValueError(f"{error}: pip install 'videopoet-open[deepspeed]'") from None
        self.partitions_weights = stage == 3

    def setup_environment(self) -> None:
        if self.precision_plugin.precision in ("16-mixed", "16-true"):
            raise ValueError("T5 overflows in float16: use --trainer.precision bf16-mixed or 32-true")
        self.precision_plugin = ExactInputs(self.precision_plugin.precision)
        self.linear = nn.functional.linear
        if isinstance(self.accelerator, CUDAAccelerator):
            super().setup_environment()
            return
        import deepspeed

        # The shared-memory collectives are built by a compiler at the first run; gloo's do.
        deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
        self.parallel_devices = [torch.device("cpu", i) for i in range(self.num_processes)]
        DDPStrategy.setup_environment(self)

    def teardown(self) -> None:
        """Take back what stage 3 leaves behind for good: a linear map of its own in place of torch's."""
        nn.functional.linear = getattr(self, "linear", nn.functional.linear)
        super().teardown()

    def setup(self, trainer) -> None:
        if not trainer.lightning_module.automatic_optimization:
            raise ValueError("DeepSpeed has one optimizer, an adversary needs another: use configs/strategy/ddp.yaml")
        super().setup(trainer)

    def init_deepspeed(self) -> None:
        if self.zero_stage_3:
            self._declare_external(self.lightning_module)
        super().init_deepspeed()

    def _declare_external(self, model: nn.Module) -> None:
        """Stage 3 gathers the weights of a module when it runs; say which modules read weights of others."""
        import deepspeed

        for reader, weight in getattr(model, "external_weights", tuple)():
            deepspeed.zero.register_external_parameter(reader, weight)

    def load_checkpoint(self, checkpoint_path: str | Path, weights_only: bool | None = None) -> dict[str, Any]:
        """Raises ValueError where the path holds no checkpoint of this strategy."""
        path = Path(checkpoint_path)
        ranks = saved_ranks(path)
        if ranks is None:
            raise ValueError(f"{path} is no checkpoint of DeepSpeed: go on with the strategy that wrote it, or start from "
                             "its weights by --start_from")  # fmt: skip
        with weights_alone():
            if not self.lightning_module.trainer.training:
                return self._load_weights(path)
            universal = ranks != self.world_size
            if universal and self.is_global_zero and not (path / "latest_universal").exists():
                to_universal(path)
            self.barrier()
            self.deepspeed_engine._config.load_universal_checkpoint = universal
            stored = super().load_checkpoint(path, weights_only)
            if universal and self.zero_stage_3:
                self._restore_groups(path)
            return stored

    def _restore_groups(self, path: Path) -> None:
        """From a universal checkpoint of stage 3, DeepSpeed (0.19.8) gives all parameter groups the rate and decay of the
        first, and all weights one tensor as their count of steps, which each group then counts up."""
        optimizer = self.optimizers[0].optimizer
        stored = torch.load(path / UNIVERSAL / "zero" / "optimizer_state.pt", weights_only=True)["param_groups"]
        for group, saved in zip(optimizer.param_groups, stored, strict=True):
            group.update({name: value for name, value in saved.items() if name != "params"})
        for state in optimizer.state.values():
            state["step"] = torch.as_tensor(state["step"]).clone()

    @torch.no_grad()
    def _load_weights(self, path: Path) -> dict[str, Any]:
        """For validation: the weights file, whatever number of ranks wrote it, and what else Lightning stored."""
        import deepspeed

        part = getattr(self.lightning_module, self.lightning_module.component).state_dict(keep_vars=True)
        for name, value in load_file(path / WEIGHTS).items():  # Lightning has taken the hooks that say what is stored
            tensor = part[name]
            with deepspeed.zero.GatheredParameters([tensor], modifier_rank=0, enabled=hasattr(tensor, "ds_id")):
                if self.is_global_zero or not hasattr(tensor, "ds_id"):
                    tensor.copy_(value)
        first = min((path / TAG).glob("*mp_rank_00_model_states.pt"))
        return torch.load(first, map_location="cpu", mmap=True, weights_only=True)

    def shards(self) -> list[Tensor]:
        zero = self.optimizers[0]
        return zero.fp32_partitioned_groups_flat if self.zero_stage_3 else zero.single_partition_of_fp32_groups

    def gathered(self, weight: nn.Parameter) -> Tensor:
        from deepspeed.utils import safe_get_full_fp32_param

        return safe_get_full_fp32_param(weight).view(getattr(weight, "ds_shape", weight.shape))

    def scatter(self, weight: nn.Parameter, value: Tensor) -> None:
        from deepspeed.utils import safe_set_full_fp32_param, safe_set_local_fp32_param

        if not self.zero_stage_3:
            safe_set_full_fp32_param(weight, value)
            return
        size = weight.ds_tensor.ds_numel  # of a rank's part; the last is padded
        flat = torch.nn.functional.pad(value.flatten(), (0, size * self.world_size - value.numel()))
        safe_set_local_fp32_param(weight, flat[size * self.global_rank : size * (self.global_rank + 1)])


def saved_ranks(path: Path) -> int | None:
    """How many ranks wrote a checkpoint; None where it is none of DeepSpeed."""
    return len(list((path / TAG).glob("*zero_pp_rank_*_mp_rank_00_optim_states.pt"))) or None


def to_universal(path: Path) -> None:
    """Write `universal/` into a checkpoint's folder: every weight and its moments by name, for any number of ranks."""
    from deepspeed.checkpoint import ds_to_universal

    how = Namespace(
        input_folder=str(path / TAG),
        output_folder=str(path / UNIVERSAL),
        num_extract_workers=1,  # forked workers could wait for ever on a lock that a thread of ours held
        num_merge_workers=1,
        keep_temp_folder=False,
        strict=True,
        inject_missing_state=True,
    )
    with redirect_stdout(StringIO()):
        ds_to_universal.main(how)


@contextmanager
def weights_alone() -> Iterator[None]:
    """DeepSpeed reads its files as pickles that may run code: within, torch reads data out of them and nothing else."""
    import torch.serialization as serialization
    from deepspeed.runtime.fp16 import loss_scaler
    from deepspeed.runtime.zero.config import ZeroStageEnum
    from deepspeed.utils.tensor_fragment import fragment_address

    known = [ZeroStageEnum, fragment_address, loss_scaler.LossScaler, loss_scaler.DynamicLossScaler]
    name, before = "TORCH_FORCE_WEIGHTS_ONLY_LOAD", os.environ.get("TORCH_FORCE_WEIGHTS_ONLY_LOAD")
    os.environ[name] = "1"
    try:
        with serialization.safe_globals(known):
            yield
    finally:
        os.environ.pop(name) if before is None else os.environ.__setitem__(name, before)

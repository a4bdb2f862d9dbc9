"""Fully sharded data parallelism by torch alone (FSDP2) as a Lightning strategy."""

from collections.abc import Iterator
from typing import Any

import torch
from lightning.pytorch.strategies import ModelParallelStrategy
from torch import Tensor, nn
from torch.distributed.fsdp import fully_shard, register_fsdp_forward_method
from torch.distributed.tensor import distribute_tensor

from videopoet.training.sharded import Sharded


class FSDP2(Sharded, ModelParallelStrategy):
    """Weights, gradients and optimizer dealt out to ranks, gathered block by block while the model runs.

    What no block holds (`blocks_of`) is one more group.
    Weights and optimizer are float32; `bf16-mixed` computes in bfloat16. A checkpoint is a folder and goes on with any
    number of ranks.
    """

    partitions_weights = True

    def __init__(self):
        super().__init__()

    def setup_environment(self) -> None:
        if not self.lightning_module.automatic_optimization:
            raise ValueError(
                "FSDP2 here trains by one optimizer, an adversary needs another: use configs/strategy/ddp.yaml"
            )
        self._data_parallel_size, self._tensor_parallel_size = self.num_nodes * self.num_processes, 1
        self.lightning_module.configure_model = self._shard  # Lightning asks the module to do this
        super().setup_environment()

    def _shard(self) -> None:
        module = self.lightning_module
        if isinstance(module, torch.distributed.fsdp.FSDPModule):  # asked again, for validation
            return
        mesh = self.device_mesh["data_parallel"]
        for block in blocks_of(module):
            fully_shard(block, mesh=mesh)
        fully_shard(module, mesh=mesh)
        for name in ("training_step", "validation_step"):
            register_fsdp_forward_method(module, name)

    def shards(self) -> list[Tensor]:
        return [p.to_local() for p in self.lightning_module.parameters() if p.requires_grad]

    def gathered(self, weight: nn.Parameter) -> Tensor:
        return weight.full_tensor()

    def scatter(self, weight: nn.Parameter, value: Tensor) -> None:
        weight.copy_(distribute_tensor(value, weight.device_mesh, weight.placements))

    def load_checkpoint(self, checkpoint_path, weights_only: bool | None = None) -> dict[str, Any]:
        """Raises ValueError where the path holds no checkpoint of this strategy."""
        try:
            return super().load_checkpoint(checkpoint_path, weights_only)
        except ValueError as error:
            raise ValueError(
                f"{error} Go on with the strategy that wrote it, or start from its weights by --start_from"
            ) from None


def blocks_of(module: nn.Module) -> Iterator[nn.Module]:
    """The outermost members of `nn.ModuleList`s that have layers of their own: transformer blocks, as a rule."""
    for child in module.children():
        if isinstance(child, nn.ModuleList) and all(any(True for _ in block.children()) for block in child):
            yield from child
        else:
            yield from blocks_of(child)

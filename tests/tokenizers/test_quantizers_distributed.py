"""Two processes with half a batch each do what one process does with the whole batch: losses, gradients, codebooks."""

import os

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as multiprocessing
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from videopoet.tokenizers.quantizers.lookup_free import LookupFreeQuantizer
from videopoet.tokenizers.quantizers.residual import QuantizerDropout, ResidualVectorQuantizer
from videopoet.tokenizers.quantizers.vector import VectorQuantizer

STEPS = 3
CASES = {
    "joint": lambda: LookupFreeQuantizer(6, temperature=1.0),
    "grouped": lambda: LookupFreeQuantizer(6, temperature=1.0, bits_per_group=4),
    "vector": lambda: VectorQuantizer(12, 6, decay=0.8, dead_code_usage=0.9, kmeans_steps=3),
    "residual": lambda: ResidualVectorQuantizer(
        6, levels=3, size=12, decay=0.8, dead_code_usage=0.9, dropout=QuantizerDropout(levels=(2,))
    ),
    "sparse": lambda: VectorQuantizer(200, 6, decay=0.8, code_dimension=4, normalize=True, kmeans_steps=0),
}


class Model(nn.Module):
    """A layer to learn before the quantizer, and a loss on what comes out."""

    def __init__(self, name: str):
        super().__init__()
        torch.manual_seed(0)
        self.layer, self.quantizer = nn.Conv1d(5, 6, 1), CASES[name]()

    def forward(self, x):
        quantized = self.quantizer(self.layer(x))
        return quantized.loss + (quantized.latents - 0.3).square().mean(), quantized.metrics


def train(model: nn.Module, batches) -> dict[str, torch.Tensor]:
    """Losses and metrics of every step, gradients of the last, and the state at the end."""
    core = model.module if isinstance(model, DistributedDataParallel) else model
    record = {}
    for step, batch in enumerate(batches):
        loss, metrics = model(batch)
        model.zero_grad()
        loss.backward()
        with torch.no_grad():
            for parameter in model.parameters():
                parameter -= 0.1 * parameter.grad
        record |= {f"{key} {step}": value for key, value in metrics.items()} | {f"loss {step}": loss.detach()}
    record |= {f"gradient {name}": parameter.grad for name, parameter in core.named_parameters()}
    return record | core.state_dict()


def batches() -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    return [torch.randn(4, 5, 30, generator=generator) for _ in range(STEPS)]


def work(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2)
    for name in CASES:
        model = DistributedDataParallel(Model(name), broadcast_buffers=False)  # equal without rank 0's help
        torch.save(train(model, [batch.chunk(2)[rank] for batch in batches()]), f"{folder}/{name} {rank}.pt")
    dist.barrier()
    dist.destroy_process_group()
    os._exit(0)  # all is written; gloo's threads now and then abort an ordinary exit ("terminate called")


def work_alone(rank: int, folder: str) -> None:
    """The joint batch in a process as new as the ranks are: what other tests left behind in this one may turn the sign of a
    latent next to zero, and with it a code."""
    torch.set_num_threads(1)
    for name in CASES:
        torch.save(train(Model(name), batches()), f"{folder}/{name} whole.pt")


@pytest.fixture(scope="module")
def two_processes(tmp_path_factory):
    folder = tmp_path_factory.mktemp("ranks")
    multiprocessing.spawn(work, (str(folder),), nprocs=2)
    multiprocessing.spawn(work_alone, (str(folder),), nprocs=1)
    return lambda name: [torch.load(folder / f"{name} {who}.pt", weights_only=True) for who in (0, 1, "whole")]


@pytest.mark.parametrize("name", CASES)
def test_two_processes_equal_one_with_the_joint_batch(two_processes, name):
    first, second, whole = two_processes(name)
    assert first.keys() == second.keys() == whole.keys()
    local = ("loss", "commitment", "token_entropy", "bit_imbalance")  # of a rank's half of the batch
    for key, value in whole.items():
        if key.startswith(local):
            if not key.startswith("bit_imbalance"):  # an absolute value: halves do not average to the whole
                torch.testing.assert_close((first[key] + second[key]) / 2, value, atol=2e-6, rtol=1e-5)
        else:
            assert torch.equal(first[key], second[key]), key
            torch.testing.assert_close(first[key], value, atol=2e-6, rtol=1e-5)
    if name in ("vector", "residual"):
        reborn = [value for key, value in whole.items() if key.startswith("reborn")]
        assert max(reborn) > 0, "nothing was drawn: the test shows too little"


def test_without_the_exchange_the_ranks_differ(two_processes):
    """The batch entropy of half a batch is another number, so the test above can fail."""
    whole = train(Model("joint"), batches())
    half = train(Model("joint"), [batch.chunk(2)[0] for batch in batches()])
    assert (half["batch_entropy 0"] - whole["batch_entropy 0"]).abs() > 1e-3
    assert (half["gradient layer.weight"] - whole["gradient layer.weight"]).abs().max() > 1e-4

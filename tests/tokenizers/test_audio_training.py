"""Training the audio tokenizer with everything on: turns, dropout, balancer; resume equals never stopped, two equal one."""

import copy
import logging
import math
import os
import socket
from types import SimpleNamespace

import lightning
import pytest
import torch
from conftest import AUDIO
from lightning.pytorch.callbacks import EMAWeightAveraging
from test_visual_training import Count, content, trainer, weights
from torch.utils.data import DataLoader

from videopoet import component
from videopoet.data.clips import ClipDataModule
from videopoet.tokenizers.adversarial import Simultaneous
from videopoet.tokenizers.audio.adversary import AudioAdversarial, MultiScaleSTFTDiscriminator
from videopoet.tokenizers.audio.balancer import Balancer
from videopoet.tokenizers.audio.losses import AudioReconstructionLoss, MultiScaleMel
from videopoet.tokenizers.audio.segments import RandomGain
from videopoet.tokenizers.audio.training import AudioTokenizerTraining
from videopoet.training.cli import SpecCallback
from videopoet.training.export import export

logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)

SPEC = copy.deepcopy(AUDIO)
SPEC["init_args"]["quantizer_dropout"] = {
    "class_path": "videopoet.tokenizers.quantizers.residual.QuantizerDropout",
    "init_args": {"levels": [1, 2]},
}
RECIPES = {
    "balanced": {"start_step": 4, "balancer": True},
    "weighted": {"updates": Simultaneous(), "weight": 0.1, "feature_weight": 0.2},
}


def module(recipe: str | None = "balanced", **changes) -> AudioTokenizerTraining:
    """The tiny tokenizer against a discriminator of a few thousand parameters, on segments of 0.3 s."""
    lightning.seed_everything(1, verbose=False)
    how = RECIPES.get(recipe, {}) | changes
    balancer = Balancer(decay=0.9) if how.pop("balancer", False) else None
    tokenizer = component.instantiate(SPEC)
    adversarial = recipe and AudioAdversarial(MultiScaleSTFTDiscriminator((256, 64), channels=4), **how)
    loss = AudioReconstructionLoss(MultiScaleMel(windows=(64, 256)))
    return AudioTokenizerTraining(
        tokenizer, loss, 1e-3, 2, segment=4800, gain=RandomGain(), adversarial=adversarial, balancer=balancer
    )


def sounds(*steps: int, clips: int = 2, part: slice = slice(None)) -> DataLoader:
    """A batch of noises a step, of which `part` is taken."""
    batches = []
    for step in steps:
        audio = 0.2 * torch.randn(clips, 1, 12000, generator=torch.Generator().manual_seed(step))
        batches.append(SimpleNamespace(audio=audio[part], step=step))
    return DataLoader(batches, batch_size=None, collate_fn=lambda batch: batch)


@pytest.mark.parametrize("recipe", RECIPES)
@pytest.mark.parametrize("accumulate", [1, 2])
def test_a_step_is_an_update_of_the_tokenizer(recipe, accumulate):
    model, count = module(recipe), Count()
    before = weights(model.tokenizer).clone(), weights(model.adversarial.discriminator).clone()
    t = trainer(6, callbacks=[count], accumulate_grad_batches=accumulate, gradient_clip_val=0.01)
    t.fit(model, sounds(*range(6 * accumulate)))
    late = RECIPES[recipe].get("start_step", 0)
    assert t.global_step == 6 and [len(norms) for norms in count.norms] == [6, 6 - late]
    assert max(max(norms) for norms in count.norms) <= 0.0101
    for old, network in zip(before, (model.tokenizer, model.adversarial.discriminator)):
        assert weights(network).isfinite().all() and not torch.equal(old, weights(network))
    names = {"loss", "commitment", "adversarial", "features", "discriminator", "accuracy", "levels", "reborn_0"}
    names |= {"gradient_features", "gradient_log"} if recipe == "balanced" else set()
    logged = {name.removeprefix("train/"): float(value) for name, value in t.callback_metrics.items()}
    assert names <= set(logged) and all(math.isfinite(value) for value in logged.values())


def test_until_it_starts_there_is_no_adversary():
    plain, late = module(None), module("weighted", start_step=3)
    before, seen = weights(late.adversarial.discriminator).clone(), []

    class Watch(lightning.Callback):
        def on_train_batch_end(self, trainer, pl_module, *_):
            seen.append(weights(pl_module.tokenizer))

    for model in (plain, late):
        trainer(4, callbacks=[Watch()]).fit(model, sounds(*range(4)))
    assert all(torch.equal(seen[step], seen[4 + step]) for step in range(3))
    assert not torch.equal(seen[3], seen[7]) and not torch.equal(before, weights(late.adversarial.discriminator))


def test_bf16_trains_both_networks():
    model = module("balanced", start_step=1)
    t = trainer(4, precision="bf16-mixed")
    t.fit(model, sounds(*range(4)))
    assert weights(model).isfinite().all() and all(value.isfinite() for value in t.callback_metrics.values())


@pytest.mark.parametrize("recipe", RECIPES)
def test_resume_equals_never_stopped(world, tmp_path, recipe):
    """20 steps = 10 + a checkpoint + 10, to the last bit of networks, codebooks, balancer, averages and optimizers."""

    class Save(lightning.Callback):
        def __init__(self, stop: int):
            self.stop = stop

        def on_train_batch_end(self, trainer, *_):
            if trainer.global_step in (10, 20):
                trainer.save_checkpoint(tmp_path / f"{self.stop}_{trainer.global_step}.ckpt")
            trainer.should_stop = trainer.global_step == self.stop

    def run(stop, ckpt=None):
        data = ClipDataModule(str(world), batch_size=2, num_workers=0)
        t = trainer(20, callbacks=[EMAWeightAveraging(decay=0.9), Save(stop)], gradient_clip_val=1.0)
        t.fit(module(recipe), data, ckpt_path=ckpt, weights_only=True)

    run(20)
    whole = content(tmp_path / "20_20.ckpt")
    (tmp_path / "20_20.ckpt").unlink()
    run(10)
    run(20, ckpt=tmp_path / "10_10.ckpt")
    resumed = content(tmp_path / "20_20.ckpt")
    assert whole.keys() == resumed.keys()
    for name, value in whole.items():
        same = torch.equal(value, resumed[name]) if isinstance(value, torch.Tensor) else value == resumed[name]
        assert same, name
    state = "current_model_state."
    assert 0 < whole[state + "tokenizer.quantizer.layers.1.updates"] < 20, "some steps dropped it"
    if recipe == "balanced":
        assert whole[state + "balancer.steps"].tolist() == [20, 20, 20, 16, 16]


def test_the_sound_must_have_the_tokenizers_rate(world):
    model = module(None)
    model.tokenizer.sample_rate = 24_000
    with pytest.raises(
        ValueError, match=r"16000 Hz, the tokenizer takes 24000 Hz: build the shards with --sample-rate"
    ):
        trainer(1).fit(model, ClipDataModule(str(world), batch_size=2, num_workers=0))


def test_validation_says_what_fewer_levels_give():
    model = module(None)
    t = trainer(1, limit_val_batches=1)
    logged = t.validate(model, sounds(0), verbose=False)[0]
    assert logged["validation/mel_distance"] != logged["validation/mel_distance_0.04kbps"]  # 10 Hz x 4 bits


def test_the_tokenizer_is_exported_alone_with_its_dropout(tmp_path):
    model = module("weighted")
    t = trainer(2, callbacks=[SpecCallback(SPEC)])
    t.fit(model, sounds(0, 1))
    t.save_checkpoint(tmp_path / "run.ckpt")
    export(tmp_path / "run.ckpt", tmp_path / "audio.safetensors", half=False)
    tokenizer, audio = component.load(tmp_path / "audio.safetensors"), next(iter(sounds(5))).audio
    assert tokenizer.trained_levels == (1, 2)
    assert torch.equal(tokenizer.encode(audio), model.tokenizer.encode(audio))


def rank(number: int, count: int, port: int, out: str) -> None:
    """Three steps on this rank's share of three batches of two; saves gradients and the final state."""
    if count > 1:
        places = {"RANK": number, "LOCAL_RANK": number, "WORLD_SIZE": count, "LOCAL_WORLD_SIZE": count, "GROUP_RANK": 0}
        places |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "TORCHELASTIC_RUN_ID": "test"}
        os.environ.update({name: str(value) for name, value in places.items()})
    torch.set_num_threads(1)
    gradients = []

    class Note(lightning.Callback):
        def on_before_optimizer_step(self, trainer, pl_module, optimizer):
            found = [p.grad.flatten() for g in optimizer.param_groups for p in g["params"] if p.grad is not None]
            gradients.append(torch.cat(found))

    model = module("balanced", start_step=0)
    share = sounds(0, 1, 2, part=slice(number, number + 1) if count > 1 else slice(None))
    several = {"devices": count, "strategy": "ddp_find_unused_parameters_true"} if count > 1 else {}
    trainer(3, callbacks=[Note()], use_distributed_sampler=False, **several).fit(model, share)
    state = {name: value.clone() for name, value in model.state_dict().items() if "discriminator" not in name}
    torch.save((gradients, state), out)
    if count > 1:
        torch.distributed.barrier()
        os._exit(0)  # all is written; gloo's threads now and then abort an ordinary exit


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_two_processes_equal_one_with_the_joint_batch(tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    names = [tmp_path / name for name in ("joint", "first", "second")]
    spawn = torch.multiprocessing.get_context("spawn")
    processes = [spawn.Process(target=rank, args=(i, 2, port, names[1 + i])) for i in (0, 1)]
    for process in processes:
        process.start()
    rank(0, 1, port, names[0])
    for process in processes:
        process.join(800)
        assert process.exitcode == 0
    joint, first, second = (torch.load(name, weights_only=True) for name in names)
    for name, value in joint[1].items():
        assert torch.equal(first[1][name], second[1][name]), name
        if name.startswith(("balancer", "tokenizer.quantizer")):
            torch.testing.assert_close(first[1][name], value, rtol=1e-2, atol=1e-3, msg=name)
    assert len(joint[0]) == len(first[0]) == 6
    for one, two in zip(joint[0][:2], first[0][:2]):  # later ones start from weights rounded otherwise
        assert (one - two).norm() < 1e-3 * one.norm()

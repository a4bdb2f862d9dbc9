"""Training the visual tokenizer against an adversary: terms by hand, steps counted once, resume equals never stopped."""

import logging
import math
import os
import socket
from typing import NamedTuple

import lightning
import pytest
import torch
import yaml
from conftest import VISUAL
from lightning.pytorch.callbacks import EMAWeightAveraging
from lightning.pytorch.loggers import TensorBoardLogger
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import nn
from torch.utils.data import DataLoader

from videopoet import component
from videopoet.data.clips import ClipDataModule
from videopoet.tokenizers.schedule import warmup_cosine
from videopoet.tokenizers.visual.adversarial import (
    R1,
    AdaptiveWeight,
    Adversarial,
    Alternating,
    Hinge,
    LeCAM,
    NonSaturating,
    Simultaneous,
)
from videopoet.tokenizers.visual.discriminator import StyleGANDiscriminator
from videopoet.tokenizers.visual.losses import PixelLoss, ReconstructionLoss
from videopoet.tokenizers.visual.perceptual import FeatureDistance
from videopoet.tokenizers.visual.pretrained import Pretrained
from videopoet.tokenizers.visual.training import VideoTokenizerTraining
from videopoet.training.cli import SpecCallback, fit
from videopoet.training.export import export

logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)

RECIPES = {
    "paper": lambda: {"lecam": LeCAM(decay=0.9), "r1": R1(every=2)},
    "hinge": lambda: {"loss": Hinge(), "updates": Alternating(), "r1": None, "adaptive_weight": AdaptiveWeight()},
}


class Edges(Pretrained):
    """A perceptual network without a file."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)
        self.requires_grad_(False)

    def maps(self, frames):
        return [self.conv(frames)]


def adversary(**how) -> Adversarial:
    return Adversarial(StyleGANDiscriminator((16, 16), channels=4, multipliers=(1, 2)), **how)


def module(adversarial: dict | None = None, learning_rate: float = 1e-3) -> VideoTokenizerTraining:
    """The tiny tokenizer; with `adversarial`, against a discriminator of a few thousand parameters."""
    lightning.seed_everything(1, verbose=False)
    tokenizer, loss = (
        component.instantiate(VISUAL),
        ReconstructionLoss(PixelLoss(), FeatureDistance(Edges(), num_frames=3)),
    )
    against = None if adversarial is None else adversary(**adversarial)
    return VideoTokenizerTraining(tokenizer, loss, learning_rate, warmup_steps=2, adversarial=against)


class Video(NamedTuple):
    video: torch.Tensor


def clips(*frames: int, seed: int = 0) -> DataLoader:
    """One batch of two clips of so many frames after the other."""
    g = torch.Generator().manual_seed(seed)
    batches = [Video(torch.rand(2, 3, t, 16, 16, generator=g) * 2 - 1) for t in frames]
    return DataLoader(batches, batch_size=None, collate_fn=lambda batch: batch)


def trainer(steps: int, **how) -> lightning.Trainer:
    quiet = {
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "limit_val_batches": 0,
    }
    return lightning.Trainer(accelerator="cpu", max_steps=steps, **{**quiet, **how})


def weights(network: nn.Module) -> torch.Tensor:
    return torch.cat([p.detach().flatten() for p in network.parameters()])


# --- terms, by hand


def soft(x: float) -> float:
    return math.log1p(math.exp(x))


def test_losses_by_hand():
    real, fake = torch.tensor([2.0, 0.5]), torch.tensor([-3.0, 0.0])
    assert NonSaturating().generator(fake) == pytest.approx((soft(3) + soft(0)) / 2)
    assert NonSaturating().discriminator(real, fake) == pytest.approx(
        (soft(-2) + soft(-0.5)) / 2 + (soft(-3) + soft(0)) / 2
    )
    assert Hinge().generator(fake) == pytest.approx(1.5)
    assert Hinge().discriminator(real, fake) == pytest.approx((0 + 0.5) / 2 + (0 + 1) / 2)


class Linear(nn.Module):
    """logit = <w, x>, w the same for every frame count."""

    def __init__(self):
        super().__init__()
        self.w = nn.Parameter(torch.arange(12.0).reshape(3, 1, 2, 2) / 10)

    def forward(self, video):
        return (video * self.w).sum(dim=(1, 2, 3, 4))


@pytest.mark.parametrize("frames", [1, 5])
def test_r1_of_a_linear_discriminator_is_its_squared_weight(frames):
    network, video = Linear(), torch.randn(3, 3, frames, 2, 2)
    adversarial = Adversarial(network, r1=R1(weight=7.0, every=3))
    plain = Adversarial(network, r1=None)
    square = float(network.w.detach().square().sum()) * frames
    for step in range(4):
        cost, without = (a.discriminator_cost(-video, video, step) for a in (adversarial, plain))
        if step % 3:
            assert "r1" not in cost.metrics and cost.loss == without.loss
        else:
            assert cost.metrics["r1"] == pytest.approx(square)
            torch.testing.assert_close(cost.loss - without.loss, torch.tensor(3 * 7.0 * square))
    (cost.loss - without.loss).backward()
    torch.testing.assert_close(network.w.grad, 3 * 7.0 * 2 * frames * network.w.detach(), rtol=1e-3, atol=1e-3)


def test_lecam_by_hand():
    lecam = LeCAM(weight=5.0, decay=0.6)
    assert lecam(torch.tensor([1.0, 3.0]), torch.tensor([-1.0, -3.0])) == 0  # nothing to compare with yet
    assert (float(lecam.real), float(lecam.fake)) == (2, -2)
    real, fake = torch.tensor([4.0], requires_grad=True), torch.tensor([0.0], requires_grad=True)
    penalty = lecam(real, fake)
    assert penalty.item() == (4 + 2) ** 2 + (2 - 0) ** 2
    penalty.backward()
    assert (float(real.grad), float(fake.grad)) == (12, -4)
    assert (float(lecam.real), float(lecam.fake)) == (3, -1)  # the second of two steps: a plain mean
    lecam(torch.tensor([8.0]), torch.tensor([-6.0]))
    assert float(lecam.real) == pytest.approx(0.6 * 3 + 0.4 * 8) and float(lecam.fake) == pytest.approx(-0.6 - 2.4)
    assert set(lecam.state_dict()) == {"real", "fake", "steps"}


def test_lecam_enters_with_its_weight():
    adversarial = Adversarial(Linear(), r1=None, lecam=LeCAM(weight=5.0))
    video, costs = torch.randn(2, 3, 1, 2, 2), []
    for _ in range(2):
        costs.append(adversarial.discriminator_cost(-video, video, 0))
    bare = Adversarial(adversarial.discriminator, r1=None).discriminator_cost(-video, video, 0)
    torch.testing.assert_close(costs[1].loss, bare.loss + 5.0 * costs[1].metrics["lecam"])


def test_accuracy_counts_both_sides():
    adversarial, video = Adversarial(Linear(), r1=None), torch.ones(2, 3, 1, 2, 2)
    for fake, expected in ((-video, 1.0), (video, 0.5), (torch.cat([video[:1], -video[:1]]), 0.75)):
        assert adversarial.discriminator_cost(fake, video, 0).metrics["accuracy"] == expected


def test_the_generators_turn_leaves_the_discriminator_alone():
    adversarial, fake = adversary(weight=0.25), torch.randn(2, 3, 5, 16, 16, requires_grad=True)
    cost = adversarial.generator_cost(fake, fake.sum(), nn.Identity())
    cost.loss.backward()
    assert fake.grad.abs().max() > 0
    assert all(p.grad is None and p.requires_grad for p in adversarial.discriminator.parameters())
    assert cost.loss.item() == pytest.approx(0.25 * cost.metrics["adversarial"].item())


def test_the_discriminators_turn_leaves_the_generator_alone():
    fake = torch.randn(2, 3, 5, 16, 16, requires_grad=True)
    adversary().discriminator_cost(fake, torch.randn(2, 3, 5, 16, 16), 0).loss.backward()
    assert fake.grad is None


def test_adaptive_weight_equalises_gradients_at_the_last_layer():
    layer = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 2))
    out = layer(torch.ones(1, 3))
    distance, adversarial = 6.0 * out.sum(), -0.5 * out.sum()
    factor = AdaptiveWeight(layer="1.weight").factor(layer, distance, adversarial)
    assert factor == pytest.approx(12, rel=1e-2) and not factor.requires_grad
    assert AdaptiveWeight(layer="1.weight", maximum=3.0).factor(layer, distance, adversarial) == 3
    with pytest.raises(ValueError, match=r"no parameter 'decoder.conv_out.weight': its last one is '1.bias'"):
        AdaptiveWeight().factor(layer, distance, adversarial)


def test_a_lazy_step_is_positive():
    with pytest.raises(ValueError, match="`every` is 0"):
        R1(every=0)


# --- turns and steps


class Count(lightning.Callback):
    """How often each optimizer stepped, and the norm of the gradient it stepped with."""

    def on_train_start(self, trainer, pl_module) -> None:
        self.norms = [[] for _ in trainer.optimizers]
        for optimizer, norms in zip(trainer.optimizers, self.norms):
            optimizer.register_step_post_hook(lambda o, *_, norms=norms: norms.append(self._norm(o)))

    @staticmethod
    def _norm(optimizer) -> float:
        grads = [p.grad.flatten() for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
        return float(torch.cat(grads).norm())


@pytest.mark.parametrize("recipe", [None, *RECIPES], ids=str)
@pytest.mark.parametrize("accumulate", [1, 2])
def test_a_step_is_an_update_of_the_tokenizer(recipe, accumulate):
    model = module(None if recipe is None else RECIPES[recipe]())
    count, average, batches = Count(), EMAWeightAveraging(decay=0.5), []

    class Batches(lightning.Callback):
        def on_train_batch_end(self, trainer, *_):
            batches.append(trainer.global_step)

    t = trainer(6, callbacks=[count, average, Batches()], accumulate_grad_batches=accumulate)
    t.fit(model, clips(*[1, 5] * 10))
    assert t.global_step == 6 and len(batches) == 6 * accumulate
    assert [len(norms) for norms in count.norms] == [6] * (1 if recipe is None else 2)
    assert average._average_model.n_averaged == 6
    for config in t.lr_scheduler_configs:
        assert config.scheduler.last_epoch == 6
        assert config.scheduler.get_last_lr()[0] == pytest.approx(config.scheduler.base_lrs[0] * warmup_cosine(6, 2, 6))


@pytest.mark.parametrize("recipe", [None, "paper"], ids=str)
def test_the_trainers_clipping_is_honoured(recipe):
    free, clipped = Count(), Count()
    for count, how in ((free, {}), (clipped, {"gradient_clip_val": 1e-2})):
        trainer(2, callbacks=[count], **how).fit(module(recipe and RECIPES[recipe]()), clips(5, 5))
    for before, after in zip(free.norms, clipped.norms):
        assert min(before) > 2e-2 and max(after) <= 1.01e-2


@pytest.mark.parametrize("updates, answers", [(Simultaneous(), False), (Alternating(), True)], ids=["both", "first"])
def test_who_moves_first(updates, answers):
    """Whether the tokenizer's first update depends on how far the discriminator has just gone."""
    ends = []
    for rate in (1e-4, 1e-1):
        model = module({"updates": updates, "learning_rate": rate, "r1": None, "weight": 10.0})
        trainer(1).fit(model, clips(5))
        ends.append((weights(model.tokenizer), weights(model.adversarial.discriminator)))
    assert torch.equal(ends[0][0], ends[1][0]) != answers
    assert not torch.equal(ends[0][1], ends[1][1])


@pytest.mark.parametrize("updates", [Simultaneous(), Alternating()], ids=["both", "first"])
def test_the_discriminator_learns_from_fakes_made_before_the_tokenizer_moved(updates):
    ends = []
    for rate in (1e-4, 1e-1):
        model = module({"updates": updates}, learning_rate=rate)
        trainer(1).fit(model, clips(5))
        ends.append(weights(model.adversarial.discriminator))
    assert torch.equal(*ends)


def test_until_it_starts_there_is_no_adversary():
    plain, late = module(), module({"start_step": 3})
    before = weights(late.adversarial.discriminator).clone()
    seen = []

    class Watch(lightning.Callback):
        def on_train_batch_end(self, trainer, pl_module, *_):
            seen.append(
                (weights(pl_module.tokenizer), getattr(pl_module.adversarial, "discriminator", None) and
                 weights(pl_module.adversarial.discriminator))
            )  # fmt: skip

    for model in (plain, late):
        t = trainer(5, callbacks=[Watch()])
        t.fit(model, clips(1, 5, 5, 1, 5))
    for step in range(3):
        assert torch.equal(seen[step][0], seen[5 + step][0]) and torch.equal(seen[5 + step][1], before)
    assert not torch.equal(seen[3][0], seen[8][0]) and not torch.equal(seen[8][1], before)
    assert [config.scheduler.last_epoch for config in t.lr_scheduler_configs] == [5, 2]


@pytest.mark.parametrize("frames", [1, 5])
@pytest.mark.parametrize("recipe", RECIPES)
def test_images_and_clips_train_both_networks(recipe, frames):
    model = module(RECIPES[recipe]())
    before = weights(model.tokenizer).clone(), weights(model.adversarial.discriminator).clone()
    t = trainer(3)
    t.fit(model, clips(*[frames] * 3))
    after = weights(model.tokenizer), weights(model.adversarial.discriminator)
    for a, b in zip(before, after):
        assert b.isfinite().all() and not torch.equal(a, b)
    names = {"pixels", "perceptual", "loss", "adversarial", "discriminator", "logits_real", "logits_fake", "accuracy"}
    names |= {"paper": {"r1", "lecam"}, "hinge": {"adaptive_weight"}}[recipe]
    logged = {name.removeprefix("train/"): float(value) for name, value in t.callback_metrics.items()}
    assert names <= set(logged) and all(math.isfinite(value) for value in logged.values())


def test_mixed_precision_trains_both_networks():
    model = module(RECIPES["paper"]())
    model.loss.perceptual.size = 24
    t = trainer(4, precision="bf16-mixed")
    t.fit(model, clips(5, 1, 5, 1))
    assert weights(model).isfinite().all() and all(value.isfinite() for value in t.callback_metrics.values())
    assert model.adversarial.lecam.real.dtype == torch.float32


# --- several processes


def rank(number: int, count: int, port: int, out: str) -> None:
    """Three steps on this rank's share of three batches of two; saves gradients, weights and running means."""
    if count > 1:
        places = {"RANK": number, "LOCAL_RANK": number, "WORLD_SIZE": count, "LOCAL_WORLD_SIZE": count, "GROUP_RANK": 0}
        places |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "TORCHELASTIC_RUN_ID": "test"}
        os.environ.update({name: str(value) for name, value in places.items()})
    torch.set_num_threads(1)
    gradients = []

    class Note(lightning.Callback):
        def on_before_optimizer_step(self, trainer, pl_module, optimizer):
            found = [
                p.grad.flatten() for group in optimizer.param_groups for p in group["params"] if p.grad is not None
            ]
            gradients.append(torch.cat(found))

    model = module(RECIPES["paper"]())
    model.loss.perceptual.num_frames = None  # every rank would draw the same few of its own
    share = [Video(batch.video[number::count]) for batch in clips(5, 1, 5)]
    several = {"devices": count, "strategy": "ddp_find_unused_parameters_true"} if count > 1 else {}
    t = trainer(3, callbacks=[Note()], use_distributed_sampler=False, **several)
    t.fit(model, DataLoader(share, batch_size=None, collate_fn=lambda batch: batch))
    lecam = {name: value.clone() for name, value in model.adversarial.lecam.state_dict().items()}
    torch.save((gradients, weights(model), lecam, t.global_step), out)


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
    assert torch.equal(first[1], second[1]) and (joint[3], first[3]) == (3, 3)
    for name, value in joint[2].items():
        assert torch.equal(first[2][name], second[2][name])
        torch.testing.assert_close(first[2][name], value, rtol=1e-3, atol=1e-3)
    assert len(joint[0]) == len(first[0]) == 6
    for one, two in zip(joint[0][:2], first[0][:2]):  # later ones start from weights rounded otherwise
        assert (one - two).norm() < 1e-3 * one.norm()


# --- resume


def content(path) -> dict:
    """What two runs must agree on, as flat tensors by name."""
    checkpoint = torch.load(path, weights_only=True)
    keys = ("state_dict", "current_model_state", "averaging_state", "optimizer_states", "lr_schedulers", "global_step")
    flat, heap = {}, [(key, checkpoint[key]) for key in keys if key in checkpoint]
    while heap:
        name, value = heap.pop()
        if isinstance(value, dict | list | tuple):
            items = value.items() if isinstance(value, dict) else enumerate(value)
            heap += [(f"{name}.{key}", inner) for key, inner in items]
        else:
            flat[name] = value
    return flat


@pytest.mark.parametrize("recipe", [None, *RECIPES], ids=str)
def test_resume_equals_never_stopped(world, tmp_path, recipe):
    """20 steps = 10 + a checkpoint + 10, to the last bit of every network, average, running mean and optimizer."""

    class Save(lightning.Callback):
        def __init__(self, stop: int):
            self.stop = stop

        def on_train_batch_end(self, trainer, *_):
            if trainer.global_step in (10, 20):
                trainer.save_checkpoint(tmp_path / f"{self.stop}_{trainer.global_step}.ckpt")
            trainer.should_stop = trainer.global_step == self.stop

    def run(stop, ckpt=None):
        model = module(None if recipe is None else RECIPES[recipe]())
        data = ClipDataModule(str(world), batch_size=1, image_batch_ratio=0.5, num_workers=0)
        t = trainer(20, callbacks=[EMAWeightAveraging(decay=0.9), Save(stop)], gradient_clip_val=1.0)
        t.fit(model, data, ckpt_path=ckpt, weights_only=True)

    run(20)
    whole = content(tmp_path / "20_20.ckpt")
    (tmp_path / "20_20.ckpt").unlink()
    run(10)
    run(20, ckpt=tmp_path / "10_10.ckpt")
    resumed = content(tmp_path / "20_20.ckpt")
    assert whole.keys() == resumed.keys()
    kinds = {"tokenizer"} if recipe is None else {"tokenizer", "adversarial"}
    assert {name.split(".")[1] for name in whole if name.startswith("current_model_state")} == kinds
    for name, value in whole.items():
        same = torch.equal(value, resumed[name]) if isinstance(value, torch.Tensor) else value == resumed[name]
        assert same, name
    assert whole["global_step"] == 20
    if recipe == "paper":
        assert whole["current_model_state.adversarial.lecam.steps"] == 20


# --- the surroundings


def test_only_the_tokenizer_is_exported(tmp_path):
    model = module(RECIPES["paper"]())
    t = trainer(2, callbacks=[SpecCallback(VISUAL), EMAWeightAveraging(decay=0.5)])
    t.fit(model, clips(5, 1))
    t.save_checkpoint(tmp_path / "run.ckpt")
    names = set(torch.load(tmp_path / "run.ckpt", weights_only=True)["state_dict"])
    assert {name.split(".")[0] for name in names} == {"tokenizer", "adversarial"}, (
        "no perceptual network in a checkpoint"
    )
    export(tmp_path / "run.ckpt", tmp_path / "visual.safetensors", half=False)
    tokenizer = component.load(tmp_path / "visual.safetensors")
    assert tokenizer.state_dict().keys() == model.tokenizer.state_dict().keys()
    assert tokenizer.metadata["steps"] == 2
    for name, value in model.tokenizer.state_dict().items():
        torch.testing.assert_close(tokenizer.state_dict()[name], value, msg=name)


def test_pictures_and_terms_reach_the_board(tmp_path):
    board = TensorBoardLogger(tmp_path, name="run")
    how = {"limit_val_batches": 1, "val_check_interval": 1, "num_sanity_val_steps": 0, "log_every_n_steps": 1}
    trainer(2, logger=board, **how).fit(module(RECIPES["paper"]()), clips(5, 1), clips(5))
    board.experiment.flush()
    events = EventAccumulator(board.log_dir).Reload()
    assert {"reconstruction", "reconstruction_video"} <= set(events.Tags()["images"])
    scalars = set(events.Tags()["scalars"])
    assert {"train/discriminator", "train/lecam", "train/r1", "validation/psnr", "validation/perceptual"} <= scalars
    assert [event.step for event in events.Scalars("train/discriminator")] == [0, 1], "one log a step"


def test_the_command_line_builds_an_adversary(world, tmp_path, monkeypatch):
    """The demo's YAML, with an adversary on top: `gradient_clip_val` stays where it was."""
    from test_configs import ROOT, TINY

    monkeypatch.chdir(tmp_path)
    here = "videopoet.tokenizers.visual."
    adversarial = {
        "class_path": here + "adversarial.Adversarial",
        "init_args": {
            "discriminator": {
                "class_path": here + "discriminator.StyleGANDiscriminator",
                "init_args": {"size": [16, 16], "channels": 4, "multipliers": [1, 2]},
            },
            "loss": {"class_path": here + "adversarial.Hinge"},
            "weight": 0.1,
            "r1": {"class_path": here + "adversarial.R1", "init_args": {"weight": 10.0, "every": 1}},
            "lecam": {"class_path": here + "adversarial.LeCAM", "init_args": {"weight": 0.001, "decay": 0.999}},
            "updates": {"class_path": here + "adversarial.Alternating"},
            "adaptive_weight": {"class_path": here + "adversarial.AdaptiveWeight"},
        },
    }
    loss = {
        "class_path": here + "losses.ReconstructionLoss",
        "init_args": {"pixels": {"class_path": here + "losses.PixelLoss"}, "perceptual": None},
    }
    overlay = {"model": {"init_args": {"adversarial": adversarial, "loss": loss}}}
    (tmp_path / "gan.yaml").write_text(yaml.safe_dump(overlay))
    configs = ["-c", str(ROOT / "configs/demo/visual_tokenizer.yaml"), "-c", "gan.yaml", "-c", TINY]
    data = [
        f"--data.init_args.shards={world}",
        "--data.init_args.validation_shards=null",
        "--data.init_args.batch_size=2",
    ]
    done = fit([*configs, *data])
    assert done.trainer.global_step == 1 and done.trainer.gradient_clip_val == 1.0
    assert done.model.adversarial.lecam.steps == 1
    assert isinstance(done.model.adversarial.updates, Alternating) and isinstance(done.model.adversarial.loss, Hinge)

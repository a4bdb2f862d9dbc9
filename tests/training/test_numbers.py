"""Numbers that nobody asked for: true, in every logger, and not begun anew by a resumed run."""

from pathlib import Path
from types import SimpleNamespace

import lightning
import numpy as np
import pytest
import torch
from conftest import lm_spec
from lightning.pytorch.loggers.logger import Logger

from videopoet import component
from videopoet.data.mixture import MixtureDataModule
from videopoet.data.schedule import Share
from videopoet.pipeline import TASKS
from videopoet.training.flops import step_flops
from videopoet.training.media_log import MediaLog
from videopoet.training.numbers import Numbers, default_callbacks
from videopoet.training.preview import SamplePreview
from videopoet.training.token_lm import TokenLMTraining

NAMES = ("text-to-video", "text-to-image", "video-to-audio")


class WeightsAndBiases(Logger):
    """What of Lightning's `WandbLogger` is used: an experiment without TensorBoard's methods, and media methods."""

    experiment = SimpleNamespace()

    def __init__(self):
        super().__init__()
        self.lines, self.media = [], {}

    @property
    def name(self):
        return "fake"

    @property
    def version(self):
        return "0"

    def log_hyperparams(self, *arguments, **named):
        pass

    def log_metrics(self, metrics, step=None):
        self.lines.append((step, dict(metrics)))

    def _media(self, key, values, step=None, **named):
        self.media[key] = (values[0], named)

    log_video = log_image = log_audio = _media

    def log_text(self, key, columns=None, data=None, step=None):
        self.media[key] = (data[0][0], {})


class Sum(lightning.Callback):
    """The same, counted apart."""

    def __init__(self):
        self.tokens, self.flops, self.nats = 0, 0.0, {}

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        self.tokens += batch.inputs.numel()
        self.flops += step_flops(pl_module.model, batch).total.item()
        self.nats.setdefault(batch.task, []).append(float(outputs["loss"]))


@pytest.fixture
def fit(world_tokens, shipped, text_model):
    def run(steps, callbacks, logger, ckpt=None, **how):
        lightning.seed_everything(1, verbose=False)
        module = TokenLMTraining(component.instantiate(lm_spec(text_model)), warmup_steps=2)
        files = {name: str(shipped / f"{name}.safetensors") for name in ("visual", "audio")}
        shares = {name: Share(task=TASKS[name]) for name in NAMES}
        data = MixtureDataModule(str(world_tokens), shares, files, tokens_per_batch=300, num_workers=0)
        trainer = lightning.Trainer(
            accelerator="cpu", max_steps=steps, callbacks=callbacks, logger=logger, enable_checkpointing=False,
            enable_progress_bar=False, enable_model_summary=False, log_every_n_steps=6, **how)  # fmt: skip
        trainer.fit(module, data, ckpt_path=ckpt, weights_only=True)
        return trainer

    return run


def test_numbers_are_true_and_go_on_when_resumed(fit, tmp_path):
    logger, numbers, apart = WeightsAndBiases(), Numbers(peak_flops=1e12), Sum()
    trainer = fit(12, [numbers, apart], logger)
    lines = [(step, line) for step, line in logger.lines if "total/tokens" in line]
    assert [step for step, _ in lines] == [6, 12]
    line = lines[-1][1]
    assert line["total/tokens"] == apart.tokens == numbers.total_tokens
    assert line["total/flops"] == pytest.approx(apart.flops, rel=1e-9)
    seconds = line["total/tokens"] / 2 / line["speed/tokens_per_second"]  # about: halves differ by a few tokens
    used = line["speed/model_flops_utilisation"] * 1e12 * seconds
    assert used == pytest.approx(apart.flops / 2, rel=0.2)
    assert line["speed/tokens_per_second_per_device"] == line["speed/tokens_per_second"] > 0
    assert 0 <= line["speed/data_wait"] < 1 and 0 <= line["speed/padding"] < 1 and line["gradient_norm"] > 0
    both = lines[0][1] | line
    for task, nats in apart.nats.items():
        assert f"loss/{task}" in both
        values = [each[1][f"loss/{task}"] for each in lines if f"loss/{task}" in each[1]]
        assert min(nats) - 1e-4 <= min(values) and max(values) <= max(nats) + 1e-4
    assert {"loss/all", "loss/visual", "loss/audio", "loss/text-to-video/audio"} <= set(both)

    trainer.save_checkpoint(tmp_path / "half.ckpt")
    resumed = Numbers(peak_flops=1e12)
    fit(14, [resumed], WeightsAndBiases(), ckpt=tmp_path / "half.ckpt")
    assert apart.tokens < resumed.total_tokens <= apart.tokens + 2 * 300
    assert float(resumed.total_flops) > apart.flops


def test_waiting_for_data_is_seen(fit, monkeypatch):
    import time

    get = MixtureDataModule.on_after_batch_transfer

    def slow(self, batch, index):
        time.sleep(0.1)
        return get(self, batch, index)

    shares = []
    for hook in (get, slow):
        monkeypatch.setattr(MixtureDataModule, "on_after_batch_transfer", hook)
        numbers = Numbers(peak_flops=1e12)
        fit(6, [numbers], WeightsAndBiases())
        shares.append(numbers.latest["speed/data_wait"])
    assert shares[1] > shares[0] and shares[1] > 0.3


def test_samples_reach_weights_and_biases_every_few_steps(fit, shipped):
    logger = WeightsAndBiases()
    files = {name: str(shipped / f"{name}.safetensors") for name in ("visual", "audio")}
    preview = SamplePreview(**files, every_n_steps=2)
    state = []
    monitor = lightning.pytorch.callbacks.LambdaCallback(
        on_train_batch_start=lambda trainer, module, *_: state.append(module.training)
    )
    fit(3, [preview, monitor], logger)
    assert preview._shown_at == 2 and all(state), "training goes on in training mode"
    video, named = logger.media["sample/0"]
    assert video.dtype == np.uint8 and video.shape == (17, 3, 16, 16) and named["fps"] == [8]
    assert logger.media["sample/0_first"][0].shape == (16, 16, 3)
    assert logger.media["sample/0_sound"][1]["sample_rate"] == [16000]
    assert logger.media["sample/1_prompt"][0] == preview.prompts[1] != preview.prompts[0]


def test_a_logger_without_media_gets_none():
    logger = SimpleNamespace(experiment=object())
    MediaLog(logger).image("x", torch.zeros(3, 2, 2), 0)
    MediaLog(logger).video("x", torch.zeros(3, 1, 2, 2), 0, 8)


def test_what_is_named_is_not_given_twice(shipped):
    files = {name: str(shipped / f"{name}.safetensors") for name in ("visual", "audio")}
    data = {"init_args": {"tokenizers": files}}
    kinds = lambda trainer, data: [type(c) for c in default_callbacks(trainer, data)]  # noqa: E731
    assert kinds(SimpleNamespace(callbacks=[], loggers=[1]), data) == [Numbers, SamplePreview]
    assert kinds(SimpleNamespace(callbacks=[], loggers=[]), data) == [Numbers]
    assert kinds(SimpleNamespace(callbacks=[], loggers=[1]), {"init_args": {}}) == [Numbers]
    named = SimpleNamespace(callbacks=[Numbers(), SamplePreview(**files)], loggers=[1])
    assert kinds(named, data) == []


def test_every_training_of_the_command_line_has_them(world, tmp_path, monkeypatch):
    """A tokenizer's, which reads no tokens: speed, waiting and gradients."""
    from videopoet.training.cli import fit as command

    monkeypatch.chdir(tmp_path)
    root = Path(__file__).parents[2]
    run = command([
        "-c", str(root / "configs/demo/audio_tokenizer.yaml"), "-c", str(root / "tests/tiny.yaml"),
        f"--data.init_args.shards={world}", "--data.init_args.batch_size=2", "--data.init_args.validation_shards=null",
        "--trainer.logger=lightning.pytorch.loggers.CSVLogger", "--trainer.logger.save_dir=logs",
        "--trainer.log_every_n_steps=1",
    ])  # fmt: skip
    numbers = next(c for c in run.trainer.callbacks if isinstance(c, Numbers))
    assert {"speed/steps_per_second", "speed/data_wait", "gradient_norm"} <= set(numbers.latest)
    assert "total/tokens" not in numbers.latest

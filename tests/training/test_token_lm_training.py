"""Training the language model: resume equals never stopped, stale tokens are refused, previews reach TensorBoard."""

import lightning
import pytest
import torch
from conftest import lm_spec
from lightning.pytorch.callbacks import EMAWeightAveraging
from lightning.pytorch.loggers import TensorBoardLogger
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from videopoet import component
from videopoet.data.labels import BounceLabel
from videopoet.data.mixture import MixtureDataModule
from videopoet.data.schedule import CYCLE, Share
from videopoet.pipeline import TASKS
from videopoet.training.cli import SpecCallback
from videopoet.training.export import export
from videopoet.training.preview import SamplePreview
from videopoet.training.token_lm import TokenLMTraining

SHARES = {name: Share(task=task) for name, task in TASKS.items()}


def data(tokens, shipped, **how) -> MixtureDataModule:
    files = {name: str(shipped / f"{name}.safetensors") for name in ("visual", "audio")}
    label = BounceLabel(attribute="motion")
    return MixtureDataModule(str(tokens), SHARES, files, label=label, tokens_per_batch=300, num_workers=0, **how)


def module(text_model, **how) -> TokenLMTraining:
    lightning.seed_everything(1, verbose=False)
    return TokenLMTraining(component.instantiate(lm_spec(text_model)), warmup_steps=2, **how)


def trainer(steps, **how) -> lightning.Trainer:
    quiet = {
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "limit_val_batches": 0,
    }
    return lightning.Trainer(accelerator="cpu", max_steps=steps, **{**quiet, **how})


@pytest.mark.parametrize("callbacks", [[], [EMAWeightAveraging]], ids=["plain", "averaged"])
def test_resume_equals_never_stopped(world_tokens, shipped, text_model, tmp_path, callbacks):
    def run(steps, stop=None, ckpt=None):
        model, extra = module(text_model), [c(decay=0.5, use_buffers=False) for c in callbacks]
        t = trainer(steps, callbacks=extra)
        if stop:

            class Stop(lightning.Callback):
                def on_train_batch_end(self, trainer, *_):
                    if trainer.global_step == stop:
                        trainer.save_checkpoint(tmp_path / "half.ckpt")
                        trainer.should_stop = True

            t.callbacks.append(Stop())
        t.fit(model, data(world_tokens, shipped), ckpt_path=ckpt, weights_only=True)
        return model.state_dict()

    whole = run(6)
    run(6, stop=3)
    resumed = run(6, ckpt=tmp_path / "half.ckpt")
    for name, value in whole.items():
        torch.testing.assert_close(resumed[name], value, msg=name)


def test_every_task_of_the_mixture_trains(world_tokens, shipped, text_model):
    model, tasks = module(text_model), set()

    class Note(lightning.Callback):
        def on_train_batch_end(self, trainer, pl_module, outputs, batch, *_):
            tasks.add(batch.task)

    t = trainer(CYCLE, callbacks=[Note()])
    t.fit(model, data(world_tokens, shipped))
    assert tasks == set(TASKS)
    assert {"train/loss", "train/text-to-video/visual", "train/text-to-video/audio"} <= set(t.callback_metrics)


@pytest.mark.slow  # the compiler takes half a minute
@pytest.mark.timeout(600)
def test_compiled_training_is_the_same(world_tokens, shipped, text_model):
    states = []
    for compile in (False, True):
        model = module(text_model, compile=compile)
        trainer(5).fit(model, data(world_tokens, shipped))
        states.append(model.state_dict())
    assert states[0].keys() == states[1].keys()
    for name, value in states[0].items():
        torch.testing.assert_close(states[1][name], value, rtol=1e-3, atol=1e-4, msg=name)


def test_a_checkpoint_of_other_tokenizers_is_refused(world_tokens, shipped, text_model, tmp_path):
    t = trainer(1)
    t.fit(module(text_model), data(world_tokens, shipped))
    t.save_checkpoint(tmp_path / "one.ckpt")
    content = torch.load(tmp_path / "one.ckpt", weights_only=True)
    content["metadata"]["fingerprints"]["visual"] = "0" * 16
    torch.save(content, tmp_path / "other.ckpt")
    with pytest.raises(ValueError, match="was trained on tokens of"):
        trainer(2).fit(
            module(text_model), data(world_tokens, shipped), ckpt_path=tmp_path / "other.ckpt", weights_only=True
        )


def test_previews_and_export(world_tokens, shipped, text_model, tmp_path):
    files = {name: str(shipped / f"{name}.safetensors") for name in ("visual", "audio")}
    logger = TensorBoardLogger(tmp_path, name="run")
    callbacks = [SamplePreview(prompts=["a red circle"], **files), SpecCallback(lm_spec(text_model))]
    how = {"limit_val_batches": 1, "val_check_interval": 1, "num_sanity_val_steps": 0}
    t = trainer(1, logger=logger, callbacks=callbacks, **how)
    t.fit(module(text_model), data(world_tokens, shipped, validation_tokens=str(world_tokens)))
    t.save_checkpoint(tmp_path / "one.ckpt")
    logger.experiment.flush()
    events = EventAccumulator(logger.log_dir).Reload()
    assert {"sample/0", "sample/0_first"} <= set(events.Tags()["images"])
    assert events.Images("sample/0")[0].encoded_image_string[:6] in (b"GIF89a", b"GIF87a")
    assert "sample/0_sound" in events.Tags()["audio"]

    export(tmp_path / "one.ckpt", tmp_path / "lm.safetensors", half=False)
    model = component.load(tmp_path / "lm.safetensors")
    assert model.text(["a red circle"])[0].shown.sum() > 1, "the text model travels with the weights"
    assert sorted(model.metadata["tasks"]) == sorted(TASKS) and model.metadata["steps"] == 1

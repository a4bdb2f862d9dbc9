"""Checkpoints as models, and the combinations that are refused."""

import os
from pathlib import Path
from types import SimpleNamespace

import pytest
import ranks
import torch
from conftest import AUDIO, lm_spec
from lightning.pytorch.callbacks import EMAWeightAveraging

from videopoet import component
from videopoet.models.token_lm import TokenLM
from videopoet.pipeline import VideoPoet
from videopoet.tokenizers.visual.autoencoder import VideoTokenizer
from videopoet.training import checkpoints
from videopoet.training.ema import EMA, check_averaging
from videopoet.training.fsdp2 import FSDP2
from videopoet.training.sharded import replace
from videopoet.training.start import Exported
from videopoet.training.zero import DeepSpeed


@pytest.fixture(scope="module")
def plan(world_tokens, shipped, text_model) -> dict:
    files = {name: str(shipped / f"{name}.safetensors") for name in ("visual", "audio")}
    return {"spec": lm_spec(text_model), "tokens": str(world_tokens), "tokenizers": files}


@pytest.fixture(scope="module")
def file(plan, tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("plain") / "one.ckpt"
    ranks.train(plan, {"steps": 2, "ema": True, "save": str(path)}, 1, "auto")
    return path


def test_a_file_is_sampled_from_and_started_from(file, text_model):
    poet, trained = VideoPoet.from_pretrained(file), checkpoints.read(file)
    for name, weight in poet.model.named_parameters():
        assert torch.equal(weight, trained.state[name]), name
    assert poet.generate("text-to-video", prompt="a red circle")[0].video.shape == (17, 16, 16, 3)
    model = component.instantiate(lm_spec(text_model))
    assert Exported(file=str(file)).fill(model)["steps"] == 2
    assert all(torch.equal(weight, trained.state[name]) for name, weight in model.named_parameters())


def test_tokenizers_are_found_by_their_fingerprint(file, plan, tmp_path):
    """Where the run had them, else beside the checkpoint; another one of that name is not taken."""
    moved = tmp_path / "moved.ckpt"
    content = torch.load(file, weights_only=True)
    content["component"]["files"] = {name: str(tmp_path / f"gone_{name}") for name in ("visual", "audio")}
    torch.save(content, moved)
    with pytest.raises(ValueError, match=r"put it beside the checkpoint as visual.safetensors"):
        VideoPoet.from_pretrained(moved)
    for name in ("visual", "audio"):
        (tmp_path / f"{name}.safetensors").write_bytes(Path(plan["tokenizers"][name]).read_bytes())
    VideoPoet.from_pretrained(moved)
    torch.manual_seed(5)
    component.save(tmp_path / "audio.safetensors", AUDIO, component.instantiate(AUDIO).state_dict())
    with pytest.raises(ValueError, match=r"the audio tokenizer [0-9a-f]{16}, by which"):
        VideoPoet.from_pretrained(moved)


def test_what_is_no_checkpoint_is_refused(file, tmp_path):
    (tmp_path / "empty").mkdir()
    torch.save({"state_dict": {}}, tmp_path / "other.ckpt")
    (tmp_path / "text.ckpt").write_text("no")
    for name, cause in (("none.ckpt", "no checkpoint at"), ("empty", "no weights.safetensors in it"),
                        ("other.ckpt", "KeyError"), ("text.ckpt", "is not a checkpoint of 'videopoet fit'")):  # fmt: skip
        with pytest.raises(ValueError, match=cause):
            checkpoints.read(tmp_path / name)
    with pytest.raises(ValueError, match="trains TokenLM, VideoTokenizer is needed"):
        checkpoints.load(file, VideoTokenizer)
    assert isinstance(checkpoints.load(file, TokenLM)[0], TokenLM)


@pytest.mark.parametrize("folder", [False, True])
def test_a_checkpoint_takes_the_place_of_another(folder, tmp_path):
    old, new = tmp_path / "last.ckpt", tmp_path / "last.ckpt.part"
    old.mkdir() if folder else old.write_text("file")
    new.mkdir()
    (new / "x").write_text("new")
    replace(new, old)
    assert [p.name for p in tmp_path.iterdir()] == ["last.ckpt"] and (old / "x").read_text() == "new"


@pytest.mark.parametrize("how, cause", [
    ({"stage": 4}, "stages 1, 2 and 3, not 4"),
    ({"stage": 2, "offload_parameters": True}, "offload_parameters needs stage 3"),
])  # fmt: skip
def test_what_deepspeed_does_not_have_is_refused(how, cause):
    with pytest.raises(ValueError, match=cause):
        DeepSpeed(**how)


def test_a_checkpoint_of_another_strategy_is_refused(plan, file):
    run = {"steps": 3, "resume": str(file)}
    with pytest.raises(ValueError, match=r"no checkpoint of DeepSpeed: .* --start_from"):
        ranks.train(plan, run, 1, DeepSpeed(stage=2))


def test_half_precision_is_refused(plan):
    with pytest.raises(ValueError, match="T5 overflows in float16"):
        ranks.train(plan, {"steps": 1, "precision": "16-mixed"}, 1, DeepSpeed(stage=2))


def test_averages_that_would_average_nothing_are_refused():
    for strategy in (DeepSpeed(stage=1), FSDP2()):
        with pytest.raises(
            ValueError, match=r"EMAWeightAveraging would average nothing .* use videopoet.training.ema.EMA"
        ):
            check_averaging(SimpleNamespace(strategy=strategy, callbacks=[EMAWeightAveraging()]))
        check_averaging(SimpleNamespace(strategy=strategy, callbacks=[EMA()]))
    check_averaging(SimpleNamespace(strategy=None, callbacks=[EMAWeightAveraging()]))


def test_what_reads_pickles_reads_data_alone(tmp_path):
    """DeepSpeed's loading is held to data, whatever it asks torch for; afterwards all is as before."""
    from videopoet.training.zero import weights_alone

    class Evil:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "done"),)

    torch.save(Evil(), tmp_path / "evil.pt")
    with weights_alone(), pytest.raises(Exception, match=r"Weights only load failed|mkdir"):
        torch.load(tmp_path / "evil.pt", weights_only=False)
    assert not (tmp_path / "done").exists() and "TORCH_FORCE_WEIGHTS_ONLY_LOAD" not in os.environ

"""`start_from`: weights before training; nothing else changes, and a resumed run does not read them again."""

import copy

import pytest
import torch
import yaml
from conftest import AUDIO, VISUAL, lm_spec
from test_configs import ROOT, TINY

from videopoet import component
from videopoet.tokenizers.visual.autoencoder import VideoTokenizer
from videopoet.training.cli import fit
from videopoet.training.export import export
from videopoet.training.start import Exported, InflatedImage

HERE = "videopoet.tokenizers.visual."
IMAGE = copy.deepcopy(VISUAL)
IMAGE["init_args"]["stride"] = [1, 8, 8]
for side in ("encoder", "decoder"):
    layers = {"class_path": HERE + "layers.CausalLayers", "init_args": {"time_kernel": 1}}
    IMAGE["init_args"][side]["init_args"] |= {"strides": [[1, 2, 2], [1, 2, 2]], "layers": layers}
WIDE = copy.deepcopy(VISUAL)
for side in ("encoder", "decoder"):
    WIDE["init_args"][side]["init_args"]["channels"] = 16


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)  # a run without a logger writes its config where it stands


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> dict[str, str]:
    """Exported tokenizers with random weights, the adaptive norms included."""
    folder, torch_state = tmp_path_factory.mktemp("start"), torch.get_rng_state()
    torch.manual_seed(7)
    for name, spec in (("image", IMAGE), ("video", VISUAL), ("audio", AUDIO)):
        part = component.instantiate(spec)
        for parameter in part.parameters():
            if not parameter.any():
                torch.nn.init.normal_(parameter, std=0.1)
        component.save(folder / f"{name}.safetensors", spec, part.state_dict(), {"made": name})
    torch.set_rng_state(torch_state)
    return {path.stem: str(path) for path in folder.iterdir()}


def config(world, folder, **model) -> str:
    """The YAML of a short training with averages and checkpoints."""
    save = {"dirpath": str(folder / "checkpoints"), "save_last": True, "every_n_train_steps": 1, "save_top_k": -1,
            "filename": "{step}"}  # fmt: skip
    text = {
        "model": {
            "class_path": HERE + "training.VideoTokenizerTraining",
            "init_args": {"tokenizer": VISUAL, "loss": HERE + "losses.PixelLoss", "warmup_steps": 1, **model},
        },
        "data": {
            "class_path": "videopoet.data.clips.ClipDataModule",
            "init_args": {"shards": str(world), "batch_size": 1, "num_workers": 0},
        },
        "trainer": {
            "accelerator": "cpu", "logger": False, "enable_progress_bar": False, "enable_model_summary": False,
            "callbacks": [
                {"class_path": "lightning.pytorch.callbacks.EMAWeightAveraging", "init_args": {"decay": 0.9}},
                {"class_path": "lightning.pytorch.callbacks.ModelCheckpoint", "init_args": save},
            ],
        },
    }  # fmt: skip
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "fit.yaml"
    path.write_text(yaml.safe_dump(text))
    return str(path)


def inflated(file: str) -> list[str]:
    return ["--start_from=videopoet.training.start.InflatedImage", f"--start_from.file={file}"]


def test_a_video_training_starts_as_the_image_tokenizer(world, files, tmp_path):
    """On one frame, in the trained and the averaged weights: with a rate of 0 both end where they started."""
    image = component.load(files["image"], VideoTokenizer)
    frames = torch.rand(3, 3, 1, 16, 16) * 2 - 1
    run = fit(["-c", config(world, tmp_path, learning_rate=0.0), "--trainer.max_steps=2", *inflated(files["image"])])
    assert run.model.started_from == {"made": "image"}
    export(tmp_path / "checkpoints" / "last.ckpt", tmp_path / "video.safetensors", half=False)
    for video in (run.model.tokenizer.eval(), component.load(tmp_path / "video.safetensors", VideoTokenizer)):
        codes = image.encode(frames)
        assert list(video.stride) == [4, 8, 8] and torch.equal(video.encode(frames), codes)
        torch.testing.assert_close(video.decode(codes), image.decode(codes), atol=1e-5, rtol=1e-4)


def test_an_adversary_is_added_to_a_trained_tokenizer(world, files, tmp_path):
    discriminator = {"class_path": HERE + "discriminator.StyleGANDiscriminator",
                     "init_args": {"size": [16, 16], "channels": 4, "multipliers": [1, 2]}}  # fmt: skip
    adversarial = {"class_path": HERE + "adversarial.Adversarial", "init_args": {"discriminator": discriminator}}
    path = config(world, tmp_path, learning_rate=0.0, adversarial=adversarial)
    run = fit(["-c", path, "--trainer.max_steps=1", f"--start_from={files['video']}"])
    start = component.load(files["video"]).state_dict()
    for name, weight in run.model.tokenizer.named_parameters():
        assert torch.equal(weight, start[name]), name
    assert run.model.tokenizer.encoder.conv_in.weight.is_contiguous(memory_format=torch.channels_last_3d)


def language_model(text_model, world_tokens, shipped, folder) -> str:
    """The demo's YAML with the tiny model, on the tiny tokens."""
    text = yaml.safe_load((ROOT / "configs/demo/lm.yaml").read_text())
    text["model"]["init_args"]["model"] = lm_spec(text_model)
    files = {name: str(shipped / f"{name}.safetensors") for name in ("visual", "audio")}
    text["data"]["init_args"] |= {"tokens": str(world_tokens), "validation_tokens": None, "tokenizers": files,
                                  "tokens_per_batch": 200}  # fmt: skip
    (folder / "lm.yaml").write_text(yaml.safe_dump(text))
    return str(folder / "lm.yaml")


def test_a_language_model_starts_only_on_tokens_of_its_tokenizers(text_model, world_tokens, shipped, tmp_path):
    path = language_model(text_model, world_tokens, shipped, tmp_path)
    file, other = shipped / "lm.safetensors", tmp_path / "other.safetensors"
    arguments = ["-c", path, "-c", TINY, "--model.init_args.learning_rate=0"]
    run = fit([*arguments, f"--start_from={file}"])
    start = component.load(file)
    for (name, ours), theirs in zip(run.model.model.named_parameters(), start.parameters(), strict=True):
        assert torch.equal(ours, theirs), name
    component.save(
        other, lm_spec(text_model), start.state_dict(), {"fingerprints": {"visual": "0" * 16, "audio": "1" * 16}}
    )
    with pytest.raises(ValueError, match=r"the model started from was trained on tokens of .*0000"):
        fit([*arguments, f"--start_from={other}"])


def test_a_start_in_yaml_and_a_resumed_run_that_does_not_need_the_file(world, files, tmp_path):
    file = tmp_path / "image.safetensors"
    file.write_bytes(open(files["image"], "rb").read())
    start = {"class_path": "videopoet.training.start.InflatedImage", "init_args": {"file": str(file)}}
    path = config(world, tmp_path)
    with open(path, "a") as out:
        yaml.safe_dump({"start_from": start}, out)
    steps = "--trainer.max_steps=4"
    whole = fit(["-c", path, steps]).model.state_dict()
    file.unlink()
    resumed = fit(["-c", path, steps, f"--ckpt_path={tmp_path / 'checkpoints' / 'step=2.ckpt'}"])
    assert resumed.trainer.global_step == 4
    assert all(torch.equal(weight, whole[name]) for name, weight in resumed.model.state_dict().items())
    fresh = fit(["-c", config(world, tmp_path / "fresh"), steps]).model.state_dict()
    assert not torch.equal(fresh["tokenizer.encoder.conv_in.weight"], whole["tokenizer.encoder.conv_in.weight"])


@pytest.mark.parametrize("start, part, cause", [
    (Exported(file="nowhere.safetensors"), VISUAL, "no checkpoint at nowhere.safetensors: start from an exported file"),
    (("image", Exported), VISUAL, r"does not fit the configured VideoTokenizer: .*\[8, 12, 1, 3, 3\].*by .*InflatedImage"),
    (("video", Exported), WIDE, r"\[8, 12, 3, 3, 3\].*\[16, 12, 3, 3, 3\].*of the configured networks"),
    (("video", InflatedImage), VISUAL, "holds a video tokenizer, 4 frames to a latent frame: give --start_from the file"),
    (("image", InflatedImage), WIDE, r"image.safetensors: .* of \d+ tensors do not fit .* the same widths"),
    (("image", InflatedImage), AUDIO, "this trains a SoundStream: give --start_from the exported file alone"),
    (("audio", InflatedImage), VISUAL, "holds SoundStream, VideoTokenizer is needed"),
])  # fmt: skip
def test_files_that_do_not_fit_are_refused(files, start, part, cause):
    if isinstance(start, tuple):
        start = start[1](file=files[start[0]])
    target = component.instantiate(part)
    before = {name: tensor.clone() for name, tensor in target.state_dict().items()}
    with pytest.raises(ValueError, match=cause) as caught:
        start.fill(target)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 600
    if isinstance(start, InflatedImage):
        assert all(torch.equal(before[name], tensor) for name, tensor in target.state_dict().items())


def test_a_file_that_is_not_there_is_one_line(world, tmp_path):
    with pytest.raises(ValueError, match=r"no checkpoint at nowhere\.safetensors"):
        fit(["-c", config(world, tmp_path), "--trainer.max_steps=1", "--start_from=nowhere.safetensors"])

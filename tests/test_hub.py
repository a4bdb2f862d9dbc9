"""Saving and sharing a model: the same model comes back, the card claims nothing that was not measured. Offline."""

import json
from dataclasses import replace
from pathlib import Path

import huggingface_hub
import numpy as np
import pytest
import torch

from videopoet import component, hub
from videopoet.data.media import Media
from videopoet.pipeline import SHIPPED, TASKS, VideoPoet
from videopoet.sampling.request import Request
from videopoet.tokenizers.visual.autoencoder import VideoTokenizer

FILES = {"visual.safetensors", "audio.safetensors", "lm.safetensors", "config.json", "README.md"}


def test_what_is_saved_is_the_same_model(poet, tmp_path):
    poet.save_pretrained(tmp_path / "model")
    assert {p.name for p in (tmp_path / "model").iterdir()} == FILES
    again = VideoPoet.from_pretrained(tmp_path / "model")
    for name, module in hub.modules(again).items():
        first = hub.modules(poet)[name]
        assert module.fingerprint == first.fingerprint and module.metadata == first.metadata
        state = first.state_dict()
        assert all(torch.equal(tensor, state[key]) for key, tensor in module.state_dict().items())
    made = [p.generate("text-to-video", prompt="a red circle", seed=1)[0] for p in (poet, again)]
    assert np.array_equal(made[0].video, made[1].video) and np.array_equal(made[0].audio, made[1].audio)


@pytest.mark.parametrize("task", TASKS)
def test_the_card_s_example_is_what_the_task_takes(poet, task, monkeypatch):
    """It runs as it stands, on a file's reading."""
    example = hub._example({task: list(poet.reads(task))})
    readings = {"image": np.zeros((16, 16, 3), np.uint8), "video": Media(video=np.zeros((17, 16, 16, 3), np.uint8), fps=8.0),
                "audio": Media(video=None, fps=8.0, audio=np.zeros((1, 40_000), np.float32), sample_rate=16000)}  # fmt: skip
    if task == "audio-visual-continuation":
        readings["video"] = replace(readings["video"], audio=readings["audio"].audio, sample_rate=16000)
    for name, reading in readings.items():
        monkeypatch.setattr(poet, f"read_{name}", lambda path, reading=reading: reading)
    assert len(eval(f"poet.generate({example})", {"poet": poet, "Request": Request})) == 1


def test_weights_in_eight_bits_stay_so(tmp_path):
    """The shipped decoder is stored in 8 bits, its encoder in 16: saved again it is as small and makes the same codes."""
    module = component.load(SHIPPED / "visual.safetensors", VideoTokenizer)
    component.save_again(tmp_path / "again.safetensors", module)
    assert component.read_fingerprint(tmp_path / "again.safetensors") == module.fingerprint
    sizes = [path.stat().st_size for path in (SHIPPED / "visual.safetensors", tmp_path / "again.safetensors")]
    assert abs(sizes[0] - sizes[1]) < 0.01 * sizes[0]
    state = component.load(tmp_path / "again.safetensors").state_dict()
    for name, tensor in module.state_dict().items():
        torch.testing.assert_close(state[name], tensor, msg=name)


def test_a_module_that_was_not_loaded_is_refused(tmp_path):
    with pytest.raises(ValueError, match="this Linear does not come from a file"):
        component.save_again(tmp_path / "x.safetensors", torch.nn.Linear(2, 2))
    assert not list(tmp_path.iterdir())


def test_the_config_says_what_is_known(poet, tmp_path):
    poet.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    assert list(config["tasks"]) == list(poet.tasks) and config["frames"] == 17 and config["sample_rate"] == 16000
    assert config["parts"]["lm"]["parameters"] == sum(p.numel() for p in poet.model.parameters())


def test_the_card_leaves_blank_what_is_unknown(poet):
    card = hub.card(hub.facts(poet))
    assert "## Measured\n\nNot measured." in card and "Training steps: not recorded" in card
    assert "licence" in card and "to be filled in by its owner" in card and "license:" not in card
    assert card.startswith("---\nlibrary_name:") and poet.visual.fingerprint in card


def test_the_card_shows_a_report(poet):
    row = {"n": 64, "attribute_accuracy": 0.92, "ceiling": 0.984, "attributes": {}}
    card = hub.card(hub.facts(poet), {"text_to_video": row, "seconds": 3.0, "versions": {"torch": "2"}})
    assert "| text-to-video | 64 | 92.0 | 98.4 |" in card and "Not measured" not in card and "torch" not in card


def test_pushing_uploads_the_folder_and_only_when_asked(poet, tmp_path, monkeypatch):
    calls = []

    class Api:
        def create_repo(self, repo, private, exist_ok):
            calls.append(("create", repo, private, exist_ok))
            return "https://example.invalid/" + repo

        def upload_folder(self, repo_id, folder_path, commit_message):
            files = sorted(p.name for p in Path(folder_path).iterdir())
            calls.append(("upload", repo_id, files))

    monkeypatch.setattr(huggingface_hub, "HfApi", Api)
    poet.save_pretrained(tmp_path)
    assert calls == []
    assert poet.push_to_hub("me/model") == "https://example.invalid/me/model"
    assert calls == [("create", "me/model", True, True), ("upload", "me/model", sorted(FILES))]


def test_a_model_is_downloaded_without_code(shipped, monkeypatch):
    asked = {}

    def snapshot(repo, **how):
        asked.update(how, repo=repo)
        return str(shipped)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot)
    poet = VideoPoet.from_hub("me/model", revision="v1")
    assert (asked["repo"], asked["revision"]) == ("me/model", "v1") and poet.geometry.frames == 17
    assert all(pattern.endswith((".safetensors", ".json", ".md")) for pattern in asked["allow_patterns"])


def test_the_shipped_model_is_saved_as_it_is(tmp_path):
    """Its audio codebooks have names in the file that the class has no more; the fingerprint is of the file's."""
    shipped = VideoPoet.from_pretrained()
    shipped.save_pretrained(tmp_path)
    again = VideoPoet.from_pretrained(tmp_path)
    for one, other in ((shipped.visual, again.visual), (shipped.audio, again.audio), (shipped.model, again.model)):
        assert one.fingerprint == other.fingerprint
        assert all(torch.equal(a, b) for a, b in zip(one.state_dict().values(), other.state_dict().values()))
    with torch.no_grad():
        shipped.audio.quantizer.layers[0].codebook.mul_(2)
    with pytest.raises(ValueError, match=r"was trained since and .* has it under an old name: export it"):
        shipped.save_pretrained(tmp_path / "other")

"""Detectors through `transformers`, on tiny random models in folders: input, pooling, captions, and what is refused."""

import json

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from transformers import (
    ClapConfig,
    ClapFeatureExtractor,
    ClapModel,
    CLIPConfig,
    CLIPModel,
    CLIPTokenizer,
    VideoMAEConfig,
    VideoMAEForVideoClassification,
    VideoMAEModel,
    VJEPA2Config,
    VJEPA2Model,
)

from videopoet.evaluation.detectors.sound import CLAP
from videopoet.evaluation.detectors.vision_transformers import CLIP, CLIP_MEAN, CLIP_STD, VJEPA2, VideoMAE
from videopoet.evaluation.resize import Resize

SMALL = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2}


def clips(b: int, t: int, h: int = 40, w: int = 50) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (b, t, h, w, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory) -> CLIPTokenizer:
    folder = tmp_path_factory.mktemp("tokenizer")
    letters = [chr(c) for c in range(ord("a"), ord("z") + 1)]
    vocabulary = [*letters, *(f"{c}</w>" for c in letters), "<|startoftext|>", "<|endoftext|>"]
    (folder / "vocab.json").write_text(json.dumps({word: i for i, word in enumerate(vocabulary)}))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    return CLIPTokenizer(vocab_file=str(folder / "vocab.json"), merges_file=str(folder / "merges.txt"),
                         vocab=str(folder / "vocab.json"), merges=str(folder / "merges.txt"))  # fmt: skip


@pytest.fixture(scope="module")
def clip_folder(tmp_path_factory, tokenizer):
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("clip")
    size = len(tokenizer)
    text = {
        **SMALL,
        "vocab_size": size,
        "max_position_embeddings": 16,
        "bos_token_id": size - 2,
        "eos_token_id": size - 1,
    }
    vision = {**SMALL, "image_size": 32, "patch_size": 16}
    CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=24)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


class TestCLIP:
    def test_features_are_those_of_the_model(self, clip_folder):
        detector = CLIP(clip_folder)
        assert detector.name == "CLIP ViT-32/16" and detector.dim == 24
        pictures = clips(3, 1)
        resized = detector.resize(pictures)[:, 0]
        pixels = (resized / 255 - torch.tensor(CLIP_MEAN)) / torch.tensor(CLIP_STD)
        tokens = detector.tokenizer(["a dog", "catch"], padding=True, return_tensors="pt")
        model = CLIPModel.from_pretrained(clip_folder).eval()
        with torch.inference_mode():
            made = model(pixel_values=pixels.movedim(-1, 1), **tokens)
        assert torch.allclose(F.normalize(detector(pictures)), made.image_embeds, atol=1e-5)
        assert torch.allclose(F.normalize(detector.text_features(["a dog", "catch"])), made.text_embeds, atol=1e-5)
        with pytest.raises(ValueError, match="clips of 1 frame, got 2"):
            detector(clips(1, 2))

    def test_a_long_caption_keeps_its_end(self, clip_folder):
        """Cut so that the 16th token is the end's: dropping it would read the feature from another place."""
        detector = CLIP(clip_folder)
        long, cut = "a b c d e f g h i j k l m n o p q r s t", "a b c d e f g h i j k l m n"
        tokens = detector.tokenizer([long], truncation=True, max_length=16)["input_ids"][0]
        assert len(tokens) == 16 and tokens[-1] == detector.tokenizer.eos_token_id
        both = detector.text_features([long, cut])
        assert torch.allclose(both[0], both[1], atol=1e-5)
        assert not torch.allclose(both[0], detector.text_features(["a b c"])[0], atol=1e-3)

    def test_captions_of_a_batch_do_not_see_each_others_padding(self, clip_folder):
        detector = CLIP(clip_folder)
        assert torch.allclose(
            detector.text_features(["a", "b c d e f g"])[:1], detector.text_features(["a"]), atol=1e-5
        )

    def test_identity_holds_the_file_and_the_resize(self, clip_folder):
        plain = CLIP(clip_folder).identity()
        other = CLIP(clip_folder, resize=Resize(height=32, width=32)).identity()
        assert plain.weights == other.weights and list(plain.weights) == ["model.safetensors"]
        assert plain.key != other.key
        assert plain.preprocessing["captions"] == {"tokens": 16, "end_of_text": "kept"}
        with pytest.raises(ValueError, match="reads 32 x 32, resize gives 224 x 224"):
            CLIP(clip_folder, resize=Resize(height=224, width=224))


def test_nothing_is_fetched_and_nothing_pickled_is_read(clip_folder, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(ValueError, match=r"no folder and not in the hub's cache .*only with download=True"):
        CLIP("openai/clip-vit-base-patch16")
    (tmp_path / "config.json").write_text((clip_folder / "config.json").read_text())
    (tmp_path / "pytorch_model.bin").write_bytes(b"pickle")
    with pytest.raises(ValueError, match=r"lacks \*\.safetensors of CLIP's model: pickled weights"):
        CLIP(tmp_path)
    with pytest.raises(ValueError, match="holds a model of type 'clip', VideoMAEModel is 'videomae'"):
        VideoMAE(clip_folder)


VIDEO_MAE = VideoMAEConfig(**SMALL, image_size=32, patch_size=16, num_frames=4, tubelet_size=2)


class TestVideoMAE:
    def test_the_mean_of_tokens(self, tmp_path):
        torch.manual_seed(0)
        config = VideoMAEConfig(**VIDEO_MAE.to_dict() | {"use_mean_pooling": False})
        VideoMAEModel(config).save_pretrained(tmp_path)
        detector = VideoMAE(tmp_path)
        made = detector(clips(2, 4))
        assert made.shape == (2, detector.dim) == (2, 32)
        assert made.mean(1).abs().max() < 0.5  # behind the layer norm
        raw = VideoMAE(tmp_path, normalisation="none")
        assert raw.identity().key != detector.identity().key
        assert not torch.allclose(raw(clips(2, 4)), made)
        for frames in (3, 5):
            with pytest.raises(ValueError, match="4 frames, the clips have"):
                detector(clips(1, frames))

    def test_a_fine_tuned_one_has_its_norm_in_the_head(self, tmp_path):
        torch.manual_seed(0)
        model = VideoMAEForVideoClassification(VIDEO_MAE)
        torch.nn.init.normal_(model.fc_norm.weight), torch.nn.init.normal_(model.fc_norm.bias)
        model.save_pretrained(tmp_path)
        detector = VideoMAE(tmp_path)
        made = detector(clips(2, 4))
        with torch.inference_mode():
            logits = model.eval()(pixel_values=self.pixels(detector)).logits
            assert torch.allclose(model.classifier(made), logits, atol=1e-5)

    @staticmethod
    def pixels(detector):
        resized = detector.resize(clips(2, 4)) / 255
        return ((resized - torch.tensor(detector.mean)) / torch.tensor(detector.std)).movedim(-1, 2)


def test_v_jepa_2(tmp_path):
    torch.manual_seed(0)
    config = VJEPA2Config(patch_size=16, crop_size=32, frames_per_clip=4, tubelet_size=2, hidden_size=48,
                          num_attention_heads=2, num_hidden_layers=2, pred_hidden_size=24, pred_num_attention_heads=2,
                          pred_num_hidden_layers=1)  # fmt: skip
    VJEPA2Model(config).save_pretrained(tmp_path)
    detector = VJEPA2(tmp_path)
    made = detector(clips(2, 6))
    assert made.shape == (2, 48) and detector.name == "V-JEPA 2 width 48/16"
    assert not torch.allclose(made, detector(clips(2, 6)[:, ::-1]), atol=1e-4)  # it sees time
    with pytest.raises(ValueError, match="groups of 2, got 5"):
        detector(clips(1, 5))


@pytest.fixture(scope="module")
def clap_folder(tmp_path_factory, tokenizer):
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("clap")
    text = {**SMALL, "vocab_size": len(tokenizer), "max_position_embeddings": 80, "pad_token_id": len(tokenizer) - 1}
    audio = {"hidden_size": 64, "patch_embeds_hidden_size": 16, "depths": [1, 1, 1], "num_attention_heads": [2, 2, 2],
             "spec_size": 64, "num_mel_bins": 64, "window_size": 4, "enable_fusion": False, "projection_dim": 24,
             "patch_size": 4, "patch_stride": [4, 4], "num_classes": 5}  # fmt: skip
    config = ClapConfig(text_config=text, audio_config=audio, projection_dim=24)
    ClapModel(config).save_pretrained(folder)
    ClapFeatureExtractor(sampling_rate=1600, hop_length=32, max_length_s=1, fft_window_size=128, frequency_max=700,
                         truncation="rand_trunc").save_pretrained(folder)  # fmt: skip
    tokenizer.save_pretrained(folder)
    return folder


def test_clap_cuts_sound_into_windows_one_after_the_other(clap_folder):
    detector = CLAP(clap_folder)
    sound = torch.randn(2, 1600 * 2 + 800, generator=torch.Generator().manual_seed(0)) * 0.1
    made = detector(sound, 1600)
    assert made.shape == (2 * 3, 24) and torch.equal(made, detector(sound[:, None], 1600))
    alone = detector(sound[:, 1600:3200], 1600)
    assert torch.allclose(made.view(2, 3, 24)[:, 1], alone, atol=1e-5)
    assert detector.text_features(["rain", "a dog"]).shape == (2, 24)
    with pytest.raises(ValueError, match="hears 1600 Hz, the sound has 48000"):
        detector(sound, 48000)
    with pytest.raises(ValueError, match="one channel"):
        detector(torch.zeros(2, 2, 1600), 1600)

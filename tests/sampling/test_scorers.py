"""Scorers: prompts of the built-in world are read back, and the right answer is preferred."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from videopoet.data.bounce import Scene
from videopoet.data.bounce_oracle import motion_name
from videopoet.data.bounce_prompt import read_prompt
from videopoet.data.media import Media
from videopoet.sampling.request import Request
from videopoet.sampling.scorers import ClipScorer, OracleScorer, clip_pixels


def said(scene) -> tuple:
    bodies = sorted((b.size, b.colour, b.shape, motion_name(b)) for b in scene.objects)
    return bodies, scene.background.kind, scene.background.tone


def clip_of(scene: Scene, sound: bool = True) -> Media:
    return Media(video=scene.render(17, 8, 64), fps=8.0, audio=scene.sound(17, 8)[None] if sound else None)


@pytest.mark.parametrize("split", ["train", "heldout"])
def test_every_caption_is_read_back(split):
    for seed in range(300):
        scene = Scene.sample(seed, split)
        for caption in scene.captions():
            assert said(read_prompt(caption)) == said(scene), caption


@pytest.mark.parametrize(
    "prompt, message",
    [
        ("a dog on a beach", "does not name size, colour and shape"),
        ("a small red circle falls", "a background of the built-in world"),
        ("a small red circle on a plain dark background", "does not say how the red circle moves"),
        ("a small red circle drifts on a plain dark background", "does not say how the red circle moves"),
    ],
)
def test_other_prompts_are_refused(prompt, message):
    with pytest.raises(ValueError, match=message):
        OracleScorer()(Request(prompt=prompt), [])


def test_the_oracle_prefers_the_scene_that_was_asked_for():
    scenes = [Scene.sample(seed) for seed in range(8)]
    clips = [clip_of(scene) for scene in scenes]
    for i, scene in enumerate(scenes):
        scores = OracleScorer()(Request(prompt=scene.captions()[-1]), clips)
        assert max(scores) == scores[i] > 0.95 and all(0 <= s <= 1 for s in scores)


def test_the_oracle_hears_whether_sound_belongs_to_the_pictures():
    scene = next(s for s in map(Scene.sample, range(99)) if len(s.impacts()) > 1 and len(s.objects) == 1)
    right = clip_of(scene)
    late = replace(right, audio=np.roll(right.audio, 6000, axis=1))
    silent = replace(right, audio=np.zeros_like(right.audio))
    scores = OracleScorer()(Request(prompt=scene.captions()[0]), [late, silent, right])
    assert scores[2] > scores[0] and scores[2] > scores[1]
    picture = Media(video=right.video[:1], fps=8.0)
    assert OracleScorer()(Request(prompt=scene.captions()[0]), [picture])[0] > 0.9, "of a picture, what a picture shows"


@pytest.fixture(scope="module")
def clip_folder(tmp_path_factory):
    """An untrained CLIP of a few thousand parameters with a tokenizer of letters."""
    from transformers import CLIPConfig, CLIPModel, CLIPTokenizer

    folder = tmp_path_factory.mktemp("clip")
    letters = [chr(c) for c in range(ord("a"), ord("z") + 1)]
    pieces = [*letters, *(letter + "</w>" for letter in letters), "<|startoftext|>", "<|endoftext|>"]
    (folder / "vocab.json").write_text(json.dumps({piece: i for i, piece in enumerate(pieces)}))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    CLIPTokenizer.from_pretrained(folder).save_pretrained(folder)
    small = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    text = small | {"vocab_size": len(pieces), "bos_token_id": 52, "eos_token_id": 53, "max_position_embeddings": 16}
    torch.manual_seed(0)
    config = CLIPConfig(text_config=text, vision_config=small | {"image_size": 32, "patch_size": 8}, projection_dim=16)
    CLIPModel(config).save_pretrained(folder)
    return folder


def test_clip_scores_by_pictures_and_prompt(clip_folder):
    scorer, clips = ClipScorer(clip_folder, frames=4), [clip_of(Scene.sample(s), sound=False) for s in (1, 2)]
    red, dog = (scorer(Request(prompt=p), clips) for p in ("red circle", "dog"))
    assert len(red) == 2 and all(-1 <= s <= 1 for s in red + dog) and red[0] != red[1] and red != dog
    assert scorer(Request(prompt="red circle"), clips) == red
    long = scorer(Request(prompt="a very long prompt " * 9), clips)
    assert len(long) == 2, "cut to what CLIP reads"
    with pytest.raises(ValueError, match="by a prompt"):
        scorer.check(Request())


def test_clip_sees_the_middle_normalised():
    video = np.zeros((2, 40, 80, 3), np.uint8)
    video[:, :, 20:60] = 255
    pixels = clip_pixels(video, 32)
    assert pixels.shape == (2, 3, 32, 32)
    torch.testing.assert_close(pixels[0, 0, 16, 16], torch.tensor((1 - 0.48145466) / 0.26862954))


def test_a_folder_without_clip_is_refused(tmp_path):
    with pytest.raises(ValueError, match="no folder at"):
        ClipScorer(tmp_path / "absent")
    with pytest.raises(ValueError, match="holds no CLIP model") as caught:
        ClipScorer(tmp_path)
    assert "\n" not in str(caught.value)

"""Clips -> codes: the same codes as the tokenizers give, in small unsigned types, signed by their fingerprints."""

import dataclasses

import numpy as np
import pytest
import torch

from videopoet import component
from videopoet.conditions.depth import WorldDepth
from videopoet.conditions.flow import WorldFlow
from videopoet.conditions.registry import CONDITIONS
from videopoet.conditions.shot import Shot
from videopoet.conditions.structure import FlowAndDepth
from videopoet.data.shards import ShardReader, ShardWriter
from videopoet.data.transforms import audio_to_float, video_to_float
from videopoet.token_shards import smallest_unsigned, token_manifest, tokenize_shards


def test_tokens_are_what_the_tokenizers_say(world, world_tokens, shipped):
    clips, tokens = ShardReader(world), ShardReader(world_tokens, "tokens")
    visual, audio = (component.load(shipped / f"{name}.safetensors") for name in ("visual", "audio"))
    assert len(tokens) == len(clips) == 6
    assert tokens.manifest.fingerprints == {"visual": visual.fingerprint, "audio": audio.fingerprint}
    for clip, sample in zip(clips, tokens):
        assert sample["visual"].dtype == np.uint8 and sample["json"] == clip["json"]
        assert np.array_equal(sample["visual"], visual.encode(video_to_float(clip["video"])[None])[0].numpy())
        assert ("audio" in sample) == ("audio" in clip)
        if "audio" in clip:
            assert np.array_equal(sample["audio"], audio.encode(audio_to_float(clip["audio"])[None, None])[0].numpy())
    assert tokens.having("audio") == [0, 1, 2, 3, 4]


def test_condition_streams_are_the_codes_of_the_conditions_clips(world, world_tokens, shipped):
    clips, tokens = ShardReader(world), ShardReader(world_tokens, "tokens")
    visual = component.load(shipped / "visual.safetensors")
    assert {name: component.instantiate(spec) for name, spec in tokens.manifest.streams.items()} == CONDITIONS
    for clip, sample in zip(clips, tokens):
        shot = Shot(video=clip["video"], fps=8.0, source=clip["json"]["source"])
        for name, condition in CONDITIONS.items():
            assert sample[name].dtype == np.uint8
            assert np.array_equal(sample[name], visual.encode(video_to_float(condition(shot))[None])[0].numpy()), name


def test_a_clip_that_a_condition_cannot_be_made_of_goes_without(world, shipped, tmp_path):
    """One scene's truth is forgotten: its sample has no such stream, the others do."""
    reader = ShardReader(world)
    with ShardWriter(tmp_path / "clips", prefix="clips") as writer:
        for i, record in enumerate(reader):
            source = {} if i == 2 else record["json"]["source"]
            key = record.pop("__key__")
            writer.write(key, record | {"json": {"captions": [], "source": source}})
        writer.finish(reader.manifest)
    visual, audio = (component.load(shipped / f"{name}.safetensors") for name in ("visual", "audio"))
    truth = {"truth": FlowAndDepth(flow=WorldFlow(), depth=WorldDepth())}
    tokenize_shards(tmp_path / "clips", tmp_path / "tokens", visual, audio, conditions=truth)
    assert ShardReader(tmp_path / "tokens").having("truth") == [0, 1, 3, 4, 5]


@pytest.mark.parametrize("size, kind", [(256, np.uint8), (257, np.uint16), (2**16, np.uint16), (2**18, np.uint32)])
def test_smallest_type(size, kind):
    assert smallest_unsigned(size) == kind


def test_another_sample_rate_is_refused(world, shipped):
    visual, audio = (component.load(shipped / f"{name}.safetensors") for name in ("visual", "audio"))
    media = dataclasses.replace(ShardReader(world).manifest, sample_rate=24000)
    with pytest.raises(ValueError, match="at 24000 Hz, the audio tokenizer takes 16000 Hz"):
        token_manifest(media, visual, audio)
    assert torch.is_tensor(visual.encode(torch.zeros(1, 3, 1, 16, 16)))


def test_bfloat16_codes_differ_little_and_the_manifest_says_so(world, world_tokens, shipped, tmp_path):
    visual, audio = (component.load(shipped / f"{name}.safetensors") for name in ("visual", "audio"))
    tokenize_shards(world, tmp_path / "tokens", visual, audio, precision="bf16")
    exact, coarse = ShardReader(world_tokens, "tokens"), ShardReader(tmp_path / "tokens", "tokens")
    assert (exact.manifest.precision, coarse.manifest.precision) == ("fp32", "bf16")
    equal = [np.mean(a["visual"] == b["visual"]) for a, b in zip(exact, coarse)]
    assert 0.97 < np.mean(equal) < 1
    assert all(np.array_equal(a.get("audio"), b.get("audio")) for a, b in zip(exact, coarse))
    with pytest.raises(ValueError, match="precision 'fp16': there are fp32 and bf16"):
        tokenize_shards(world, tmp_path / "other", visual, audio, precision="fp16")

"""Clips -> codes: the same codes as the tokenizers give, in small unsigned types, signed by their fingerprints."""

import dataclasses
import multiprocessing
import os
import signal

import numpy as np
import pytest
import torch

from videopoet import component
from videopoet.cli import main
from videopoet.commands.corpus import devices_of
from videopoet.conditions.depth import WorldDepth
from videopoet.conditions.flow import WorldFlow
from videopoet.conditions.registry import CONDITIONS
from videopoet.conditions.shot import Shot
from videopoet.conditions.structure import FlowAndDepth
from videopoet.data.shards import ShardReader, ShardWriter
from videopoet.data.transforms import audio_to_float, video_to_float
from videopoet.data.work import Place
from videopoet.token_shards import VisualEncoding, smallest_unsigned, token_manifest, tokenize_shards


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


# --- at scale


def contents(folder):
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


@pytest.fixture(scope="module")
def encoders(shipped):
    return [component.load(shipped / f"{name}.safetensors") for name in ("visual", "audio")]


SCALE = dict(batch_size=2, samples_per_shard=3, conditions={"flow_depth": CONDITIONS["flow_depth"]})


@pytest.fixture(scope="module")
def clean(world, encoders, tmp_path_factory):
    """Two shards of three clips, by an undisturbed process."""
    out = tmp_path_factory.mktemp("clean") / "tokens"
    manifest = tokenize_shards(world, out, *encoders, **SCALE)
    assert [shard.samples for shard in manifest.shards] == [3, 3] and manifest.num_samples == 6
    assert [r["__key__"] for r in ShardReader(out)] == [r["__key__"] for r in ShardReader(world)]
    return contents(out)


@pytest.mark.parametrize("workers", [1, 4])
def test_any_number_of_workers_gives_the_same_tokens(world, encoders, clean, tmp_path, workers):
    tokenize_shards(world, tmp_path / "tokens", *encoders, **SCALE, workers=workers)
    assert contents(tmp_path / "tokens") == clean


def killed(folder, out, encoders, step):
    """Kill this process once something has taken its name for the step-th time."""
    torch.set_num_threads(1)  # a forked process has none of the threads of its parent
    replace, times = os.replace, iter(range(1000))

    def deadly(*arguments):
        replace(*arguments)
        if next(times) == step:
            os.kill(os.getpid(), signal.SIGKILL)

    os.replace = deadly
    tokenize_shards(folder, out, *encoders, **SCALE)


def test_killed_the_same_command_does_only_what_is_missing(world, encoders, clean, tmp_path, monkeypatch):
    """Killed once the first shard has its receipt, and before."""
    encoded = []
    encode = VisualEncoding.__call__
    monkeypatch.setattr(
        VisualEncoding, "__call__", lambda self, clips: encoded.extend(c := list(clips)) or encode(self, c)
    )
    for step, again in ((3, 12), (5, 6), (10, 0)):
        out = tmp_path / f"{step}" / "tokens"
        out.parent.mkdir()
        child = multiprocessing.get_context("fork").Process(target=killed, args=(world, out, encoders, step))
        child.start()
        child.join(120)
        assert child.exitcode == -signal.SIGKILL and not out.exists()
        done = out.with_name(".tokens.part")
        encoded.clear()
        tokenize_shards(world, out, *encoders, **SCALE)
        assert len(encoded) == again, f"clips and their conditions encoded after a kill at step {step}"
        assert contents(out) == clean and not done.exists()


def test_ranks_share_the_clips_and_other_settings_are_refused(world, encoders, clean, tmp_path):
    out = tmp_path / "tokens"
    assert tokenize_shards(world, out, *encoders, **SCALE, place=Place(rank=1, ranks=2)) is None
    with pytest.raises(ValueError, match="precision 'fp32' is now 'bf16'"):
        tokenize_shards(world, out, *encoders, **SCALE, precision="bf16")
    assert tokenize_shards(world, out, *encoders, **SCALE, place=Place(rank=0, ranks=2)).num_samples == 6
    assert contents(out) == clean
    with pytest.raises(ValueError, match="already holds shards of other inputs or settings"):
        tokenize_shards(world, out, *encoders, **SCALE | {"batch_size": 3})


def test_a_tokenizer_that_no_file_holds_cannot_be_sent_to_workers(world, encoders, tmp_path):
    visual = component.instantiate(encoders[0].spec).eval()
    visual.fingerprint = "0" * 16
    with pytest.raises(ValueError, match=r"does not come from a file.*or use no workers"):
        tokenize_shards(world, tmp_path / "tokens", visual, encoders[1], workers=1)


@pytest.mark.parametrize(
    ("gpus", "place", "workers", "devices"),
    [(0, Place(), 4, ["cpu"]), (1, Place(), 0, ["cuda:0"]), (4, Place(), 0, ["cuda:0"]),
     (3, Place(), 2, ["cuda:0", "cuda:1", "cuda:2"]), (8, Place(rank=13, ranks=16, local_rank=5), 2, ["cuda:5"]),
     (1, Place(rank=13, ranks=16, local_rank=5), 0, ["cuda:0"])],
)  # fmt: skip
def test_a_rank_encodes_on_the_gpu_of_its_local_rank(monkeypatch, gpus, place, workers, devices):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    assert devices_of(place, workers) == devices


def test_the_command_builds_by_workers_what_the_function_builds(world, shipped, clean, tmp_path, capsys):
    out = tmp_path / "tokens"
    main(["tokenize", str(world), "--out", str(out), "--visual", str(shipped / "visual.safetensors"), "--audio",
          str(shipped / "audio.safetensors"), "--condition", "flow_depth", "--batch-size", "2", "--samples-per-shard", "3",
          "--workers", "2"])  # fmt: skip
    assert "6 clips in" in capsys.readouterr().out and contents(out) == clean

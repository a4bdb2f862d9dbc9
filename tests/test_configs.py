"""Every YAML under configs/ is built by the Lightning CLI and takes a step, shrunk by one overlay."""

from pathlib import Path

import numpy as np
import pytest
import yaml

from videopoet import component
from videopoet.data.schema import TokenManifest
from videopoet.data.shards import ShardWriter
from videopoet.training.cli import fit

ROOT = Path(__file__).parents[1]
CONFIGS = sorted((ROOT / "configs").rglob("*.yaml"))
TINY = str(Path(__file__).with_name("tiny.yaml"))


@pytest.fixture(scope="module")
def tokens(tmp_path_factory, shipped) -> str:
    """Four clips of tokens in the demo's code sizes, on a smaller lattice, said to be made by the tiny tokenizers."""
    folder, rng = tmp_path_factory.mktemp("tokens") / "shards", np.random.default_rng(0)
    prints = {name: component.read_fingerprint(shipped / f"{name}.safetensors") for name in ("visual", "audio")}
    manifest = TokenManifest(fps=8.0, frames=17, height=16, width=16, sample_rate=16000, fingerprints=prints,
                             visual_lattice=(5, 2, 2), visual_codebook_size=2**12, audio_frames=7, audio_levels=2,
                             audio_codebook_size=512)  # fmt: skip
    with ShardWriter(folder, prefix="tokens") as writer:
        for i in range(4):
            visual, audio = rng.integers(0, 2**12, (5, 2, 2)), rng.integers(0, 512, (7, 2))
            record = {
                "visual": visual.astype(np.uint16),
                "audio": audio.astype(np.uint16),
                "json": {"captions": ["a circle"]},
            }
            writer.write(str(i), record)
        writer.finish(manifest)
    return str(folder)


@pytest.mark.parametrize("path", CONFIGS, ids=[str(p.relative_to(ROOT)) for p in CONFIGS])
def test_config_takes_a_step(path, world, tokens, shipped, text_model, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    kind = yaml.safe_load(path.read_text())["data"]["class_path"].rpartition(".")[2]
    overlay = {
        "ClipDataModule": [
            f"--data.init_args.shards={world}",
            "--data.init_args.batch_size=2",
            "--data.init_args.validation_shards=null",
        ],
        "MixtureDataModule": [
            f"--data.init_args.tokens={tokens}",
            "--data.init_args.validation_tokens=null",
            f"--data.init_args.tokenizers={{visual: {shipped}/visual.safetensors, audio: {shipped}/audio.safetensors}}",
            "--data.init_args.tokens_per_batch=200",
            f"--model.init_args.model.init_args.text_encoder.init_args.sentencepiece={text_model}",
        ],
    }[kind]
    trainer = fit(["-c", str(path), "-c", TINY, *overlay]).trainer
    assert trainer.global_step == 1
    assert np.isfinite(float(trainer.callback_metrics["train/loss"]))


@pytest.mark.parametrize("path", CONFIGS, ids=[str(p.relative_to(ROOT)) for p in CONFIGS])
def test_header_says_what_it_is_and_the_command(path):
    header = [line for line in path.read_text().splitlines() if line.startswith("#")]
    assert len(header) >= 2
    assert any(f"videopoet fit -c {path.relative_to(ROOT)}" in line for line in header)

"""Every YAML under configs/ is built by the Lightning CLI and takes a step, shrunk by one overlay."""

import json
from pathlib import Path

import numpy as np
import pytest
import yaml

from videopoet import component
from videopoet.data.bounce import Scene
from videopoet.data.schema import TokenManifest
from videopoet.data.shards import ShardWriter
from videopoet.pipeline import SHIPPED
from videopoet.tasks.audio_order import Delayed
from videopoet.tasks.base import read_layout
from videopoet.training.cli import fit
from videopoet.training.guard import LossGuard

ROOT = Path(__file__).parents[1]
# configs/evaluation has protocols, not trainings: tests/evaluation/test_protocols.py runs them.
CONFIGS = sorted(path for path in (ROOT / "configs").rglob("*.yaml") if path.parent.name != "evaluation")
TINY = str(Path(__file__).with_name("tiny.yaml"))
LANGUAGE = "--model.init_args.model.init_args"
TOKENIZER = "--model.init_args.tokenizer.init_args"


def stack(path: Path) -> list[Path]:
    """A config that names no data is laid over the `base.yaml` beside it, one for every training over the demo's."""
    if path.parent.name in ("strategy", "hardware"):
        return [ROOT / "configs/demo/lm.yaml", path]
    whole = "class_path" in yaml.safe_load(path.read_text()).get("data", {})
    return [path] if whole else [path.with_name("base.yaml"), path]


def guards(configs: list[Path]) -> list[dict]:
    """The guards of the callbacks in effect: a list is replaced whole by the file above it."""
    said = [yaml.safe_load(path.read_text()).get("trainer", {}).get("callbacks") for path in configs]
    in_effect = next((callbacks for callbacks in reversed(said) if callbacks), [])
    return [each for each in in_effect if each["class_path"].endswith(".LossGuard")]


def shrink(config: dict) -> list[str]:
    """Published networks and losses at a size that takes a step in a second, on 16 x 16 pixels or their tokens."""
    arguments, overrides = config.get("model", {}).get("init_args", {}), []
    language = arguments.get("model", {}).get("init_args", {})
    if language.get("transformer", {}).get("init_args", {}).get("width", 0) >= 1024:
        small = {"transformer": {"width": 32, "layers": 2, "heads": 2},
                 "io": {"width": 32, "vocabulary_size": 5376, "starts": [0, 256, 4352, 4864]}}  # fmt: skip
        overrides += [
            f"{LANGUAGE}.{part}.init_args.{k}={v}" for part, values in small.items() for k, v in values.items()
        ]
    tokenizer = arguments.get("tokenizer", {}).get("init_args", {})
    network = tokenizer.get("encoder", {}).get("init_args", {})
    if network.get("channels") == 128:
        small = ["channels=8", "num_blocks=1"]
        if tokenizer["stride"][1] > 16:  # one level fewer
            small += [f"multipliers={network['multipliers'][:-1]}", f"strides={network['strides'][:-1]}"]
            overrides.append(f"{TOKENIZER}.stride={[1, *(s // 2 for s in tokenizer['stride'][1:])]}")
        overrides += [f"{TOKENIZER}.{side}.init_args.{value}" for side in ("encoder", "decoder") for value in small]
    if "perceptual" in arguments.get("loss", {}).get("init_args", {}):  # needs weights from elsewhere
        overrides.append("--model.init_args.loss=videopoet.tokenizers.visual.losses.PixelLoss")
    if tokenizer.get("num_filters", 0) >= 32:  # a codec, on the tests' sounds at 16 kHz
        overrides += [f"{TOKENIZER}.num_filters=4", f"{TOKENIZER}.sample_rate=16000", "--model.init_args.segment=16000"]
        overrides.append("--model.init_args.adversarial.init_args.discriminator.init_args.channels=2")
    elif "adversarial" in arguments and "encoder" in tokenizer:
        discriminator = "--model.init_args.adversarial.init_args.discriminator.init_args"
        overrides += [f"{discriminator}.size=[16,16]", f"{discriminator}.channels=4"]
    return overrides


@pytest.fixture(scope="module")
def tokens(tmp_path_factory, shipped) -> str:
    """Four clips of tokens in the demo's code sizes, on a smaller lattice, said to be made by the tiny tokenizers."""
    folder, rng = tmp_path_factory.mktemp("tokens") / "shards", np.random.default_rng(0)
    prints = {name: component.read_fingerprint(shipped / f"{name}.safetensors") for name in ("visual", "audio")}
    manifest = TokenManifest(fps=8.0, frames=17, height=16, width=16, sample_rate=16000, fingerprints=prints,
                             visual_lattice=(5, 2, 2), visual_codebook_size=2**12, audio_frames=7, audio_levels=2,
                             audio_codebook_size=512)  # fmt: skip
    scenes = [scene for scene in map(Scene.sample, range(40)) if len(scene.objects) == 1]  # whose class is known
    with ShardWriter(folder, prefix="tokens") as writer:
        for i in range(4):
            visual, audio = rng.integers(0, 2**12, (5, 2, 2)), rng.integers(0, 512, (7, 2))
            record = {
                "visual": visual.astype(np.uint16),
                "audio": audio.astype(np.uint16),
                "json": {"captions": ["a circle"], "source": {"bounce": scenes[i].attributes()}},
            }
            writer.write(str(i), record)
        writer.finish(manifest)
    return str(folder)


@pytest.mark.parametrize("path", CONFIGS, ids=[str(p.relative_to(ROOT)) for p in CONFIGS])
def test_config_takes_a_step(path, world, world_tokens, tokens, shipped, text_model, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    configs = stack(path)
    kind = yaml.safe_load(configs[0].read_text())["data"]["class_path"].rpartition(".")[2]
    text = f"{{sentencepiece: {text_model}, vocabulary_size: 512, width: 16, layers: 1, heads: 2, length: 28}}"
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
            "--data.init_args.tokens_per_step=null",
            # Instead of an encoder that must be fetched, too.
            f"{LANGUAGE}.text_encoder={{class_path: videopoet.tokenizers.text.t5.TrainedT5, init_args: {text}}}",
        ],
        "LabelledDataModule": [
            f"--data.init_args.shards={world if path.stem == 'pixels' else world_tokens}",
            "--data.init_args.validation_shards=null",
            "--data.init_args.batch_size=2",
        ],
    }[kind]
    overlay += shrink(yaml.safe_load((configs[0] if path.stem in ("adapt", "every_task") else path).read_text()))
    if path.stem == "audio_decoder":  # from the codec whose codes it is of
        overlay.append(f"--start_from={SHIPPED / 'audio.safetensors'}")
    elif "start_from" in yaml.safe_load(path.read_text()):  # from a model that its base trained
        files = [argument for config in [*configs[:-1], TINY] for argument in ("-c", str(config))]
        before = fit([*files, *overlay])
        spec = before.config.fit.model.as_dict()["init_args"]["model"]
        component.save(tmp_path / "before.safetensors", spec, before.model.model.state_dict(), half=False)
        overlay.append(f"--start_from={tmp_path / 'before.safetensors'}")
    if guards(configs):  # which the tiny overlay takes away with the other callbacks
        overlay.append(f"--trainer.callbacks={json.dumps(guards(configs))}")
    files = [argument for config in [*configs, TINY] for argument in ("-c", str(config))]
    run = fit([*files, *overlay])
    assert run.trainer.global_step == 1
    watched = [callback.losses for callback in run.trainer.callbacks if isinstance(callback, LossGuard)]
    assert len(watched) == (path.parent.name == "lm") and all(watched), "the presets of published size are guarded"
    assert np.isfinite(float(run.trainer.callback_metrics["train/loss"]))
    alone = not getattr(run.trainer.strategy, "partitions_weights", False)  # else the weights are in no one place
    if run.model.component != "probe" and alone:  # a probe is measured, not shipped
        trained = getattr(run.model, run.model.component)
        spec = run.config.fit.model.as_dict()["init_args"][run.model.component]
        component.save(tmp_path / "part.safetensors", spec, trained.state_dict(), half=False)
        rebuilt = component.load(tmp_path / "part.safetensors", type(trained))
        assert rebuilt.state_dict().keys() == trained.state_dict().keys()


def test_the_order_of_sound_is_a_value_in_yaml(tokens, shipped, text_model, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    data = {
        "tokens": tokens,
        "validation_tokens": "null",
        "tokenizers": f"{{visual: {shipped}/visual.safetensors, audio: {shipped}/audio.safetensors}}",
        "tokens_per_batch": 200,
        "audio_order": "{class_path: videopoet.tasks.audio_order.Delayed, init_args: {delay: 2}}",
    }
    overlay = [f"--data.init_args.{name}={value}" for name, value in data.items()]
    overlay.append(f"--model.init_args.model.init_args.text_encoder.init_args.sentencepiece={text_model}")
    module = fit(["-c", str(ROOT / "configs/demo/lm.yaml"), "-c", TINY, *overlay]).model
    assert read_layout(module.metadata["layout"]).audio_order == Delayed(delay=2)


@pytest.mark.parametrize("path", CONFIGS, ids=[str(p.relative_to(ROOT)) for p in CONFIGS])
def test_header_says_what_it_is_and_the_command(path):
    header = [line for line in path.read_text().splitlines() if line.startswith("#")]
    assert len(header) >= 2
    files = " ".join(f"-c {config.relative_to(ROOT)}" for config in stack(path))
    assert any(f"videopoet fit {files}" in line for line in header)

"""Tiny real components: every class of the demo at the smallest size, untrained, built once."""

import os
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import pytest
import torch

from videopoet import component
from videopoet.conditions.registry import CONDITIONS
from videopoet.data.bounce import Scene
from videopoet.data.schema import Clip, MediaManifest
from videopoet.data.shards import ShardWriter
from videopoet.data.transforms import audio_to_int16
from videopoet.pipeline import SHIPPED, VideoPoet
from videopoet.tasks.base import Example, Layout, Text
from videopoet.tasks.denoise import Denoise
from videopoet.tasks.frame_prediction import FramePrediction
from videopoet.tasks.registry import TASKS
from videopoet.tasks.spans import Blocks, Suffix
from videopoet.tasks.unconditional import Unconditional
from videopoet.token_shards import tokenize_shards
from videopoet.tokenizers.quantizers.lookup_free import LookupFreeQuantizer
from videopoet.tokenizers.text.sentencepiece import train_sentencepiece
from videopoet.tokenizers.visual.autoencoder import VideoTokenizer
from videopoet.tokenizers.visual.cnn import Decoder, Encoder
from videopoet.training.export import portable
from videopoet.vocabulary import Vocabulary

torch.set_num_threads(max(1, (os.cpu_count() or 2) // 2))

NETWORK = {
    "dimension": 6,
    "channels": 8,
    "multipliers": [1, 2, 2],
    "strides": [[2, 2, 2], [2, 2, 2]],
    "num_blocks": 1,
    "patch": 2,
}
VISUAL = {
    "class_path": "videopoet.tokenizers.visual.autoencoder.VideoTokenizer",
    "init_args": {
        "encoder": {"class_path": "videopoet.tokenizers.visual.cnn.Encoder", "init_args": NETWORK},
        "quantizer": {
            "class_path": "videopoet.tokenizers.quantizers.lookup_free.LookupFreeQuantizer",
            "init_args": {"num_bits": 6},
        },
        "decoder": {"class_path": "videopoet.tokenizers.visual.cnn.Decoder", "init_args": NETWORK},
        "stride": [4, 8, 8],
    },
}
PUBLISHED = {"dimension": 8, "channels": 4, "num_blocks": 1}  # the paper's four levels and strides, narrow
AUDIO = {
    "class_path": "videopoet.tokenizers.audio.codec.SoundStream",
    "init_args": {
        "sample_rate": 16000,
        "ratios": [8, 5, 5, 8],
        "num_filters": 2,
        "dimension": 8,
        "num_lstm_layers": 0,
        "levels": 2,
        "codebook_size": 16,
    },
}
VOCABULARY = Vocabulary(visual_size=64, audio_levels=2, audio_codes=16)
LAYOUT = Layout(
    vocabulary=VOCABULARY,
    lattice=(5, 2, 2),
    frame_stride=4,
    audio_frames=21,
    frames_per_audio_frame=17 / 21,
    text_length=32,
)
#: Every registered task, and variants that a mixture may hold beside them.
EVERY_TASK = TASKS | {
    "variable-past": FramePrediction(given=4, fewest=1),
    "denoise-s-anywhere": Denoise(spans=Suffix(least=0.1, rate=0.9)),
    "denoise-blocks-cut": Denoise(spans=Blocks(frames=2, rows=1, columns=2, rate=0.5)),
    "denoise-audio-s": Denoise(stream="audio", spans=Suffix()),
    "silent": Unconditional(sound=False),
}
FACTORED = {"class_path": "videopoet.models.token_io.Factored",
            "init_args": {"vocabulary_size": VOCABULARY.size, "width": 32, "visual_start": 256, "visual_size": 64}}  # fmt: skip
FLAT = {"class_path": "videopoet.models.token_io.Flat", "init_args": {"vocabulary_size": VOCABULARY.size, "width": 32}}


def lm_spec(text_model: str | None, io: dict = FACTORED) -> dict:
    """A language model of a few thousand parameters over LAYOUT."""
    text = {
        "sentencepiece": text_model,
        "vocabulary_size": 256,
        "width": 16,
        "layers": 1,
        "heads": 2,
        "ff": 32,
        "length": 32,
    }
    return {
        "class_path": "videopoet.models.token_lm.TokenLM",
        "init_args": {
            "transformer": {
                "class_path": "videopoet.models.transformer.Transformer",
                "init_args": {"width": 32, "layers": 2, "heads": 2},
            },
            "io": io,
            "text_encoder": {"class_path": "videopoet.tokenizers.text.t5.TrainedT5", "init_args": text},
        },
    }


def published() -> VideoTokenizer:
    return VideoTokenizer(Encoder(**PUBLISHED), LookupFreeQuantizer(8), Decoder(**PUBLISHED))


@pytest.fixture(autouse=True)
def _seeded():
    """What a test draws without a seed of its own is the same whatever ran before it in its process."""
    torch.manual_seed(0)


@pytest.fixture(scope="module", params=["published", "patchified", "shipped"])
def tokenizer(request) -> VideoTokenizer:
    """A causal tokenizer that streams, in evaluation, no parameter of which is all zeros."""
    torch.manual_seed(0)
    makers = {
        "published": published,
        "patchified": lambda: component.instantiate(VISUAL),
        "shipped": lambda: component.load(SHIPPED / "visual.safetensors", VideoTokenizer),
    }
    model = makers[request.param]().eval()
    for parameter in model.parameters():  # the adaptive norms start as the identity: make them do something
        if not parameter.any():
            torch.nn.init.normal_(parameter, std=0.1)
    return model


@pytest.fixture(scope="session")
def text_model(tmp_path_factory) -> str:
    """A SentencePiece model of captions of the built-in world."""
    path = tmp_path_factory.mktemp("text") / "text.model"
    train_sentencepiece([c for seed in range(60) for c in Scene.sample(seed).captions()], path, 256)
    return str(path)


@pytest.fixture(scope="session")
def shipped(tmp_path_factory, text_model):
    """A folder with the three components, as `videopoet export` writes them: 16 x 16 pixels, untrained."""
    folder = tmp_path_factory.mktemp("model")
    torch.manual_seed(0)
    for name, spec in (("visual", VISUAL), ("audio", AUDIO)):
        component.save(folder / f"{name}.safetensors", spec, component.instantiate(spec).state_dict())
    facts = {
        "layout": LAYOUT.facts(),
        "tasks": {name: task.spec() for name, task in TASKS.items()},
        "streams": {name: component.spec_of(condition) for name, condition in CONDITIONS.items()},
        "fingerprints": {n: component.read_fingerprint(folder / f"{n}.safetensors") for n in ("visual", "audio")},
        "frames": 17,
        "fps": 8.0,
        "height": 16,
        "width": 16,
        "sample_rate": 16000,
    }
    spec = lm_spec(text_model)
    component.save(folder / "lm.safetensors", portable(spec), component.instantiate(spec).state_dict(), facts)
    return folder


@pytest.fixture(scope="session")
def world(tmp_path_factory) -> Path:
    """Media shards of six scenes, 16 x 16 pixels, the last without sound."""
    folder = tmp_path_factory.mktemp("world") / "shards"
    with ShardWriter(folder, prefix="clips") as writer:
        for seed in range(6):
            scene = Scene.sample(seed)
            audio = None if seed == 5 else audio_to_int16(scene.sound(17, 8))
            source = {"bounce": scene.attributes()}
            clip = Clip(key="", video=scene.render(17, 8, 16), audio=audio, captions=scene.captions(), source=source)
            writer.write(f"{seed}", clip.record())
        writer.finish(MediaManifest(fps=8.0, frames=17, height=16, width=16, sample_rate=16000))
    return folder


@pytest.fixture(scope="session")
def world_tokens(tmp_path_factory, world, shipped) -> Path:
    """The same six scenes through the tiny tokenizers."""
    folder = tmp_path_factory.mktemp("world_tokens") / "shards"
    visual, audio = (component.load(shipped / f"{name}.safetensors") for name in ("visual", "audio"))
    tokenize_shards(world, folder, visual, audio, conditions=CONDITIONS, batch_size=4)
    return folder


@pytest.fixture(scope="session")
def poet(shipped) -> VideoPoet:
    return VideoPoet.from_pretrained(shipped)


@pytest.fixture
def example() -> Example:
    """A whole sample with random codes and 5 text tokens."""
    g = torch.Generator().manual_seed(3)
    shown = torch.arange(LAYOUT.text_length) < 5
    ids = torch.randint(3, 60, (LAYOUT.text_length,), generator=g) * shown
    return Example(
        text=Text(ids=ids, shown=shown),
        video=torch.randint(0, 64, LAYOUT.lattice, generator=g),
        audio=torch.randint(0, 16, (LAYOUT.audio_frames, 2), generator=g),
        label=Text(ids=ids.flip(0) * shown, shown=shown),
        streams={name: torch.randint(0, 64, LAYOUT.lattice, generator=g) for name in CONDITIONS},
        seed=11,
        key="sample",
    )

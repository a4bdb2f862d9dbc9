"""A training's YAML read for what it says of sizes: the model on the meta device and batches of the mixture's layout.

Nothing that the YAML names must be there: no shards, no tokenizers, no pretrained text encoder.
"""

from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path

import torch
import yaml
from jsonargparse import ArgumentParser
from transformers import AutoConfig, T5Config, T5EncoderModel

from videopoet import component
from videopoet.data.batching import Batching
from videopoet.data.blank import BlankShards, of_any_sample
from videopoet.data.labels import Label
from videopoet.data.mixture import Mixture, layout_of
from videopoet.data.schedule import CYCLE, Share, Weighing
from videopoet.data.schema import MANIFEST, read_manifest
from videopoet.models.token_io import Flat, TokenIO
from videopoet.models.token_lm import TokenLM
from videopoet.sequence import Batch
from videopoet.tasks.audio_order import AudioOrder
from videopoet.tasks.base import Layout, Text
from videopoet.tokenizers.text.t5 import PretrainedT5, TextEncoder
from videopoet.training.export import portable
from videopoet.vocabulary import Vocabulary

#: Layout of VideoPoet's clips (§3.1): 17 frames at 8 fps and 128 x 128 pixels, 2.125 s of sound.
LATTICE, AUDIO_FRAMES, FRAME_STRIDE = (5, 16, 16), 106, 4

#: width, inner width, layers, heads of T5 v1.1's encoders; 64 per head, 32128 pieces.
T5_SIZES = {"small": (512, 1024, 8, 6), "base": (768, 2048, 12, 12), "large": (1024, 2816, 24, 16),
            "xl": (2048, 5120, 24, 32), "xxl": (4096, 10240, 24, 64)}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Place:
    """One task of the mixture: places it has in a cycle of the schedule, and a batch of one device."""

    count: int
    batch: Batch


def read_config(files: Sequence[Path], overrides: Sequence[str] = ()) -> dict:
    """YAML files laid one over the other, then `--a.b=value` as `videopoet fit` takes them.

    A file that names no data module is laid over the `base.yaml` beside it. As with `fit`, a mixture has the `tasks` that
    the upper names, each laid over the one of that name below. Raises ValueError for a file that is not there
    or no YAML, and for other overrides.
    """
    config: dict = {}
    for path in files:
        said = _read(path)
        base = path.with_name("base.yaml")
        if not config and "class_path" not in said.get("data", {}) and base.is_file():
            config = _read(base)
        config = merge(config, said)
    for override in overrides:
        name, equals, value = override.removeprefix("--").partition("=")
        if not equals or not override.startswith("--"):
            raise ValueError(f"'{override}' is no override: write --model.init_args.learning_rate=1e-3")
        said = yaml.safe_load(value)
        for key in reversed(name.split(".")):
            said = {key: said}
        config = merge(config, said)
    return config


def merge(below, above):
    """Dicts merged to any depth; of all else the upper is taken, and of `tasks` those that the upper has."""
    if not isinstance(below, dict) or not isinstance(above, dict):
        return above
    merged = {**below, **{key: merge(below.get(key), value) for key, value in above.items()}}
    if isinstance(above.get("tasks"), dict):
        merged["tasks"] = {name: merged["tasks"][name] for name in above["tasks"]}
    return merged


def _read(path: Path) -> dict:
    if not path.is_file():
        raise ValueError(f"no file at {path}")
    try:
        said = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    except yaml.YAMLError as error:
        raise ValueError(f"{path} is no YAML: {str(error).splitlines()[0]}") from None
    if not isinstance(said, dict):
        raise ValueError(f"{path} is no training config: it holds a {type(said).__name__}")
    return said


DROPS = ("drop_text", "drop_visual", "drop_audio")


def mixture_settings(config: dict) -> dict:
    """What a training config says of its mixture, tasks and behaviours built. Raises ValueError where it has none."""
    data = config.get("data", {})
    said = data.get("init_args", {})
    if not str(data.get("class_path", "")).endswith("MixtureDataModule") or "tasks" not in said:
        raise ValueError(
            "the config has no mixture: data must be a videopoet.data.mixture.MixtureDataModule with tasks"
        )
    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--tasks", type=dict[str, Share])
    behaviours = {"weigh": Weighing, "batching": Batching, "label": Label, "audio_order": AudioOrder}
    for name, kind in behaviours.items():
        parser.add_argument(f"--{name}", type=kind | None)
    built = {name: said[name] for name in ("tasks", *behaviours) if name in said}
    values = vars(parser.instantiate_classes(parser.parse_object(built)))
    plain = ("tokens", "tokens_per_batch", "tokens_per_step", "parts", "first_steps", "seed", *DROPS)
    return {name: said[name] for name in plain if name in said} | {n: values[n] for n in ("tasks", *behaviours)}


def build_model(config: dict, *, recompute: bool | None = None) -> TokenLM:
    """The config's language model on the meta device, to be trained. recompute: that of its trunk, where not the config's.

    Raises ValueError for a config of anything else.
    """
    spec = deepcopy(config.get("model", {}).get("init_args", {}).get("model"))
    if not isinstance(spec, dict) or not str(spec.get("class_path", "")).endswith(".TokenLM"):
        raise ValueError(
            "plans are of language models: model.init_args.model must be a videopoet.models.token_lm.TokenLM"
        )
    parts = portable(spec["init_args"])
    with torch.device("meta"):
        text = parts.pop("text_encoder")
        encoder = _unread(text) if text["class_path"].endswith(".PretrainedT5") else component.instantiate(text)
        model = TokenLM(text_encoder=encoder, **component.instantiate(parts))
    if recompute is not None:
        model.transformer.recompute = recompute
    return model.train()


class _UnreadT5(PretrainedT5):
    """A frozen T5 encoder of known sizes without its weights."""

    def __init__(self, config: T5Config, length: int, dtype: torch.dtype):
        TextEncoder.__init__(self)
        self.encoder = T5EncoderModel(config).to(dtype).requires_grad_(False)
        self.width, self.length, self.pad = config.d_model, length, config.pad_token_id
        self.train(False)


def _unread(spec: dict) -> TextEncoder:
    arguments = {"length": 64, "dtype": "float32"} | spec["init_args"]
    name = arguments["name_or_path"]
    try:
        config = AutoConfig.from_pretrained(name, local_files_only=True)
    except (OSError, ValueError):
        size = name.rpartition("-")[2].lower()
        if size not in T5_SIZES:
            raise ValueError(f"the sizes of {name!r} are not known: fetch it (`hf download {name}`) or name a T5 v1.1, "
                             f"as google/t5-v1_1-xl ({', '.join(T5_SIZES)})") from None  # fmt: skip
        width, inner, layers, heads = T5_SIZES[size]
        config = T5Config(vocab_size=32128, d_model=width, d_ff=inner, num_layers=layers, num_heads=heads, d_kv=64,
                          feed_forward_proj="gated-gelu")  # fmt: skip
    return _UnreadT5(config, arguments["length"], getattr(torch, arguments["dtype"]))


def vocabulary_of(io: TokenIO) -> Vocabulary:
    """The ids that token input and output were made for, as far as they say: all that is not said is one audio level."""
    if isinstance(io, Flat):
        size, starts = len(io.table.weight), [a for a, _ in io.ranges or [(0, 0)]]
        if len(starts) < 2:
            raise ValueError("this Flat does not say which ids are visual: set io.init_args.starts")
        visual_start, visual_size = starts[1], (starts[2] if len(starts) > 2 else size) - starts[1]
    else:
        visual_start, visual_size = io.visual_start, io.visual_size
        size, starts = len(io.flat.weight) + visual_size, [a for a, _ in io.ranges or []]
    audio, levels = size - visual_start - visual_size, max(1, len(starts) - 2)
    return Vocabulary(visual_size=visual_size, audio_levels=levels if audio else 0, audio_codes=audio // levels)


def build_mixture(config: dict, model: TokenLM, lattice: tuple[int, int, int] | None = None,
                  audio_frames: int | None = None, audio_levels: int | None = None,
                  batches: int | None = None) -> Mixture:  # fmt: skip
    """The config's mixture over blank examples whose text slots are full, as no device has more to do.

    batches: of all GPUs and turns of accumulation, which share out a configured `tokens_per_step`.

    The layout is that of the config's token shards where they are there and nothing else is asked for; else the given one,
    VideoPoet's clips where nothing is given.
    """
    settings = mixture_settings(config)
    folder, order, length = (
        Path(settings.pop("tokens", "")),
        settings.pop("audio_order", None),
        model.text_encoder.length,
    )
    if (folder / MANIFEST).is_file() and lattice is audio_frames is audio_levels is None:
        layout = layout_of(read_manifest(folder, "tokens"), length, order)
    else:
        vocabulary = vocabulary_of(model.io)
        if audio_levels is not None:
            codes = vocabulary.audio_levels * vocabulary.audio_codes // max(1, audio_levels)
            vocabulary = Vocabulary(visual_size=vocabulary.visual_size, audio_levels=audio_levels, audio_codes=codes)
        audio_frames = AUDIO_FRAMES if audio_frames is None else audio_frames
        layout = Layout(vocabulary=vocabulary, lattice=lattice or LATTICE, frame_stride=FRAME_STRIDE, text_length=length,
                        audio_frames=audio_frames if vocabulary.audio_levels else 0, frames_per_audio_frame=0.16,
                        **({} if order is None else {"audio_order": order}))  # fmt: skip
    model.io.check(layout.vocabulary)
    full = Text(ids=torch.ones(length, dtype=torch.int64), shown=torch.ones(length, dtype=torch.bool))
    shares = of_any_sample(settings.pop("tasks"))
    how = {"seed": 0, "drop_text": 0.1, "tokens_per_batch": 8192} | settings
    batch, step = how.pop("tokens_per_batch"), how.pop("tokens_per_step", None)
    # one rank without accumulation: its batch is the step
    how["tokens_per_step"] = min(batch, step // batches) if step and batches else batch
    how.pop("parts", None)
    return Mixture(BlankShards(layout, shares), layout, lambda prompts: [full] * len(prompts), shares, **how)


def places(mixture: Mixture) -> dict[str, Place]:
    """Every task of the mixture's later stage with the batch of its first step there."""
    start = mixture.schedule.first_cycles * CYCLE
    steps: dict[str, list[int]] = {}
    for step in range(start, start + CYCLE):
        steps.setdefault(mixture.schedule(step)[0], []).append(step)
    return {name: Place(count=len(each), batch=mixture[each[0]]) for name, each in steps.items()}

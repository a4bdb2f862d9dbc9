"""Token shards -> training batches: which task, which samples and which captions, as a pure function of the step."""

import warnings
from collections.abc import Callable, Iterable
from functools import cached_property

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from videopoet.component import read_fingerprint
from videopoet.data.batching import Batching, OneLength
from videopoet.data.labelled import Label
from videopoet.data.order import sample_indices
from videopoet.data.schedule import CYCLE, ByTokens, Schedule, Share, Weighing
from videopoet.data.schema import TokenManifest
from videopoet.data.shards import ShardReader
from videopoet.data.steps import StepDataModule
from videopoet.sequence import Batch, Sequence
from videopoet.tasks.audio_order import AudioOrder, LevelMajor
from videopoet.tasks.base import OWN, Example, Layout, Text
from videopoet.vocabulary import Vocabulary


class Mixture(Dataset):
    """Batches indexed by step, a pure function of the seed, the step and the rank.

    tokenize: prompts -> text tokens. weigh: what weights are shares of. batching: how samples become a batch.
    drop_text: share of samples whose text is emptied, for classifier-free guidance.
    label: says the class of a sample; without it tasks that read one are left out, as are all tasks that read a stream
    which the shards lack.
    """

    def __init__(self, reader: ShardReader, layout: Layout, tokenize: Callable[[list[str]], list[Text]],
                 shares: dict[str, Share], *, seed: int, tokens_per_batch: int, drop_text: float, first_steps: int = 0,
                 weigh: Weighing | None = None, batching: Batching | None = None, label: Label | None = None,
                 world_size: int = 1, rank: int = 0):  # fmt: skip
        self.reader, self.layout, self.tokenize, self.label = reader, layout, tokenize, label
        self.seed, self.tokens_per_batch, self.drop_text = seed, tokens_per_batch, drop_text
        self.world_size, self.rank = world_size, rank
        self.shares = self._possible(shares)
        self.batching = OneLength() if batching is None else batching
        sizes = self.batching.sizes(self.lengths, tokens_per_batch)
        self.batch_sizes = {name: samples for name, (samples, _) in sizes.items()}  # samples per place of each task
        first = self.batching.first_places(first_steps, self)
        self.schedule = Schedule(self.shares, seed, first, ByTokens() if weigh is None else weigh, sizes)

    def __getitem__(self, step: int) -> Batch:
        return self.batching.batch(self, step)

    def _possible(self, shares: dict[str, Share]) -> dict[str, Share]:
        """The tasks whose streams there are; names the others in a warning. Raises ValueError where none is left."""
        present = {"text", "video", *self.reader.manifest.streams}
        present |= {"audio"} if self.layout.audio_frames else set()
        present |= {"label"} if self.label is not None else set()
        lacking = {n: set(s.task.needs(self.layout)) - present for n, s in shares.items() if s.weight or s.first_weight}
        lacking = {name: streams for name, streams in lacking.items() if streams}
        if lacking:
            said = "; ".join(f"{name} needs {' and '.join(sorted(streams))}" for name, streams in lacking.items())
            warnings.warn(
                f"left out, as {self.reader.folder} lacks it: {said} (streams: videopoet tokenize --condition; label: "
                "data.init_args.label)",
                stacklevel=2,
            )
        kept = {name: s for name, s in shares.items() if set(s.task.needs(self.layout)) <= present}
        if not kept:
            raise ValueError(f"no task of the mixture can be trained on {self.reader.folder}: all lack a stream")
        return kept

    @cached_property
    def lengths(self) -> dict[str, int]:
        """Tokens of a sequence of each task."""
        segments = {name: s.task.segments(s.task.blank(self.layout), self.layout) for name, s in self.shares.items()}
        return {name: len(Sequence.of(each)) for name, each in segments.items()}

    def sequence(self, name: str, place: int) -> Sequence:
        """The sequence of a task at a place of its own endless order, the same on any rank and any number of ranks."""
        task = self.shares[name].task
        samples = self.samples(task.needs(self.layout))
        index = samples[sample_indices(len(samples), self.seed, place, 1)[0]]
        rng = np.random.default_rng((self.seed, place, *name.encode()))
        example = self.example(index, rng, task.needs(self.layout))
        return Sequence.of(task.segments(example, self.layout), key=example.key)

    def samples(self, needs: Iterable[str]) -> range | list[int]:
        """Samples that have every one of these streams. Raises ValueError where none has."""
        key = frozenset(needs) - {"text", "video"}
        if key not in self._samples:
            found = set(range(len(self.reader)))
            for name in key:
                found &= set(self.labels if name == "label" else self.reader.having(name))
            if not found:
                raise ValueError(f"no sample of {self.reader.folder} has {' and '.join(sorted(key))}")
            self._samples[key] = sorted(found)
        return self._samples[key]

    @cached_property
    def _samples(self) -> dict[frozenset[str], range | list[int]]:
        return {frozenset(): range(len(self.reader))}

    @cached_property
    def labels(self) -> dict[int, str]:
        """The class of every sample that has one."""
        sources = (self.reader.read(i, fields=("json",))["json"].get("source", {}) for i in range(len(self.reader)))
        return {i: name for i, source in enumerate(sources) if (name := self.label(source)) is not None}

    def example(self, index: int, rng: np.random.Generator, needs: Iterable[str] = ("text",)) -> Example:
        """Sample `index` with what is needed of it and one of its captions, or none; all that is drawn is from `rng`."""
        streams = [name for name in needs if name not in OWN]
        record = self.reader.read(index, fields=("json", "visual", "audio", *streams))
        captions = record["json"]["captions"] or [""]
        caption = captions[int(rng.integers(len(captions)))]
        kept, audio = rng.random() >= self.drop_text, record.get("audio")
        return Example(
            key=record["__key__"],
            seed=int(rng.integers(2**62)),
            text=self.tokenize([caption if kept else ""])[0],
            label=self.tokenize([self.labels[index] if kept else ""])[0] if "label" in needs else None,
            video=_codes(record["visual"]),
            audio=None if audio is None else _codes(audio),
            streams={name: _codes(record[name]) for name in streams},
        )


def _codes(stored: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(stored.astype(np.int64))


def layout_of(manifest: TokenManifest, text_length: int, audio_order: AudioOrder | None = None) -> Layout:
    """The layout that token shards prescribe, with the sound written in the given order, else level by level."""
    vocabulary = Vocabulary(
        visual_size=manifest.visual_codebook_size,
        audio_levels=manifest.audio_levels,
        audio_codes=manifest.audio_codebook_size,
    )
    return Layout(
        vocabulary=vocabulary,
        lattice=manifest.visual_lattice,
        frame_stride=(manifest.frames - 1) // max(1, manifest.visual_lattice[0] - 1),
        audio_frames=manifest.audio_frames,
        frames_per_audio_frame=_frames_per_audio_frame(manifest),
        text_length=text_length,
        audio_order=audio_order or LevelMajor(),
    )


def _frames_per_audio_frame(manifest: TokenManifest) -> float:
    """Video frames that an audio frame lasts: 8 fps * 320 samples / 16 kHz = 0.16, whatever the length of the clip."""
    if manifest.audio_hop is not None:
        return manifest.fps * manifest.audio_hop / manifest.sample_rate
    # Shards that do not say: the clip over its whole hops, 17 / 106 = 0.1604.
    return manifest.frames / manifest.audio_frames if manifest.audio_frames else 1.0


class MixtureDataModule(StepDataModule):
    """Batches of a task mixture from token shards.

    tokens, validation_tokens: folders made by `videopoet tokenize`.
    tokenizers: files of the tokenizers the tokens must have been made by, `visual` and `audio`; shards with another
        fingerprint are refused.
    tasks: name -> task and weight. A dict, so that one entry can be changed from the command line.
    weigh: what weights are shares of, tokens unless said otherwise.
    batching: one task and length per step, unless said otherwise.
    first_steps: steps of the first stage, in which tasks have their `first_weight`.
    tokens_per_batch: tokens per rank and step.
    label: where the class of a sample comes from, for the tasks that read one.
    audio_order: in which order the codes of a sound are written; level-major where not given.
    """

    tokenize = None  # set by the model, whose text encoder it belongs to: list of prompts -> list of Text

    def __init__(
        self,
        tokens: str,
        tasks: dict[str, Share],
        tokenizers: dict[str, str],
        validation_tokens: str | None = None,
        first_steps: int = 0,
        num_validation_batches: int = 2,
        tokens_per_batch: int = 8192,
        drop_text: float = 0.1,
        seed: int = 0,
        num_workers: int = 1,
        weigh: Weighing | None = None,
        batching: Batching | None = None,
        label: Label | None = None,
        audio_order: AudioOrder | None = None,
    ):
        super().__init__()
        self.weigh, self.batching, self.label, self.audio_order = weigh, batching, label, audio_order
        self.tokens, self.validation_tokens, self.shares = tokens, validation_tokens, tasks
        self.first_steps = first_steps
        self.num_validation_batches, self.tokens_per_batch = num_validation_batches, tokens_per_batch
        self.drop_text, self.seed, self.num_workers = drop_text, seed, num_workers
        self.fingerprints = {name: read_fingerprint(path) for name, path in tokenizers.items()}

    def metadata(self) -> dict:
        """What must travel with a model trained on this: layout, tasks, streams, fingerprints and the clip's geometry."""
        manifest = self._reader(self.tokens).manifest
        geometry = {k: getattr(manifest, k) for k in ("frames", "fps", "height", "width", "sample_rate")}
        counts = self._mixture(self.tokens, 0.0, 1, 0, 0).schedule.counts
        tasks = {name: self.shares[name].task.spec() for name, count in counts.items() if count}
        layout = self._layout(manifest)
        read = {name for task in tasks for name in self.shares[task].task.reads(layout)}
        streams = {name: spec for name, spec in manifest.streams.items() if name in read}
        facts = {"layout": layout.facts(), "tasks": tasks, "streams": streams}
        return facts | {"fingerprints": dict(manifest.fingerprints), **geometry}

    def train_dataloader(self) -> DataLoader:
        return self.train_loader(self._mixture(self.tokens, self.drop_text, *self.ranks(), self.first_steps))

    def val_dataloader(self) -> DataLoader | list:
        if self.validation_tokens is None:
            return []
        mixture = self._mixture(self.validation_tokens, 0.0, 1, 0, 0, OneLength())
        firsts: dict[str, list[int]] = {}
        for step in range(CYCLE):
            firsts.setdefault(mixture.schedule(step)[0], []).append(step)
        steps = [step for each in firsts.values() for step in each[: self.num_validation_batches]]
        return self.validation_loader(mixture, steps)

    def _mixture(self, folder: str, drop_text: float, world_size: int, rank: int, first_steps: int,
                 batching: Batching | None = None) -> Mixture:  # fmt: skip
        reader = self._reader(folder)
        return Mixture(
            reader,
            self._layout(reader.manifest),
            self.tokenize,
            self.shares,
            seed=self.seed,
            tokens_per_batch=self.tokens_per_batch,
            drop_text=drop_text,
            first_steps=first_steps,
            weigh=self.weigh,
            batching=self.batching if batching is None else batching,
            label=self.label,
            world_size=world_size,
            rank=rank,
        )

    def _layout(self, manifest: TokenManifest) -> Layout:
        return layout_of(manifest, len(self.tokenize([""])[0].ids), self.audio_order)

    def _reader(self, folder: str) -> ShardReader:
        reader = ShardReader(folder, "tokens")
        for name, made_by in reader.manifest.fingerprints.items():
            if self.fingerprints.get(name) != made_by:
                raise ValueError(
                    f"{folder} was made by the {name} tokenizer {made_by}, "
                    f"the configured one is {self.fingerprints.get(name)}: run 'videopoet tokenize' again"
                )
        return reader

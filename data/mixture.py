"""Token shards -> training batches: which task, which samples and which captions, as a pure function of the step."""

import warnings
from collections.abc import Callable, Iterable
from dataclasses import replace
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader

from videopoet.component import read_fingerprint
from videopoet.data.batching import Batching, OneLength
from videopoet.data.faults import FailureBudget, Substitution
from videopoet.data.labels import Label
from videopoet.data.order import Deal, Origin, sample_indices
from videopoet.data.remote import Storage
from videopoet.data.schedule import CYCLE, ByTokens, Schedule, Share, Weighing
from videopoet.data.schema import TokenManifest
from videopoet.data.shards import ShardReader
from videopoet.data.steps import StepDataModule, StepSchedule
from videopoet.data.streaming import Streaming
from videopoet.sequence import Batch, Sequence
from videopoet.tasks.absent import without
from videopoet.tasks.audio_order import AudioOrder, LevelMajor
from videopoet.tasks.base import OWN, Example, Layout, Text
from videopoet.vocabulary import Modality, Vocabulary


class Mixture(StepSchedule):
    """Batches indexed by turn, a pure function of the seed and the turn: what a step is made of depends on neither the
    ranks nor the accumulation that share it.

    tokenize: prompts -> text tokens. weigh: what weights are shares of. batching: how samples become a batch.
    tokens_per_step: of all ranks. deal: how they share it out. origin: where orders are counted from.
    substitution: what is done about samples that cannot be read; they are errors unless said otherwise.
    drop_text, drop_visual, drop_audio: share of samples whose text is emptied, whose given pictures, whose given sound are
        hidden: each by a chance of its own, so that guidance has all of them to guide away from.
    label: says the class of a sample; without it tasks that read one are left out, as are all tasks that read a stream
    which the shards lack.
    """

    def __init__(self, reader: ShardReader, layout: Layout, tokenize: Callable[[list[str]], list[Text]],
                 shares: dict[str, Share], *, seed: int, tokens_per_step: int, drop_text: float,
                 drop_visual: float = 0.0, drop_audio: float = 0.0, first_steps: int = 0,
                 weigh: Weighing | None = None, batching: Batching | None = None, label: Label | None = None,
                 deal: Deal | None = None, origin: Origin | None = None,
                 substitution: Substitution | None = None):  # fmt: skip
        self.reader, self.layout, self.tokenize, self.label = reader, layout, tokenize, label
        self._samples: dict[tuple[frozenset[str], str], range | np.ndarray] = {}
        self._classes: dict[str, dict[int, str]] = {}
        self.seed, self.tokens_per_step, self.drop_text = seed, tokens_per_step, drop_text
        self.hidden = {Modality.VISUAL: drop_visual, Modality.AUDIO: drop_audio}
        for share in (drop_text, drop_visual, drop_audio):
            if not 0 <= share <= 1:
                raise ValueError(f"{share} of the conditions cannot be dropped: give drop_text and the like from 0 to 1")
        self.deal, self.origin = deal or Deal(), origin or Origin()
        self.substitution = substitution or Substitution(None, seed)
        self.shares = self._possible(shares)
        self.batching = OneLength() if batching is None else batching
        sizes = self.batching.sizes(self.lengths, tokens_per_step, self.deal.parts)
        self.batch_sizes = {name: samples for name, (samples, _) in sizes.items()}  # samples per place of each task
        first = self.batching.first_places(first_steps, self)
        self.schedule = Schedule(self.shares, seed, first, ByTokens() if weigh is None else weigh, sizes)

    def build(self, turn: int) -> Batch:
        return replace(self.batching.batch(self, turn), faults=self.substitution.taken())

    def positions(self, step: int) -> dict[str, int]:
        return self.batching.positions(self, step)

    def samples_of(self, step: int) -> int:
        return self.batching.samples_of(self, step)

    def identity(self) -> str:
        numbers = {name: len(self._suited(name)) for name in self.shares}
        return f"{self.reader.identity}, seed {self.seed}, " + ", ".join(f"{n} {name}" for name, n in numbers.items())

    def check(self) -> None:
        """Raises ValueError where a task that has places in one stage or the other has no samples."""
        for name in self.shares:
            if self.schedule.counts[name] or self.schedule.first_counts[name]:
                self.samples(name)

    @cached_property
    def visits_at_origin(self) -> dict[str, int]:
        """Places of each task before the origin."""
        return self.schedule.before(self.origin.step)

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
        task, samples = self.shares[name].task, self.samples(name)

        def read(index: int) -> Sequence:
            rng = np.random.default_rng((self.seed, place, *name.encode()))
            example = self.example(index, rng, task.needs(self.layout))
            segments = task.segments(example, self.layout)
            for modality, share in self.hidden.items():
                chance = np.random.default_rng((self.seed, place, modality, *name.encode())).random() if share else 1.0
                segments = without(segments, modality) if chance < share else segments
            return Sequence.of(segments, key=example.key)

        chosen = sample_indices(len(samples), self.seed, place, 1)[0]
        return self.substitution.read(read, samples, chosen, place)

    def expect(self, name: str, places: range) -> None:
        """Tell the reader which samples come next."""
        samples = self.samples(name)
        chosen = sample_indices(len(samples), self.seed, places.start, len(places))
        self.reader.expect(samples[n] for n in chosen)

    def samples(self, name: str) -> range | np.ndarray:
        """Samples that a task can learn from. Raises ValueError where there is none."""
        found = self._suited(name)
        if not len(found):
            share = self.shares[name]
            lacking = sorted(set(share.task.needs(self.layout)) - {"text", "video"})
            lacking += [] if share.only is None else [f"a class by {share.only}"]
            raise ValueError(f"no sample of {self.reader.folder} has {' and '.join(lacking)}, as {name} needs")
        return found

    def _suited(self, name: str) -> range | np.ndarray:
        """Samples with every stream that a task needs and a class where it asks for one."""
        share = self.shares[name]
        streams = frozenset(share.task.needs(self.layout)) - {"text", "video"}
        key = streams, repr(share.only)
        if key not in self._samples:
            found = np.ones(len(self.reader), bool)
            for stream in streams:
                found &= self._labelled(self.label) if stream == "label" else self.reader.has(stream)
            found &= True if share.only is None else self._labelled(share.only)
            self._samples[key] = range(len(found)) if found.all() else np.flatnonzero(found)
        return self._samples[key]

    def classes(self, label: Label) -> dict[int, str]:
        """The class of every sample that has one."""
        if repr(label) not in self._classes:
            named = ((i, label(source)) for i, source in self.reader.sources())
            self._classes[repr(label)] = {i: name for i, name in named if name is not None}
        return self._classes[repr(label)]

    def _labelled(self, label: Label) -> np.ndarray:
        found = np.zeros(len(self.reader), bool)
        found[list(self.classes(label))] = True
        return found

    def example(self, index: int, rng: np.random.Generator, needs: Iterable[str] = ("text",)) -> Example:
        """Sample `index` with what is needed of it and one of its captions, or none; all that is drawn is from `rng`."""
        streams = [name for name in needs if name not in OWN]
        record = self._codes(index, ("visual", *streams), "audio" in needs)
        captions = record["json"]["captions"] or [""]
        caption = captions[int(rng.integers(len(captions)))]
        kept, audio = rng.random() >= self.drop_text, record.get("audio")
        return Example(
            key=record["__key__"],
            seed=int(rng.integers(2**62)),
            text=self.tokenize([caption if kept else ""])[0],
            label=self.tokenize([self.classes(self.label)[index] if kept else ""])[0] if "label" in needs else None,
            video=record["visual"],
            audio=audio,
            streams={name: record[name] for name in streams},
        )

    def _codes(self, index: int, grids: tuple[str, ...], sounding: bool) -> dict[str, Any]:
        """Key, JSON and int64 codes of a sample. Raises ShardFault where they are not as the layout says."""
        needs = ("json", *grids, "audio") if sounding else ("json", *grids)
        record, layout = self.reader.read(index, fields=("json", "audio", *grids), needs=needs), self.layout
        vocabulary = layout.vocabulary
        sound = ((layout.audio_frames, vocabulary.audio_levels), vocabulary.audio_codes)
        expected = {name: (tuple(layout.lattice), vocabulary.visual_size) for name in grids}
        for name in (*grids, "audio"):
            if name not in record:
                continue
            (shape, size), codes = expected.get(name, sound), record[name]
            silent = name == "audio" and not layout.audio_frames  # then nobody reads it
            fits = codes.shape == shape and codes.dtype.kind in "iu" and not (codes.size and int(codes.max()) >= size)
            if not (fits or silent):
                self.reader.fault(
                    index,
                    f"{self.reader.where(index)}.{name}.npy: expected codes below {size} of shape {shape}, found "
                    f"{codes.dtype} {codes.shape} up to {codes.max() if codes.size else 'none'}",
                )
            record[name] = torch.from_numpy(codes.astype(np.int64))
        return record


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
    tasks: name -> task, weight, the samples it learns from and what it is guided by (`Share`). A dict, so that one entry can be
        changed from the command line.
    weigh: what weights are shares of, tokens unless said otherwise.
    batching: one task and length per step, unless said otherwise.
    first_steps: steps of the first stage, in which tasks have their `first_weight`.
    tokens_per_batch: tokens of a batch, which a rank trains on at a time; at most, where a step's are given.
    tokens_per_step: tokens that the optimizer steps on, of all ranks and turns of accumulation; a run with another number
        of either goes on exactly where it stopped. Without it a step is as many batches as there are ranks and turns.
    drop_text, drop_visual, drop_audio: share of training samples that lack a condition, as `Mixture` has it.
    parts: equal parts that a step is made of and dealt out in; ranks x accumulation must divide it.
    failures: how many samples that cannot be read may be left out.
    storage: how shards are read that lie behind a URL.
    streaming: train on the shards as a stream instead, whose resume is statistical.
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
        drop_visual: float = 0.0,
        drop_audio: float = 0.0,
        seed: int = 0,
        num_workers: int = 1,
        weigh: Weighing | None = None,
        batching: Batching | None = None,
        label: Label | None = None,
        audio_order: AudioOrder | None = None,
        tokens_per_step: int | None = None,
        parts: int = 64,
        failures: FailureBudget | None = None,
        storage: Storage | None = None,
        streaming: Streaming | None = None,
    ):
        super().__init__()
        self.tokens_per_step, self.parts = tokens_per_step, parts
        self.failures, self.storage, self.streaming = failures, storage, streaming
        self.weigh, self.batching, self.label, self.audio_order = weigh, batching, label, audio_order
        self.tokens, self.validation_tokens, self.shares = tokens, validation_tokens, tasks
        self.first_steps = first_steps
        self.num_validation_batches, self.tokens_per_batch = num_validation_batches, tokens_per_batch
        self.dropped = {"drop_text": drop_text, "drop_visual": drop_visual, "drop_audio": drop_audio}
        self.seed, self.num_workers = seed, num_workers
        self.fingerprints = {name: read_fingerprint(path) for name, path in tokenizers.items()}

    def metadata(self) -> dict:
        """What must travel with a model trained on this: layout, tasks, guidance, streams, fingerprints, geometry."""
        mixture = self._mixture(self.tokens, self.tokens_per_batch)
        manifest, layout = mixture.reader.manifest, mixture.layout
        geometry = {k: getattr(manifest, k) for k in ("frames", "fps", "height", "width", "sample_rate")}
        tasks = {name: self.shares[name].task.spec() for name, count in mixture.schedule.counts.items() if count}
        read = {name for task in tasks for name in self.shares[task].task.reads(layout)}
        streams = {name: spec for name, spec in manifest.streams.items() if name in read}
        guidance = {name: self.shares[name].guidance for name in tasks if self.shares[name].guidance}
        facts = {"layout": layout.facts(), "tasks": tasks, "streams": streams, "guidance": guidance}
        return facts | {"fingerprints": dict(manifest.fingerprints), **geometry}

    def train_dataloader(self) -> DataLoader:
        tokens, deal = self.share(self.tokens_per_step, self.tokens_per_batch, "tokens", self.parts)
        how = {**self.dropped, "first_steps": self.first_steps, "deal": deal, "origin": self.origin}
        how["substitution"] = self.substitution(self.seed, training=True)
        mixture = self._mixture(self.tokens, tokens, self.streaming, **how)
        mixture.check()
        longest = max(mixture.lengths, key=mixture.lengths.__getitem__)
        if self.tokens_per_step and mixture.lengths[longest] > tokens / deal.parts:
            raise ValueError(
                f"a step of {tokens} tokens in {deal.parts} parts has {tokens // deal.parts} a part, {longest} "
                f"{mixture.lengths[longest]} a sequence: set fewer parts or more tokens_per_step"
            )
        return self.train_loader(mixture)

    def val_dataloader(self) -> DataLoader | list:
        if self.validation_tokens is None:
            return []
        how = {"batching": OneLength(), "substitution": self.substitution(self.seed, training=False)}
        mixture = self._mixture(self.validation_tokens, self.tokens_per_batch, **how)
        mixture.check()
        firsts: dict[str, list[int]] = {}
        for step in range(CYCLE):
            firsts.setdefault(mixture.schedule(step)[0], []).append(step)
        steps = [step for each in firsts.values() for step in each[: self.num_validation_batches]]
        return self.validation_loader(mixture, steps)

    def _mixture(self, folder: str, tokens_per_step: int, streaming: Streaming | None = None, **how) -> Mixture:
        reader = self._reader(folder, streaming)
        settings = {"weigh": self.weigh, "batching": self.batching, "label": self.label, "drop_text": 0.0} | how
        return Mixture(reader, self._layout(reader.manifest), self.tokenize, self.shares, seed=self.seed,
                       tokens_per_step=tokens_per_step, **settings)  # fmt: skip

    def _layout(self, manifest: TokenManifest) -> Layout:
        return layout_of(manifest, len(self.tokenize([""])[0].ids), self.audio_order)

    def _reader(self, folder: str, streaming: Streaming | None) -> ShardReader:
        reader = self.open_shards(folder, "tokens", streaming)
        for name, made_by in reader.manifest.fingerprints.items():
            if self.fingerprints.get(name) != made_by:
                raise ValueError(
                    f"{folder} was made by the {name} tokenizer {made_by}, "
                    f"the configured one is {self.fingerprints.get(name)}: run 'videopoet tokenize' again"
                )
        return reader

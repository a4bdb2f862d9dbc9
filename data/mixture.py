"""Token shards -> training batches: which task, which samples and which captions, as a pure function of the step."""

import random
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from videopoet.component import read_fingerprint
from videopoet.data.order import sample_indices
from videopoet.data.schema import TokenManifest
from videopoet.data.shards import ShardReader
from videopoet.data.steps import StepDataModule
from videopoet.sequence import Batch, Sequence
from videopoet.tasks.audio_order import AudioOrder, LevelMajor
from videopoet.tasks.base import Example, Layout, Task
from videopoet.vocabulary import Vocabulary

CYCLE = 100  # steps in which every task takes exactly its share


@dataclass(frozen=True, kw_only=True)
class Share:
    """A task and its weight among the others. 0 switches it off.

    first_weight: its weight in the first stage of training, where that is another one (VideoPoet's first stage is
    mostly images; see `configs/demo/lm.yaml`).
    """

    task: Task
    weight: float = 1.0
    first_weight: float | None = None


class Schedule:
    """Step -> (name of the task, how many steps that task had before), alternating one task per step.

    Each cycle of 100 steps holds every task as often as its weight says, in an order shuffled by (seed, cycle). A
    function of its arguments alone: the same on every rank, and resuming needs the step and nothing else. The first
    `first_steps` steps, a multiple of 100, go by the first weights, if any of these is positive.
    """

    def __init__(self, shares: dict[str, Share], seed: int, first_steps: int = 0):
        if first_steps < 0 or first_steps % CYCLE:
            raise ValueError(f"first_steps is {first_steps}: the first stage is a multiple of {CYCLE} steps")
        self.seed, self.counts = seed, _steps_per_cycle({name: share.weight for name, share in shares.items()})
        self.first_cycles, self.first_counts = first_steps // CYCLE, self.counts
        if first_steps:
            firsts = {n: s.weight if s.first_weight is None else s.first_weight for n, s in shares.items()}
            self.first_counts = _steps_per_cycle(firsts) if any(firsts.values()) else self.counts

    def __call__(self, step: int) -> tuple[str, int]:
        cycle, place = divmod(step, CYCLE)
        counts = self.counts if cycle >= self.first_cycles else self.first_counts
        order = [name for name, count in counts.items() for _ in range(count)]
        random.Random(self.seed * 1_000_003 + cycle).shuffle(order)
        name = order[place]
        before = min(cycle, self.first_cycles) * self.first_counts[name]
        before += max(0, cycle - self.first_cycles) * self.counts[name]
        return name, before + order[:place].count(name)


def _steps_per_cycle(weights: dict[str, float]) -> dict[str, int]:
    """Shares of `CYCLE` steps, rounded by largest remainders."""
    total = sum(weights.values())
    if total <= 0 or min(weights.values()) < 0:
        raise ValueError("the mixture needs at least one task of positive weight, and no negative weights")
    exact = {name: CYCLE * weight / total for name, weight in weights.items()}
    counts = {name: int(value) for name, value in exact.items()}
    for name in sorted(exact, key=lambda n: counts[n] - exact[n])[: CYCLE - sum(counts.values())]:
        counts[name] += 1
    return counts


class Mixture(Dataset):
    """Batches indexed by step. `tokens_per_batch` is the same for every task: short sequences come in larger batches.

    drop_text: share of samples whose text is emptied, for classifier-free guidance.
    """

    def __init__(self, reader: ShardReader, layout: Layout, tokenize, shares: dict[str, Share], *, seed: int,
                 tokens_per_batch: int, drop_text: float, first_steps: int = 0,
                 world_size: int = 1, rank: int = 0):  # fmt: skip
        if not layout.audio_frames:  # a corpus without sound: tasks that cannot do without are left out
            shares = {name: share for name, share in shares.items() if "audio" not in share.task.needs(layout)}
        self.reader, self.layout, self.tokenize, self.shares = reader, layout, tokenize, shares
        self.schedule, self.seed, self.drop_text = Schedule(shares, seed, first_steps), seed, drop_text
        self.tokens_per_batch, self.world_size, self.rank = tokens_per_batch, world_size, rank

    def __getitem__(self, step: int) -> Batch:
        name, visit = self.schedule(step)
        size = self.batch_sizes[name]
        start = (visit * self.world_size + self.rank) * size
        task = self.shares[name].task
        samples = self.with_sound if "audio" in task.needs(self.layout) else range(len(self.reader))
        indices = [samples[i] for i in sample_indices(len(samples), self.seed, start, size)]
        rng = np.random.default_rng((self.seed, step, self.rank))
        sequences = [Sequence.of(task.segments(self.example(i, rng), self.layout)) for i in indices]
        return Batch.of(sequences, task=name, step=step)

    @cached_property
    def with_sound(self) -> list[int]:
        """Samples that have audio tokens."""
        return self.reader.having("audio")

    @cached_property
    def batch_sizes(self) -> dict[str, int]:
        """Samples per batch of each task."""
        blank = Example.blank(self.layout)
        lengths = {n: len(Sequence.of(s.task.segments(blank, self.layout))) for n, s in self.shares.items()}
        return {name: max(1, self.tokens_per_batch // length) for name, length in lengths.items()}

    def example(self, index: int, rng: np.random.Generator) -> Example:
        """Sample `index` with one of its captions, or none."""
        record = self.reader[index]
        captions = record["json"]["captions"] or [""]
        caption = captions[int(rng.integers(len(captions)))]
        text = self.tokenize(["" if rng.random() < self.drop_text else caption])[0]
        audio = record.get("audio")
        return Example(
            key=record["__key__"],
            text=text,
            video=torch.from_numpy(record["visual"].astype(np.int64)),
            audio=None if audio is None else torch.from_numpy(audio.astype(np.int64)),
        )


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
    first_steps: steps of the first stage, in which tasks have their `first_weight`.
    tokens_per_batch: tokens per rank and step.
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
        audio_order: AudioOrder | None = None,
    ):
        super().__init__()
        self.audio_order = audio_order
        self.tokens, self.validation_tokens, self.shares = tokens, validation_tokens, tasks
        self.first_steps = first_steps
        self.num_validation_batches, self.tokens_per_batch = num_validation_batches, tokens_per_batch
        self.drop_text, self.seed, self.num_workers = drop_text, seed, num_workers
        self.fingerprints = {name: read_fingerprint(path) for name, path in tokenizers.items()}

    def metadata(self) -> dict:
        """What must travel with a model trained on this: layout, tasks, fingerprints and the clip's geometry."""
        manifest = self._reader(self.tokens).manifest
        geometry = {k: getattr(manifest, k) for k in ("frames", "fps", "height", "width", "sample_rate")}
        counts = self._mixture(self.tokens, 0.0, 1, 0, 0).schedule.counts
        tasks = {name: self.shares[name].task.spec() for name, count in counts.items() if count}
        layout = self._layout(manifest).facts()
        return {"layout": layout, "tasks": tasks, "fingerprints": dict(manifest.fingerprints), **geometry}

    def train_dataloader(self) -> DataLoader:
        return self.train_loader(self._mixture(self.tokens, self.drop_text, *self.ranks(), self.first_steps))

    def val_dataloader(self) -> DataLoader | list:
        if self.validation_tokens is None:
            return []
        mixture = self._mixture(self.validation_tokens, 0.0, 1, 0, 0)
        firsts: dict[str, list[int]] = {}
        for step in range(CYCLE):
            firsts.setdefault(mixture.schedule(step)[0], []).append(step)
        steps = [step for each in firsts.values() for step in each[: self.num_validation_batches]]
        return self.validation_loader(mixture, steps)

    def _mixture(self, folder: str, drop_text: float, world_size: int, rank: int, first_steps: int) -> Mixture:
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

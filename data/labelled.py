"""Clips or their codes with a class each: what a classifier trains on, out of media shards and token shards alike."""

from collections import Counter
from typing import NamedTuple, Self

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from videopoet.data.faults import Fault, Substitution
from videopoet.data.labels import Label
from videopoet.data.order import Deal, Origin, sample_indices
from videopoet.data.schema import Manifest, MediaManifest
from videopoet.data.shards import ShardReader
from videopoet.data.steps import StepDataModule, StepSchedule
from videopoet.data.transforms import video_to_float


class LabelledBatch(NamedTuple):
    """What one rank trains on in one step."""

    inputs: Tensor  # float (b, 3, t, h, w) in [-1, 1] of media shards, codes int64 (b, t, h, w) of token shards
    classes: Tensor  # int64 (b,)
    step: int
    faults: tuple[Fault, ...] = ()  # samples that could not be read and have substitutes

    def to(self, device: torch.device | str, non_blocking: bool = False) -> Self:
        """The same batch on `device`."""
        inputs, classes = (x.to(device, non_blocking=non_blocking) for x in (self.inputs, self.classes))
        return self._replace(inputs=inputs, classes=classes)


class LabelledSamples:
    """The samples of a shard folder that have a label. Raises ValueError where none has."""

    def __init__(self, shards: str, label: Label):
        self.reader = ShardReader(shards, tolerant=True)
        labels = {index: name for index, source in self.reader.sources() if (name := label(source)) is not None}
        if not labels:
            raise ValueError(
                f"{shards}: none of {len(self.reader)} samples has a class by {label}; choose another label"
            )
        self.labels = labels

    @property
    def manifest(self) -> Manifest:
        return self.reader.manifest

    def names(self) -> list[str]:
        """The classes that occur, sorted."""
        return sorted(set(self.labels.values()))

    def counts(self) -> Counter[str]:
        """Samples per class."""
        return Counter(self.labels.values())

    def inputs(self, index: int) -> Tensor:
        """Pixels or codes of the sample at `index` of the shards."""
        if isinstance(self.manifest, MediaManifest):
            return video_to_float(self.reader.read(index, fields=("video",), needs=("video",))["video"])
        return torch.from_numpy(
            self.reader.read(index, fields=("visual",), needs=("visual",))["visual"].astype("int64")
        )


class LabelledSchedule(StepSchedule):
    """`schedule[turn]`: with a seed an endless seeded order, as in `ClipSchedule`; without, every sample once, in order.

    classes: names in the order of their numbers. Raises ValueError for a sample of another class.
    """

    def __init__(
        self,
        samples: LabelledSamples,
        classes: list[str],
        *,
        batch_size: int,
        seed: int | None,
        deal: Deal | None = None,
        origin: Origin | None = None,
        substitution: Substitution | None = None,
    ):
        if batch_size < 1:
            raise ValueError(f"batch_size is {batch_size}, must be at least 1")
        if unknown := sorted(set(samples.names()) - set(classes)):
            raise ValueError(f"{samples.reader.folder} has classes that training does not have: {', '.join(unknown)}")
        self.samples, self.seed, self.batch_size = samples, seed, batch_size
        self.reader = samples.reader
        self.deal, self.origin = deal or Deal(), origin or Origin()
        self.substitution = substitution or Substitution(None, seed or 0)
        self.items = [(index, classes.index(name)) for index, name in samples.labels.items()]

    def __len__(self) -> int:
        """Steps in one pass, a last short batch included where there is no seed."""
        if self.seed is None:
            return -(-len(self.items) // self.batch_size)
        return max(1, len(self.items) // self.samples_of(0))

    def positions(self, step: int) -> dict[str, int]:
        return {"samples": self.origin.position("samples", step, self.origin.step, self.samples_of(step))}

    def samples_of(self, step: int) -> int:
        return self.batch_size * self.deal.parts

    def identity(self) -> str:
        return f"{self.samples.reader.identity}, seed {self.seed}, {len(self.items)} samples"

    def build(self, turn: int) -> LabelledBatch:
        step, parts = self.deal(turn)
        start, size = self.positions(step)["samples"] + parts.start * self.batch_size, self.batch_size * len(parts)
        if self.seed is None:
            chosen = range(start, min(start + size, len(self.items)))
        else:
            chosen = sample_indices(len(self.items), self.seed, start, size)

        def read(item: tuple[int, int]) -> tuple[Tensor, int]:
            return self.samples.inputs(item[0]), item[1]

        read_all = [self.substitution.read(read, self.items, n, start + i) for i, n in enumerate(chosen)]
        inputs, classes = zip(*read_all)
        faults = self.substitution.taken()
        return LabelledBatch(inputs=torch.stack(inputs), classes=torch.tensor(classes), step=step, faults=faults)


class LabelledDataModule(StepDataModule):
    """Labelled clips of media shards, or labelled codes of token shards, in an order that a resumed run continues.

    Args:
        shards: folder of media shards or token shards to train on.
        validation_shards: folder of the same kind; each sample with a label is validated once. No validation without.
        label: says the class of a sample.
        batch_size: samples per step and rank.
        seed: of the order.
        num_workers: processes that read; 0 reads in the training process.
    """

    def __init__(
        self,
        shards: str,
        label: Label,
        validation_shards: str | None = None,
        batch_size: int = 32,
        seed: int = 0,
        num_workers: int = 0,
    ):
        super().__init__()
        self.shards, self.validation_shards, self.label = shards, validation_shards, label
        self.batch_size, self.seed, self.num_workers = batch_size, seed, num_workers

    def setup(self, stage: str) -> None:
        """Open the shards and read every sample's label."""
        self.train = LabelledSamples(self.shards, self.label)
        self.classes = self.train.names()
        self.validation = None
        if self.validation_shards is not None:
            self.validation = LabelledSamples(self.validation_shards, self.label)
            if self.validation.manifest.kind != self.train.manifest.kind:
                raise ValueError(f"{self.shards} and {self.validation_shards} are not both pixels or both codes")

    def train_dataloader(self) -> DataLoader:
        """Batches from the first step not trained yet."""
        _, deal = self.share(None, self.batch_size, "samples", None)
        how = {"deal": deal, "origin": self.origin, "substitution": self.substitution(self.seed, training=True)}
        schedule = LabelledSchedule(self.train, self.classes, batch_size=self.batch_size, seed=self.seed, **how)
        return self.train_loader(schedule, len(schedule))

    def val_dataloader(self) -> DataLoader | list:
        """Every validation sample once."""
        if self.validation is None:
            return []
        how = {"seed": None, "substitution": self.substitution(0, training=False)}
        schedule = LabelledSchedule(self.validation, self.classes, batch_size=self.batch_size, **how)
        return self.validation_loader(schedule, list(range(len(schedule))))

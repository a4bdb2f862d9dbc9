"""Media shards -> batches of clips for training the tokenizers."""

from dataclasses import replace
from math import floor
from typing import NamedTuple, Self

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from videopoet.data.faults import FailureBudget, Fault, Substitution
from videopoet.data.order import Deal, Origin, sample_indices
from videopoet.data.remote import Storage
from videopoet.data.shards import ShardReader
from videopoet.data.steps import StepDataModule, StepSchedule
from videopoet.data.streaming import Streaming
from videopoet.data.transforms import audio_to_float, video_to_float
from videopoet.tasks.audio_length import num_samples

KINDS = ("clips", "images")  # orders of their own
IMAGES_PER_CLIP = 4  # an image step takes this many times as many samples as a clip step


class ClipBatch(NamedTuple):
    """What one rank trains on in one step."""

    video: Tensor  # float32 b c t h w in [-1, 1]; t = 1 in an image step; h = w = 0 where clips are sound alone
    audio: Tensor  # float32 b 1 s in [-1, 1], the sound of the same span; zeros where a clip has none
    step: int  # the step it was made for; lets the consumer say how far it got, whatever was prefetched
    faults: tuple[Fault, ...] = ()  # samples that could not be read and have substitutes

    def to(self, device: torch.device | str, non_blocking: bool = False) -> Self:
        """The same batch on `device`."""
        video, audio = (stream.to(device, non_blocking=non_blocking) for stream in (self.video, self.audio))
        return self._replace(video=video, audio=audio)


class ClipSchedule(StepSchedule):
    """`schedule[turn]` is the batch of that turn on this rank: a pure function of the arguments and the turn.

    Step i takes the global positions i*s .. (i+1)*s - 1 of the seeded order, s being the samples of a step, which `deal`
    shares out. With `image_batch_ratio` > 0 that share of the steps, evenly spread, is of images instead: the
    first frames of 4 s samples, from an order of their own, so that both kinds go through all samples.

    The first `first_image_steps` steps are all of images, as a video tokenizer starts from an image tokenizer. Clips are
    cut to their first `num_frames` frames where that is given.

    Example: ratio 0.25 makes steps 3, 7, 11 ... image steps.
    """

    def __init__(
        self,
        reader: ShardReader,
        *,
        samples_per_step: int,
        seed: int = 0,
        image_batch_ratio: float = 0.0,
        first_image_steps: int = 0,
        num_frames: int | None = None,
        deal: Deal | None = None,
        origin: Origin | None = None,
        substitution: Substitution | None = None,
    ):
        if num_frames is not None and not 1 <= num_frames <= reader.manifest.frames:
            raise ValueError(f"num_frames is {num_frames}, the clips of {reader.folder} have {reader.manifest.frames}")
        if samples_per_step < 1 or not 0 <= image_batch_ratio <= 1:
            raise ValueError(
                "batch_size must be positive and image_batch_ratio in [0, 1], "
                f"not {samples_per_step} and {image_batch_ratio}"
            )
        if not len(reader):
            raise ValueError(f"{reader.folder}: holds no samples")
        if not reader.manifest.has_video and (image_batch_ratio or first_image_steps):
            raise ValueError(f"{reader.folder}: holds sound alone, there are no images to train on")
        self.reader = reader
        self.samples_per_step = samples_per_step
        self.seed = seed
        self.image_batch_ratio = image_batch_ratio
        self.first_image_steps = first_image_steps
        self.num_frames = num_frames
        self.deal, self.origin = deal or Deal(), origin or Origin()
        self.substitution = substitution or Substitution(None, seed)

    def __len__(self) -> int:
        """Clip steps in one pass over the samples."""
        return max(1, len(self.reader) // self.samples_per_step)

    def is_image_step(self, step: int) -> bool:
        """Whether `step` takes first frames only."""
        return self._image_steps_before(step + 1) > self._image_steps_before(step)

    def positions(self, step: int) -> dict[str, int]:
        return {kind: self._position(kind, step) for kind in KINDS}

    def samples_of(self, step: int) -> int:
        return self.samples_per_step * (IMAGES_PER_CLIP if self.is_image_step(step) else 1)

    def identity(self) -> str:
        return f"{self.reader.identity}, seed {self.seed}"

    def indices(self, turn: int) -> list[int]:
        """Samples of `turn` on this rank."""
        step, start, count = self._places(turn)
        return sample_indices(len(self.reader), self.seed, start, count, stream=int(self.is_image_step(step)))

    def build(self, turn: int) -> ClipBatch:
        step, start, _ = self._places(turn)
        frames = 1 if self.is_image_step(step) else self.num_frames
        everything, indices = range(len(self.reader)), self.indices(turn)
        self.reader.expect(indices)
        clips = [
            self.substitution.read(lambda index: self._clip(index, frames), everything, index, start + i)
            for i, index in enumerate(indices)
        ]
        videos, sounds = zip(*clips)
        faults = self.substitution.taken()
        return ClipBatch(video=torch.stack(videos), audio=torch.stack(sounds), step=step, faults=faults)

    def _places(self, turn: int) -> tuple[int, int, int]:
        """Step, first place in the order of its kind, and samples of a turn."""
        step, parts = self.deal(turn)
        each = self.samples_of(step) // self.deal.parts
        start = self._position(KINDS[self.is_image_step(step)], step) + parts.start * each
        return step, start, len(parts) * each

    def _position(self, kind: str, step: int) -> int:
        def visits(step: int) -> int:
            images = self._image_steps_before(step)
            return images if kind == "images" else step - images

        size = self.samples_per_step * (IMAGES_PER_CLIP if kind == "images" else 1)
        return self.origin.position(kind, visits(step), visits(self.origin.step), size)

    def _image_steps_before(self, step: int) -> int:
        first = min(step, self.first_image_steps)
        return first + floor((step - first) * self.image_batch_ratio)

    def _clip(self, index: int, num_frames: int | None) -> tuple[Tensor, Tensor]:
        manifest = self.reader.manifest
        record = self.reader.read(index, fields=("video", "audio"))
        video, audio = record.get("video"), record.get("audio")
        shape = (manifest.frames, manifest.height, manifest.width, 3)
        if not manifest.has_video:
            video = np.zeros(shape, np.uint8)
        if video is None or video.dtype != np.uint8 or video.shape != shape:
            found = "none" if video is None else f"{video.dtype} {video.shape}"
            self.reader.fault(index, f"{self.reader.where(index)}.video.npy: expected uint8 {shape}, found {found}")
        if audio is not None and (audio.dtype != np.int16 or audio.ndim != 1):
            found = f"{audio.dtype} {audio.shape}"
            self.reader.fault(index, f"{self.reader.where(index)}.audio.npy: expected int16 (s,), found {found}")
        video = video[:num_frames]
        sound = torch.zeros(1, num_samples(len(video), manifest.fps, manifest.sample_rate))
        if audio is not None:
            audio = audio[: sound.shape[1]]
            sound[0, : len(audio)] = audio_to_float(audio)
        return video_to_float(video), sound


class ClipDataModule(StepDataModule):
    """Clips of a media shard folder, in a seeded endless order that a resumed run continues exactly.

    With `max_steps` the run is one epoch of that many steps; without, an epoch is one pass over the samples. The step
    rides in the batch, and the checkpoint keeps the step after the last one trained, so prefetching cannot falsify it.

    Args:
        shards: folder of media shards to train on.
        batch_size: clips of a batch, which a rank trains on at a time; at most, where a step's are given.
        samples_per_step: clips that the optimizer steps on, of all ranks and turns of accumulation, which must divide it;
            a run with another number of either goes on exactly where it stopped. Without it a step is as many batches as
            there are ranks and turns.
        image_batch_ratio: share of the steps that train on images, the first frames of 4 times as many clips.
        first_image_steps: steps at the start that train on images only.
        num_frames: take the first so many frames of every clip, e.g. 16 of 17 for a tokenizer of whole windows.
        validation_shards: folder of media shards to validate on; no validation without.
        num_validation_batches: at most this many batches a validation, the same ones every time.
        seed: of the order.
        num_workers: processes that read; 0 reads in the training process.
        failures: how many clips that cannot be read may be left out.
        storage: how shards are read that lie behind a URL.
        streaming: train on the shards as a stream instead, whose resume is statistical.
    """

    def __init__(
        self,
        shards: str,
        batch_size: int = 16,
        image_batch_ratio: float = 0.0,
        first_image_steps: int = 0,
        num_frames: int | None = None,
        validation_shards: str | None = None,
        num_validation_batches: int = 4,
        seed: int = 0,
        num_workers: int = 1,
        samples_per_step: int | None = None,
        failures: FailureBudget | None = None,
        storage: Storage | None = None,
        streaming: Streaming | None = None,
    ):
        super().__init__()
        self.samples_per_step = samples_per_step
        self.failures, self.storage, self.streaming = failures, storage, streaming
        self.shards = shards
        self.batch_size = batch_size
        self.image_batch_ratio = image_batch_ratio
        self.first_image_steps = first_image_steps
        self.num_frames = num_frames
        self.validation_shards = validation_shards
        self.num_validation_batches = num_validation_batches
        self.seed = seed
        self.num_workers = num_workers
        self._train: ShardReader | None = None
        self._validation: ShardReader | None = None

    def setup(self, stage: str) -> None:
        """Open the shards; ValueError if they are not there or damaged."""
        if stage == "fit":
            self._train = self.open_shards(self.shards, "media", self.streaming)
            self.restart()
        if self.validation_shards is not None:
            self._validation = self.open_shards(self.validation_shards, "media")

    @property
    def sample_rate(self) -> int:
        """Of the clips' sound, Hz; once set up."""
        return (self._train or self._validation).manifest.sample_rate

    @property
    def has_video(self) -> bool:
        """Whether the clips have pictures; once set up."""
        return (self._train or self._validation).manifest.has_video

    def train_dataloader(self) -> DataLoader:
        """Batches from the first step not trained yet."""
        schedule = self._schedule(self._train, training=True)
        return self.train_loader(schedule, len(schedule))

    def val_dataloader(self) -> DataLoader | list:
        """The same clips every time."""
        if self._validation is None:
            return []
        schedule = self._schedule(self._validation, training=False)
        length = min(self.num_validation_batches, len(schedule))
        return self.validation_loader(schedule, list(range(length)))

    def _schedule(self, reader: ShardReader, *, training: bool) -> ClipSchedule:
        samples, deal = self.share(self.samples_per_step, self.batch_size, "clips", self.samples_per_step)
        how = {"image_batch_ratio": self.image_batch_ratio, "first_image_steps": self.first_image_steps,
               "origin": self.origin}  # fmt: skip
        if not training:
            samples, deal = self.batch_size * deal.world_size, replace(deal, accumulation=1, parts=deal.world_size)
            how = {}
        return ClipSchedule(
            reader,
            samples_per_step=samples,
            seed=self.seed,
            num_frames=self.num_frames,
            deal=deal,
            substitution=self.substitution(self.seed, training),
            **how,
        )

"""Media shards -> batches of clips for training the tokenizers."""

from math import floor
from typing import NamedTuple, Self

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from videopoet.data.order import sample_indices
from videopoet.data.shards import ShardReader
from videopoet.data.steps import StepDataModule
from videopoet.data.transforms import audio_to_float, video_to_float
from videopoet.tasks.audio_length import num_samples

IMAGES_PER_CLIP = 4  # an image step takes this many times as many samples as a clip step


class ClipBatch(NamedTuple):
    """What one rank trains on in one step."""

    video: Tensor  # float32 b c t h w in [-1, 1]; t = 1 in an image step; h = w = 0 where clips are sound alone
    audio: Tensor  # float32 b 1 s in [-1, 1], the sound of the same span; zeros where a clip has none
    step: int  # the step it was made for; lets the consumer say how far it got, whatever was prefetched

    def to(self, device: torch.device | str, non_blocking: bool = False) -> Self:
        """The same batch on `device`."""
        video, audio = (stream.to(device, non_blocking=non_blocking) for stream in (self.video, self.audio))
        return self._replace(video=video, audio=audio)


class ClipSchedule(Dataset[ClipBatch]):
    """`schedule[step]` is the batch of that step on this rank: a pure function of the arguments and the step.

    Step i of R ranks with batch size b takes the global positions i*b*R .. (i+1)*b*R - 1 of the seeded order, rank r
    the r-th run of b. With `image_batch_ratio` > 0 that share of the steps, evenly spread, is of images instead: the
    first frames of 4 b samples, from an order of their own, so that both kinds go through all samples.

    The first `first_image_steps` steps are all of images, as a video tokenizer starts from an image tokenizer. Clips are
    cut to their first `num_frames` frames where that is given.

    Example: ratio 0.25 makes steps 3, 7, 11 ... image steps.
    """

    def __init__(
        self,
        reader: ShardReader,
        *,
        batch_size: int,
        seed: int = 0,
        image_batch_ratio: float = 0.0,
        first_image_steps: int = 0,
        num_frames: int | None = None,
        world_size: int = 1,
        rank: int = 0,
    ):
        if num_frames is not None and not 1 <= num_frames <= reader.manifest.frames:
            raise ValueError(f"num_frames is {num_frames}, the clips of {reader.folder} have {reader.manifest.frames}")
        if batch_size < 1 or not 0 <= image_batch_ratio <= 1:
            raise ValueError(
                f"batch_size must be positive and image_batch_ratio in [0, 1], not {batch_size} and {image_batch_ratio}"
            )
        if not len(reader):
            raise ValueError(f"{reader.folder}: holds no samples")
        if not reader.manifest.has_video and (image_batch_ratio or first_image_steps):
            raise ValueError(f"{reader.folder}: holds sound alone, there are no images to train on")
        self.reader = reader
        self.batch_size = batch_size
        self.seed = seed
        self.image_batch_ratio = image_batch_ratio
        self.first_image_steps = first_image_steps
        self.num_frames = num_frames
        self.world_size = world_size
        self.rank = rank

    def __len__(self) -> int:
        """Clip steps in one pass over the samples."""
        return max(1, len(self.reader) // (self.batch_size * self.world_size))

    def is_image_step(self, step: int) -> bool:
        """Whether `step` takes first frames only."""
        return self._image_steps_before(step + 1) > self._image_steps_before(step)

    def indices(self, step: int) -> list[int]:
        """Samples of `step` on this rank."""
        image_steps, image = self._image_steps_before(step), self.is_image_step(step)
        nth = image_steps if image else step - image_steps  # how many of its kind came before
        count = self.batch_size * (IMAGES_PER_CLIP if image else 1)
        start = (nth * self.world_size + self.rank) * count
        return sample_indices(len(self.reader), self.seed, start, count, stream=int(image))

    def __getitem__(self, step: int) -> ClipBatch:
        image = self.is_image_step(step)
        clips = [self._clip(index, 1 if image else self.num_frames) for index in self.indices(step)]
        videos, sounds = zip(*clips)
        return ClipBatch(video=torch.stack(videos), audio=torch.stack(sounds), step=step)

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
            raise ValueError(f"{self.reader.where(index)}.video.npy: expected uint8 {shape}, found {found}")
        if audio is not None and (audio.dtype != np.int16 or audio.ndim != 1):
            raise ValueError(
                f"{self.reader.where(index)}.audio.npy: expected int16 (s,), found {audio.dtype} {audio.shape}"
            )
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
        batch_size: clips per step and rank.
        image_batch_ratio: share of the steps that train on images, the first frames of 4 times as many clips.
        first_image_steps: steps at the start that train on images only.
        num_frames: take the first so many frames of every clip, e.g. 16 of 17 for a tokenizer of whole windows.
        validation_shards: folder of media shards to validate on; no validation without.
        num_validation_batches: at most this many batches a validation, the same ones every time.
        seed: of the order.
        num_workers: processes that read; 0 reads in the training process.
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
    ):
        super().__init__()
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
            self._train = ShardReader(self.shards, kind="media")
            self.next_step = 0
        if self.validation_shards is not None:
            self._validation = ShardReader(self.validation_shards, kind="media")

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
        schedule = self._schedule(self._train, self.image_batch_ratio, self.first_image_steps)
        return self.train_loader(schedule, len(schedule))

    def val_dataloader(self) -> DataLoader | list:
        """The same clips every time."""
        if self._validation is None:
            return []
        schedule = self._schedule(self._validation, 0.0)
        length = min(self.num_validation_batches, len(schedule))
        return self.validation_loader(schedule, list(range(length)))

    def _schedule(self, reader: ShardReader, image_batch_ratio: float, first_image_steps: int = 0) -> ClipSchedule:
        world_size, rank = self.ranks()
        return ClipSchedule(
            reader,
            batch_size=self.batch_size,
            seed=self.seed,
            image_batch_ratio=image_batch_ratio,
            first_image_steps=first_image_steps,
            num_frames=self.num_frames,
            world_size=world_size,
            rank=rank,
        )

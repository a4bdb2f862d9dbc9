"""Samples of a protocol: made once, one file each, by as many processes as there are, resumed where they stopped.

Sample i draws from seed + i and lies in a file of its own, named by its number, prompt, clip and seed, which appears whole
or not at all. Ranks take blocks of numbers in turn; rank 0 waits for the others, and makes what a rank that died left.
"""

import hashlib
import json
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from videopoet.data.files import whole_or_nothing
from videopoet.data.media import Media, read_audio, read_image, read_media
from videopoet.evaluation.makers import Maker, Sample
from videopoet.evaluation.plans import Wish
from videopoet.evaluation.protocol import Protocol, digest, plain

FORMAT = "videopoet-sample-1"
BLOCK = 16  # samples that are made at once
PATIENCE = 900.0  # seconds without a new file after which rank 0 takes over what others have not made
FOREIGN = (".safetensors", ".mp4", ".webm", ".mkv", ".avi", ".mov", ".gif", ".png", ".jpg", ".webp", ".wav", ".flac")


@dataclass(frozen=True, kw_only=True)
class Share:
    """Which part of the work is this process': RANK of WORLD_SIZE, as torchrun and srun set them."""

    rank: int = 0
    world: int = 1

    def __post_init__(self) -> None:
        if not 0 <= self.rank < self.world:
            raise ValueError(f"RANK is {self.rank} of WORLD_SIZE {self.world}: ranks are 0 to WORLD_SIZE - 1")

    @classmethod
    def of_environment(cls) -> "Share":
        return cls(rank=int(os.environ.get("RANK", 0)), world=int(os.environ.get("WORLD_SIZE", 1)))

    def mine(self, items: Sequence, block: int = BLOCK) -> list:
        """Blocks of consecutive items in turn: of 5 items in blocks of 2, rank 0 of 2 has items 0, 1 and 4."""
        return [item for i, item in enumerate(items) if i // block % self.world == self.rank]


class Samples:
    """The files of the samples of one plan, one maker and one seed."""

    def __init__(self, folder: Path, protocol: Protocol, facts: dict, seed: int):
        self.protocol, self.seed = protocol, seed
        of = {"maker": facts, "task": plain(protocol.task), "given": plain(protocol.given)}
        if protocol.given.reads:
            of["source"] = plain(protocol.source)
        self.folder = Path(folder) / digest(of)
        self.folder.mkdir(parents=True, exist_ok=True)
        with whole_or_nothing(self.folder / "samples.json") as part:
            part.write_text(json.dumps(of, indent=2) + "\n", encoding="utf-8")

    def path(self, wish: Wish) -> Path:
        return self.folder / f"{sample_name(wish, self.seed)}.safetensors"

    def __contains__(self, wish: Wish) -> bool:
        return self.path(wish).is_file()

    def write(self, wish: Wish, sample: Sample) -> None:
        """One file, whole or not at all: exact pixels, so that no codec comes between a model and its score."""
        media, tensors = sample.media, {}
        if media.video is not None:
            tensors["video"] = torch.from_numpy(np.ascontiguousarray(media.video))
        if media.audio is not None:
            tensors["audio"] = torch.from_numpy(np.ascontiguousarray(media.audio, dtype=np.float32))
        if sample.codes is not None:
            tensors["codes"] = sample.codes
        header = {"format": FORMAT, "key": wish.entry.key, "prompt": wish.prompt, "seed": str(self.seed + wish.number)}
        header |= {"number": str(wish.number), "fps": repr(media.fps), "sample_rate": str(media.sample_rate)}
        with whole_or_nothing(self.path(wish)) as part:
            save_file(tensors, part, metadata=header)

    def refusal(self, wish: Wish) -> Path:
        """The file that says why there is no sample."""
        return self.path(wish).with_suffix(".unusable")

    def refuse(self, wish: Wish, why: str) -> None:
        with whole_or_nothing(self.refusal(wish)) as part:
            part.write_text(why, encoding="utf-8")

    def read(self, wish: Wish) -> Sample:
        return read_sample(self.path(wish))


class GivenSamples(Samples):
    """Samples that something else made: files named by number ("000017.mp4") or by the names of `--plan`.

    One `.npz` with an array arr_0, uint8 (n, h, w, 3), as ADM's evaluator reads, is one picture for each number.
    """

    def __init__(self, given: Path, protocol: Protocol, seed: int):
        self.folder, self.protocol, self.seed = Path(given), protocol, seed
        self.pictures = None
        if not self.folder.exists():
            raise ValueError(f"no samples at {given}")
        if self.folder.suffix == ".npz":
            with np.load(self.folder, allow_pickle=False) as file:
                self.pictures = file["arr_0"] if "arr_0" in file else None
            if self.pictures is None or self.pictures.dtype != np.uint8 or self.pictures.ndim != 4:
                raise ValueError(f"{given} holds no array arr_0, uint8 (n, h, w, 3)")
        else:
            names = sorted(name for name in os.listdir(self.folder) if name.lower().endswith(FOREIGN))
            self._files = {Path(name).stem: self.folder / name for name in names}

    def path(self, wish: Wish) -> Path:
        for name in (sample_name(wish, self.seed), f"{wish.number:06d}", str(wish.number)):
            if name in self._files:
                return self._files[name]
        return self.folder / f"{wish.number:06d}.mp4"

    def __contains__(self, wish: Wish) -> bool:
        return wish.number < len(self.pictures) if self.pictures is not None else self.path(wish).is_file()

    def content(self, wish: Wish) -> str | None:
        return None if self.pictures is None else hashlib.sha256(self.pictures[wish.number].tobytes()).hexdigest()

    def read(self, wish: Wish) -> Sample:
        if self.pictures is not None:
            return Sample(media=Media(video=self.pictures[wish.number][None], fps=1.0))
        path = self.path(wish)
        if path.suffix == ".safetensors":
            return read_sample(path)
        if path.suffix in (".png", ".jpg"):
            return Sample(media=Media(video=read_image(path)[None], fps=1.0))
        return Sample(media=read_audio(path) if path.suffix in (".wav", ".flac") else read_media(path))


def sample_name(wish: Wish, seed: int) -> str:
    """Number, and 8 digits of what the sample is of: "000017-3fa9c2d1"."""
    of = [wish.prompt, wish.source_key, seed + wish.number]
    return f"{wish.number:06d}-{hashlib.sha256(json.dumps(of).encode()).hexdigest()[:8]}"


def read_sample(path: Path) -> Sample:
    """What `Samples.write` wrote. Raises ValueError for anything else."""
    try:
        with safe_open(path, "pt") as file:
            header = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}
    except (SafetensorError, OSError) as error:
        raise ValueError(f"{path} is no sample ({error}): delete it, it is made again") from None
    if header.get("format") != FORMAT:
        raise ValueError(f"{path} has format {header.get('format')!r}, expected {FORMAT!r}")
    video, audio = (tensors[name].numpy() if name in tensors else None for name in ("video", "audio"))
    media = Media(video=video, fps=float(header["fps"]), audio=audio, sample_rate=int(header["sample_rate"]))
    return Sample(media=media, codes=tensors.get("codes"))


def make_samples(
    samples: Samples, maker: Maker, wishes: Sequence[Wish], share: Share, *, progress: Callable[[int], None] = bool,
    patience: float = PATIENCE,
) -> dict[str, str]:  # fmt: skip
    """Make this rank's samples and wait for the others'; rank 0 makes what they leave.

    Returns {key: why} of all whose clip cannot be read; such are tried again by the next run.
    """
    _make(samples, maker, share.mine(wishes), progress)

    def done(wish: Wish) -> bool:
        return wish in samples or samples.refusal(wish).is_file()

    for left in waiting(done, wishes, share, progress, patience if share.rank == 0 else 2 * patience):
        if share.rank:
            raise ValueError(f"rank {share.rank} waits for {len(left)} samples of other ranks, none came for "
                             f"{2 * patience:g} s: is rank 0 running?")  # fmt: skip
        _make(samples, maker, left, progress)
    refused = {wish.source_key: samples.refusal(wish) for wish in wishes if wish not in samples}
    return {key: path.read_text(encoding="utf-8") for key, path in refused.items()}


def waiting(there: Callable, items: Sequence, share: Share, progress: Callable[[int], None], patience: float):
    """Yield what rank 0 has to do itself, once nothing new came from the other ranks for `patience` seconds."""
    left, last = [item for item in items if not there(item)], time.monotonic()
    while left and share.world > 1 and time.monotonic() - last < patience:
        time.sleep(min(1.0, patience / 10))
        now = [item for item in left if not there(item)]
        if len(now) < len(left):
            progress(len(left) - len(now))
            left, last = now, time.monotonic()
    if left:
        yield left


def _make(samples: Samples, maker: Maker, wishes: Sequence[Wish], progress: Callable[[int], None]) -> None:
    run: list[tuple[Wish, object]] = []

    def flush() -> None:
        if not run:
            return
        made = maker.make(samples.protocol.task, [request for _, request in run], samples.seed + run[0][0].number)
        for (wish, _), sample in zip(run, made, strict=True):
            samples.write(wish, sample)
        progress(len(run))
        run.clear()

    for wish in wishes:
        if wish in samples:
            progress(1)
            continue
        try:
            clip = None
            if samples.protocol.given.reads:
                clip = maker.fitted(samples.protocol.source.read(wish.entry.path, wish.source_key))
            request = samples.protocol.given(wish.prompt, clip)
        except (ValueError, OSError) as error:
            samples.refuse(wish, str(error))
            continue
        # Seeds run on with the numbers, so only neighbours are made together.
        if run and (wish.number != run[-1][0].number + 1 or len(run) == BLOCK):
            flush()
        run.append((wish, request))
    flush()


def write_plan(path: Path, wishes: Sequence[Wish], seed: int) -> None:
    """One JSON line for each sample: what another model has to make, and under which name."""
    with whole_or_nothing(path) as part:
        rows = ({"name": sample_name(w, seed), "number": w.number, "prompt": w.prompt, "key": w.entry.key,
                 "video": str(w.entry.path) if w.entry.path else None} for w in wishes)  # fmt: skip
        part.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")

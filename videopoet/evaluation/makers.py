"""What makes samples of a protocol: the whole model, or its tokenizers alone."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from videopoet.data.media import Media
from videopoet.data.transforms import video_to_float, video_to_uint8
from videopoet.evaluation.detectors.weights import sha256_of
from videopoet.evaluation.protocol import plain
from videopoet.evaluation.shortening import shortened
from videopoet.sampling.request import Request
from videopoet.tokenizers.visual.padding import pad_to_lattice, trim


@dataclass(frozen=True, kw_only=True)
class Sample:
    """What was made. codes: of the pictures, int64, where tokenizers are measured."""

    media: Media
    codes: Tensor | None = None


class Maker(Protocol):
    """`facts`: plain values that say what it is; equal facts, equal samples."""

    facts: dict[str, Any]

    def fitted(self, clip: Media) -> Media:
        """The real clip as this maker is given it."""
        ...

    def reads(self, prompt: str) -> str:
        """What of a prompt it takes: all, or the words from the start that fit."""
        ...

    def make(self, task: Any, requests: Sequence[Request], seed: int) -> list[Sample]:
        """Sample i draws from seed + i."""
        ...


def files_of(folder: Path) -> dict[str, str]:
    """sha256 of the files of a model."""
    found = sorted(folder.glob("*.safetensors")) if folder.is_dir() else [folder]
    return {path.name: sha256_of(path) for path in found}


class Generator:
    """A `VideoPoet` with one way to draw."""

    def __init__(self, poet, folder: Path, draw, *, num_candidates: int = 1, scorer=None,
                 progress: Callable[[int], None] | None = None):  # fmt: skip
        self.poet, self.draw, self.progress = poet, draw, progress
        self.ranking = {"num_candidates": num_candidates, "scorer": scorer}
        self.facts = {"weights": files_of(folder), "draw": plain(draw), "guidance": poet.guidance}
        self.facts |= {"geometry": vars(poet.geometry)}
        if num_candidates > 1:
            self.facts |= {"num_candidates": num_candidates, "scorer": repr(scorer)}

    def fitted(self, clip: Media) -> Media:
        """Frames as they are, said to run at the model's rate: which frames is the protocol's own choice."""
        rate = self.poet.geometry.sample_rate
        if clip.audio is not None and clip.sample_rate != rate:
            raise ValueError(f"the protocol reads sound at {clip.sample_rate} Hz, the model hears {rate} Hz: set "
                             "source.sample_rate")  # fmt: skip
        return replace(clip, fps=self.poet.geometry.fps)

    def reads(self, prompt: str) -> str:
        return shortened(prompt, lambda text: self.poet.model.text([text]))

    def make(self, task: Any, requests: Sequence[Request], seed: int) -> list[Sample]:
        asked = [replace(request, prompt=self.reads(request.prompt)) for request in requests]
        made = self.poet.generate(task, asked, draw=self.draw, seed=seed, progress=self.progress, **self.ranking)
        return [Sample(media=media) for media in made]


class Reconstructor:
    """Clips through the tokenizers and back, at their own size and length: padded to the lattice, and trimmed.

    audio: a sound tokenizer, for clips with sound; without one their sound is not reconstructed.
    """

    def __init__(self, visual, folder: Path, audio=None):
        self.visual, self.audio = visual, audio
        names = {"visual.safetensors", "audio.safetensors"}
        files = files_of(folder)
        self.facts = {"weights": {n: h for n, h in files.items() if not folder.is_dir() or n in names}}
        if visual is not None:
            self.facts |= {"codebook_size": int(visual.codebook_size), "stride": list(visual.stride)}

    def fitted(self, clip: Media) -> Media:
        return clip

    def reads(self, prompt: str) -> str:
        return prompt

    @torch.inference_mode()
    def make(self, task: Any, requests: Sequence[Request], seed: int) -> list[Sample]:
        return [self._one(request.video or request.audio) for request in requests]

    def _one(self, clip: Media) -> Sample:
        video, codes, sound = None, None, None
        if clip.video is not None:
            device = next(self.visual.parameters()).device
            frames = video_to_float(clip.video)[None].to(device)
            padded, size = pad_to_lattice(frames, self.visual.stride, self.visual.encoder.rule)
            codes = self.visual.encode(padded)
            video = video_to_uint8(trim(self.visual.decode(codes), size)[0])
        if clip.audio is not None and self.audio is not None:
            sound = self._sound(clip)
        return Sample(media=replace(clip, video=video, audio=sound), codes=None if codes is None else codes[0].cpu())

    def _sound(self, clip: Media) -> np.ndarray:
        if clip.sample_rate != self.audio.sample_rate:
            raise ValueError(f"the protocol reads sound at {clip.sample_rate} Hz, the tokenizer hears "
                             f"{self.audio.sample_rate} Hz: set source.sample_rate")  # fmt: skip
        device = next(self.audio.parameters()).device
        sound = torch.as_tensor(clip.audio, dtype=torch.float32)[None].to(device)
        back = self.audio.decode(self.audio.encode(sound))[0, :, : sound.shape[-1]]
        return torch.nn.functional.pad(back, (0, sound.shape[-1] - back.shape[-1])).float().cpu().numpy()

"""Scorers that rank candidates: the built-in world's oracle, and CLIP from a local folder."""

from collections.abc import Sequence as Many
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from videopoet.data.bounce_oracle import read_scene, score
from videopoet.data.bounce_prompt import AskedImpact, AskedScene, read_prompt
from videopoet.data.media import Media
from videopoet.sampling.request import Request

CLIP_MEAN, CLIP_STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)  # of RGB in [0, 1]


class OracleScorer:
    """The share of what the prompt says that the built-in world's oracle finds in a candidate, in [0, 1].

    Sound is held against the impacts seen in the candidate itself: right pitches, at the right times.
    """

    def check(self, request: Request) -> None:
        """Raises ValueError for a prompt that is not about the built-in world."""
        read_prompt(request.prompt)

    def __call__(self, request: Request, candidates: Many[Media]) -> list[float]:
        asked = read_prompt(request.prompt)
        return [self._score(asked, media) for media in candidates]

    def _score(self, asked: AskedScene, media: Media) -> float:
        audio = None if media.audio is None else np.asarray(media.audio[0], np.float32)
        reading = read_scene(media.video, audio, media.fps, media.sample_rate)
        struck = tuple(AskedImpact(time=t, shape=seen.shape) for seen in reading.objects for t in seen.impacts)
        return float(np.nanmean(list(score(reading, replace(asked, struck=struck)).values())))


class ClipScorer:
    """Mean cosine of the prompt's and the frames' CLIP embeddings, over `frames` frames spread evenly.

    folder: a CLIP model as `transformers` saves it, weights as safetensors, tokenizer included. Nothing is downloaded.
    """

    def __init__(self, folder: str | Path, frames: int = 8, device: str | torch.device = "cpu"):
        from transformers import AutoTokenizer, CLIPModel

        if not Path(folder).is_dir():
            raise ValueError(f"no folder at {folder}: give a local CLIP model, saved by transformers")
        try:
            how = {"local_files_only": True}
            self.model = CLIPModel.from_pretrained(folder, use_safetensors=True, **how).eval().to(device)
            self.tokenizer = AutoTokenizer.from_pretrained(folder, **how)
        except (OSError, KeyError) as error:
            cause = str(error).splitlines()[0]
            raise ValueError(f"{folder} holds no CLIP model as transformers saves it: {cause}") from None
        self.frames, self.device = frames, device

    def check(self, request: Request) -> None:
        """Raises ValueError for a request without a prompt."""
        if not request.prompt:
            raise ValueError("CLIP ranks candidates by a prompt, this request has none")

    @torch.inference_mode()
    def __call__(self, request: Request, candidates: Many[Media]) -> list[float]:
        limit = self.model.config.text_config.max_position_embeddings
        text = self.tokenizer([request.prompt], truncation=True, max_length=limit, return_tensors="pt").to(self.device)
        return [float(self._cosines(text, media).mean()) for media in candidates]

    def _cosines(self, text, media: Media) -> Tensor:
        picked = np.linspace(0, len(media.video) - 1, min(self.frames, len(media.video))).round().astype(int)
        pixels = clip_pixels(media.video[picked], self.model.config.vision_config.image_size).to(self.device)
        made = self.model(input_ids=text["input_ids"], attention_mask=text["attention_mask"], pixel_values=pixels)
        return F.cosine_similarity(made.image_embeds, made.text_embeds)


def clip_pixels(video: np.ndarray, size: int) -> Tensor:
    """uint8 (t, h, w, 3) -> what CLIP sees, float (t, 3, size, size): shorter side to `size`, the middle, normalised."""
    frames = torch.from_numpy(np.ascontiguousarray(video)).permute(0, 3, 1, 2).float() / 255
    scale = size / min(frames.shape[-2:])
    height, width = (max(size, round(side * scale)) for side in frames.shape[-2:])
    frames = F.interpolate(frames, (height, width), mode="bicubic", antialias=True).clamp(0, 1)
    top, left = (height - size) // 2, (width - size) // 2
    frames = frames[..., top : top + size, left : left + size]
    mean, std = (torch.tensor(values)[:, None, None] for values in (CLIP_MEAN, CLIP_STD))
    return (frames - mean) / std

"""Depth: the built-in world's truth, a pretrained network from a local folder, and a proxy that needs nothing else."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np

from videopoet.conditions.shot import NotKnown, Shot
from videopoet.conditions.world import world_truth


class Depth(ABC):
    @abstractmethod
    def __call__(self, shot: Shot) -> np.ndarray:
        """Nearness of every pixel, in any unit, larger is nearer: float (t, h, w)."""


@dataclass(frozen=True, kw_only=True)
class WorldDepth(Depth):
    """The true order from back to front in clips of the built-in world, and `otherwise` that of others.

    0 is the background, 1 the body at the back, 2 one before it. NotKnown where `otherwise` is None.
    """

    otherwise: Depth | None = None

    def __call__(self, shot: Shot) -> np.ndarray:
        truth = world_truth(shot)
        if truth is not None:
            rank = np.zeros(1 + len(truth.order))
            rank[1 + np.asarray(truth.order)] = np.arange(1, len(rank))
            return rank[truth.depth]
        if self.otherwise is None:
            raise NotKnown("this clip is not of the built-in world and has no true depth: name an estimator")
        return self.otherwise(shot)


@dataclass(frozen=True, kw_only=True)
class ChromaDepth(Depth):
    """Saturated colours are near: air greys what is far. A proxy, not an estimate."""

    def __call__(self, shot: Shot) -> np.ndarray:
        video = shot.video.astype(np.float32)
        return video.max(-1) - video.min(-1)


@dataclass(frozen=True, kw_only=True)
class PretrainedDepth(Depth):
    """A depth network of `transformers` (DPT, which is MiDaS 3; Depth Anything, ...) from a local folder.

    folder: `config.json` and `model.safetensors`, as `save_pretrained` writes them; nothing is downloaded.
    size: pixels per side that the network sees.
    """

    folder: str
    size: int = 384

    def __call__(self, shot: Shot) -> np.ndarray:
        import torch
        import torch.nn.functional as F

        video = torch.as_tensor(shot.video).permute(0, 3, 1, 2).float() / 127.5 - 1
        frames = F.interpolate(video, size=(self.size, self.size), mode="bicubic", antialias=True)
        with torch.inference_mode():
            near = torch.cat([_network(self.folder)(pixel_values=frame[None]).predicted_depth for frame in frames])
        return F.interpolate(near[:, None], size=shot.video.shape[1:3], mode="bilinear")[:, 0].numpy()


@lru_cache(maxsize=1)
def _network(folder: str):
    from transformers import AutoModelForDepthEstimation

    if not (Path(folder) / "config.json").is_file():
        raise ValueError(f"no depth network in {folder}: it needs config.json and model.safetensors")
    return AutoModelForDepthEstimation.from_pretrained(folder, local_files_only=True, use_safetensors=True).eval()

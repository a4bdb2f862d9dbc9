"""Optical flow: the built-in world's truth, RAFT, OpenCV's DIS, and block matching that needs nothing else."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from pathlib import Path

import numpy as np

from videopoet.conditions.shot import NotKnown, Shot
from videopoet.conditions.world import world_truth

SIDE = 32  # pixels that block matching works on at most


class Flow(ABC):
    @abstractmethod
    def __call__(self, shot: Shot) -> np.ndarray:
        """Motion x, y in pixels from each frame to the next, float (t - 1, h, w, 2), of at least two frames."""


@dataclass(frozen=True, kw_only=True)
class WorldFlow(Flow):
    """The true flow of clips of the built-in world, and `otherwise` that of others; NotKnown where that is None."""

    otherwise: Flow | None = None

    def __call__(self, shot: Shot) -> np.ndarray:
        truth = world_truth(shot)
        if truth is not None:
            return truth.flow
        if self.otherwise is None:
            raise NotKnown("this clip is not of the built-in world and has no true flow: name an estimator")
        return self.otherwise(shot)


@dataclass(frozen=True, kw_only=True)
class RaftFlow(Flow):
    """RAFT (Teed and Deng, arXiv 2003.12039) as torchvision has it, from a local file; nothing is downloaded.

    weights: torchvision's `raft_large_*.pth` or `raft_small_*.pth`, or the same tensors as safetensors.
    small: whether it is the small network. updates: of the flow, per pair of frames.
    size: pixels that the shorter side has at least where the network sees it; it cannot do with fewer than 128.
    Raises ValueError where torchvision or the file is missing, or the file is of the other network.
    """

    weights: str
    small: bool = False
    updates: int = 12
    size: int = 256

    def __call__(self, shot: Shot) -> np.ndarray:
        import torch
        import torch.nn.functional as F

        network = _raft(self.weights, self.small)
        h, w = shot.video.shape[1:3]
        grow = max(1.0, self.size / min(h, w))
        seen = [-(-round(side * grow) // 8) * 8 for side in (h, w)]
        video = torch.as_tensor(shot.video).permute(0, 3, 1, 2).float() / 127.5 - 1
        video = F.interpolate(video, size=seen, mode="bilinear", antialias=True)
        with torch.inference_mode():
            pairs = zip(video[:-1, None], video[1:, None])
            flow = torch.cat([network(a, b, num_flow_updates=self.updates)[-1] for a, b in pairs])
        flow = F.interpolate(flow, size=(h, w), mode="bilinear", antialias=True)
        return (flow * torch.tensor([w / seen[1], h / seen[0]])[:, None, None]).permute(0, 2, 3, 1).numpy()


@lru_cache(maxsize=1)
def _raft(weights: str, small: bool):
    import torch
    from safetensors.torch import load_file

    if not Path(weights).is_file():
        raise ValueError(
            f"no file at {weights}: RaftFlow takes torchvision's raft_{'small' if small else 'large'}_*.pth"
        )
    try:
        from torchvision.models.optical_flow import raft_large, raft_small
    except (ImportError, RuntimeError) as error:  # RuntimeError: a torchvision of another torch
        raise ValueError(
            f"RaftFlow needs torchvision built for this torch ({error}): install it, or take DISFlow"
        ) from None
    read = load_file if weights.endswith(".safetensors") else lambda path: torch.load(path, "cpu", weights_only=True)
    network = (raft_small if small else raft_large)(weights=None).eval()
    try:
        network.load_state_dict(read(weights))
    except RuntimeError:
        one, other = ("small", "large") if small else ("large", "small")
        raise ValueError(f"{weights} does not fit RAFT {one}; of RAFT {other} say so by `small`") from None
    return network


@dataclass(frozen=True, kw_only=True)
class DISFlow(Flow):
    """OpenCV's dense inverse search, medium preset. Raises ValueError where OpenCV is not installed."""

    def __call__(self, shot: Shot) -> np.ndarray:
        try:
            import cv2
        except ImportError:
            raise ValueError(
                "DISFlow needs OpenCV: pip install 'videopoet-open[flow]', or take BlockMatching"
            ) from None
        search = cv2.DISOpticalFlow_create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
        grey = [cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY) for frame in shot.video]
        return np.stack([search.calc(a, b, None) for a, b in pairwise(grey)])


@dataclass(frozen=True, kw_only=True)
class BlockMatching(Flow):
    """For every pixel the whole-pixel step, `reach` at most, after which its `window` looks most alike.

    A step costs `rest` levels per pixel of its length, so that plain areas stay where they are. Pictures are shrunk to
    at most 32 pixels a side first.
    """

    reach: int = 4  # pixels of the shrunk picture
    window: int = 9  # pixels, odd
    rest: float = 0.5  # levels of 255 per pixel

    def __call__(self, shot: Shot) -> np.ndarray:
        import torch
        import torch.nn.functional as F

        t, h, w, _ = shot.video.shape
        shrink = max(1, -(-max(h, w) // SIDE))
        video = torch.as_tensor(shot.video).permute(0, 3, 1, 2).float()
        small = F.interpolate(video, size=(max(1, h // shrink), max(1, w // shrink)), mode="area")
        rows, columns = small.shape[2:]
        after = F.pad(small[1:], (self.reach,) * 4, mode="replicate")
        steps = range(-self.reach, self.reach + 1)
        best = torch.full((t - 1, 1, rows, columns), torch.inf)
        flow = torch.zeros(t - 1, 2, rows, columns)
        for y, x in sorted(((y, x) for y in steps for x in steps), key=lambda step: step[0] ** 2 + step[1] ** 2):
            there = after[:, :, y + self.reach : y + self.reach + rows, x + self.reach : x + self.reach + columns]
            unlike = (small[:-1] - there).abs().mean(1, keepdim=True)
            cost = F.avg_pool2d(unlike, self.window, 1, self.window // 2, count_include_pad=False)
            cost = cost + self.rest * float(np.hypot(x, y))
            better = cost < best
            best = torch.where(better, cost, best)
            flow = torch.where(better, torch.tensor([x, y], dtype=torch.float32)[None, :, None, None], flow)
        return (F.interpolate(flow, size=(h, w)) * shrink).permute(0, 2, 3, 1).numpy()

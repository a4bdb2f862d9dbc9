"""Perceptual distances: how differently a pretrained image network sees a frame and its reconstruction."""

from abc import abstractmethod
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from videopoet.tokenizers.visual.pretrained import Pretrained, installed, read_weights


class Perceptual(nn.Module):
    """`weight * distance`, the mean over frames; each frame is seen alone, a clip of one frame is an image.

    num_frames: at most so many frames a step, drawn at random from the batch, to bound the cost; null for all. The
        draw is a function of the step alone, so that a resumed run draws the same.
    size: height and width the frames are resized to; null for as they are.

    The network stands outside the module tree: it follows to other devices, but it is in no state dict, no optimizer
    and no average of weights, and nothing switches it to training.
    """

    def __init__(self, network: Pretrained, weight: float, num_frames: int | None = None, size: int | None = None):
        super().__init__()
        if num_frames is not None and num_frames < 1:
            raise ValueError(f"num_frames is {num_frames}: take at least one, or null for all")
        self.weight, self.num_frames, self.size = weight, num_frames, size
        self._outside = Outside(network)

    @property
    def network(self) -> Pretrained:
        return self._outside.network

    def _apply(self, fn, recurse: bool = True):
        self.network._apply(fn)
        return super()._apply(fn, recurse)

    def forward(self, reconstruction: Tensor, video: Tensor, step: int = 0) -> Tensor:
        """Two videos float (b, 3, t, h, w) in [-1, 1] -> scalar, with a gradient to the reconstruction only."""
        made, real = self._frames(reconstruction, step), self._frames(video, step)
        with torch.no_grad():
            seen = self.see(real)
        return self.weight * self.distance(self.see(made), seen)

    def _frames(self, video: Tensor, step: int) -> Tensor:
        """(b, 3, t, h, w) -> (n, 3, h', w'), the same choice for every video of one shape."""
        frames = video.transpose(1, 2).flatten(0, 1)
        if self.num_frames is not None and self.num_frames < len(frames):
            order = torch.randperm(len(frames), generator=torch.Generator().manual_seed(step))
            frames = frames[order[: self.num_frames].to(frames.device)]
        if self.size is not None:
            frames = F.interpolate(frames, (self.size, self.size), mode="bilinear", antialias=True)
        return frames

    @abstractmethod
    def see(self, frames: Tensor) -> list[Tensor]:
        """Frames (n, 3, h, w) -> what is compared."""

    @abstractmethod
    def distance(self, made: list[Tensor], real: list[Tensor]) -> Tensor:
        """Scalar."""


class Outside:
    """Holds a frozen network where `nn.Module` does not look; copies share it."""

    def __init__(self, network: Pretrained):
        self.network = network

    def __deepcopy__(self, memo: dict) -> "Outside":
        return self


class LogitDistance(Perceptual):
    """Mean squared difference of class logits, the paper's with `ResNet50` at 224 pixels (MAGVIT-v2, App. A.2)."""

    def __init__(self, network: Pretrained, weight: float = 0.1, num_frames: int | None = None, size: int | None = 224):
        super().__init__(network, weight, num_frames, size)

    def see(self, frames: Tensor) -> list[Tensor]:
        return [self.network.logits(frames)]

    def distance(self, made: list[Tensor], real: list[Tensor]) -> Tensor:
        return F.mse_loss(made[0].float(), real[0].float())


class FeatureDistance(Perceptual):
    """Squared distance of unit feature vectors, averaged over places and summed over maps (Zhang et al. 2018, Eq. 1).

    Every channel weighs the same; `LPIPS` weighs them by people's judgements.
    """

    def __init__(
        self, network: Pretrained, weight: float = 0.1, num_frames: int | None = None, size: int | None = None
    ):
        super().__init__(network, weight, num_frames, size)

    def see(self, frames: Tensor) -> list[Tensor]:
        return [_unit(features.float()) for features in self.network.maps(frames)]

    def distance(self, made: list[Tensor], real: list[Tensor]) -> Tensor:
        return sum((a - b).square().sum(1).mean() for a, b in zip(made, real))


class LPIPS(FeatureDistance):
    """Learned perceptual image patch similarity, v0.1 (Zhang et al. 2018), on `VGG16` or `AlexNet`.

    heads: file of the linear heads (lin0.model.1.weight ... of shape (1, c, 1, 1)); null for the one in torchmetrics.
    """

    def __init__(
        self,
        network: Pretrained,
        weight: float = 0.1,
        num_frames: int | None = None,
        size: int | None = None,
        heads: str | None = None,
    ):
        super().__init__(network, weight, num_frames, size)
        if not hasattr(network, "heads"):
            raise ValueError(
                f"LPIPS has no heads for {type(network).__name__}: take VGG16 or AlexNet, or FeatureDistance"
            )
        path = Path(heads) if heads else installed("torchmetrics", f"functional/image/lpips_models/{network.heads}")
        state = read_weights(path, f"LPIPS' linear heads {network.heads}")
        try:
            for i in range(len(network.taps)):
                network.register_buffer(f"head{i}", state[f"lin{i}.model.1.weight"].float(), persistent=False)
        except KeyError as error:
            raise ValueError(f"{path} has no {error}: expected LPIPS' linear heads {network.heads}") from None

    def distance(self, made: list[Tensor], real: list[Tensor]) -> Tensor:
        heads = (self.network.get_buffer(f"head{i}") for i in range(len(made)))
        return sum(((a - b).square() * head).sum(1).mean() for a, b, head in zip(made, real, heads))


def _unit(features: Tensor) -> Tensor:
    """(n, c, h, w), each place scaled to length 1; a zero vector stays zero, with a finite gradient."""
    return features * (features.square().sum(1, keepdim=True) + 1e-10).rsqrt()

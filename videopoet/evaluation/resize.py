"""Resizing of pictures as values: the convention alone makes another metric (up to 6 of 255 levels on a smooth picture).

Output pixel i of n, out of m input pixels, looks at input coordinate

    TF1Bilinear      i m / n                    linear between the two pixels around it
    TorchBilinear    (i + ½) m / n - ½          linear, the edge repeated
    Antialiased      (i + ½) m / n - ½          linear, over m / n pixels where it makes the picture smaller
    AlignCorners     i (m - 1) / (n - 1)        linear: the first and last pixels keep their places
    PilBicubic       (i + ½) m / n - ½          cubic (a = -½), antialiased, rounded to 8 bits after each axis

Pixels 0, 10, 20, 30 made 7 wide:

    TF1Bilinear      0   5.714  11.429  17.143  22.857  28.571  30
    TorchBilinear    0   3.571   9.286  15      20.714  26.429  30
    AlignCorners     0   5      10      15      20      25      30
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor


class Convention(Protocol):
    """Resizes pictures, float (n, c, h, w) in [0, 255], to (height, width)."""

    def __call__(self, pictures: Tensor, height: int, width: int) -> Tensor: ...


@dataclass(frozen=True, kw_only=True)
class TF1Bilinear:
    """`tf.image.resize_bilinear` of TensorFlow 1: corners of pixels, not their centres, lie on each other.

    FVD's own code and MAGVIT's, and the resize inside the FID network's graph.
    """

    def __call__(self, pictures: Tensor, height: int, width: int) -> Tensor:
        return _linear(pictures, height, width, lambda i, m, n: i * (m / n))


@dataclass(frozen=True, kw_only=True)
class AlignCorners:
    """C3D's (TGAN2)."""

    def __call__(self, pictures: Tensor, height: int, width: int) -> Tensor:
        return _linear(pictures, height, width, lambda i, m, n: i * ((m - 1) / max(n - 1, 1)))


@dataclass(frozen=True, kw_only=True)
class TorchBilinear:
    """`F.interpolate(mode="bilinear", align_corners=False)`: most FVD in PyTorch; aliases where it makes smaller."""

    def __call__(self, pictures: Tensor, height: int, width: int) -> Tensor:
        return F.interpolate(pictures, (height, width), mode="bilinear", align_corners=False)


@dataclass(frozen=True, kw_only=True)
class Antialiased:
    """The same with `antialias=True`: torchmetrics' FID by default, cd-fvd's loader."""

    def __call__(self, pictures: Tensor, height: int, width: int) -> Tensor:
        return F.interpolate(pictures, (height, width), mode="bilinear", align_corners=False, antialias=True)


@dataclass(frozen=True, kw_only=True)
class PilBicubic:
    """Pillow's bicubic of 8-bit pictures: CLIP's own preprocessing. Input is rounded to 8 bits first."""

    def __call__(self, pictures: Tensor, height: int, width: int) -> Tensor:
        whole = pictures.round().clamp(0, 255).to(torch.uint8).movedim(1, -1).cpu().numpy()
        made = [np.stack([_pil(p[..., c], height, width) for c in range(p.shape[-1])]) for p in whole]
        return torch.from_numpy(np.stack(made)).to(pictures)


@dataclass(frozen=True, kw_only=True)
class PilBicubicFloat:
    """Pillow's bicubic channel by channel in float, never rounded: clean-fid's. It may leave [0, 255] a little."""

    def __call__(self, pictures: Tensor, height: int, width: int) -> Tensor:
        planes = pictures.float().flatten(0, 1).cpu().numpy()
        made = np.stack([_pil(plane, height, width) for plane in planes])
        return torch.from_numpy(made).to(pictures).unflatten(0, pictures.shape[:2])


class Fit(Protocol):
    """What becomes of pictures that are not square."""

    def __call__(self, pictures: Tensor, height: int, width: int, convention: Convention) -> Tensor: ...


@dataclass(frozen=True, kw_only=True)
class Stretch:
    """Both sides are resized, whatever becomes of the shape: FVD's own code, StyleGAN-V."""

    def __call__(self, pictures: Tensor, height: int, width: int, convention: Convention) -> Tensor:
        return pictures if pictures.shape[2:] == (height, width) else convention(pictures, height, width)


@dataclass(frozen=True, kw_only=True)
class ShortSideCrop:
    """The picture is resized to cover the target and its middle is kept: CLIP, common_metrics, VideoGPT.

    The longer side is rounded down to whole pixels (as torchvision does) and an odd margin leaves its larger half at the
    bottom or right, or with `round_margin` wherever rounding half to even puts it (torchvision's CenterCrop).
    """

    round_margin: bool = False

    def __call__(self, pictures: Tensor, height: int, width: int, convention: Convention) -> Tensor:
        h, w = pictures.shape[2:]
        tall = h * width > w * height
        size = (h * width // w, width) if tall else (height, w * height // h)
        if size != (h, w):
            pictures = convention(pictures, *size)
        top, left = (self._margin(have - want) for have, want in zip(size, (height, width)))
        return pictures[..., top : top + height, left : left + width]

    def _margin(self, rest: int) -> int:
        return round(rest / 2) if self.round_margin else rest // 2


class Rounding(Protocol):
    """What becomes of the resized values."""

    def __call__(self, pictures: Tensor) -> Tensor: ...


@dataclass(frozen=True, kw_only=True)
class KeepFloat:
    def __call__(self, pictures: Tensor) -> Tensor:
        return pictures


@dataclass(frozen=True, kw_only=True)
class RoundTo8Bits:
    def __call__(self, pictures: Tensor) -> Tensor:
        return pictures.round().clamp(0, 255)


@dataclass(frozen=True, kw_only=True)
class TruncateTo8Bits:
    """`astype(uint8)` of floats, half a level darker on average: VideoGPT, OmniTokenizer, cd-fvd's loader."""

    def __call__(self, pictures: Tensor) -> Tensor:
        return pictures.clamp(0, 255).floor()


@dataclass(frozen=True, kw_only=True)
class Resize:
    """One way from pictures of any size to (height, width).

    via: a size everything passes through first, with the same convention and fit (MAGVIT's FVD tool: 64 x 64).
    rounding: of the last step only.
    """

    height: int
    width: int
    convention: Convention = TF1Bilinear()
    fit: Fit = Stretch()
    rounding: Rounding = KeepFloat()
    via: tuple[int, int] | None = None

    def __call__(self, video: Tensor | np.ndarray) -> Tensor:
        """uint8 or float in [0, 255], (..., h, w, 3) -> float32 (..., height, width, 3) in [0, 255]."""
        if video.ndim < 4 or video.shape[-1] != 3 or 0 in video.shape:
            raise ValueError(f"pictures are (..., h, w, 3), got {tuple(video.shape)}")
        video = torch.as_tensor(np.ascontiguousarray(video) if isinstance(video, np.ndarray) else video)
        pictures = video.flatten(0, -4).movedim(-1, 1).float()
        for height, width in [*([self.via] if self.via else []), (self.height, self.width)]:
            pictures = self.fit(pictures, height, width, self.convention)
        return self.rounding(pictures).movedim(1, -1).unflatten(0, video.shape[:-3])


def _linear(pictures: Tensor, height: int, width: int, coordinate: Callable[[Tensor, int, int], Tensor]) -> Tensor:
    for axis, n in ((2, height), (3, width)):
        m = pictures.shape[axis]
        at = coordinate(torch.arange(n, dtype=torch.float64, device=pictures.device), m, n)
        low = at.floor().long().clamp(0, m - 1)
        share = (at - low).to(pictures.dtype).view([-1 if i == axis else 1 for i in range(4)])
        below, above = (pictures.index_select(axis, index) for index in (low, (low + 1).clamp_max(m - 1)))
        pictures = below + (above - below) * share
    return pictures


def _pil(plane: np.ndarray, height: int, width: int) -> np.ndarray:
    return np.asarray(Image.fromarray(plane).resize((width, height), Image.Resampling.BICUBIC))

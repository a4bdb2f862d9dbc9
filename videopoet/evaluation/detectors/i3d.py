"""I3D on Kinetics-400 (Carreira & Zisserman 2017), whose features FVD compares: Inception-v1 inflated in time.

Its published parameters come under several names (`tools/convert_i3d.py` reads them all); ours are those of the PyTorch
port that most projects use. What FVD's reference code compares are the 400 *logits*, averaged over time, not the 1,024
pooled features; they are the default here. TensorFlow's SAME padding: on an axis of n pixels, kernel k, stride s,

    total = max(k - s, 0) if n % s == 0 else max(k - n % s, 0)       the smaller half in front

A clip of 9 frames is the shortest: 8 leave one step where the last pooling takes two.
"""

from pathlib import Path
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from videopoet.component import spec_of
from videopoet.evaluation.detectors.base import VideoDetector
from videopoet.evaluation.detectors.weights import Wanted, load_weights
from videopoet.evaluation.resize import Resize

#: Channels of the four branches: 1x1 | 1x1, 3x3 | 1x1, 3x3 | pool, 1x1.
MIXED = {
    "Mixed_3b": (192, (64, 96, 128, 16, 32, 32)),
    "Mixed_3c": (256, (128, 128, 192, 32, 96, 64)),
    "Mixed_4b": (480, (192, 96, 208, 16, 48, 64)),
    "Mixed_4c": (512, (160, 112, 224, 24, 64, 64)),
    "Mixed_4d": (512, (128, 128, 256, 24, 64, 64)),
    "Mixed_4e": (512, (112, 144, 288, 32, 64, 64)),
    "Mixed_4f": (528, (256, 160, 320, 32, 128, 128)),
    "Mixed_5b": (832, (256, 160, 320, 32, 128, 128)),
    "Mixed_5c": (832, (384, 192, 384, 48, 128, 128)),
}
RESIZE = Resize(height=224, width=224)
WANTED = Wanted(
    file="i3d_pretrained_400.pt",
    source="the I3D of VideoGPT and TATS, or StyleGAN-V's i3d_torchscript.pt, made safe by tools/convert_i3d.py",
)


def padded(x: Tensor, kernel: tuple[int, ...], stride: tuple[int, ...]) -> Tensor:
    """(b, c, t, h, w) with the zeros of SAME around it."""
    totals = [max(k - (n % s or s), 0) for n, k, s in zip(x.shape[2:], kernel, stride)]
    return F.pad(x, [side for total in reversed(totals) for side in (total // 2, total - total // 2)])


class Unit(nn.Module):
    """Convolution, batch norm, ReLU."""

    def __init__(self, inputs: int, outputs: int, kernel: int = 1, stride: int = 1):
        super().__init__()
        self.kernel, self.stride = (kernel,) * 3, (stride,) * 3
        self.conv3d = nn.Conv3d(inputs, outputs, self.kernel, self.stride, bias=False)
        self.bn = nn.BatchNorm3d(outputs, eps=1e-3)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.bn(self.conv3d(padded(x, self.kernel, self.stride))))


class Pool(nn.Module):
    def __init__(self, kernel: tuple[int, int, int], stride: tuple[int, int, int]):
        super().__init__()
        self.kernel, self.stride = kernel, stride

    def forward(self, x: Tensor) -> Tensor:
        return F.max_pool3d(padded(x, self.kernel, self.stride), self.kernel, self.stride)


class Mixed(nn.Module):
    def __init__(self, inputs: int, widths: tuple[int, ...]):
        super().__init__()
        self.b0 = Unit(inputs, widths[0])
        self.b1a, self.b1b = Unit(inputs, widths[1]), Unit(widths[1], widths[2], 3)
        self.b2a, self.b2b = Unit(inputs, widths[3]), Unit(widths[3], widths[4], 3)
        self.b3a, self.b3b = Pool((3, 3, 3), (1, 1, 1)), Unit(inputs, widths[5])

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([self.b0(x), self.b1b(self.b1a(x)), self.b2b(self.b2a(x)), self.b3b(self.b3a(x))], 1)


class Head(nn.Module):
    def __init__(self, inputs: int, classes: int):
        super().__init__()
        self.conv3d = nn.Conv3d(inputs, classes, 1)


class InceptionI3d(nn.Module):
    """(b, 3, t, 224, 224) in [-1, 1] -> pooled (b, 1024) and logits (b, classes), averaged over time."""

    def __init__(self, classes: int = 400):
        super().__init__()
        self.Conv3d_1a_7x7 = Unit(3, 64, 7, 2)
        self.MaxPool3d_2a_3x3 = Pool((1, 3, 3), (1, 2, 2))
        self.Conv3d_2b_1x1 = Unit(64, 64)
        self.Conv3d_2c_3x3 = Unit(64, 192, 3)
        self.MaxPool3d_3a_3x3 = Pool((1, 3, 3), (1, 2, 2))
        for name, (inputs, widths) in MIXED.items():
            self.add_module(name, Mixed(inputs, widths))
            if name == "Mixed_3c":
                self.MaxPool3d_4a_3x3 = Pool((3, 3, 3), (2, 2, 2))
            if name == "Mixed_4f":
                self.MaxPool3d_5a_2x2 = Pool((2, 2, 2), (2, 2, 2))
        self.logits = Head(1024, classes)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        for name, layer in self.named_children():
            if name != "logits":
                x = layer(x)
        x = F.avg_pool3d(x, (2, *x.shape[3:]), stride=1)
        return x.mean((2, 3, 4)), self.logits.conv3d(x).mean((2, 3, 4))


class I3D(VideoDetector):
    """FVD's detector. `resize` defaults to the reference code's: stretched to 224 x 224, TensorFlow 1's bilinear.

    weights: a file that `tools/convert_i3d.py` wrote, or the state dict of VideoGPT and TATS; None looks into
    $VIDEOPOET_EVALUATION_WEIGHTS.
    """

    name = "I3D Kinetics-400"
    least_frames = 9

    def __init__(
        self,
        weights: str | Path | None = None,
        output: Literal["logits", "pool"] = "logits",
        resize: Resize = RESIZE,
    ):
        super().__init__()
        self.output, self.resize = output, resize
        if output not in ("logits", "pool") or (resize.height, resize.width) != (224, 224):
            raise ValueError(
                f"I3D gives 'logits' or 'pool' of 224 x 224, not {output!r} of {resize.height} x {resize.width}"
            )
        path = WANTED.find(weights)
        self.network = InceptionI3d()
        self.weights = load_weights(self.network, path)
        self.eval()

    @property
    def dim(self) -> int:
        return 400 if self.output == "logits" else 1024

    def preprocessing(self) -> dict:
        return {"resize": spec_of(self.resize), "range": [-1, 1]}

    def features(self, clips: Tensor) -> Tensor:
        pooled, logits = self.network(self.resize(clips).movedim(-1, 1) / 127.5 - 1)
        return logits if self.output == "logits" else pooled

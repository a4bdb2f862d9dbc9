"""Inception v3 (Szegedy et al. 2016), whose features FID and the inception score compare, in its two published forms.

They differ where TensorFlow's graph of 2015 and torchvision's network differ:

                        FID (TensorFlow)               torchvision
    average pooling     counts only real pixels        counts the zeros of the border too
    last block's pool   max                            average
    classes             1,008                          1,000
    input               (x - 128) / 128                x / 127.5 - 1
    names               the same, without AuxLogits    with AuxLogits, which is not used

Parameters have torchvision's names, as in every public file.
"""

from pathlib import Path
from typing import Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from videopoet.component import spec_of
from videopoet.evaluation.detectors.base import ImageDetector
from videopoet.evaluation.detectors.weights import Wanted, load_weights
from videopoet.evaluation.resize import Resize, TorchBilinear

TF1_RESIZE = Resize(height=299, width=299)
TORCH_RESIZE = Resize(height=299, width=299, convention=TorchBilinear())
FID_WANTED = Wanted(
    file="pt_inception-2015-12-05-6726825d.pth",
    source="from the releases of mseitzer/pytorch-fid (fid_weights) on GitHub",
    sha256="6726825d",
)
TORCHVISION_WANTED = Wanted(
    file="inception_v3_google-0cc3c7bd.pth",
    source="torchvision's Inception_V3_Weights.IMAGENET1K_V1, from download.pytorch.org/models",
    sha256="0cc3c7bd",
)
Pair = int | tuple[int, int]


class Unit(nn.Module):
    """Convolution, batch norm, ReLU."""

    def __init__(self, inputs: int, outputs: int, kernel: Pair, stride: int = 1, padding: Pair = 0):
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, kernel, stride, padding, bias=False)
        self.bn = nn.BatchNorm2d(outputs, eps=1e-3)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.bn(self.conv(x)))


def wide(inputs: int, outputs: int, length: int) -> Unit:
    return Unit(inputs, outputs, (1, length), padding=(0, length // 2))


def tall(inputs: int, outputs: int, length: int) -> Unit:
    return Unit(inputs, outputs, (length, 1), padding=(length // 2, 0))


class Block(nn.Module):
    """What the blocks share: the pooling of their last branch."""

    def __init__(self, counts_border: bool, last_pool: Literal["average", "max"] = "average"):
        super().__init__()
        self.counts_border, self.last_pool = counts_border, last_pool

    def pool(self, x: Tensor) -> Tensor:
        if self.last_pool == "max":
            return F.max_pool2d(x, 3, 1, 1)
        return F.avg_pool2d(x, 3, 1, 1, count_include_pad=self.counts_border)


class BlockA(Block):
    def __init__(self, inputs: int, pooled: int, counts_border: bool):
        super().__init__(counts_border)
        self.branch1x1 = Unit(inputs, 64, 1)
        self.branch5x5_1, self.branch5x5_2 = Unit(inputs, 48, 1), Unit(48, 64, 5, padding=2)
        self.branch3x3dbl_1, self.branch3x3dbl_2 = Unit(inputs, 64, 1), Unit(64, 96, 3, padding=1)
        self.branch3x3dbl_3 = Unit(96, 96, 3, padding=1)
        self.branch_pool = Unit(inputs, pooled, 1)

    def forward(self, x: Tensor) -> Tensor:
        double = self.branch3x3dbl_3(self.branch3x3dbl_2(self.branch3x3dbl_1(x)))
        return torch.cat(
            [self.branch1x1(x), self.branch5x5_2(self.branch5x5_1(x)), double, self.branch_pool(self.pool(x))], 1
        )


class BlockB(nn.Module):
    """Halves the picture."""

    def __init__(self, inputs: int):
        super().__init__()
        self.branch3x3 = Unit(inputs, 384, 3, 2)
        self.branch3x3dbl_1, self.branch3x3dbl_2 = Unit(inputs, 64, 1), Unit(64, 96, 3, padding=1)
        self.branch3x3dbl_3 = Unit(96, 96, 3, 2)

    def forward(self, x: Tensor) -> Tensor:
        double = self.branch3x3dbl_3(self.branch3x3dbl_2(self.branch3x3dbl_1(x)))
        return torch.cat([self.branch3x3(x), double, F.max_pool2d(x, 3, 2)], 1)


class BlockC(Block):
    def __init__(self, width: int, counts_border: bool):
        super().__init__(counts_border)
        self.branch1x1 = Unit(768, 192, 1)
        self.branch7x7_1 = Unit(768, width, 1)
        self.branch7x7_2, self.branch7x7_3 = wide(width, width, 7), tall(width, 192, 7)
        self.branch7x7dbl_1 = Unit(768, width, 1)
        self.branch7x7dbl_2, self.branch7x7dbl_3 = tall(width, width, 7), wide(width, width, 7)
        self.branch7x7dbl_4, self.branch7x7dbl_5 = tall(width, width, 7), wide(width, 192, 7)
        self.branch_pool = Unit(768, 192, 1)

    def forward(self, x: Tensor) -> Tensor:
        single, double = x, x
        for i in (1, 2, 3):
            single = getattr(self, f"branch7x7_{i}")(single)
        for i in (1, 2, 3, 4, 5):
            double = getattr(self, f"branch7x7dbl_{i}")(double)
        return torch.cat([self.branch1x1(x), single, double, self.branch_pool(self.pool(x))], 1)


class BlockD(nn.Module):
    """Halves the picture."""

    def __init__(self):
        super().__init__()
        self.branch3x3_1, self.branch3x3_2 = Unit(768, 192, 1), Unit(192, 320, 3, 2)
        self.branch7x7x3_1, self.branch7x7x3_2 = Unit(768, 192, 1), wide(192, 192, 7)
        self.branch7x7x3_3, self.branch7x7x3_4 = tall(192, 192, 7), Unit(192, 192, 3, 2)

    def forward(self, x: Tensor) -> Tensor:
        single, other = self.branch3x3_2(self.branch3x3_1(x)), x
        for i in (1, 2, 3, 4):
            other = getattr(self, f"branch7x7x3_{i}")(other)
        return torch.cat([single, other, F.max_pool2d(x, 3, 2)], 1)


class BlockE(Block):
    def __init__(self, inputs: int, counts_border: bool, last_pool: Literal["average", "max"]):
        super().__init__(counts_border, last_pool)
        self.branch1x1 = Unit(inputs, 320, 1)
        self.branch3x3_1 = Unit(inputs, 384, 1)
        self.branch3x3_2a, self.branch3x3_2b = wide(384, 384, 3), tall(384, 384, 3)
        self.branch3x3dbl_1, self.branch3x3dbl_2 = Unit(inputs, 448, 1), Unit(448, 384, 3, padding=1)
        self.branch3x3dbl_3a, self.branch3x3dbl_3b = wide(384, 384, 3), tall(384, 384, 3)
        self.branch_pool = Unit(inputs, 192, 1)

    def forward(self, x: Tensor) -> Tensor:
        single = self.branch3x3_1(x)
        double = self.branch3x3dbl_2(self.branch3x3dbl_1(x))
        branches = [self.branch1x1(x), self.branch3x3_2a(single), self.branch3x3_2b(single)]
        branches += [self.branch3x3dbl_3a(double), self.branch3x3dbl_3b(double), self.branch_pool(self.pool(x))]
        return torch.cat(branches, 1)


class Inception3(nn.Module):
    """(b, 3, h, w), normalised -> pooled (b, 2048), logits (b, classes) and sFID's maps (b, 2023).

    Those are the first 7 channels of the first branch of Mixed_6d (`mixed_6/conv` in TensorFlow's graph), 17 x 17 places,
    channels last as in ADM's reference statistics.
    """

    def __init__(self, classes: int = 1008, counts_border: bool = False, last_pool: Literal["average", "max"] = "max"):
        super().__init__()
        self.Conv2d_1a_3x3 = Unit(3, 32, 3, 2)
        self.Conv2d_2a_3x3 = Unit(32, 32, 3)
        self.Conv2d_2b_3x3 = Unit(32, 64, 3, padding=1)
        self.Conv2d_3b_1x1 = Unit(64, 80, 1)
        self.Conv2d_4a_3x3 = Unit(80, 192, 3)
        self.Mixed_5b = BlockA(192, 32, counts_border)
        self.Mixed_5c = BlockA(256, 64, counts_border)
        self.Mixed_5d = BlockA(288, 64, counts_border)
        self.Mixed_6a = BlockB(288)
        for letter, width in zip("bcde", (128, 160, 160, 192)):
            self.add_module(f"Mixed_6{letter}", BlockC(width, counts_border))
        self.Mixed_7a = BlockD()
        self.Mixed_7b = BlockE(1280, counts_border, "average")
        self.Mixed_7c = BlockE(2048, counts_border, last_pool)
        self.fc = nn.Linear(2048, classes)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        spatial = x
        for name, layer in self.named_children():
            if name == "Mixed_6d":
                spatial = layer.branch1x1(x)[:, :7].movedim(1, -1).flatten(1)
            if name != "fc":
                x = layer(x)
            if name in ("Conv2d_2b_3x3", "Conv2d_4a_3x3"):
                x = F.max_pool2d(x, 3, 2)
        pooled = x.mean((2, 3))
        return pooled, self.fc(pooled), spatial


Output = Literal["pool", "logits", "unbiased_logits", "spatial"]


class Inception(ImageDetector):
    """What the two forms share. `output`: "pool" (2,048 features), "logits", "unbiased_logits" without the last bias, or
    "spatial" (sFID's 2,023).

    FID's code scores the inception score on unbiased logits (torch-fidelity, torchmetrics), ADM on softmax of all.
    """

    network: Inception3

    def __init__(self, output: Output, resize: Resize):
        super().__init__()
        self.output, self.resize = output, resize
        if output not in get_args(Output):
            raise ValueError(f"Inception gives {', '.join(get_args(Output))}, not {output!r}")

    @property
    def dim(self) -> int:
        return {"pool": 2048, "spatial": 2023}.get(self.output, self.network.fc.out_features)

    def normalised(self, pictures: Tensor) -> Tensor:
        """(b, 3, h, w) in [0, 255] -> what the network reads."""
        raise NotImplementedError

    def picture_features(self, pictures: Tensor) -> Tensor:
        pooled, logits, spatial = self.network(self.normalised(self.resize(pictures).movedim(-1, 1)))
        unbiased = logits - self.network.fc.bias
        return {"pool": pooled, "logits": logits, "unbiased_logits": unbiased, "spatial": spatial}[self.output]


class FidInception(Inception):
    """The network of FID: TensorFlow's graph of 2015-12-05 in its PyTorch port. Pictures are stretched as in that graph."""

    name = "Inception v3 (FID)"

    def __init__(
        self,
        weights: str | Path | None = None,
        output: Output = "pool",
        resize: Resize = TF1_RESIZE,
    ):
        super().__init__(output, resize)
        path = FID_WANTED.find(weights)
        self.network = Inception3()
        self.weights = load_weights(self.network, path)
        self.eval()

    def preprocessing(self) -> dict:
        return {"resize": spec_of(self.resize), "shift": 128, "divide": 128}

    def normalised(self, pictures: Tensor) -> Tensor:
        return (pictures - 128) / 128


class TorchvisionInception(Inception):
    """torchvision's ImageNet classifier. Its FID is not the published one.

    Its parameters were trained with inputs (x / 255 - ½) / ½, which torchvision's network makes of ImageNet's mean and
    variance itself (`transform_input`); here they come so from the start.
    """

    name = "Inception v3 (torchvision)"

    def __init__(
        self,
        weights: str | Path | None = None,
        output: Output = "pool",
        resize: Resize = TORCH_RESIZE,
    ):
        super().__init__(output, resize)
        path = TORCHVISION_WANTED.find(weights)
        self.network = Inception3(classes=1000, counts_border=True, last_pool="average")
        self.weights = load_weights(self.network, path, keep=lambda name: not name.startswith("AuxLogits."))
        self.eval()

    def preprocessing(self) -> dict:
        return {"resize": spec_of(self.resize), "range": [-1, 1]}

    def normalised(self, pictures: Tensor) -> Tensor:
        return pictures / 127.5 - 1

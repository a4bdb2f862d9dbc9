"""C3D fine-tuned on UCF-101, whose classes the inception score of UCF-101 is of (Tran et al. 2015; TGANv2).

Input, exactly as in TGANv2's evaluation: 16 frames, RGB -> BGR, in [0, 255], to 112 x 112 with corners aligned, minus the
mean clip of the training set (`mean`, rows and columns 8 to 120 of its 128 x 171). Eight convolutions 3x3x3 with ReLU,
five poolings, fc6, fc7, fc8. `tools/convert_detector.py` writes the file from TGANv2's two .npz files.
"""

from pathlib import Path
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from videopoet.component import spec_of
from videopoet.evaluation.detectors.base import VideoDetector
from videopoet.evaluation.detectors.weights import Wanted, load_weights
from videopoet.evaluation.resize import AlignCorners, Resize

WIDTHS = {"conv1a": (3, 64), "conv2a": (64, 128), "conv3a": (128, 256), "conv3b": (256, 256),
          "conv4a": (256, 512), "conv4b": (512, 512), "conv5a": (512, 512), "conv5b": (512, 512)}  # fmt: skip
POOLED = ("conv1a", "conv2a", "conv3b", "conv4b", "conv5b")
WANTED = Wanted(
    file="conv3d_deepnetA_ucf.npz",
    source="and mean2.npz, from release v1.0 of rezoo/tgan2 on GitHub, made one file by tools/convert_detector.py",
)


class C3DNetwork(nn.Module):
    """(b, 3, 16, 112, 112), BGR in [0, 255] -> fc7 (b, 4096) and logits (b, 101)."""

    def __init__(self, classes: int = 101):
        super().__init__()
        for name, (inputs, outputs) in WIDTHS.items():
            self.add_module(name, nn.Conv3d(inputs, outputs, 3, padding=1))
        self.fc6, self.fc7, self.fc8 = nn.Linear(512 * 4 * 4, 4096), nn.Linear(4096, 4096), nn.Linear(4096, classes)
        self.register_buffer("mean", torch.zeros(3, 16, 112, 112))  # of BGR

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        x = x - self.mean
        for name in WIDTHS:
            x = F.relu(getattr(self, name)(x))
            if name in POOLED:
                # 7 x 7 become 4 x 4: the last window hangs over the border, where there is nothing (Chainer's cover_all).
                x = F.max_pool3d(x, (1 if name == "conv1a" else 2, 2, 2), ceil_mode=True)
        fc7 = F.relu(self.fc7(F.relu(self.fc6(x.flatten(1)))))
        return fc7, self.fc8(fc7)


class C3D(VideoDetector):
    """`output`: "logits" for the inception score, "fc7" for distances. Clips of exactly 16 frames."""

    name = "C3D UCF-101"
    least_frames = 16

    def __init__(self, weights: str | Path | None = None, output: Literal["logits", "fc7"] = "logits"):
        super().__init__()
        self.output = output
        if output not in ("logits", "fc7"):
            raise ValueError(f"C3D gives 'logits' or 'fc7', not {output!r}")
        self.resize = Resize(height=112, width=112, convention=AlignCorners())
        path = WANTED.find(weights)
        self.network = C3DNetwork()
        self.weights = load_weights(self.network, path)
        self.eval()

    @property
    def dim(self) -> int:
        return 101 if self.output == "logits" else 4096

    def preprocessing(self) -> dict:
        return {"resize": spec_of(self.resize), "channels": "BGR", "minus": "mean clip"}

    def features(self, clips: Tensor) -> Tensor:
        if clips.shape[1] != 16:
            raise ValueError(f"{self.name} reads 16 frames, the clips have {clips.shape[1]}: take a rule of 16")
        fc7, logits = self.network(self.resize(clips).movedim(-1, 1).flip(1))
        return logits if self.output == "logits" else fc7

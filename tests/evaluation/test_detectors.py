"""Detectors: what is theirs by name, shape and count; their arithmetic against references; how weights are found."""

import importlib.util
import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import nn

from videopoet.cli import main
from videopoet.evaluation.detectors import c3d, i3d, inception, sound, vjepa
from videopoet.evaluation.detectors.base import Identity, ImageDetector, VideoDetector, build_detector
from videopoet.evaluation.detectors.surrogates import RandomConv3d
from videopoet.evaluation.detectors.weights import FOLDER, TRUSTED, Wanted, load_weights
from videopoet.evaluation.selftest import GOLDENS

ROOT = Path(__file__).parents[2]


def tool(name: str):
    spec = importlib.util.spec_from_file_location(name, ROOT / f"tools/{name}.py")
    module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def scrambled(network: nn.Module, seed: int = 0) -> dict[str, torch.Tensor]:
    """Random weights whose activations stay near 1, running statistics included."""
    generator, state = torch.Generator().manual_seed(seed), {}
    for name, tensor in network.state_dict().items():
        noise = torch.randn(tensor.shape, generator=generator)
        if tensor.ndim > 1:
            state[name] = noise * (2 / tensor[0].numel()) ** 0.5
        elif name.endswith(("running_var", "bn.weight")):
            state[name] = 1 + 0.2 * noise.abs()
        elif tensor.ndim == 1:
            state[name] = 0.1 * noise
    return state


@pytest.fixture(scope="module")
def i3d_state() -> dict[str, torch.Tensor]:
    return scrambled(i3d.InceptionI3d())


@pytest.fixture(scope="module")
def i3d_file(i3d_state, tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("i3d") / "i3d.safetensors"
    save_file(i3d_state, path)
    return path


class TestI3D:
    def test_names_and_number_of_parameters_are_the_published_ones(self, i3d_state):
        network = i3d.InceptionI3d()
        assert sum(p.numel() for p in network.parameters()) == 12_697_264
        assert len(network.state_dict()) == 344
        for name, shape in {
            "Conv3d_1a_7x7.conv3d.weight": (64, 3, 7, 7, 7),
            "Mixed_3b.b1b.bn.running_var": (128,),
            "Mixed_4e.b2a.conv3d.weight": (32, 512, 1, 1, 1),
            "Mixed_5c.b3b.conv3d.weight": (128, 832, 1, 1, 1),
            "logits.conv3d.bias": (400,),
        }.items():
            assert i3d_state[name].shape == shape

    @pytest.mark.parametrize("n", range(5, 12))
    @pytest.mark.parametrize(("kernel", "stride"), [(7, 2), (3, 2), (3, 1), (2, 2), (1, 1), (1, 2)])
    def test_padding_is_tensorflows_same(self, n, kernel, stride):
        """Output is ceil(n / stride); padding is the least that allows it, the smaller half in front."""
        x = torch.arange(1.0, n + 1).view(1, 1, n, 1, 1)
        outputs = -(-n // stride)
        total = max((outputs - 1) * stride + kernel - n, 0)
        padded = i3d.padded(x, (kernel, 1, 1), (stride, 1, 1))
        assert padded.flatten().tolist() == [0.0] * (total // 2) + x.flatten().tolist() + [0.0] * (total - total // 2)

    def test_nine_frames_are_enough_and_eight_are_not(self, i3d_file):
        detector = i3d.I3D(i3d_file)
        with pytest.raises(ValueError, match="needs 9 frames, the clips have 8"):
            detector(np.zeros((1, 8, 4, 4, 3), np.uint8))
        with torch.inference_mode():
            pooled, logits = detector.network(torch.zeros(1, 3, 9, 64, 64))
            assert pooled.shape == (1, 1024) and logits.shape == (1, 400)
            assert torch.allclose(logits, F.linear(pooled, detector.network.logits.conv3d.weight.flatten(1),
                                                   detector.network.logits.conv3d.bias), atol=1e-5)  # fmt: skip
            with pytest.raises(RuntimeError):
                detector.network(torch.zeros(1, 3, 8, 64, 64))

    def test_pixels_reach_the_network_resized_and_in_range(self, i3d_file, monkeypatch):
        detector, seen = i3d.I3D(i3d_file), []
        monkeypatch.setattr(detector.network, "forward", lambda x: seen.append(x) or (x[:, 0, 0, :1], x[:, 0, 0, :1]))
        clip = np.zeros((2, 9, 4, 4, 3), np.uint8)
        clip[1, 3, :, :2, 2] = 255
        detector(clip)
        x = seen[0]
        assert x.shape == (2, 3, 9, 224, 224)
        assert x.min() == -1 and x.max() == 1
        lit = (x[1, 2, 3] > -1).any(0).nonzero().flatten()
        assert (lit.min(), lit.max()) == (0, 111)  # TF1: columns 0 to 111 look at input columns below 2
        assert (x[0] == -1).all() and (x[1, :2] == -1).all()

    def test_every_public_form_gives_the_same_tensors(self, i3d_state, tmp_path):
        convert = tool("convert_i3d")
        theirs = {name: self.as_hassony(name) for name in i3d_state}
        assert theirs["Mixed_3b.b2a.bn.weight"] == "mixed_3b.branch_2.0.batch3d.weight"
        assert theirs["logits.conv3d.bias"] == "conv3d_0c_1x1.conv3d.bias"
        forms = [
            i3d_state | {"Mixed_3b.b0.bn.num_batches_tracked": torch.tensor(3)},
            {f"module.{name}": t for name, t in i3d_state.items()},
            {theirs[name]: t for name, t in i3d_state.items()},
            {f"end_points.{name.replace('.b', '.branch', 1) if name.startswith('Mixed') else name}": t
             for name, t in i3d_state.items()},
        ]  # fmt: skip
        for form in forms:
            made = convert.converted(form)
            assert made.keys() == i3d_state.keys()
            assert all(torch.equal(made[name], t) for name, t in i3d_state.items())
        lacking = dict(i3d_state)
        del lacking["Mixed_4b.b0.bn.bias"]
        with pytest.raises(ValueError, match=r"1 tensors of I3D missing: Mixed_4b\.b0\.bn\.bias"):
            convert.converted(lacking)

    @staticmethod
    def as_hassony(name: str) -> str:
        name = name.replace(".bn.", ".batch3d.").replace("logits.", "conv3d_0c_1x1.")
        for ours, theirs in (("b0", "branch_0"), ("b1a", "branch_1.0"), ("b1b", "branch_1.1"), ("b2a", "branch_2.0"),
                             ("b2b", "branch_2.1"), ("b3b", "branch_3.1")):  # fmt: skip
            name = name.replace(f".{ours}.", f".{theirs}.")
        return name[0].lower() + name[1:]

    def test_torchscript_is_a_program_and_is_checked_by_running_it(self, i3d_state, i3d_file, tmp_path):
        """The StyleGAN-V form on made-up weights: needs leave, converts by order, and is refused if it does other things."""
        convert = tool("convert_i3d")
        network = convert.network_of(i3d_state)

        class Program(nn.Module):
            def __init__(self, inner, gain: float):
                super().__init__()
                self.inner, self.gain = inner, gain

            def forward(self, x, rescale: bool = True, resize: bool = True, return_features: bool = False):
                return self.inner(x)[1] * self.gain

        traced = torch.jit.trace(network, convert.clip(64), check_trace=False)
        for gain, name in ((1.0, "same.pt"), (1.01, "other.pt")):
            torch.jit.script(Program(traced, gain)).save(str(tmp_path / name))
        with pytest.raises(ValueError, match="is TorchScript, a program"):
            convert.read(tmp_path / "same.pt", allow_torchscript=False)
        made = convert.read(tmp_path / "same.pt", allow_torchscript=True, side=64)
        assert all(torch.equal(made[name], t) for name, t in i3d_state.items())
        with pytest.raises(ValueError, match=r"differ by 9\.9e-03"):
            convert.read(tmp_path / "other.pt", allow_torchscript=True, side=64)
        assert not convert.is_torchscript(i3d_file)

    def test_folded_norms_are_the_same_network(self, i3d_state):
        convert = tool("convert_i3d")
        folded = {}
        for name in [n for n in i3d_state if n.endswith("conv3d.weight")]:
            unit = name.removesuffix(".conv3d.weight")
            if unit == "logits":
                folded |= {name: i3d_state[name], "logits.conv3d.bias": i3d_state["logits.conv3d.bias"]}
                continue
            weight, bias, mean, variance = (i3d_state[f"{unit}.bn.{p}"] for p in
                                            ("weight", "bias", "running_mean", "running_var"))  # fmt: skip
            gain = weight / (variance + 1e-3).sqrt()
            folded |= {name: i3d_state[name] * gain.view(-1, 1, 1, 1, 1), f"{unit}.bias": bias - mean * gain}
        clip = convert.clip(64)
        with torch.inference_mode():
            a, b = (convert.network_of(s)(clip)[1] for s in (convert.in_order(folded), i3d_state))
        assert convert.difference(a, b) < 1e-4
        with pytest.raises(ValueError, match="no I3D in a known order"):
            convert.in_order(dict(reversed(folded.items())))


class TestInception:
    @pytest.mark.parametrize(("classes", "parameters"), [(1000, 23_834_568), (1008, 23_850_960)])
    def test_names_and_number_of_parameters_are_the_published_ones(self, classes, parameters):
        with torch.device("meta"):
            network = inception.Inception3(classes=classes)
        assert sum(p.numel() for p in network.parameters()) == parameters
        state = network.state_dict()
        assert sum(name.endswith("conv.weight") for name in state) == 94
        for name, shape in {
            "Conv2d_4a_3x3.conv.weight": (192, 80, 3, 3),
            "Mixed_5b.branch3x3dbl_3.bn.running_mean": (96,),
            "Mixed_6c.branch7x7dbl_4.conv.weight": (160, 160, 7, 1),
            "Mixed_7a.branch7x7x3_2.conv.weight": (192, 192, 1, 7),
            "Mixed_7c.branch3x3dbl_3a.conv.weight": (384, 384, 1, 3),
            "fc.weight": (classes, 2048),
        }.items():
            assert state[name].shape == shape

    def test_map_sizes_and_the_two_forms(self):
        """35, 17 and 8 pixels wide at 299; the forms differ in their borders and their last pool only."""
        torch.manual_seed(0)
        sizes, made = {}, {}
        for name, options in {"fid": {}, "torchvision": {"counts_border": True, "last_pool": "average"}}.items():
            network = inception.Inception3(classes=10, **options).eval()
            network.load_state_dict(scrambled(network), strict=False)
            for block in ("Mixed_5d", "Mixed_6e", "Mixed_7c"):
                getattr(network, block).register_forward_hook(
                    lambda _, __, y, b=block: sizes.update({b: tuple(y.shape[1:])})
                )
            with torch.inference_mode():
                made[name] = network(torch.rand(1, 3, 299, 299, generator=torch.Generator().manual_seed(0)))
        assert sizes == {"Mixed_5d": (288, 35, 35), "Mixed_6e": (768, 17, 17), "Mixed_7c": (2048, 8, 8)}
        assert [tuple(x.shape) for x in made["fid"]] == [(1, 2048), (1, 10), (1, 7 * 17 * 17)]
        assert not torch.allclose(made["fid"][0], made["torchvision"][0], rtol=1e-2)

    def test_border_pixels_are_averaged_over_real_ones(self):
        x = torch.ones(1, 1, 4, 4)
        assert (inception.Block(counts_border=False).pool(x) == 1).all()
        assert inception.Block(counts_border=True).pool(x)[0, 0, 0, 0] == pytest.approx(4 / 9)

    @pytest.mark.parametrize(("cls", "low", "high"), [(inception.FidInception, -1, 127 / 128),
                                                     (inception.TorchvisionInception, -1, 1)])  # fmt: skip
    def test_input_and_outputs(self, cls, low, high, tmp_path, monkeypatch):
        (tmp_path / "w.safetensors").write_bytes(b"")
        monkeypatch.setattr(inception, "load_weights", lambda network, path, keep=None: {path.name: "0"})
        seen = []

        def forward(network, x):
            seen.append(x)
            pooled = torch.ones(len(x), 2048)
            return pooled, network.fc(pooled), torch.zeros(len(x), 2023)

        monkeypatch.setattr(inception.Inception3, "forward", forward)
        black_and_white = np.stack([np.zeros((1, 9, 9, 3), np.uint8), np.full((1, 9, 9, 3), 255, np.uint8)])
        made = {}
        for output in ("pool", "logits", "unbiased_logits", "spatial"):
            detector = cls(tmp_path / "w.safetensors", output=output)
            detector.network.fc.load_state_dict(
                {"weight": detector.network.fc.weight * 0, "bias": detector.network.fc.bias * 0 + 2}
            )
            made[output] = detector(black_and_white)
            assert made[output].shape == (2, detector.dim)
        assert seen[0].shape == (2, 3, 299, 299)
        assert float(seen[0][0].max()) == pytest.approx(low) and float(seen[0][1].min()) == pytest.approx(high)
        assert (made["logits"] == 2).all() and (made["unbiased_logits"] == 0).all()
        with pytest.raises(ValueError, match=r"clips of 1 frame, got 2"):
            detector(np.zeros((1, 2, 9, 9, 3), np.uint8))

    def test_the_converter_drops_what_is_not_used_and_nothing_else(self, tmp_path):
        convert = tool("convert_detector")
        state = scrambled(inception.Inception3(classes=1000))
        theirs = state | {
            "AuxLogits.fc.bias": torch.zeros(1000),
            "Conv2d_1a_3x3.bn.num_batches_tracked": torch.tensor(0),
        }
        torch.save(theirs, tmp_path / "tv.pth")
        convert.run(convert.parser().parse_args(
            ["torchvision-inception", str(tmp_path / "tv.pth"), "--out", str(tmp_path / "tv.safetensors")]))  # fmt: skip
        detector = inception.TorchvisionInception(tmp_path / "tv.safetensors")
        assert torch.equal(detector.network.state_dict()["Mixed_7c.branch1x1.bn.running_var"],
                           state["Mixed_7c.branch1x1.bn.running_var"])  # fmt: skip
        with pytest.raises(ValueError, match=r"tensors of a shape that does not fit: fc\.weight"):
            convert.checked(theirs, convert.Kind(network=inception.Inception3, unused=("AuxLogits.",)))
        with pytest.raises(ValueError, match="1 tensors that the network has not: extra"):
            convert.checked(theirs | {"extra": torch.zeros(1)}, convert.KINDS["torchvision-inception"])


class TestC3D:
    def test_number_of_parameters(self):
        with torch.device("meta"):
            network = c3d.C3DNetwork()
        assert sum(p.numel() for p in network.parameters()) == 78_409_573  # 101 classes
        assert network.fc6.weight.shape == (4096, 8192) and network.mean.shape == (3, 16, 112, 112)

    def test_the_last_window_hangs_over_the_border(self):
        assert F.max_pool3d(torch.zeros(1, 1, 2, 7, 7), (2, 2, 2), ceil_mode=True).shape == (1, 1, 1, 4, 4)

    def test_input_is_bgr_around_the_mean_clip(self, tmp_path, monkeypatch):
        (tmp_path / "w.safetensors").write_bytes(b"")
        monkeypatch.setattr(c3d, "load_weights", lambda network, path: {path.name: "0"})
        with torch.device("meta"):
            empty = c3d.C3DNetwork()
        monkeypatch.setattr(c3d, "C3DNetwork", lambda: empty)
        detector, seen = c3d.C3D(tmp_path / "w.safetensors"), []
        monkeypatch.setattr(type(detector), "device", torch.device("cpu"))
        monkeypatch.setattr(
            detector.network, "forward", lambda x: seen.append(x) or (x[:, 0, 0, 0, :1], x[:, 0, 0, 0, :1])
        )
        clip = np.zeros((1, 16, 5, 7, 3), np.uint8)
        clip[..., 0], clip[..., 2] = 200, 50  # red, blue
        detector(clip)
        assert seen[0].shape == (1, 3, 16, 112, 112)
        assert [float(seen[0][0, c].mean()) for c in range(3)] == pytest.approx([50, 0, 200])
        with pytest.raises(ValueError, match="reads 16 frames, the clips have 17"):
            detector(np.zeros((1, 17, 5, 7, 3), np.uint8))

    def test_the_mean_clip_is_cut_as_published(self, tmp_path):
        convert = tool("convert_detector")
        rows, columns = np.mgrid[:128, :171]
        clip = np.broadcast_to((1000 * rows + columns).astype("f"), (3, 16, 128, 171))
        np.savez(tmp_path / "mean2.npz", mean=clip)
        np.savez(tmp_path / "c3d.npz", **{"conv1a/W": np.zeros((64, 3, 3, 3, 3), "f"), "conv1a/b": np.zeros(64, "f")})
        state = convert.read_c3d(tmp_path / "c3d.npz", tmp_path / "mean2.npz")
        assert state["conv1a.weight"].shape == (64, 3, 3, 3, 3)
        assert state["mean"].shape == (3, 16, 112, 112)
        assert state["mean"][0, 0, 0, 0] == 8008 and state["mean"][2, 15, -1, -1] == 119_119
        with pytest.raises(ValueError, match="of the network missing"):
            convert.checked(state, convert.KINDS["c3d"])
        with pytest.raises(ValueError, match="needs the mean clip"):
            convert.read_c3d(tmp_path / "c3d.npz", None)


class Bright(ImageDetector):
    name, output, weights = "Bright", "mean", {}
    dim = 3

    def preprocessing(self):
        return {}

    def picture_features(self, pictures):
        assert not torch.is_grad_enabled()
        return pictures.double().mean((1, 2))


class TestAnyDetector:
    def test_other_inputs_are_refused(self):
        detector = Bright()
        good = np.full((2, 1, 4, 4, 3), 9, np.uint8)
        assert detector(good).tolist() == [[9, 9, 9]] * 2 and detector(good).dtype == torch.float32
        assert detector(good[:, :, ::-1].astype("f")).shape == (2, 3)
        for bad, message in (
            (good[0], "clips are"),
            (good[..., :2], "clips are"),
            (good.astype("f") / 255, "float clips are in"),
            (good.astype("f") - 20, "float clips are in"),
            (good.astype(np.int64), "not torch.int64"),
        ):
            with pytest.raises(ValueError, match=message):
                detector(bad)

    def test_16_bits_around_it_do_not_reach_it(self):
        detector = RandomConv3d()
        clip = np.random.default_rng(0).integers(0, 256, (2, 9, 40, 40, 3), np.uint8)
        plain = detector(clip)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            assert torch.equal(detector(clip), plain)
        assert not detector.train().training

    def test_identity_changes_with_what_determines_features_and_with_nothing_else(self):
        base = {"name": "N", "output": "o", "dim": 3, "weights": {"a.pt": "12"}, "preprocessing": {"x": 1}}
        key = Identity(**base).key
        assert key == Identity(**base | {"weights": {"b.pt": "12"}}).key and len(key) == 16
        for change in ({"name": "M"}, {"output": "p"}, {"dim": 4}, {"weights": {"a.pt": "13"}}, {"preprocessing": {"x": 2}},
                       {"surrogate": True}):  # fmt: skip
            assert Identity(**base | change).key != key
        assert Identity(**base).metric("FVD") == "FVD"
        assert Identity(**base, surrogate=True).metric("FVD") == "FVD(N, surrogate)"
        assert RandomConv3d(0).identity().key != RandomConv3d(1).identity().key

    def test_a_yaml_names_one(self):
        made = build_detector(
            {"class_path": "videopoet.evaluation.detectors.surrogates.RandomConv3d", "init_args": {"seed": 3}}
        )
        assert isinstance(made, VideoDetector) and made.name == "RandomConv3d seed 3"
        for path, message in (
            ("os.system", "refusing to build"),
            ("videopoet.evaluation.resize.Stretch", "is no detector"),
        ):
            with pytest.raises(ValueError, match=message):
                build_detector({"class_path": path})

    def test_resize_can_be_written_in_a_yaml(self, i3d_file):
        resize = {"class_path": "videopoet.evaluation.resize.Resize",
                  "init_args": {"height": 224, "width": 224, "via": [64, 64],
                                "convention": {"class_path": "videopoet.evaluation.resize.TorchBilinear"}}}  # fmt: skip
        spec = {"class_path": "videopoet.evaluation.detectors.i3d.I3D", "init_args": {"weights": str(i3d_file)}}
        plain = build_detector(spec)
        other = build_detector(spec | {"init_args": spec["init_args"] | {"resize": resize}})
        assert plain.identity().weights == other.identity().weights
        assert plain.identity().key != other.identity().key


class TestWeights:
    @pytest.mark.parametrize(
        ("make", "file"),
        [
            (i3d.I3D, "i3d_pretrained_400.pt"),
            (c3d.C3D, "conv3d_deepnetA_ucf.npz"),
            (inception.FidInception, r"pt_inception-2015-12-05-6726825d.pth \(sha256 6726825d...\)"),
            (inception.TorchvisionInception, "inception_v3_google-0cc3c7bd.pth"),
            (sound.VGGish, "vggish-10086976.pth"),
            (sound.PANN, "Cnn14_16k_mAP=0.438.pth"),
            (vjepa.VJEPA, r"vith16\.pth\.tar, and ssv2-probe\.pth\.tar"),
        ],
    )
    def test_missing_weights_name_the_exact_file(self, make, file, monkeypatch, tmp_path):
        monkeypatch.delenv(FOLDER, raising=False)
        with pytest.raises(ValueError, match=f"no file was named: get {file}"):
            make()
        monkeypatch.setenv(FOLDER, str(tmp_path))
        with pytest.raises(ValueError, match=f"is not there: get {file}"):
            make()
        with pytest.raises(ValueError, match=r"absent\.pt is not there"):
            make(tmp_path / "absent.pt")

    def test_a_folder_of_weights_and_a_wrong_file(self, monkeypatch, tmp_path):
        wanted = Wanted(file="net-12345678.pth", source="from nowhere", sha256="12345678")
        monkeypatch.setenv(FOLDER, str(tmp_path))
        (tmp_path / "net-12345678.pth").write_bytes(b"damaged")
        with pytest.raises(ValueError, match=r"has 12345678\.\.\.: get it anew"):
            wanted.find(None)
        (tmp_path / "net-12345678.safetensors").write_bytes(b"converted")
        assert wanted.find(None).suffix == ".safetensors"

    def test_a_file_of_the_folder_is_trusted_as_it_was_first_used(self, monkeypatch, tmp_path):
        path, module = tmp_path / "net.safetensors", nn.Linear(2, 1)
        save_file({name: tensor.clone() for name, tensor in module.state_dict().items()}, path)
        assert load_weights(module, path) and not (tmp_path / TRUSTED).exists(), "only files of the folder are noted"
        monkeypatch.setenv(FOLDER, str(tmp_path))
        assert load_weights(module, path) == load_weights(module, path) == json.loads((tmp_path / TRUSTED).read_text())
        save_file({name: 1 + tensor for name, tensor in module.state_dict().items()}, path)
        with pytest.raises(ValueError, match=r"when it was first used it had [0-9a-f]{16}.*take its line out of"):
            load_weights(module, path)

    def test_a_pickle_is_not_run(self, tmp_path):
        class Hostile:
            def __reduce__(self):
                return (Path(tmp_path / "ran").touch, ())

        torch.save({"state_dict": Hostile()}, tmp_path / "hostile.pt")
        with pytest.raises(ValueError, match="cannot be read as tensors alone"):
            i3d.I3D(tmp_path / "hostile.pt")
        assert not (tmp_path / "ran").exists()


def test_the_selftest_tells_other_weights_from_the_published(i3d_file, capsys):
    with pytest.raises(SystemExit, match="2"):
        main(["evaluate", "selftest", "--weights", f"i3d={i3d_file}"])
    said = capsys.readouterr()
    assert "151.26" in said.out and "131" in said.out and "not the published values" in said.err
    with pytest.raises(SystemExit, match="2"):
        main(["evaluate", "selftest", "--weights", "c3d=x"])
    assert "no published value is known for 'c3d'" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize("golden", GOLDENS, ids=lambda golden: golden.title)
def test_published_values_with_real_weights(golden):
    try:
        detector = i3d.I3D()
    except ValueError as error:
        pytest.skip(str(error))
    assert golden.measure(detector) == pytest.approx(golden.value, rel=golden.tolerance)

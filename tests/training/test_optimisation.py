"""Rates per width: at one learning rate, what a step changes is as large at every width."""

import copy
from statistics import geometric_mean

import pytest
import torch
from conftest import FACTORED, FLAT, VOCABULARY, lm_spec
from torch.nn.functional import mse_loss

from videopoet import component
from videopoet.models.token_lm import TokenLM
from videopoet.sequence import Batch, Segment, Sequence
from videopoet.training.optimisation import OneRate, PerWidth, heads, weights_of
from videopoet.vocabulary import Control, Modality

STARTS = [0, VOCABULARY.visual_start, *(VOCABULARY.audio(k).start for k in range(VOCABULARY.audio_levels))]
UNTIED = copy.deepcopy(FLAT)
UNTIED["init_args"]["tied"] = False
INDEPENDENT = copy.deepcopy(FACTORED)
INDEPENDENT["class_path"] = "videopoet.models.token_io.IndependentFactors"


def model(io: dict, width: int, text_model: str, seed: int = 0) -> TokenLM:
    torch.manual_seed(seed)
    spec = lm_spec(text_model, copy.deepcopy(io))["init_args"]
    spec["transformer"]["init_args"] |= {"width": width, "heads": width // 16}
    spec["io"]["init_args"]["width"] = width
    return component.instantiate(lm_spec(text_model) | {"init_args": spec})


def batch() -> Batch:
    g = torch.Generator().manual_seed(1)
    first = Segment.marker(Control.BOS)
    return Batch.of(
        [Sequence.of([first, Segment.generated(torch.randint(256, 320, (12,), generator=g), Modality.VISUAL)])] * 2
    )


def change(io: dict, width: int, rates, text_model: str, seed: int) -> tuple[float, float]:
    """How far three steps move what the blocks make and what the first head makes of it, root mean square."""
    lm, data = model(io, width, text_model, seed), batch()
    optimizer = torch.optim.AdamW(rates.groups(lm, 1e-2, 0.05), 1e-2)

    @torch.no_grad()
    def made() -> tuple[torch.Tensor, torch.Tensor]:
        seen = []
        hook = lm.transformer.norm.register_forward_hook(lambda module, given, out: seen.append((given[0], out)))
        lm.hidden(data)
        hook.remove()
        return seen[0][0], seen[0][1] @ heads(lm.io)[0].T

    before = made()
    for _ in range(3):
        optimizer.zero_grad()
        lm.loss(data).total.backward()
        optimizer.step()
    stream, logits = (mse_loss(b, a).sqrt().item() for a, b in zip(before, made()))
    return stream, logits


def growth(io: dict, rates, text_model: str) -> list[float]:
    """By what factor either moves further at width 256 than at 32, the geometric mean over three beginnings."""
    factors = [
        [far / near for near, far in zip(*(change(io, width, rates, text_model, seed) for width in (32, 256)))]
        for seed in range(3)
    ]
    return [geometric_mean(each) for each in zip(*factors)]


@pytest.mark.parametrize("io", [FLAT, UNTIED, FACTORED, INDEPENDENT], ids=["tied", "untied", "factored", "independent"])
def test_what_the_blocks_make_moves_as_far_at_every_width(io, text_model):
    scaled, alike = growth(io, PerWidth(base_width=32), text_model), growth(io, OneRate(), text_model)
    assert alike[0] > 2, ("one rate for all moves a wider model further", alike)
    assert 0.4 < scaled[0] < 2.5 and scaled[0] < alike[0], (scaled, alike)


@pytest.mark.parametrize("io", [FLAT, UNTIED], ids=["tied", "untied"])
def test_logits_move_as_far_at_every_width(io, text_model):
    """Of heads with a fixed scale; one that begins at 1 / sqrt(width) has logits that move by its square root more."""
    scaled, alike = growth(io, PerWidth(base_width=32), text_model), growth(io, OneRate(), text_model)
    assert alike[1] > 2 and 0.4 < scaled[1] < 1.8, (scaled, alike)


@pytest.mark.parametrize("io", [FLAT, UNTIED, FACTORED, INDEPENDENT], ids=["tied", "untied", "factored", "independent"])
@pytest.mark.parametrize("rates", [OneRate(), PerWidth(base_width=64)])
def test_every_weight_is_in_one_group_and_decays_alike(io, rates, text_model):
    lm = model(io, 32, text_model)
    groups = rates.groups(lm, 2e-3, 0.1)
    placed = [id(weight) for group in groups for weight in group["params"]]
    assert sorted(placed) == sorted(id(weight) for weight in lm.parameters())
    for group in groups:
        decays = {weight.ndim >= 2 for weight in group["params"]}
        assert len(decays) == 1 and group["lr"] * group["weight_decay"] == pytest.approx(2e-4 * decays.pop())


def test_fan_in_of_each_kind_of_weight(text_model):
    known = {name: fan_in for name, _, fan_in in weights_of(model(FLAT, 32, text_model))}
    assert known["transformer.blocks.0.attention.qkv.weight"] == 32
    assert known["transformer.blocks.0.mlp.out.weight"] == 96
    assert known["transformer.norm.weight"] is None and known["modality.weight"] is None
    assert known["io.table.weight"] == 32, "a tied table is read as the head"
    untied = {name: fan_in for name, _, fan_in in weights_of(model(UNTIED, 32, text_model))}
    assert untied["io.table.weight"] is None and untied["io.head"] == 32
    groups = PerWidth(base_width=8).groups(model(UNTIED, 32, text_model), 1.0, 0.0)
    assert {group["lr"] for group in groups} >= {1.0, 0.25, 8 / 96}


def test_one_rate_keeps_the_groups_that_checkpoints_have(text_model):
    lm = model(FLAT, 32, text_model)
    groups = OneRate().groups(lm, 1e-3, 0.05)
    assert [group["weight_decay"] for group in groups] == [0.05, 0.0]
    for group, matrices in zip(groups, (True, False)):
        expected = [p for p in lm.parameters() if (p.ndim >= 2) == matrices]
        assert all(a is b for a, b in zip(group["params"], expected, strict=True))


def test_a_width_that_is_none_is_refused():
    with pytest.raises(ValueError, match="base_width is 0"):
        PerWidth(base_width=0)

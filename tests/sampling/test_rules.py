"""Drawing: chance per row, schedules, guidance over several conditions, and nothing that waits for the device."""

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from videopoet.sampling.rules import Draw, Guidance, Place, Temperature, TopK, TopP, pick, uniforms
from videopoet.sampling.schedules import Cosine, Linear
from videopoet.vocabulary import Modality

LOGITS = torch.tensor([[2.0, 1.0, 0.0, -1.0, -torch.inf]])
SHARES = LOGITS.softmax(-1)[0]


def drawn(draw: Draw, logits=LOGITS, tokens=1, rows=4000, index=0):
    chance = uniforms(range(rows), tokens)
    return draw(logits.expand(draw.copies * rows, -1), Place(index, tokens, chance[index]))[:rows]


def test_draws_follow_the_probabilities():
    share = torch.bincount(drawn(Draw()), minlength=5) / 4000
    assert (share - SHARES).abs().max() < 0.02
    other = torch.bincount(drawn(Draw(), tokens=3, index=2), minlength=5) / 4000
    assert (other - SHARES).abs().max() < 0.02 and not torch.equal(share, other)


@pytest.mark.parametrize("uniform", [0.0, 0.3, 1 - 2**-32])
def test_nothing_impossible_is_picked(uniform):
    logits = torch.full((1, 2**18), -torch.inf)
    logits[0, 1000:200_000] = torch.randn(199_000, generator=torch.Generator().manual_seed(0))
    picked = int(pick(logits, torch.tensor([uniform], dtype=torch.float64)))
    assert 1000 <= picked < 200_000


def test_picking_splits_the_unit_interval_by_probability():
    edges = torch.tensor([0.5, 0.3, 0.2]).log()[None].expand(6, -1)
    uniform = torch.tensor([0.0, 0.49, 0.51, 0.79, 0.81, 0.999], dtype=torch.float64)
    assert pick(edges, uniform).tolist() == [0, 0, 1, 1, 2, 2]


def test_chance_depends_on_the_seed_of_the_row_alone():
    together, alone, longer = uniforms([3, 9], 5), uniforms([9], 5), uniforms([9], 50)
    for a, b, c in zip(together, alone, longer):
        for x, y, z in zip(a, b, c):
            assert torch.equal(x[1:], y) and torch.equal(y, z) and 0 <= float(x[0]) < 1 and x[0] != x[1]
    assert not torch.equal(next(uniforms([0], 1)[0]), next(uniforms([2**40], 1)[0])), "all bits of a seed count"
    with pytest.raises(ValueError, match="seed is -1"):
        uniforms([-1], 1)


@pytest.mark.parametrize("schedule", [Linear, Cosine])
def test_a_constant_schedule_is_the_plain_value(schedule):
    for plain, scheduled in (
        (Temperature(value=0.7), Temperature(value=schedule(start=0.7, end=0.7))),
        (TopK(k=2), TopK(k=schedule(start=2, end=2))),
        (TopP(p=0.8), TopP(p=schedule(start=0.8, end=0.8))),
    ):
        for index in (0, 3, 9):
            assert torch.equal(plain(LOGITS, Place(index, 10)), scheduled(LOGITS, Place(index, 10)))


@pytest.mark.parametrize("schedule", [Linear, Cosine])
def test_schedules_go_from_start_to_end(schedule):
    whole = [schedule(start=1.0, end=0.5)(i, 11) for i in range(11)]
    assert (whole[0], whole[5], whole[-1]) == (1.0, pytest.approx(0.75), pytest.approx(0.5))
    assert whole == sorted(whole, reverse=True) and len(set(whole)) == 11
    some = schedule(start=1.0, end=0.5, tokens=5)
    assert [some(i, 7) for i in (0, 5, 6)] == [1.0, 0.5, 0.5]
    assert [some(i, 7) for i in range(7)] == [some(i, 700) for i in range(7)], "no matter how long the sample is"
    assert schedule(start=1.0, end=0.5)(0, 1) == 1.0
    with pytest.raises(ValueError, match="over 0 tokens"):
        schedule(start=1.0, end=0.5, tokens=0)


def test_schedules_are_checked_at_both_ends():
    for bad in (
        lambda: Temperature(value=Linear(start=1, end=0)),
        lambda: TopK(k=Linear(start=0, end=5)),
        lambda: TopP(p=Linear(start=0.5, end=1.5)),
        lambda: Guidance(text=Linear(start=2, end=-1)),
    ):
        with pytest.raises(ValueError, match="must be"):
            bad()


def test_a_scheduled_value_is_used_where_it_stands():
    warm, cold = (Temperature(value=Linear(start=2.0, end=0.5))(LOGITS, Place(i, 4)) for i in (0, 3))
    assert torch.equal(warm, LOGITS / 2) and torch.equal(cold, LOGITS / 0.5)
    widths = [int(torch.isfinite(TopK(k=Linear(start=4, end=1))(LOGITS, Place(i, 4))).sum()) for i in range(4)]
    assert widths == [4, 3, 2, 1]


def rows_of(*conditions: str) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(len(conditions), 3, 8, generator=generator)


def test_one_condition_is_ordinary_guidance():
    full, lacking = rows_of("text", "-")
    for modality in ("text", "visual", "audio"):
        guided = Guidance(**{modality: 3.0})(torch.cat([full, lacking]), Place())
        torch.testing.assert_close(guided, lacking + 3.0 * (full - lacking))


def test_conditions_are_chained_in_the_stated_order():
    full, no_text, no_audio, nothing = rows_of("text audio visual", "audio visual", "visual", "-")
    guidance = Guidance(text=4.0, audio=3.0, visual=2.0)
    assert guidance.guided == (Modality.TEXT, Modality.AUDIO, Modality.VISUAL)
    expected = nothing + 2 * (no_audio - nothing) + 3 * (no_text - no_audio) + 4 * (full - no_text)
    torch.testing.assert_close(guidance(torch.cat([full, no_text, no_audio, nothing]), Place()), expected)
    same = Guidance(text=2.0, audio=2.0, visual=2.0)(torch.cat([full, no_text, no_audio, nothing]), Place())
    torch.testing.assert_close(same, nothing + 2 * (full - nothing), atol=1e-5, rtol=1e-4)


def test_scale_one_is_none_and_needs_no_further_rows():
    assert Draw(guidance=Guidance()).copies == Draw().copies == 1
    assert Draw(guidance=Guidance(text=2.0, visual=1.0)).copies == 2
    full, lacking = rows_of("text", "-")
    ones = Guidance(text=Linear(start=1.0, end=1.0))
    torch.testing.assert_close(ones(torch.cat([full, lacking]), Place()), full)
    assert torch.equal(Guidance()(full, Place()), full)


def test_what_is_not_said_another_says():
    said = Guidance(text=2.0, audio=1.0).over(Guidance(text=5.0, audio=3.0, visual=4.0))
    assert said == Guidance(text=2.0, audio=1.0, visual=4.0) and said.guided == (Modality.TEXT, Modality.VISUAL)


def test_guidance_can_be_scheduled():
    full, lacking = rows_of("text", "-")
    guidance = Guidance(text=Linear(start=1.0, end=3.0))
    for index, scale in ((0, 1.0), (2, 2.0), (4, 3.0)):
        made = guidance(torch.cat([full, lacking]), Place(index, 5))
        torch.testing.assert_close(made, lacking + scale * (full - lacking))


def test_guidance_is_limited_to_what_a_task_has():
    guidance = Guidance(text=2.0, visual=3.0)
    assert guidance.within({Modality.TEXT}) == Guidance(text=2.0)
    assert guidance.within(()) == Guidance() and guidance.within(set(Modality)) == guidance


def test_drawing_never_looks_at_a_value():
    """Under fake tensors, which have no values, anything that would wait for the device to be read raises."""
    draw = Draw(
        filters=(Temperature(value=Linear(start=1.0, end=0.5)), TopK(k=3), TopP(p=0.9)),
        guidance=Guidance(text=2.0, visual=1.5),
    )
    with FakeTensorMode():
        uniform = torch.empty(2, dtype=torch.float64)
        assert draw(torch.empty(6, 5), Place(1, 4, iter([uniform]))).shape == (6,)
        with pytest.raises(Exception, match="_local_scalar_dense"):
            int(draw(torch.empty(6, 5), Place(1, 4, iter([uniform])))[0])

"""What an audio tokenizer trains on in a step: segments that sound, at drawn gains, the same on any number of ranks."""

import pytest
import torch

from videopoet.tokenizers.audio import segments
from videopoet.tokenizers.audio.segments import RandomGain, is_sounding, sounding_segments


def draws(step: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(step)


def ramps(clips: int, samples: int = 1000) -> torch.Tensor:
    """Clip i holds i + 0, i + 1/samples, ...: every segment says where it was taken."""
    return (torch.arange(clips)[:, None] + torch.arange(samples) / samples)[:, None] + 1


def test_segments_are_consecutive_parts_of_their_own_clips_and_differ_from_step_to_step():
    audio = ramps(6)
    taken = sounding_segments(audio, 300, draws())
    assert taken.shape == (6, 1, 300)
    for clip, part in zip(audio[:, 0], taken[:, 0]):
        assert (clip.unfold(0, 300, 1) == part).all(1).any()
    assert torch.equal(taken, sounding_segments(audio, 300, draws()))
    assert not torch.equal(taken, sounding_segments(audio, 300, draws(1)))


def test_silent_segments_but_the_first_give_their_places_to_sounding_clips():
    audio = ramps(6)
    audio[[1, 3, 4]] = 0
    taken = sounding_segments(audio, 300, draws())
    assert is_sounding(taken).tolist() == [True, False, True, True, True, True]
    assert taken[[3, 4], 0, 0].floor().tolist() == [1, 3], "segments of clips 0 and 2"
    assert not torch.equal(taken[3], taken[0]), "another part of the clip"
    assert torch.equal(sounding_segments(torch.zeros(3, 1, 500), 500, draws()), torch.zeros(3, 1, 500))
    with pytest.raises(ValueError, match="1000 samples, a segment takes 1001: lower `segment`"):
        sounding_segments(audio, 1001, draws())


@pytest.mark.parametrize("what", ["segments", "gain"])
def test_ranks_take_their_part_of_the_joint_draws(monkeypatch, what):
    audio = ramps(4) / 8

    def drawn(clips):
        return sounding_segments(clips, 300, draws(7)) if what == "segments" else RandomGain()(clips, draws(7))

    joint, parts = drawn(audio), []
    monkeypatch.setattr(segments, "num_ranks", lambda: 2)
    for rank in (0, 1):
        monkeypatch.setattr(segments, "rank", lambda rank=rank: rank)
        parts.append(drawn(audio[2 * rank :][:2]))
    assert torch.equal(torch.cat(parts), joint)


def test_gains_span_their_range_keep_the_wave_and_never_clip():
    audio = torch.full((400, 1, 10), 0.1)
    gains = RandomGain(low=-10, high=6)(audio, draws()) / audio
    assert (gains == gains[:, :, :1]).all(), "one gain a clip"
    decibels = 20 * gains.abs().log10()
    assert -10 <= decibels.min() < -9.5 and 5.5 < decibels.max() <= 6.001
    assert 0.4 < (gains < 0).float().mean() < 0.6
    assert (RandomGain(flip=False)(audio, draws()) > 0).all()
    loud = RandomGain(low=0, high=20)(torch.tensor([0.9, -0.9]).repeat(50, 1, 5), draws())
    assert loud.abs().max() <= 1.000001 and loud.abs().max() > 0.99
    assert torch.equal(RandomGain()(torch.zeros(2, 1, 5), draws()).abs(), torch.zeros(2, 1, 5))
    with pytest.raises(ValueError, match="from 3 to 1 dB"):
        RandomGain(low=3, high=1)

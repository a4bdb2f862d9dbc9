"""Opus and tokenizers count the bits of sound alone and give back what went in, in place."""

import math

import pytest
import torch

from videopoet import component
from videopoet.evaluation.audio import SISDR, align
from videopoet.evaluation.audio_codecs import Opus, code_by_audio_tokenizer
from videopoet.pipeline import SHIPPED
from videopoet.tokenizers.audio.codec import SoundStream


def voice(samples: int, rate: int = 16_000) -> torch.Tensor:
    """Something a codec of speech can code: a gliding pitch with harmonics, in syllables."""
    t = torch.arange(samples) / rate
    phase = 2 * math.pi * torch.cumsum(140 + 30 * torch.sin(2 * math.pi * 1.3 * t), 0) / rate
    tone = sum(torch.sin(k * phase) / k for k in range(1, 9))
    return 0.2 * tone * (0.2 + torch.sin(2 * math.pi * 2.1 * t).clamp(min=0))


@pytest.fixture(scope="module")
def tokenizer() -> SoundStream:
    torch.manual_seed(0)
    return SoundStream(ratios=(4, 4), num_filters=4, dimension=8, num_residual_layers=0, num_lstm_layers=0, levels=3,
                       codebook_size=32).eval()  # fmt: skip


@pytest.mark.parametrize("rate", [16_000, 48_000])
def test_opus_gives_back_every_sample_in_place_and_better_for_more_bits(rate):
    audio = voice(2 * rate + 123, rate)
    few, many = (Opus(bit_rate=bit_rate).code(audio, rate) for bit_rate in (8000, 48_000))
    assert few.audio.shape == many.audio.shape == audio.shape
    assert 0 < few.bits < many.bits < many.file_bits
    assert 25_000 < many.bits / len(audio) * rate < 55_000  # asked for, not always needed
    assert SISDR()(audio, many.audio).overall > max(15, SISDR()(audio, few.audio).overall)
    assert align(many.audio, audio, 400)[1] == 0  # nothing left to undo


def test_opus_does_not_go_below_its_least_rate_whatever_is_asked():
    audio = voice(48_000)
    asked = [Opus(bit_rate=bit_rate).code(audio, 16_000).bits / 3 for bit_rate in (3000, 4000)]
    assert min(asked) > 3500


@pytest.mark.parametrize("audio", [torch.zeros(16_000), torch.zeros(1), torch.ones(5000), 30 * voice(8000)])
def test_opus_takes_silence_clicks_and_clipping(audio):
    coded = Opus(bit_rate=12_000).code(audio, 16_000)
    assert coded.audio.shape == audio.shape and coded.audio.abs().max() <= 1 and torch.isfinite(coded.audio).all()


def test_opus_names_the_rates_it_has():
    with pytest.raises(ValueError, match=r"16000.*not 44100: resample"):
        Opus(bit_rate=12_000).code(voice(4410), 44_100)


@pytest.mark.parametrize(("samples", "frames"), [(1600, 100), (1601, 101), (5, 1)])
def test_a_tokenizer_pays_for_padding_and_each_level_is_a_point(tokenizer, samples, frames):
    audio = voice(samples)
    coded = code_by_audio_tokenizer(audio, 16_000, tokenizer)
    assert coded.codes.shape == (frames, 3) and list(coded.by_levels) == [1, 2, 3]
    for levels, sound in coded.by_levels.items():
        assert sound.audio.shape == audio.shape and sound.bits == frames * levels * 5 and sound.file_bits is None
    padded = torch.nn.functional.pad(audio, (0, frames * 16 - samples))[None, None]
    whole = tokenizer.decode(tokenizer.encode(padded)[..., :2])[0, 0, :samples]
    assert torch.equal(coded.by_levels[2].audio, whole)


def test_a_tokenizer_of_another_rate_is_compared_at_the_sounds_rate(tokenizer):
    audio = voice(4801, 24_000)
    coded = code_by_audio_tokenizer(audio, 24_000, tokenizer, levels=[3])
    assert list(coded.by_levels) == [3] and coded.by_levels[3].audio.shape == audio.shape
    assert len(coded.codes) == math.ceil(math.ceil(4801 * 2 / 3) / 16)


def test_hostile_sound_is_refused_by_the_tokenizer(tokenizer):
    with pytest.raises(ValueError, match="NaN"):
        code_by_audio_tokenizer(torch.full((1600,), float("nan")), 16_000, tokenizer)


def test_the_shipped_codec_has_its_stated_rate():
    coded = code_by_audio_tokenizer(voice(32_000), 16_000, component.load(SHIPPED / "audio.safetensors"))
    assert coded.by_levels[2].bits / 2 == 450

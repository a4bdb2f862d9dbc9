"""Sounds that break codecs: silence, clipping, a constant, one click, no numbers, a tenth of a second, an hour, stereo."""

from collections.abc import Callable

import pytest
import torch

from videopoet import component
from videopoet.pipeline import SHIPPED
from videopoet.tokenizers.audio.codec import SoundStream
from videopoet.tokenizers.audio.pretrained import TransformersDac, TransformersEncodec
from videopoet.tokenizers.audio.tokenizer import AudioTokenizer
from videopoet.tokenizers.streaming import Stream

RATE = 16_000


def untrained(**changes) -> SoundStream:
    torch.manual_seed(0)
    return SoundStream(**(dict(num_filters=2, dimension=8, num_lstm_layers=1, codebook_size=16) | changes)).eval()


CODECS: dict[str, Callable[[], AudioTokenizer]] = {
    "untrained": untrained,
    "shipped": lambda: component.load(SHIPPED / "audio.safetensors", AudioTokenizer),
    "encodec": lambda: TransformersEncodec(
        dict(sampling_rate=RATE, num_filters=2, hidden_size=8, codebook_size=16, target_bandwidths=[0.8]), levels=4
    ).eval(),
    "dac": lambda: TransformersDac(
        dict(sampling_rate=RATE, encoder_hidden_size=4, downsampling_ratios=[2, 4, 5, 8], decoder_hidden_size=32,
             n_codebooks=6, codebook_size=16, codebook_dim=4), levels=4).eval(),
}  # fmt: skip


@pytest.fixture(scope="module", params=CODECS.values(), ids=CODECS)
def tokenizer(request) -> AudioTokenizer:
    return request.param()


def click() -> torch.Tensor:
    audio = torch.zeros(1, 1, RATE)
    audio[..., RATE // 2] = 1
    return audio


SOUNDS = {
    "silence": torch.zeros(1, 1, RATE),
    "clipping": torch.sin(torch.arange(RATE) * 0.05)[None, None].mul(50).clamp(-1, 1),
    "a little too loud": torch.sin(torch.arange(RATE) * 0.05)[None, None].mul(1.5),
    "constant": torch.full((1, 1, RATE), 0.9),
    "click": click(),
    "nearly nothing": torch.full((1, 1, RATE), 1e-40),
    "a tenth of a second": torch.rand(1, 1, RATE // 10) - 0.5,
    "one hop": torch.rand(1, 1, 640) - 0.5,
}


@pytest.mark.parametrize("name", SOUNDS)
def test_any_sound_has_codes_and_comes_back_finite(tokenizer, name):
    audio = SOUNDS[name]
    codes = tokenizer.encode(audio)
    assert codes.shape == (1, audio.shape[2] // tokenizer.hop, tokenizer.levels)
    assert 0 <= codes.min() <= codes.max() < tokenizer.codebook_size
    sound = tokenizer.decode(codes)
    assert sound.shape == (1, 1, codes.shape[1] * tokenizer.hop) and sound.isfinite().all() and sound.abs().max() <= 1


def test_the_shipped_codec_keeps_silence_silent():
    codec = CODECS["shipped"]()
    assert codec.decode(codec.encode(SOUNDS["silence"])).abs().max() < 1e-3


@pytest.mark.parametrize(
    "audio, message",
    [
        (torch.full((1, 1, RATE), torch.nan), "16000 samples that are NaN or infinite"),
        (torch.full((1, 1, RATE), -torch.inf), "16000 samples that are NaN or infinite"),
        (torch.full((1, 1, RATE), 32767.0), r"peaks at 32767, expected \[-1, 1\]: divide int16 by 32768"),
        (torch.zeros(1, 1, RATE, dtype=torch.int16), "expected floating point"),
        (torch.zeros(1, 2, RATE), "mix down to mono first"),
        (torch.zeros(1, 1, 9), "9 samples, one code frame takes"),
        (torch.zeros(1, 1, 0), "0 samples, one code frame takes"),
    ],
)
def test_what_is_no_sound_is_refused(tokenizer, audio, message):
    with pytest.raises(ValueError, match=message):
        tokenizer.encode(audio)


@pytest.mark.parametrize(
    "codes, message",
    [
        (torch.zeros(1, 4, 9, dtype=torch.long), "9 levels, the tokenizer has"),
        (torch.full((1, 4, 1), 512), r"span 512 to 512, must lie in \[0"),
        (torch.full((1, 4, 1), -1), "span -1 to -1"),
        (torch.zeros(1, 4, 1), "expected integers"),
        (torch.zeros(4, 1, dtype=torch.long), "b t k"),
        (torch.zeros(1, 0, 1, dtype=torch.long), "0 frames"),
    ],
)
def test_what_are_no_codes_is_refused(tokenizer, codes, message):
    with pytest.raises(ValueError, match=message):
        tokenizer.decode(codes)


def test_each_channel_is_coded_by_itself(tokenizer):
    stereo = torch.rand(2, 2, 20 * tokenizer.hop) - 0.5
    codes = tokenizer.encode_channels(stereo)
    assert codes.shape == (2, 2, 20, tokenizer.levels)
    for row in range(2):
        for channel in range(2):
            alone = tokenizer.encode(stereo[row : row + 1, channel : channel + 1])
            assert torch.equal(codes[row, channel], alone[0])
    sound = tokenizer.decode_channels(codes)
    assert sound.shape == stereo.shape
    torch.testing.assert_close(sound[1:, 1:], tokenizer.decode(codes[1:, 1]), atol=1e-5, rtol=0)


def test_an_hour_passes_through_in_constant_memory():
    """At 400 Hz and hop 40: 36,000 frames in chunks of a minute and a bit."""
    codec, held, frames = untrained(sample_rate=400, ratios=(5, 4, 2), num_lstm_layers=0), set(), 0
    coding, decoding = Stream(stepwise=False), Stream(stepwise=False)
    hour, chunk = 3600 * 400, 60 * 400 + 8
    for start in range(0, hour, chunk):
        codes = codec.encode(0.3 * torch.randn(1, 1, min(chunk, hour - start)), coding)
        assert codec.decode(codes, decoding).isfinite().all()
        frames += codes.shape[1]
        held.add(coding.num_bytes - 4 * coding.pending + decoding.num_bytes)
    assert frames == 36_000 and len(held) == 1 and held.pop() < 10_000

"""Sound chunk by chunk is the whole sound, in constant memory; and what the stated look-ahead means."""

import random
from collections.abc import Callable

import pytest
import torch

from videopoet import component
from videopoet.pipeline import SHIPPED
from videopoet.tokenizers.audio.codec import SoundStream
from videopoet.tokenizers.audio.streaming import continued
from videopoet.tokenizers.audio.tokenizer import AudioTokenizer
from videopoet.tokenizers.streaming import Stream

FRAMES = 23


def small(**changes) -> SoundStream:
    """Hop 60, 3 levels of 16 codes, untrained."""
    torch.manual_seed(0)
    geometry = dict(ratios=(5, 4, 3), num_filters=2, dimension=8, num_lstm_layers=1, levels=3, codebook_size=16)
    return SoundStream(**(geometry | changes)).eval()


def shipped() -> AudioTokenizer:
    return component.load(SHIPPED / "audio.safetensors", AudioTokenizer)


CAUSAL: dict[str, Callable[[], AudioTokenizer]] = {
    "recurrent": small,
    "deep": lambda: small(num_lstm_layers=0, num_residual_layers=3),
    "shallow": lambda: small(num_lstm_layers=0, num_residual_layers=0),
    "shipped": shipped,
}
CENTRED = {
    "recurrent": lambda: small(causal=False),
    "deep": lambda: small(causal=False, num_lstm_layers=0, num_residual_layers=3),
}


@pytest.fixture(scope="module", params=CAUSAL.values(), ids=CAUSAL)
def tokenizer(request) -> AudioTokenizer:
    return request.param()


def noise(clips: int, samples: int, seed: int = 0) -> torch.Tensor:
    return 0.3 * torch.randn(clips, 1, samples, generator=torch.Generator().manual_seed(seed))


def cut(total: int, seed: int, longest: int) -> list[int]:
    """A random chunking of `total`; seed 0 is all at once."""
    if seed == 0:
        return [total]
    rng, parts = random.Random(seed), []
    while sum(parts) < total:
        parts.append(min(rng.randint(0, longest), total - sum(parts)))
    return parts


@pytest.mark.parametrize("stepwise", [True, False])
@pytest.mark.parametrize("seed", range(3))
def test_streamed_codes_are_the_whole_codes(tokenizer, seed, stepwise):
    hop = tokenizer.hop
    audio = noise(2, FRAMES * hop + hop // 2)
    stream, codes, seen = Stream(stepwise=stepwise), [], 0
    for chunk in audio.split(cut(audio.shape[2], seed, 3 * hop), 2):
        codes.append(tokenizer.encode(chunk, stream))
        seen += chunk.shape[2]
        assert stream.pending == seen % hop and stream.num_steps == seen // hop
    assert torch.equal(torch.cat(codes, 1), tokenizer.encode(audio))


@pytest.mark.parametrize("stepwise", [True, False])
@pytest.mark.parametrize("seed", range(3))
def test_streamed_sound_is_the_whole_sound(tokenizer, seed, stepwise):
    codes, stream = tokenizer.encode(noise(2, FRAMES * tokenizer.hop)), Stream(stepwise=stepwise)
    parts = codes.split(cut(FRAMES, seed, 5), 1)
    sounds = [tokenizer.decode(part, stream) for part in parts]
    assert [sound.shape[2] for sound in sounds] == [part.shape[1] * tokenizer.hop for part in parts]
    torch.testing.assert_close(torch.cat(sounds, 2), tokenizer.decode(codes), atol=1e-5, rtol=0)


def test_stepwise_bits_do_not_depend_on_the_chunking(tokenizer):
    audio, sounds, latents = noise(1, FRAMES * tokenizer.hop), [], []
    tokenizer.quantizer.encode, encode = lambda z: latents[-1].append(z) or encode(z), tokenizer.quantizer.encode
    for seed in range(3):
        latents.append([])
        coding, decoding = Stream(), Stream()
        codes = [tokenizer.encode(part, coding) for part in audio.split(cut(audio.shape[2], seed, 999), 2)]
        parts = torch.cat(codes, 1).split(cut(FRAMES, seed, 7), 1)
        sounds.append(torch.cat([tokenizer.decode(part, decoding) for part in parts], 2))
    del tokenizer.quantizer.encode
    assert torch.equal(sounds[0], sounds[1]) and torch.equal(sounds[0], sounds[2])
    assert torch.equal(torch.cat(latents[0], 2), torch.cat(latents[1], 2))


@pytest.mark.parametrize("stepwise", [True, False])
def test_memory_does_not_grow(tokenizer, stepwise):
    """What is held between chunks is the same after the first one and after sixty frames more."""
    encoding, decoding, sizes = Stream(stepwise=stepwise), Stream(stepwise=stepwise), set()
    for number in range(30):
        codes = tokenizer.encode(noise(1, (1 + number % 3) * tokenizer.hop, number), encoding)
        assert tokenizer.decode(codes, decoding).isfinite().all()
        sizes.add((encoding.num_bytes, decoding.num_bytes))
    assert len(sizes) == 1
    held = encoding.num_bytes
    tokenizer.encode(noise(1, 7), encoding)
    assert encoding.num_bytes == held + 7 * 4, "samples that wait are held, and nothing else"


def test_no_sample_and_no_code_is_a_chunk_too(tokenizer):
    stream, levels, hop = Stream(), tokenizer.levels, tokenizer.hop
    assert tokenizer.encode(noise(2, 0), stream).shape == (2, 0, levels)
    assert tokenizer.encode(noise(2, hop - 1), stream).shape == (2, 0, levels) and stream.pending == hop - 1
    assert tokenizer.encode(noise(2, 1), stream).shape == (2, 1, levels) and stream.pending == 0
    assert tokenizer.decode(torch.zeros(2, 0, levels, dtype=torch.long), Stream()).shape == (2, 1, 0)


def test_two_streams_do_not_meet(tokenizer):
    audio, a, b, codes = noise(2, 8 * tokenizer.hop), Stream(), Stream(), {0: [], 1: []}
    for chunk in audio.split([3 * tokenizer.hop + 5, 5 * tokenizer.hop - 5], 2):
        for row, stream in ((0, a), (1, b)):
            codes[row].append(tokenizer.encode(chunk[row : row + 1], stream))
    for row in (0, 1):
        assert torch.equal(torch.cat(codes[row], 1), tokenizer.encode(audio[row : row + 1]))


def test_fewer_levels_stream_too():
    tokenizer = small()
    codes, stream = tokenizer.encode(noise(1, 9 * 60))[..., :1], Stream()
    sound = torch.cat([tokenizer.decode(part, stream) for part in codes.split(2, 1)], 2)
    torch.testing.assert_close(sound, tokenizer.decode(codes), atol=1e-5, rtol=0)


def test_misuse_is_refused():
    tokenizer, stream, audio = small(), Stream(), noise(2, 600)
    codes = tokenizer.encode(audio, stream)
    with pytest.raises(ValueError, match="this stream is encoding, not decoding"):
        tokenizer.decode(codes, stream)
    with pytest.raises(ValueError, match="is of batch 2, the chunk of batch 1"):
        tokenizer.encode(audio[:1], stream)
    with pytest.raises(ValueError, match="another tokenizer"):
        small().encode(audio, stream)
    with pytest.raises(ValueError, match=r"call \.eval\(\)"):
        small().train().encode(audio, Stream())
    with pytest.raises(ValueError, match="1 samples that are NaN"):
        tokenizer.encode(torch.cat([audio[..., :-1], torch.full((2, 1, 1), torch.nan)], 2)[:1], Stream())


@pytest.mark.parametrize("make", CENTRED.values(), ids=CENTRED)
def test_what_looks_ahead_does_not_stream(make):
    tokenizer = make()
    encoding, decoding, _ = tokenizer.look_ahead
    assert encoding > 0 < decoding
    for call, chunk in ((tokenizer.encode, noise(1, 600)), (tokenizer.decode, torch.zeros(1, 3, 3, dtype=torch.long))):
        with pytest.raises(ValueError, match=f"depend on the {encoding} samples after them and .* {decoding} samples"):
            call(chunk, Stream())


def test_a_layer_that_does_not_say_how_is_not_passed_over():
    with pytest.raises(AssertionError, match="Conv1d does not say"):
        continued(torch.nn.Conv1d(1, 1, 3), noise(1, 60), Stream())


def settled(poisoned: torch.Tensor) -> int:
    """How many steps (of b c t) come before the first one that is not a number."""
    return int(poisoned.isnan().any(1)[0].long().argmax())


@pytest.mark.parametrize("make", [*CAUSAL.values(), *CENTRED.values()])
def test_the_look_ahead_is_exact(make):
    """A NaN spreads to whatever depends on it: a frame needs the stated samples and not one less."""
    tokenizer = make()
    hop, (encoding, decoding, _) = tokenizer.hop, tokenizer.look_ahead
    with torch.no_grad():
        for missing, frames in ((0, 9), (1, 8)):
            audio = noise(1, 30 * hop)
            audio[..., 9 * hop + encoding - missing :] = torch.nan
            assert settled(tokenizer.encoder(audio)) == frames
        latents = tokenizer.encoder(noise(1, 30 * hop))
        latents[..., 19:] = torch.nan
        assert settled(tokenizer.decoder(latents)) == 19 * hop - decoding


@pytest.mark.parametrize("make", [*CAUSAL.values(), *CENTRED.values()])
def test_a_prefix_is_a_prefix_up_to_the_look_ahead(make):
    tokenizer = make()
    hop, (encoding, decoding, start) = tokenizer.hop, tokenizer.look_ahead
    audio = noise(1, 30 * hop)
    codes = tokenizer.encode(audio)
    sound = tokenizer.decode(codes)
    for frames in (start, 7, 15, 29):
        whole = max(0, frames * hop - decoding)
        torch.testing.assert_close(
            tokenizer.decode(codes[:, :frames])[..., :whole], sound[..., :whole], atol=1e-5, rtol=0
        )
        whole = max(0, (frames * hop - encoding) // hop)
        assert torch.equal(tokenizer.encode(audio[..., : frames * hop])[:, :whole], codes[:, :whole])

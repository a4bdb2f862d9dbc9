"""Chunk by chunk is the whole: codes, frames, and memory that does not grow."""

import random

import pytest
import torch
from conftest import PUBLISHED, published

from videopoet.tokenizers.quantizers.lookup_free import LookupFreeQuantizer
from videopoet.tokenizers.streaming import Stream
from videopoet.tokenizers.visual.autoencoder import VideoTokenizer
from videopoet.tokenizers.visual.cnn import Decoder, Encoder

FRAMES = 21  # 1 + 4 * 5


@pytest.fixture(scope="module")
def clip() -> torch.Tensor:
    return torch.rand(2, 3, FRAMES, 16, 24, generator=torch.Generator().manual_seed(0)) * 2 - 1


def cut(total: int, seed: int) -> list[int]:
    """A random chunking of `total`; seeds 0 and 1 are one by one and all at once."""
    if seed < 2:
        return [1] * total if seed == 0 else [total]
    rng, parts = random.Random(seed), []
    while sum(parts) < total:
        parts.append(min(rng.randint(1, 7), total - sum(parts)))
    return parts


@pytest.mark.parametrize("stepwise", [True, False])
@pytest.mark.parametrize("seed", range(5))
def test_streamed_codes_are_the_whole_codes(tokenizer, clip, seed, stepwise):
    stream, codes, seen = Stream(stepwise=stepwise), [], 0
    for chunk in clip.split(cut(FRAMES, seed), 2):
        codes.append(tokenizer.encode(chunk, stream))
        seen += chunk.shape[2]
        assert stream.pending == (seen - 1) % 4 and stream.num_steps == 1 + (seen - 1) // 4
    assert torch.equal(torch.cat(codes, 1), tokenizer.encode(clip))


@pytest.mark.parametrize("stepwise", [True, False])
@pytest.mark.parametrize("seed", range(5))
def test_streamed_frames_are_the_whole_frames(tokenizer, clip, seed, stepwise):
    codes, stream = tokenizer.encode(clip), Stream(stepwise=stepwise)
    frames = [tokenizer.decode(part, stream) for part in codes.split(cut(codes.shape[1], seed), 1)]
    assert frames[0].shape[2] == 1 + 4 * (cut(codes.shape[1], seed)[0] - 1)
    torch.testing.assert_close(torch.cat(frames, 2), tokenizer.decode(codes), atol=1e-5, rtol=0)


def test_stepwise_latents_do_not_depend_on_the_chunking(clip):
    """The same bits, not only the same signs: every layer sees the same shapes."""
    torch.manual_seed(0)
    model = VideoTokenizer(Encoder(8, 32, num_blocks=1), LookupFreeQuantizer(8), Decoder(**PUBLISHED)).eval()
    seen = []
    model.quantizer.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    runs = []
    for seed in (0, 1, 3):
        seen.clear()
        stream = Stream()
        for chunk in clip.split(cut(FRAMES, seed), 2):
            model.encode(chunk, stream)
        runs.append(torch.cat(seen, 2))
    assert torch.equal(runs[0], runs[1]) and torch.equal(runs[0], runs[2])


@pytest.mark.parametrize("stepwise", [True, False])
def test_no_frame_and_no_code_is_a_chunk_too(tokenizer, clip, stepwise):
    stream = Stream(stepwise=stepwise)
    assert tokenizer.encode(clip[:, :, :0], stream).shape == (2, 0, 2, 3)
    assert tokenizer.encode(clip[:, :, :1], stream).shape == (2, 1, 2, 3)
    assert tokenizer.encode(clip[:, :, 1:4], stream).shape == (2, 0, 2, 3) and stream.pending == 3
    assert tokenizer.decode(torch.zeros(2, 0, 2, 3, dtype=torch.int64), Stream()).shape == (2, 3, 0, 16, 24)


@pytest.mark.parametrize("stepwise", [True, False])
def test_memory_does_not_grow(tokenizer, clip, stepwise):
    encoding, decoding, sizes = Stream(stepwise=stepwise), Stream(stepwise=stepwise), []
    tokenizer.decode(tokenizer.encode(clip[:, :, :1], encoding), decoding)
    for _ in range(6):
        codes = tokenizer.encode(clip[:, :, 1:], encoding)
        tokenizer.decode(codes, decoding)
        sizes.append((encoding.num_bytes, decoding.num_bytes))
    assert len(set(sizes)) == 1
    frame = clip[:, :, :1].nbytes
    short = Stream(stepwise=stepwise)
    tokenizer.encode(clip[:, :, :1], short)
    assert sizes[0][0] == short.num_bytes, "the state after 121 frames is as large as after one"
    tokenizer.encode(clip[:, :, 1:3], short)
    assert short.num_bytes == sizes[0][0] + 2 * frame, "what waits is held, and nothing else"


def test_two_streams_do_not_meet(tokenizer, clip):
    a, b, codes = Stream(), Stream(), {}
    for chunk in (slice(0, 7), slice(7, 21)):
        for name, stream, video in (("a", a, clip[:1]), ("b", b, clip[1:])):
            codes.setdefault(name, []).append(tokenizer.encode(video[:, :, chunk], stream))
    assert torch.equal(torch.cat(codes["a"], 1), tokenizer.encode(clip[:1]))
    assert torch.equal(torch.cat(codes["b"], 1), tokenizer.encode(clip[1:]))


def test_misuse_is_refused(tokenizer, clip):
    stream = Stream()
    codes = tokenizer.encode(clip, stream)
    with pytest.raises(ValueError, match="this stream is encoding, not decoding"):
        tokenizer.decode(codes, stream)
    with pytest.raises(ValueError, match="batch 2, height 16, width 24, the chunk of batch 1, height 16"):
        tokenizer.encode(clip[:1], stream)
    with pytest.raises(ValueError, match="another tokenizer"):
        published().eval().encode(clip, stream)
    with pytest.raises(ValueError, match=r"call \.eval\(\)"):
        published().train().encode(clip, Stream())
    with pytest.raises(ValueError, match="resize"):
        tokenizer.encode(clip[..., :20], Stream())

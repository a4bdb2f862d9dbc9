"""Padding by rule and spatial tiles: sizes, which pixels and codes are kept, and that overlap lowers the seam error."""

import math
from collections import defaultdict

import pytest
import torch

from videopoet.tokenizers.quantizers.lookup_free import LookupFreeQuantizer
from videopoet.tokenizers.streaming import Stream
from videopoet.tokenizers.visual.autoencoder import VideoTokenizer
from videopoet.tokenizers.visual.cnn import Decoder, Encoder
from videopoet.tokenizers.visual.network import WHOLE_WINDOWS
from videopoet.tokenizers.visual.padding import Size, pad_to_lattice, padding_of, trim
from videopoet.tokenizers.visual.tiling import Tiles, decode_tiled, encode_tiled, owned, ramp, seam_error, spans

STRIDES = ((2, 2, 2), (2, 1, 1))
NETWORK = {"dimension": 6, "channels": 8, "multipliers": (1, 1, 2), "strides": STRIDES, "num_blocks": 1, "patch": 2}


@pytest.fixture(scope="module")
def tokenizer() -> VideoTokenizer:
    """Stride (4, 4, 4), untrained."""
    torch.manual_seed(0)
    return VideoTokenizer(Encoder(**NETWORK), LookupFreeQuantizer(6), Decoder(**NETWORK), (4, 4, 4)).eval()


@pytest.fixture(scope="module")
def video() -> torch.Tensor:
    """float (1, 3, 5, 48, 64), smooth with some noise."""
    generator = torch.Generator().manual_seed(1)
    t, h, w = torch.meshgrid(torch.arange(5), torch.arange(48), torch.arange(64), indexing="ij")
    wave = torch.stack([torch.sin((h + t) / 5), torch.cos((w - t) / 7), torch.sin((h + w) / 9)])
    return (0.8 * wave + 0.1 * torch.randn(wave.shape, generator=generator)).clamp(-1, 1)[None]


@pytest.mark.parametrize(
    ("size", "padded"),
    [((18, 30, 33), (21, 32, 40)), ((17, 32, 40), (17, 32, 40)), ((1, 1, 8), (1, 8, 8)), ((2, 9, 15), (5, 16, 16))],
)
def test_padding_repeats_the_edge_and_trims_back(size, padded):
    video = torch.rand(2, 3, *size)
    out, recorded = pad_to_lattice(video, (4, 8, 8))
    assert tuple(out.shape[2:]) == padded and recorded == Size(*size)
    assert torch.equal(trim(out, recorded), video)
    frames, height, width = size
    assert torch.equal(out[:, :, frames:, :height, :width], video[:, :, -1:].expand(-1, -1, padded[0] - frames, -1, -1))
    assert torch.equal(
        out[:, :, :frames, height:, :width], video[..., -1:, :].expand(-1, -1, -1, padded[1] - height, -1)
    )
    assert torch.equal(
        out[:, :, :frames, :height, width:], video[..., -1:].expand(*video.shape[:-1], padded[2] - width)
    )
    assert padding_of(recorded, (4, 8, 8)) == tuple(p - s for p, s in zip(padded, size))


@pytest.mark.parametrize(("frames", "padded"), [(1, 4), (16, 16), (18, 20)])
def test_tokenizers_of_whole_windows_are_padded_to_them(frames, padded):
    out, size = pad_to_lattice(torch.rand(1, 3, frames, 8, 8), (4, 8, 8), WHOLE_WINDOWS)
    assert out.shape[2] == padded and size.frames == frames
    assert WHOLE_WINDOWS.latent_frames(padded, 4) == padded // 4


def test_padding_changes_no_code_of_whole_latent_frames(tokenizer, video):
    cut, _ = pad_to_lattice(video[:, :, :4], tokenizer.stride)
    assert torch.equal(tokenizer.encode(cut)[:, :1], tokenizer.encode(video)[:, :1])


def test_padding_and_trimming_refuse_what_cannot_be():
    with pytest.raises(ValueError, match="0 frames of 8 x 8 pixels is empty"):
        pad_to_lattice(torch.zeros(1, 3, 0, 8, 8), (4, 8, 8))
    with pytest.raises(ValueError, match=r"\(5, 8, 8\).*cannot be trimmed to \(6, 8, 8\)"):
        trim(torch.zeros(1, 3, 5, 8, 8), Size(6, 8, 8))


def test_spans_and_owners_as_documented():
    assert spans(20, 8, 2) == [(0, 8), (6, 14), (12, 20)]
    assert spans(10, 8, 2) == [(0, 8), (2, 10)] and spans(6, 8, 2) == [(0, 6)] and spans(16, 8, 0) == [(0, 8), (8, 16)]
    assert owned(spans(20, 8, 2)) == [(0, 7), (7, 13), (13, 20)]
    assert ramp([(0, 8), (6, 14)], 0)[-3:].tolist() == [1, 0.75, 0.25]
    assert ramp([(0, 8), (6, 14)], 1)[:3].tolist() == [0.25, 0.75, 1]


@pytest.mark.parametrize("length", range(1, 40, 3))
@pytest.mark.parametrize("overlap", [0, 2, 4])
def test_owners_partition_the_axis_and_lie_in_their_tiles(length, overlap):
    tiles = spans(length, 8, overlap)
    parts = owned(tiles)
    assert [i for start, end in parts for i in range(start, end)] == list(range(length))
    assert all(start <= first <= last <= end for (start, end), (first, last) in zip(tiles, parts))
    centre = [(start + end) / 2 for start, end in tiles]
    for k, (first, last) in enumerate(parts):
        for i in range(first, last):
            assert abs(i + 0.5 - centre[k]) <= min(abs(i + 0.5 - c) for c in centre) + 1e-9 + (length % 2)


@pytest.mark.parametrize("overlap", [0, 8])
def test_tiles_keep_the_size_and_one_tile_is_the_whole(tokenizer, video, overlap):
    codes = tokenizer.encode(video)
    tiles = Tiles(size=24, overlap=overlap)
    tiled = encode_tiled(tokenizer, video, tiles)
    assert tiled.shape == codes.shape
    assert decode_tiled(tokenizer, codes, tiles).shape == video.shape
    large = Tiles(size=64, overlap=overlap)
    assert torch.equal(encode_tiled(tokenizer, video, large), codes)
    assert torch.allclose(decode_tiled(tokenizer, codes, large), tokenizer.decode(codes), atol=1e-6)


def test_every_code_comes_from_the_tile_with_the_nearest_centre(tokenizer, video):
    class Places:  # a tokenizer whose code is the number of the tile that made it
        stride, lattice, calls = tokenizer.stride, tokenizer.lattice, 0

        def encode(self, tile):
            self.calls += 1
            return torch.full((1, 2, tile.shape[3] // 4, tile.shape[4] // 4), self.calls - 1)

    grid = encode_tiled(Places(), video, Tiles(size=24, overlap=8))  # rows 0-24, 16-40, 24-48; columns 0-24, ..., 40-64
    for (r, c), tile in [((0, 0), 0), ((4, 4), 0), ((5, 5), 5), ((11, 15), 11), ((0, 15), 3)]:
        assert grid[0, 0, r, c] == tile, (r, c)


def test_blending_is_exact_where_tiles_agree(tokenizer):
    class Constant:
        stride = tokenizer.stride

        def decode(self, codes):
            return torch.full((1, 3, 5, codes.shape[2] * 4, codes.shape[3] * 4), 0.25)

    video = decode_tiled(Constant(), torch.zeros(1, 2, 12, 16, dtype=torch.long), Tiles(size=24, overlap=8))
    assert torch.allclose(video, torch.tensor(0.25))


def test_overlap_lowers_the_seam_error(tokenizer, video):
    square = torch.cat([video, video[..., :16, :].flip(3)], 3)  # 64 x 64: two tiles of 32 a side without overlap
    none, some = (seam_error(tokenizer, square, Tiles(size=32, overlap=overlap)) for overlap in (0, 16))
    assert some.psnr > none.psnr and math.isinf(none.psnr_in_overlap) and not math.isinf(some.psnr_in_overlap)
    assert some.codes_changed <= none.codes_changed
    whole = seam_error(tokenizer, video, Tiles(size=64, overlap=16))
    assert whole.psnr > 100 and whole.codes_changed == 0


@pytest.mark.parametrize("tiles", [{"size": 30}, {"size": 32, "overlap": 6}, {"size": 32, "overlap": 32}])
def test_tiles_off_the_lattice_are_refused(tokenizer, video, tiles):
    with pytest.raises(ValueError, match="give multiples of 4"):
        encode_tiled(tokenizer, video, Tiles(**tiles))


def test_a_video_off_the_lattice_is_refused(tokenizer, video):
    with pytest.raises(ValueError, match="47 x 64 pixels do not divide"):
        encode_tiled(tokenizer, video[..., :47, :], Tiles(size=32, overlap=8))


@pytest.mark.parametrize("chunk", [1, 3, 5])
def test_tiles_stream_in_both_directions(tokenizer, video, chunk):
    tiles = Tiles(size=24, overlap=8)
    long = torch.cat([video, video[:, :, 1:].flip(2)], 2)  # 9 frames
    streams = defaultdict(Stream)
    codes = torch.cat([encode_tiled(tokenizer, part, tiles, streams) for part in long.split(chunk, 2)], 1)
    assert torch.equal(codes, encode_tiled(tokenizer, long, tiles))
    streams = defaultdict(Stream)
    out = torch.cat([decode_tiled(tokenizer, part, tiles, streams) for part in codes.split(chunk, 1)], 2)
    assert torch.allclose(out, decode_tiled(tokenizer, codes, tiles), atol=1e-5)


def test_streams_go_one_to_each_tile(tokenizer, video):
    seen = {}

    class Streaming:
        stride, lattice = tokenizer.stride, tokenizer.lattice

        def encode(self, tile, stream):
            seen.setdefault(id(stream), []).append(tuple(tile.shape))
            return torch.zeros(1, 0, tile.shape[3] // 4, tile.shape[4] // 4, dtype=torch.long)

    streams = defaultdict(list)
    for _ in range(2):
        grid = encode_tiled(Streaming(), video, Tiles(size=24, overlap=8), streams)
    assert grid.shape == (1, 0, 12, 16)  # no code is due yet, the lattice is there
    assert len(streams) == len(seen) == 12 and all(len(calls) == 2 for calls in seen.values())

"""Spatial tiles for frames too large for memory: networks see one tile at a time, results are joined over the overlap.

Encoding keeps, of the tiles that cover a place, the code of the tile whose centre is nearest, so the grid of codes has
the size it would have without tiles. Decoding blends pixels linearly across the overlap.

A tile is not a window onto the whole-frame result: receptive fields end at its border, and normalisation takes its
statistics from the tile. `seam_error` measures what that costs for a tokenizer and a video.
"""

from collections.abc import MutableMapping
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor

from videopoet.tokenizers.visual.autoencoder import VideoTokenizer

#: One stream per tile (row, column), for encoding and decoding chunk by chunk: a `defaultdict(Stream)`.
Streams = MutableMapping[tuple[int, int], object]


@dataclass(frozen=True, kw_only=True)
class Tiles:
    """Square tiles of `size` pixels, each sharing `overlap` pixels with the next; both multiples of the stride."""

    size: int = 256  # pixels
    overlap: int = 64  # pixels

    def check(self, stride: int) -> None:
        """Raises ValueError where tiles would not lie on the lattice."""
        if self.size % stride or self.overlap % stride or not 0 <= self.overlap < self.size:
            raise ValueError(
                f"tiles of {self.size} pixels with {self.overlap} of overlap do not fit a stride of {stride}: give "
                f"multiples of {stride}, the overlap smaller than the tile"
            )


def spans(length: int, tile: int, overlap: int) -> list[tuple[int, int]]:
    """Start and end of the tiles that cover an axis; the last is moved back so that it ends with the axis.

    spans(20, 8, 2) -> (0, 8), (6, 14), (12, 20);  spans(10, 8, 2) -> (0, 8), (2, 10);  spans(6, 8, 2) -> (0, 6).
    """
    if length <= tile:
        return [(0, length)]
    step = tile - overlap
    starts = [*range(0, length - tile, step), length - tile]
    return [(start, start + tile) for start in starts]


def owned(tiles: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """The part of the axis for which each tile's centre is the nearest: neighbours meet in the middle of their overlap.

    (0, 8), (6, 14), (12, 20) -> (0, 7), (7, 13), (13, 20).
    """
    cuts = [(end + start) // 2 for (_, end), (start, _) in pairwise(tiles)]
    return list(zip([0, *cuts], [*cuts, tiles[-1][1]]))


def ramp(tiles: list[tuple[int, int]], index: int) -> Tensor:
    """Weights float (length of the tile,): 1 inside, linear where it overlaps a neighbour, never 0.

    Tiles (0, 8), (6, 14): the first ends 1, 1, 0.75, 0.25, the second starts 0.25, 0.75, 1: they sum to 1.
    """
    start, end = tiles[index]
    weights = torch.ones(end - start)
    if index > 0 and (shared := tiles[index - 1][1] - start) > 0:
        weights[:shared] *= (torch.arange(shared) + 0.5) / shared
    if index + 1 < len(tiles) and (shared := end - tiles[index + 1][0]) > 0:
        weights[-shared:] *= (torch.arange(shared).flip(0) + 0.5) / shared
    return weights


def encode_tiled(tokenizer: VideoTokenizer, video: Tensor, tiles: Tiles, streams: Streams | None = None) -> Tensor:
    """float (b, 3, t, h, w) on the lattice -> codes int64 (b, t', h', w'), as many as without tiles.

    With `streams`, one chunk of a longer video; t' may then be 0. Raises ValueError where h, w or the tiles do not
    divide by the stride.
    """
    _, sh, sw = tokenizer.stride
    tiles.check(sh), tiles.check(sw)
    tokenizer.lattice(1, *video.shape[3:])  # names the side that does not divide
    rows, columns = (spans(n, tiles.size, tiles.overlap) for n in video.shape[3:])
    bands = []
    for i, ((top, bottom), (first, last)) in enumerate(zip(rows, owned([(a // sh, b // sh) for a, b in rows]))):
        band = []
        for j, ((left, right), (west, east)) in enumerate(
            zip(columns, owned([(a // sw, b // sw) for a, b in columns]))
        ):
            stream = () if streams is None else (streams[i, j],)
            codes = tokenizer.encode(video[..., top:bottom, left:right], *stream)
            band.append(codes[..., first - top // sh : last - top // sh, west - left // sw : east - left // sw])
        bands.append(torch.cat(band, -1))
    return torch.cat(bands, -2)


def decode_tiled(tokenizer: VideoTokenizer, codes: Tensor, tiles: Tiles, streams: Streams | None = None) -> Tensor:
    """codes int64 (b, t', h', w') -> float (b, 3, t, h, w), tiles blended linearly where they overlap.

    With `streams`, one chunk of a longer video. Memory: the result, its running sum, and one tile in the network.
    """
    _, sh, sw = tokenizer.stride
    tiles.check(sh), tiles.check(sw)
    rows = spans(codes.shape[2] * sh, tiles.size, tiles.overlap)
    columns = spans(codes.shape[3] * sw, tiles.size, tiles.overlap)
    video, weight = None, torch.zeros(rows[-1][1], columns[-1][1], device=codes.device)
    for i, (top, bottom) in enumerate(rows):
        for j, (left, right) in enumerate(columns):
            stream = () if streams is None else (streams[i, j],)
            tile = tokenizer.decode(codes[..., top // sh : bottom // sh, left // sw : right // sw], *stream)
            if video is None:
                video = tile.new_zeros(*tile.shape[:3], *weight.shape)
            share = (ramp(rows, i)[:, None] * ramp(columns, j)).to(tile)
            video[..., top:bottom, left:right] += tile * share
            weight[top:bottom, left:right] += share
    return video / weight.to(video)


class SeamError(NamedTuple):
    """What tiles cost: decoded with tiles against decoded whole, PSNR in dB over pixels in [-1, 1] (peak 2)."""

    psnr: float  # dB, all pixels
    psnr_in_overlap: float  # dB, pixels that more than one tile covers; inf where there are none
    psnr_elsewhere: float  # dB, the other pixels
    codes_changed: float  # share of codes that differ when the encoder sees tiles


@torch.no_grad()
def seam_error(tokenizer: VideoTokenizer, video: Tensor, tiles: Tiles) -> SeamError:
    """Measure the error that tiles bring for a tokenizer and a video (b, 3, t, h, w) on the lattice.

    Both decodings start from the whole-frame codes, so the PSNRs are of the decoder's seams alone; the encoder's show
    as the share of codes that change.
    """
    codes = tokenizer.encode(video)
    whole, tiled = tokenizer.decode(codes), decode_tiled(tokenizer, codes, tiles)
    square = (whole - tiled).float().square().mean((0, 1, 2))
    covered = _cover(video.shape[3], tiles)[:, None] * _cover(video.shape[4], tiles) > 1
    covered = covered.to(square.device)
    changed = (encode_tiled(tokenizer, video, tiles) != codes).float().mean().item()
    return SeamError(_psnr(square), _psnr(square[covered]), _psnr(square[~covered]), changed)


def _cover(length: int, tiles: Tiles) -> Tensor:
    """How many tiles cover each pixel of an axis."""
    count = torch.zeros(length)
    for start, end in spans(length, tiles.size, tiles.overlap):
        count[start:end] += 1
    return count


def _psnr(square: Tensor) -> float:
    """Mean squared error over a range of 2 -> dB; inf for no error or no pixels."""
    error = square.double().mean().item() if square.numel() else 0.0
    return float("inf") if error == 0 else float(10 * torch.log10(torch.tensor(4.0 / error, dtype=torch.float64)))

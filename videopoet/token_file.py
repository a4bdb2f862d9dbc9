"""Video files <-> token files, chunk by chunk: an hour of video takes the memory of a second."""

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from fractions import Fraction
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from videopoet.data.media import Media, stream_media, write_chunks
from videopoet.data.transforms import ResizeCrop, video_to_float, video_to_uint8
from videopoet.tokenizers.streaming import Stream
from videopoet.tokenizers.token_file.container import Header, TokenReader, TokenWriter
from videopoet.tokenizers.visual.autoencoder import VideoTokenizer
from videopoet.tokenizers.visual.padding import Size, pad_to_lattice, padding_of
from videopoet.tokenizers.visual.tiling import Tiles, decode_tiled, encode_tiled

MOST_WHOLE = 512  # frames a tokenizer that cannot stream is given at once


def encode_video(
    video: str | Path,
    out: str | Path,
    tokenizer: VideoTokenizer,
    *,
    coder: str = "packed",
    fps: float | None = None,
    resize: ResizeCrop | None = None,
    max_seconds: float | None = None,
    tiles: Tiles | None = None,
    progress: Callable[[int], None] | None = None,
) -> Header:
    """Any video file -> a token file, whole or not at all; sound is left out. Returns what the file says.

    fps, resize: as in `stream_media`; None keeps the file's own. The frames are padded to the tokenizer's lattice by
    repeating the last frame, bottom row and right column, and the size before is recorded. `progress` gets the number
    of frames of every chunk. Raises ValueError where the video cannot be read or is too long for a tokenizer that
    cannot stream.
    """
    stride, rule = tokenizer.stride, tokenizer.encoder.rule
    chunks = stream_media(video, fps=fps, audio=False, resize=resize, chunk_frames=stride[0], max_seconds=max_seconds)
    first = next(chunks)
    size = Size(*first.video.shape[:3])
    _, rows, columns = padding_of(size, stride, rule)
    header = Header(
        lattice=(1, (size.height + rows) // stride[1], (size.width + columns) // stride[2]),
        size=(1, size.height, size.width),
        stride=tuple(stride),
        fps=Fraction(first.fps).limit_denominator(1001),
        codebook_size=tokenizer.codebook_size,
        fingerprint=tokenizer.fingerprint,
        coder=coder,
    )
    counted = _Counted(_after(first, chunks), progress)
    with TokenWriter(out, header) as writer:
        for codes in _codes(tokenizer, _padded(counted, tokenizer), tiles):
            writer.write(codes[0].cpu().numpy())
        return writer.close(counted.frames)


def decode_video(
    tokens: str | Path,
    out: str | Path,
    tokenizer: VideoTokenizer,
    *,
    tiles: Tiles | None = None,
    progress: Callable[[int], None] | None = None,
) -> Header:
    """A token file -> an mp4 of the size and length before padding. Returns what the token file says.

    `progress` gets the number of frames of every chunk. Raises ValueError where the file is damaged, or holds codes of
    another tokenizer.
    """
    reader = TokenReader(tokens)
    reader.check_tokenizer(tokenizer.fingerprint)
    header = reader.header

    def pictures() -> Iterator[Media]:
        left = header.size[0]
        for video in _videos(tokenizer, reader, tiles):
            part = video[:, :, :left, : header.size[1], : header.size[2]]
            left -= part.shape[2]
            if part.shape[2]:
                yield Media(video=video_to_uint8(part[0]), fps=float(header.fps))
            if progress:
                progress(part.shape[2])

    write_chunks(out, pictures())
    return header


def can_stream(tokenizer: VideoTokenizer) -> bool:
    """Whether both networks take a video chunk by chunk."""
    return tokenizer.causal and tokenizer.encoder.streams and tokenizer.decoder.streams


class _Counted:
    """The chunks of a video as arrays, and the number of frames given so far."""

    def __init__(self, chunks: Iterable, progress: Callable[[int], None] | None):
        self._chunks, self._progress, self.frames = chunks, progress, 0

    def __iter__(self) -> Iterator[np.ndarray]:
        for chunk in self._chunks:
            yield chunk.video
            self.frames += len(chunk.video)
            if self._progress:
                self._progress(len(chunk.video))


def _after(first, rest: Iterator) -> Iterator:
    yield first
    yield from rest


def _padded(counted: _Counted, tokenizer: VideoTokenizer) -> Iterator[Tensor]:
    """Chunks float (1, 3, t, h, w) on the spatial lattice, and after the last the frames that fill its latent frame."""
    device, stride = next(tokenizer.parameters()).device, tokenizer.stride
    video = None
    for chunk in counted:
        video, _ = pad_to_lattice(video_to_float(chunk)[None].to(device), (1, *stride[1:]))
        yield video
    missing, _, _ = padding_of(Size(counted.frames, 1, 1), stride, tokenizer.encoder.rule)
    if missing:
        yield video[:, :, -1:].expand(-1, -1, missing, -1, -1)


def _codes(tokenizer: VideoTokenizer, chunks: Iterable[Tensor], tiles: Tiles | None) -> Iterator[Tensor]:
    """Codes (1, t', h', w'), t' from 0, of every chunk; of a tokenizer that cannot stream, all at the end."""
    if not can_stream(tokenizer):
        video = _gathered(tokenizer, chunks)
        yield tokenizer.encode(video) if tiles is None else encode_tiled(tokenizer, video, tiles)
        return
    stream, streams = Stream(), defaultdict(Stream)
    for chunk in chunks:
        yield tokenizer.encode(chunk, stream) if tiles is None else encode_tiled(tokenizer, chunk, tiles, streams)


def _gathered(tokenizer: VideoTokenizer, chunks: Iterable[Tensor]) -> Tensor:
    held, frames = [], 0
    for chunk in chunks:
        held.append(chunk)
        frames += chunk.shape[2]
        if frames > MOST_WHOLE:
            raise ValueError(
                f"{type(tokenizer.encoder).__name__} cannot stream and takes at most {MOST_WHOLE} frames at once: "
                "encode a shorter part by --seconds, or use a causal tokenizer"
            )
    return torch.cat(held, 2)


def _videos(tokenizer: VideoTokenizer, blocks: Iterable[np.ndarray], tiles: Tiles | None) -> Iterator[Tensor]:
    """Video float (1, 3, t, h, w) of every latent frame; of a tokenizer that cannot stream, all at once."""
    device = next(tokenizer.parameters()).device
    if not can_stream(tokenizer):
        codes = torch.from_numpy(np.concatenate(list(blocks)))[None].to(device)
        yield tokenizer.decode(codes) if tiles is None else decode_tiled(tokenizer, codes, tiles)
        return
    stream, streams = Stream(), defaultdict(Stream)
    for block in blocks:
        for codes in torch.from_numpy(block)[None].to(device).split(1, 1):
            yield tokenizer.decode(codes, stream) if tiles is None else decode_tiled(tokenizer, codes, tiles, streams)

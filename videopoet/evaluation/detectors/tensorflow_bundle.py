"""Float tensors of a TensorFlow checkpoint (`.index` and `.data-00000-of-00001`), read without TensorFlow.

The index is a table of sorted keys: a footer of 48 bytes points to a block of pointers to blocks, in which a key shares
its head with the one before. A value is a protocol buffer: dtype (1), shape (2), shard (3), offset (4), size (5).
Source: tensorflow/core/lib/io/format.cc and tensor_bundle.proto, LevelDB's table format.
"""

import math
import struct
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

MAGIC = bytes.fromhex("57fb808b247547db")
FLOAT = 1


def read_bundle(folder: str | Path) -> dict[str, Tensor]:
    """float32 tensors by name of the checkpoint `.index` in `folder`. Raises ValueError for a damaged or another file."""
    folder = Path(folder)
    try:
        index = (folder / ".index").read_bytes()
        data = (folder / ".data-00000-of-00001").read_bytes()
        return dict(_tensors(index, data))
    except OSError as error:
        raise ValueError(f"no checkpoint of TensorFlow in {folder} ({error})") from None
    except (IndexError, struct.error, UnicodeDecodeError) as error:
        raise ValueError(f"the checkpoint in {folder} is damaged ({error})") from None


def _tensors(index: bytes, data: bytes) -> Iterator[tuple[str, Tensor]]:
    if index[-8:] != MAGIC:
        raise ValueError("no index of a TensorFlow checkpoint: its last 8 bytes are others")
    _, at = _handle(index, len(index) - 48)  # of the meta block
    pointers, _ = _handle(index, at)
    for _, pointer in _entries(index, pointers):
        for key, value in _entries(index, _handle(pointer, 0)[0]):
            said = _message(value)
            if key and said.get(1) == FLOAT:
                shape = [_message(d).get(1, 0) for d in _repeated(said.get(2, b""), 2)]
                start, size = said.get(4, 0), said.get(5, 0)
                if size != 4 * math.prod(shape) or start + size > len(data):
                    raise ValueError(f"{key.decode()}: {size} bytes at {start} of {len(data)} for shape {shape}")
                flat = np.frombuffer(data, dtype="<f4", count=size // 4, offset=start)
                yield key.decode(), torch.from_numpy(flat.copy()).reshape(shape)


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[at]
        value, shift, at = value | (byte & 127) << shift, shift + 7, at + 1
        if byte < 128:
            return value, at


def _handle(data: bytes, at: int) -> tuple[tuple[int, int], int]:
    start, at = _varint(data, at)
    size, at = _varint(data, at)
    return (start, size), at


def _entries(index: bytes, handle: tuple[int, int]) -> Iterator[tuple[bytes, bytes]]:
    start, size = handle
    if index[start + size] != 0:
        raise ValueError("the index is compressed: save the checkpoint again without compression")
    block = index[start : start + size]
    restarts = struct.unpack("<I", block[-4:])[0]
    at, end, key = 0, len(block) - 4 - 4 * restarts, b""
    while at < end:
        shared, at = _varint(block, at)
        fresh, at = _varint(block, at)
        length, at = _varint(block, at)
        key = key[:shared] + block[at : at + fresh]
        yield key, block[at + fresh : at + fresh + length]
        at += fresh + length


def _fields(data: bytes) -> Iterator[tuple[int, int | bytes]]:
    at = 0
    while at < len(data):
        tag, at = _varint(data, at)
        kind = tag & 7
        if kind == 0:
            value, at = _varint(data, at)
        elif kind == 2:
            length, at = _varint(data, at)
            value, at = data[at : at + length], at + length
        else:  # fixed width: a checksum
            width = {1: 8, 5: 4}[kind]
            value, at = data[at : at + width], at + width
        yield tag >> 3, value


def _message(data: bytes) -> dict[int, int | bytes]:
    return dict(_fields(data))


def _repeated(data: bytes, number: int) -> list[bytes]:
    return [value for field, value in _fields(data) if field == number]

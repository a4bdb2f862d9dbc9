"""Codes <-> bits <-> bytes, least significant bit first (the order of `LookupFreeQuantizer`)."""

import numpy as np

BIT_ORDER = "least significant first"


def bits_needed(codebook_size: int) -> int:
    """Bits per code: 2^18 codes -> 18, 64000 codes -> 16, 1 code -> 1."""
    return max(1, (codebook_size - 1).bit_length())


def codes_to_bits(codes: np.ndarray, bits: int) -> np.ndarray:
    """int64 (...) -> uint8 (..., bits) of 0 and 1: code 5 with 3 bits -> 1, 0, 1; code 1 -> 1, 0, 0."""
    return (codes[..., None] >> np.arange(bits) & 1).astype(np.uint8)


def bits_to_codes(bits: np.ndarray) -> np.ndarray:
    """uint8 (..., bits) -> int64 (...); the inverse of `codes_to_bits`."""
    codes = np.zeros(bits.shape[:-1], np.int64)
    for i in range(bits.shape[-1]):
        codes |= bits[..., i].astype(np.int64) << i
    return codes


def pack(bits: np.ndarray) -> bytes:
    """uint8 (...) of 0 and 1 -> bytes, the first bit in the lowest place of the first byte; the last byte padded with 0."""
    return np.packbits(bits.reshape(-1), bitorder="little").tobytes()


def unpack(data: bytes, shape: tuple[int, ...]) -> np.ndarray:
    """The inverse of `pack`. Raises ValueError where the number of bytes is not that of the shape."""
    count = int(np.prod(shape, dtype=object))
    if len(data) != -(-count // 8):
        raise ValueError(f"{len(data)} bytes hold no {count} bits, which take {-(-count // 8)}")
    return np.unpackbits(np.frombuffer(data, np.uint8), count=count, bitorder="little").reshape(shape)

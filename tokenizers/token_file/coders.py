"""Entropy coders of a token file: plain bits, frequencies stored in the file, or frequencies learnt on the way.

A coder turns the bits of consecutive latent frames, block by block, into bytes and back. One object serves one file in
one direction: it remembers what the next block is conditioned on. Measured on one core of a shared machine: the static
coder 0.21 and 0.15, the adaptive 0.25 and 0.22 microseconds per bit to encode and decode.
"""

import math
from abc import ABC, abstractmethod

import numpy as np

from videopoet.tokenizers.token_file.bits import pack, unpack
from videopoet.tokenizers.token_file.range_coder import ONE, BitDecoder, encode_bits

NONE = 2  # context of a bit that has no neighbour there; 0 and 1 are the neighbour's values


class Coder(ABC):
    """Bits of some latent frames (t, h, w, k) <-> bytes."""

    least_bits: float = 1.0  # the fewest bits that the coder spends on one; what a hostile file cannot undercut

    @abstractmethod
    def encode(self, bits: np.ndarray) -> bytes:
        """uint8 (t, h, w, k) of 0 and 1 -> the bytes of a block."""

    @abstractmethod
    def decode(self, data: bytes, shape: tuple[int, int, int, int]) -> np.ndarray:
        """The inverse of `encode`. Raises ValueError where the data cannot hold bits of that shape."""

    def check(self, num_bytes: int, count: int) -> None:
        """Raises ValueError where `num_bytes` cannot hold `count` bits, before anything of that size is allocated."""
        if count * self.least_bits > 8 * num_bytes + 64:  # 64: what the last bytes of a block may leave out
            raise ValueError(f"{num_bytes} bytes of payload cannot hold {count} bits")


class Packed(Coder):
    """One bit per bit."""

    def encode(self, bits: np.ndarray) -> bytes:
        return pack(bits)

    def decode(self, data: bytes, shape: tuple[int, int, int, int]) -> np.ndarray:
        self.check(len(data), math.prod(shape))
        return unpack(data, shape)


class Static(Coder):
    """Frequencies per bit and context, counted over a block and stored before it, one byte each.

    The context is the bit at the same place in the latent frame before: 0, 1, or none in the very first. A table takes
    3 bytes per bit (54 for 18 bits).
    """

    least_bits = 0.9 * -math.log2(255 / 256)  # 0.9: the range coder rounds

    def __init__(self):
        self._last: np.ndarray | None = None  # (h, w, k): the latent frame before the block

    def encode(self, bits: np.ndarray) -> bytes:
        context = self._contexts(bits)
        table = np.full((3, bits.shape[3]), 128, np.uint8)
        for c in range(3):
            count = (context == c).sum((0, 1, 2))
            ones = ((context == c) & (bits == 1)).sum((0, 1, 2))
            share = np.divide(ones * 256, count, out=np.full(len(count), 128.0), where=count > 0)
            table[c] = share.round().clip(1, 255)
        return table.tobytes() + encode_bits(bits.ravel().tolist(), _look_up(table, context).ravel().tolist())

    def decode(self, data: bytes, shape: tuple[int, int, int, int]) -> np.ndarray:
        self.check(len(data), math.prod(shape))
        t, h, w, k = shape
        if len(data) < 3 * k:
            raise ValueError(f"a block of {len(data)} bytes lacks its table of {3 * k}")
        table = np.frombuffer(data[: 3 * k], np.uint8).reshape(3, k)
        if not table.all():
            raise ValueError("a table of frequencies holds a zero")
        decoder, bits = BitDecoder(data[3 * k :]), np.empty(shape, np.uint8)
        last = np.full((h, w, k), NONE, np.uint8) if self._last is None else self._last
        for i in range(t):
            bits[i] = np.reshape(decoder.read(_look_up(table, last).ravel().tolist()), (h, w, k))
            last = bits[i]
        self._last = last
        return bits

    def _contexts(self, bits: np.ndarray) -> np.ndarray:
        first = np.full(bits.shape[1:], NONE, np.uint8) if self._last is None else self._last
        self._last = bits[-1].copy()
        return np.concatenate([first[None], bits[:-1]])


def _look_up(table: np.ndarray, context: np.ndarray) -> np.ndarray:
    """Table uint8 (3, k) of 1/256, context (..., h, w, k) -> probabilities of a 1 in 1/65536."""
    return table[context, np.arange(table.shape[1])].astype(np.int64) * (ONE // 256)


class Adaptive(Coder):
    """Frequencies learnt while coding, per bit and context; nothing is stored, both sides count alike.

    The context of a bit is the same bit at the same place in the latent frame before, and in the row above (each 0, 1
    or none): 9 contexts. Counts are updated after every row, halved when they reach a limit so that they follow the
    video, and start at 1/2 each, so p(1) = (ones + 1/2) / (all + 1) (Krichevsky-Trofimov).
    """

    limit = 4096  # counts per context before they are halved
    least_bits = 0.9 * -math.log2(1 - 32 / ONE)  # 0.9: the range coder rounds

    def __init__(self):
        self._ones: np.ndarray | None = None  # (9, k)
        self._all: np.ndarray | None = None
        self._last: np.ndarray | None = None  # (h, w, k)

    def encode(self, bits: np.ndarray) -> bytes:
        probabilities = []
        self._walk(bits.shape, lambda t, h, p: (probabilities.extend(p.ravel().tolist()), bits[t, h])[1])
        return encode_bits(bits.ravel().tolist(), probabilities)

    def decode(self, data: bytes, shape: tuple[int, int, int, int]) -> np.ndarray:
        self.check(len(data), math.prod(shape))
        decoder = BitDecoder(data)
        return self._walk(shape, lambda t, h, p: np.array(decoder.read(p.ravel().tolist()), np.uint8).reshape(p.shape))

    def _walk(self, shape: tuple[int, int, int, int], code) -> np.ndarray:
        """Go through the rows; `code(t, h, probabilities (w, k))` gives the bits of one. Returns all bits."""
        frames, rows, columns, k = shape
        if self._ones is None:
            self._ones, self._all = np.full((9, k), 0.5), np.ones((9, k))
            self._last = np.full(shape[1:], NONE, np.uint8)
        bits, places, nothing = np.empty(shape, np.uint8), np.arange(k), np.full((columns, k), NONE, np.uint8)
        for t in range(frames):
            above = nothing
            for h in range(rows):
                context = self._last[h] * 3 + above
                p = np.rint(self._ones / self._all * ONE).clip(32, ONE - 32).astype(np.int64)
                above = bits[t, h] = code(t, h, p[context, places])
                self._count(context, above)
            self._last = bits[t]
        self._last = self._last.copy()
        return bits

    def _count(self, context: np.ndarray, bits: np.ndarray) -> None:
        k = bits.shape[1]
        at = (context.astype(np.int64) * k + np.arange(k)).ravel()
        self._all += np.bincount(at, minlength=9 * k).reshape(9, k)
        self._ones += np.bincount(at, weights=bits.ravel(), minlength=9 * k).reshape(9, k)
        full = self._all > self.limit
        self._ones[full] /= 2
        self._all[full] /= 2


#: Names in the file's header and on the command line.
CODERS: dict[str, type[Coder]] = {"packed": Packed, "static": Static, "adaptive": Adaptive}

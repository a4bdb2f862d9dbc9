"""Binary range coder: bits whose probabilities both sides know -> nearly as few bytes as their information, and back.

Interval arithmetic on 64 bits, 32 renormalised at a time, a carry running back into the bytes already written. A
sequence takes the sum of -log2(p) to within 0.2 % (the interval rounds in favour of 0), and up to 5 bytes for its end.
"""

PRECISION = 16  # bits of a probability
ONE = 1 << PRECISION
_LOW, _HIGH, _MASK = 1 << 32, 1 << 64, (1 << 64) - 1


def encode_bits(bits: list[int], probabilities: list[int]) -> bytes:
    """bits of 0 and 1, with the probability of each being 1 in units of 2^-16 (1 to 65535) -> bytes."""
    low, width, out = 0, _MASK, bytearray()
    for bit, p in zip(bits, probabilities):
        cut = (width >> PRECISION) * p
        if bit:
            width = cut
        else:
            low += cut
            width -= cut
        if low >= _HIGH:
            low &= _MASK
            _carry(out)
        while width < _LOW:
            out += (low >> 32).to_bytes(4, "big")
            low = low << 32 & _MASK
            width <<= 32
    return bytes(_finish(out, low, width))


def _carry(out: bytearray) -> None:
    """Add one to the number written so far."""
    at = len(out) - 1
    while out[at] == 255:
        out[at] = 0
        at -= 1
    out[at] += 1


def _finish(out: bytearray, low: int, width: int) -> bytearray:
    """Write the shortest number inside [low, low + width); the reader continues it with zeros."""
    for kept in range(9):  # bytes
        unit = 1 << 64 - 8 * kept
        value = -(-low // unit) * unit
        if value < low + width:
            break
    if value >= _HIGH:
        value &= _MASK
        _carry(out)
    return out + value.to_bytes(8, "big")[:kept]


class BitDecoder:
    """Reads back what `encode_bits` wrote, given the same probabilities; any number of calls to `read`."""

    def __init__(self, data: bytes):
        self._data, self._at = data, 8
        self._width, self._value = _MASK, int.from_bytes(data[:8].ljust(8, b"\0"), "big")  # value: above low

    def read(self, probabilities: list[int]) -> list[int]:
        """One bit per probability. Bytes beyond the end count as zeros; the caller knows how many bits there are."""
        width, value, bits = self._width, self._value, []
        for p in probabilities:
            cut = (width >> PRECISION) * p
            if value < cut:
                bits.append(1)
                width = cut
            else:
                bits.append(0)
                value -= cut
                width -= cut
            while width < _LOW:
                value = value << 32 | int.from_bytes(self._data[self._at : self._at + 4].ljust(4, b"\0"), "big")
                width <<= 32
                self._at += 4
        self._width, self._value = width, value
        return bits

"""How the codes of a token file use their codebook."""

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np

from videopoet.tokenizers.token_file.bits import codes_to_bits
from videopoet.tokenizers.token_file.container import TokenReader

MOST_COUNTED = 1 << 26  # codes of a codebook whose use is counted, one byte each


class Statistics(NamedTuple):
    """codes_used: distinct codes, None for codebooks above 2^26; bit_entropy: bits per code were bits independent;
    changed: share of codes that differ from the latent frame before, 0 for one latent frame."""

    codes_used: int | None
    bit_entropy: float
    changed: float


def statistics(reader: TokenReader) -> Statistics:
    """One pass over the file, in constant memory."""
    return _statistics(reader, reader.header.codebook_size, reader.header.bits)


def _statistics(blocks: Iterable[np.ndarray], codebook_size: int, bits: int) -> Statistics:
    seen = np.zeros(codebook_size, bool) if codebook_size <= MOST_COUNTED else None
    ones, total, differing, compared, last = np.zeros(bits), 0, 0, 0, None
    for codes in blocks:
        if seen is not None:
            seen[codes.ravel()] = True
        ones += codes_to_bits(codes, bits).sum((0, 1, 2))
        total += codes.size
        steps = codes if last is None else np.concatenate([last[None], codes])
        differing, compared, last = differing + (steps[1:] != steps[:-1]).sum(), compared + steps[1:].size, codes[-1]
    p = np.stack([ones, total - ones]) / total
    entropy = -(p * np.log2(p, out=np.zeros_like(p), where=p > 0)).sum()
    return Statistics(None if seen is None else int(seen.sum()), float(entropy), float(differing / max(1, compared)))

"""Fewer empty places: text slots that no row of a batch fills are left out, and sequences share rows."""

from collections.abc import Sequence as Many

import torch

from videopoet.sequence import Sequence


def trim(sequences: Many[Sequence]) -> list[Sequence]:
    """Sequences of one length without the places that none of them shows: text slots that stay empty in all.

    Nothing sees such a place and it predicts nothing, so that all else stays as it was, positions included.
    """
    used = torch.stack([s.shown for s in sequences]).any(0)
    return [s.at(used) for s in sequences]


def fill(lengths: Many[int], row: int, rows: int) -> list[list[int]]:
    """Numbers of the sequences that share each of `rows` rows: the longest first, each into the fullest it fits in.

    Lengths 5, 4, 3, 3 into two rows of 8: [[0, 2], [1, 3]]. What fits nowhere is left out.
    """
    room, placed = [row] * rows, [[] for _ in range(rows)]
    for i in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        fitting = [r for r in range(rows) if room[r] >= lengths[i]]
        if fitting:
            r = min(fitting, key=lambda r: room[r])
            placed[r].append(i)
            room[r] -= lengths[i]
    return placed

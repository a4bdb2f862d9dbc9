"""The copies of a batch that guidance guides away from."""

from collections.abc import Sequence as Many

from videopoet.sampling.rules import Guidance
from videopoet.sequence import Segment
from videopoet.tasks.absent import without
from videopoet.tasks.base import Text


def unconditioned(conditions: Many[list[Segment]], negatives: Many[Text], guidance: Guidance) -> list[list[Segment]]:
    """The further copies of a batch, one after the other, each lacking one guided condition more.

    negatives: the text of each row in the copies without its own.
    """
    rows, copies = list(conditions), []
    for modality in guidance.guided:
        rows = [without(row, modality, negative) for row, negative in zip(rows, negatives)]
        copies += rows
    return copies

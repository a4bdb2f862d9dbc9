"""A condition with some of it taken away: the rows that guidance guides away from."""

from collections.abc import Sequence as Many
from dataclasses import replace

from videopoet.sampling.rules import Guidance
from videopoet.sequence import Segment
from videopoet.tasks.base import Text
from videopoet.vocabulary import Modality


def present(condition: list[Segment]) -> set[Modality]:
    """What a condition holds: text, visual or audio tokens."""
    return {segment.modality for segment in condition} - {Modality.CONTROL}


def without(condition: list[Segment], modality: Modality, text: Text) -> list[Segment]:
    """The condition, no longer and no shorter, without what it says in one modality.

    Text becomes `text`: the empty prompt, as training drops captions, or a negative one. Visual and audio tokens stay
    between their markers but are seen by nothing, as padding is.
    """
    if modality is Modality.TEXT:
        change = {"ids": text.ids, "shown": text.shown}
        return [replace(s, **change) if s.modality is modality else s for s in condition]
    return [replace(s, shown=s.shown & False) if s.modality is modality else s for s in condition]


def unconditioned(conditions: Many[list[Segment]], negatives: Many[Text], guidance: Guidance) -> list[list[Segment]]:
    """The further copies of a batch, one after the other, each lacking one guided condition more.

    negatives: the text of each row in the copies without its own.
    """
    rows, copies = list(conditions), []
    for modality in guidance.guided:
        rows = [without(row, modality, negative) for row, negative in zip(rows, negatives)]
        copies += rows
    return copies

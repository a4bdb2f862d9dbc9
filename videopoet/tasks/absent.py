"""A condition with some of it taken away: what guidance guides away from, and what training drops now and then for it."""

from dataclasses import replace

from videopoet.sequence import Segment
from videopoet.tasks.base import Text
from videopoet.vocabulary import Modality


def present(condition: list[Segment]) -> set[Modality]:
    """What a condition holds: text, visual or audio tokens."""
    return {segment.modality for segment in condition} - {Modality.CONTROL}


def without(segments: list[Segment], modality: Modality, text: Text | None = None) -> list[Segment]:
    """A condition, or a whole sequence, no longer and no shorter, without what is given in one modality.

    Text becomes `text`: the empty prompt or a negative one. Visual and audio tokens stay between their markers but are
    seen by nothing, as padding is. What is made stays.
    """
    if modality is Modality.TEXT:
        assert text is not None, "text has another text in its place"
        change = {"ids": text.ids, "shown": text.shown}
        return [replace(s, **change) if s.modality is modality else s for s in segments]
    return [replace(s, shown=s.shown & False) if s.modality is modality and not s.predicted else s for s in segments]

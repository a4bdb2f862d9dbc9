"""What raters are asked: the five axes of VideoPoet's human study, in words of our own; "about the same" is an answer too."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Axis:
    """One question about two videos. id: its name in answers and reports."""

    id: str
    title: str
    question: str


AXES = (
    Axis(id="text_fidelity", title="Text fidelity", question="Which video shows better what the text says?"),
    Axis(id="video_quality", title="Video quality", question="Which video looks better, picture by picture?"),
    Axis(
        id="motion_interestingness", title="Interesting motion", question="In which video does more of interest happen?"
    ),
    Axis(
        id="motion_realism",
        title="Realistic motion",
        question="In which video do things move more as they really would?",
    ),
    Axis(
        id="temporal_consistency",
        title="Temporal consistency",
        question="In which video do things stay more what they are?",
    ),
)
CHOICES = ("left", "same", "right")

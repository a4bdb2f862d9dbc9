"""Tasks one after the other: what a step makes is what the next is given (VideoPoet's task chaining).

A step that reads a picture gets the last frame, one that reads a video or its sound the whole, whatever tasks there are.
"""

from collections.abc import Callable
from collections.abc import Sequence as Many
from dataclasses import dataclass, field, replace

from videopoet.data.media import Media
from videopoet.sampling.request import Request
from videopoet.tasks.base import Task


@dataclass(frozen=True, kw_only=True)
class Step:
    """A task, what it is given beside what the step before made, and how it draws: arguments of `VideoPoet.generate`."""

    task: str | Task
    request: Request = field(default_factory=Request)
    how: dict = field(default_factory=dict)


def run(poet, steps: Many[Step], *, progress: Callable[[int], None] | None = None) -> Media:
    """Take the steps with a `VideoPoet`; returns what the last one makes. Raises ValueError naming the step that fails."""
    if not steps:
        raise ValueError("a chain needs at least one step")
    made: Media | None = None
    for number, step in enumerate(steps, 1):
        request = step.request if made is None else carry(step.request, made)
        try:
            made = poet.generate(step.task, [request], progress=progress, **step.how)[0]
        except ValueError as error:
            raise ValueError(f"step {number} of {len(steps)}, {step.task}: {error}") from None
    return made


def carry(request: Request, made: Media) -> Request:
    """The request with what was made where it gives no picture, or no video, itself."""
    image = made.video[-1] if request.image is None and made.video is not None else request.image
    return replace(request, image=image, video=made if request.video is None else request.video)

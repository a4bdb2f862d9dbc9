"""Tasks one after the other: what a step makes is what the next is given (VideoPoet's task chaining).

A step that reads a picture gets the last frame, one that reads a video or its sound the whole, one that reads both (a clip's
structure and its first frame) the whole and its first frame, whatever tasks there are.
"""

from collections.abc import Callable
from collections.abc import Sequence as Many
from dataclasses import dataclass, field, replace

from videopoet.data.media import Media
from videopoet.sampling.request import Request
from videopoet.tasks.base import OWN, Task


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
        try:
            request = step.request if made is None else carry(step.request, made, poet.reads(step.task))
            made = poet.generate(step.task, [request], progress=progress, **step.how)[0]
        except ValueError as error:
            raise ValueError(f"step {number} of {len(steps)}, {step.task}: {error}") from None
    return made


def carry(request: Request, made: Media, reads: Many[str]) -> Request:
    """The request with what was made where it gives no picture, or no video, itself.

    reads: what the task reads. A picture is the last frame, from which a video goes on; of a task that reads the clip too,
    which it makes again, the first.
    """
    again = any(name not in OWN and name != "image" for name in reads)
    image = request.image
    if image is None and made.video is not None:
        image = made.video[0 if again else -1]
    return replace(request, image=image, video=made if request.video is None else request.video)

"""What a user gives to be sampled from."""

from dataclasses import dataclass

import numpy as np

from videopoet.data.media import Media


@dataclass(frozen=True, kw_only=True)
class Request:
    """What a task may read; each reads what it needs.

    prompt: a sentence, or the name of a class. image: uint8 (h, w, 3). video: of any size at the model's frame rate.
    audio: at the model's sample rate; without it the video's own sound is taken.
    """

    prompt: str = ""
    image: np.ndarray | None = None
    video: Media | None = None
    audio: Media | None = None

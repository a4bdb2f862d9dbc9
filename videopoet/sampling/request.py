"""What a user gives to be sampled from."""

from dataclasses import dataclass

import numpy as np

from videopoet.data.media import Media


@dataclass(frozen=True, kw_only=True)
class Request:
    """`prompt`; `image` uint8 (h, w, 3); `video` of any size at the model's frame rate. Each task reads what it needs.

    `negative_prompt`: what guidance leads away from, in place of no text at all (as VideoPoet's negative prompt).
    """

    prompt: str = ""
    negative_prompt: str = ""
    image: np.ndarray | None = None
    video: Media | None = None

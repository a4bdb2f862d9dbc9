"""What a user gives to be sampled from."""

from dataclasses import dataclass, fields

import numpy as np

from videopoet.data.media import Media


@dataclass(frozen=True, kw_only=True)
class Request:
    """What a task may read; each reads what it needs.

    prompt: a sentence, or the name of a class. negative_prompt: what guidance leads away from, in place of no text at
    all (as VideoPoet's negative prompt). image: uint8 (h, w, 3). video: of any size at the model's frame rate.
    audio: at the model's sample rate; without it the video's own sound is taken.
    """

    prompt: str = ""
    negative_prompt: str = ""
    image: np.ndarray | None = None
    video: Media | None = None
    audio: Media | None = None


def requests_of(requests: list[Request] | None, given: dict) -> list[Request]:
    """The requests, or the one whose fields are given. Raises ValueError for neither, both, and what is no request."""
    names = [field.name for field in fields(Request)]
    if unknown := [name for name in given if name not in names]:
        raise ValueError(f"a request has no '{unknown[0]}', it has {', '.join(names)}")
    if (requests is None) != bool(given):
        raise ValueError("give a list of requests, or the fields of one: poet.generate(task, prompt='...')")
    requests = [Request(**given)] if requests is None else list(requests)
    for request in requests:
        check_request(request)
    return requests


def check_request(request: Request) -> None:
    """Raises ValueError where a request is not what it should be."""
    if not isinstance(request, Request) or not isinstance(request.prompt, str):
        raise ValueError("a prompt is a text: pass a list of Request(prompt='...')")
    image = request.image
    if image is not None and not (isinstance(image, np.ndarray) and image.dtype == np.uint8 and image.ndim == 3):
        raise ValueError("an image is an array uint8 (h, w, 3): read a file with poet.read_image(path)")
    if request.video is not None and not isinstance(request.video, Media):
        raise ValueError("a video is a Media: read a file with poet.read_video(path)")
    if request.audio is not None and not isinstance(request.audio, Media):
        raise ValueError("a sound is a Media: read a file with poet.read_audio(path)")


def sound_of(request: Request) -> np.ndarray | None:
    """The given sound as one channel, float32 (1, s): a sound of its own, or that of the given video."""
    for media in (request.audio, request.video):
        if media is not None and media.audio is not None:
            return np.asarray(media.audio, np.float32).mean(0, keepdims=True)
    return None

"""Any number of frames and pixels -> the lattice of a tokenizer, and back."""

from typing import NamedTuple

import torch.nn.functional as F
from torch import Tensor

from videopoet.tokenizers.visual.causal import Triple
from videopoet.tokenizers.visual.network import FIRST_FRAME_ALONE, TemporalRule


class Size(NamedTuple):
    """frames, height and width (pixels) of a video before padding; what `trim` cuts back to."""

    frames: int
    height: int
    width: int


def padding_of(size: Size, stride: Triple, rule: TemporalRule = FIRST_FRAME_ALONE) -> tuple[int, int, int]:
    """Frames, rows and columns to add so that a video divides into the lattice: 1 + s_t*k frames, s_h*j x s_w*i pixels.

    (18, 30, 33) with stride (4, 8, 8) -> (3, 2, 7): the padded video is 21 x 32 x 40, its codes 6 x 4 x 5. A tokenizer
    of whole windows takes s_t*k frames, so 18 -> 20.
    Raises ValueError where an axis is empty.
    """
    if min(size) < 1:
        raise ValueError(f"a video of {size.frames} frames of {size.height} x {size.width} pixels is empty")
    return (rule.lead - size.frames) % stride[0], -size.height % stride[1], -size.width % stride[2]


def pad_to_lattice(video: Tensor, stride: Triple, rule: TemporalRule = FIRST_FRAME_ALONE) -> tuple[Tensor, Size]:
    """float (b, c, t, h, w) -> the video with its last frame, bottom row and right column repeated, and the size it had.

    Time: 18 frames with s_t = 4 -> 21 frames, frames 18 to 20 being copies of frame 17; `trim` gives 18 again. Copies
    at the end change no earlier code: the tokenizer is causal. 17 frames stay 17, 1 frame stays 1.
    """
    size = Size(*video.shape[2:])
    frames, rows, columns = padding_of(size, stride, rule)
    if rows or columns:
        b, c, t, h, w = video.shape  # replication of 5 axes pads time as well: fold time into the batch
        flat = video.transpose(1, 2).reshape(b * t, c, h, w)
        flat = F.pad(flat, (0, columns, 0, rows), mode="replicate")
        video = flat.reshape(b, t, c, h + rows, w + columns).transpose(1, 2)
    if frames:
        video = F.pad(video, (0, 0, 0, 0, 0, frames), mode="replicate")
    return video, size


def trim(video: Tensor, size: Size) -> Tensor:
    """float (b, c, t, h, w) -> its first `size.frames` frames, top `size.height` rows and left `size.width` columns.

    Raises ValueError where the video is smaller than the size.
    """
    if any(have < want for have, want in zip(video.shape[2:], size)):
        raise ValueError(
            f"a video of {tuple(video.shape[2:])} (frames, height, width) cannot be trimmed to {tuple(size)}: "
            "decode all codes of the padded video first"
        )
    return video[:, :, : size.frames, : size.height, : size.width]

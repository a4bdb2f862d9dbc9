"""A picture of what tokenizers make of the same clips: originals above, then a line of each tokenizer."""

from collections.abc import Sequence

import numpy as np
import torch

from videopoet.data.schema import Clip
from videopoet.data.shards import ShardReader
from videopoet.data.transforms import video_to_float, video_to_uint8
from videopoet.tokenizers.visual.autoencoder import VideoTokenizer
from videopoet.tokenizers.visual.padding import pad_to_lattice, trim

SCALE = 2  # screen pixels per pixel


def spread(reader: ShardReader, number: int) -> list[np.ndarray]:
    """The videos uint8 (t, h, w, 3) of `number` clips evenly spread over media shards, or of all if there are fewer."""
    indices = np.linspace(0, len(reader) - 1, min(number, len(reader))).astype(int)
    return [Clip.from_record(reader[int(i)]).video for i in indices]


def sheet(tokenizers: Sequence[VideoTokenizer], videos: Sequence[np.ndarray]) -> np.ndarray:
    """uint8 (H, W, 3): the middle frame of every video, uint8 (t, h, w, 3) of one size, and of its reconstructions."""
    lines = [list(videos), *([rebuilt(tokenizer, video) for video in videos] for tokenizer in tokenizers)]
    pictures = [np.concatenate([video[len(video) // 2] for video in line], 1) for line in lines]
    return np.concatenate(pictures).repeat(SCALE, 0).repeat(SCALE, 1)


@torch.inference_mode()
def rebuilt(tokenizer: VideoTokenizer, video: np.ndarray) -> np.ndarray:
    """uint8 (t, h, w, 3) -> what the tokenizer makes of it, frames that do not fill a window padded as in use."""
    padded, size = pad_to_lattice(video_to_float(video)[None], tokenizer.stride, tokenizer.encoder.rule)
    return video_to_uint8(trim(tokenizer.decode(tokenizer.encode(padded)), size))[0]

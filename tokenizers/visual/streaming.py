"""Coding a video chunk by chunk in constant memory: the state is one explicit object, not attributes of the layers."""

from collections.abc import Iterator

import torch
from torch import Tensor, nn


class Stream:
    """What one direction (encoding or decoding) of one tokenizer remembers between the chunks of one video.

        stream = Stream()
        codes = torch.cat([tokenizer.encode(chunk, stream) for chunk in chunks], 1)  # == tokenizer.encode(video)
        stream = Stream()
        video = torch.cat([tokenizer.decode(part, stream) for part in codes.split(3, 1)], 2)

    A chunk may have any number of frames. The first latent frame needs one frame, each later one `stride_t` more;
    frames that do not fill a latent frame yet wait here (`pending`). Each convolution keeps its last
    `kernel_t - stride_t` input frames, so the memory depends on the frame size only (`num_bytes`).

    stepwise: compute one latent frame at a time. Every layer then sees the same shapes however the video is cut, so the
    codes are the same bits for every chunking, and a long chunk takes no more memory than a short one. Without it a
    chunk is computed at once: faster for small frames on a GPU, but a library may pick another summation order for
    another number of frames, and a latent within rounding of zero may flip. The same holds against `encode(video)`.

    Raises ValueError where one stream meets two videos (another batch or frame size), tokenizers or directions.
    """

    def __init__(self, *, stepwise: bool = True):
        self.stepwise = stepwise
        self.num_steps = 0  # latent frames so far
        self._past: dict[nn.Module, Tensor] = {}
        self._waiting: Tensor | None = None
        self._use: tuple | None = None

    @property
    def started(self) -> bool:
        """Whether the first latent frame, which begins with copies of the first frame, is done."""
        return self.num_steps > 0

    @property
    def pending(self) -> int:
        """Frames that wait for the rest of their latent frame."""
        return 0 if self._waiting is None else self._waiting.shape[2]

    @property
    def num_bytes(self) -> int:
        """Memory held between chunks."""
        held = [*self._past.values(), *([] if self._waiting is None else [self._waiting])]
        return sum(tensor.untyped_storage().nbytes() for tensor in held)

    def past(self, layer: nn.Module) -> Tensor:
        """The input frames that `layer` kept."""
        return self._past[layer]

    def keep(self, layer: nn.Module, frames: Tensor) -> None:
        """Keep the input frames that `layer` needs again; a copy, so that the chunk itself can go."""
        self._past[layer] = frames.clone()

    def open(self, tokenizer: nn.Module, direction: str, size: tuple[int, int, int]) -> None:
        """Say who uses the stream; `size` is (batch, height, width). Raises ValueError where that changed on the way."""
        use = (tokenizer, direction, size)
        if self._use is None:
            self._use = use
        elif self._use[0] is not tokenizer:
            raise ValueError("this stream belongs to another tokenizer: make a new Stream() per tokenizer")
        elif self._use[1] != direction:
            raise ValueError(f"this stream is {self._use[1]}, not {direction}: make a Stream() for each direction")
        elif self._use[2] != size:
            raise ValueError(
                f"this stream is of (batch, height, width) {self._use[2]}, the chunk is {size}: "
                "make a new Stream() per video"
            )

    def steps(self, chunk: Tensor, stride: int) -> Iterator[Tensor]:
        """(b, c, t, h, w) -> pieces of whole latent frames (1 + stride*k frames first, stride*k later); the rest waits."""
        frames = chunk if self._waiting is None else torch.cat([self._waiting, chunk], 2)
        available, position = frames.shape[2], 0
        while True:
            first = 0 if self.started else 1
            count = (available - position - first) // stride  # whole strides after the frame that stands alone
            if self.stepwise:
                count = 0 if first else min(count, 1)
            end = position + first + count * stride
            if end == position or end > available:
                break
            yield frames[:, :, position:end]
            self.num_steps += first + count
            position = end
        self._waiting = frames[:, :, position:].clone() if position < available else None

"""Coding video or sound chunk by chunk in constant memory: the state is one explicit object, not in the layers."""

from collections.abc import Iterator

import torch
from torch import Tensor, nn


class Stream:
    """What one direction (encoding or decoding) of one tokenizer remembers between the chunks of one video or sound.

        stream = Stream()
        codes = torch.cat([tokenizer.encode(chunk, stream) for chunk in chunks], 1)  # == tokenizer.encode(video)
        stream = Stream()
        video = torch.cat([tokenizer.decode(part, stream) for part in codes.split(3, 1)], 2)

    A chunk may have any number of frames (of sound: samples), which stand on its third axis. What does not fill a latent
    frame yet waits here (`pending`). The first latent frame of a video needs one frame, each later one `stride_t` more; a
    frame of sound needs `hop` samples. Each convolution keeps its last `kernel - stride` inputs and a recurrent layer its
    state, so the memory depends on the frame size only (`num_bytes`).

    stepwise: compute one latent frame at a time. Every layer then sees the same shapes however the input is cut, so the
    codes are the same bits for every chunking, and a long chunk takes no more memory than a short one. Without it a
    chunk is computed at once: faster for small frames and for sound, but a library may pick another summation order for
    another number of frames, and a latent within rounding of the border between two codes may fall to the other side.
    The same holds against the whole, `encode(video)`.

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
        """Whether the start, before which stands padding, is done."""
        return self.num_steps > 0

    @property
    def pending(self) -> int:
        """Frames or samples that wait for the rest of their latent frame."""
        return 0 if self._waiting is None else self._waiting.shape[2]

    @property
    def num_bytes(self) -> int:
        """Memory held between chunks."""
        held = [*self._past.values(), *([] if self._waiting is None else [self._waiting])]
        return sum(tensor.untyped_storage().nbytes() for tensor in held)

    def past(self, layer: nn.Module) -> Tensor:
        """What `layer` kept."""
        return self._past[layer]

    def keep(self, layer: nn.Module, state: Tensor) -> None:
        """Keep the inputs or the state that `layer` needs again; a copy, so that the chunk itself can go."""
        self._past[layer] = state.clone()

    def open(self, tokenizer: nn.Module, direction: str, **size: int) -> None:
        """Say who uses the stream, and for what size. Raises ValueError where that changed on the way."""
        use = (tokenizer, direction, size)
        if self._use is None:
            self._use = use
        elif self._use[0] is not tokenizer:
            raise ValueError("this stream belongs to another tokenizer: make a new Stream() per tokenizer")
        elif self._use[1] != direction:
            raise ValueError(f"this stream is {self._use[1]}, not {direction}: make a Stream() for each direction")
        elif self._use[2] != size:
            before, now = (", ".join(f"{name} {value}" for name, value in s.items()) for s in (self._use[2], size))
            raise ValueError(f"this stream is of {before}, the chunk of {now}: make a new Stream() per video or sound")

    def steps(self, chunk: Tensor, stride: int, first: int = 1) -> Iterator[Tensor]:
        """Chunk (b, c, t, ...) -> pieces of whole latent frames, `first` + stride*k frames at the start, stride*k later.

        The rest waits. `first` frames are one latent frame, or first / stride of them where that is more.
        """
        frames = chunk if self._waiting is None else torch.cat([self._waiting, chunk], 2)
        available, position = frames.shape[2], 0
        while True:
            start = 0 if self.started else first
            if available - position < (start or stride):
                break
            count = (available - position - start) // stride  # whole strides after the start
            if self.stepwise:
                count = 0 if start else 1
            end = position + start + count * stride
            yield frames[:, :, position:end]
            self.num_steps += (max(1, start // stride) if start else 0) + count
            position = end
        self._waiting = frames[:, :, position:].clone() if position < available else None

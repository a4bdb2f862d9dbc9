"""VideoTokenizer: video <-> codes, an image being a clip of one frame."""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from videopoet.tokenizers.quantizers.quantizer import Quantizer
from videopoet.tokenizers.streaming import Stream
from videopoet.tokenizers.visual.causal import Triple
from videopoet.tokenizers.visual.network import VideoDecoder, VideoEncoder


class Reconstruction(NamedTuple):
    """video (b, 3, t, h, w); codes (b, t', h', w'); loss: the quantizer's; metrics: the quantizer's."""

    video: Tensor
    codes: Tensor
    loss: Tensor
    metrics: dict[str, Tensor]


class VideoTokenizer(nn.Module):
    """Encoder, quantizer and decoder; strictly causal in time (MAGVIT-v2) where both networks are.

    Of a causal tokenizer `encode(video)[:, :1] == encode(video[:, :, :1])`, and decoding the first codes gives the
    first frames. 17 x 128 x 128 pixels with strides (4, 8, 8) -> 5 x 16 x 16 codes. With a `Stream`, `encode` and
    `decode` take a video chunk by chunk.
    """

    def __init__(self, encoder: VideoEncoder, quantizer: Quantizer, decoder: VideoDecoder, stride: Triple = (4, 8, 8)):
        super().__init__()
        self.encoder, self.quantizer, self.decoder, self.stride = encoder, quantizer, decoder, stride
        if encoder.rule != decoder.rule:
            raise ValueError(
                f"the encoder has {encoder.rule} and the decoder {decoder.rule}: take both from one family"
            )

    @property
    def codebook_size(self) -> int:
        return self.quantizer.size

    @property
    def causal(self) -> bool:
        """Whether no code depends on later frames and no decoded frame on later codes."""
        return self.encoder.causal and self.decoder.causal

    def lattice(self, frames: int, height: int, width: int) -> Triple:
        """Frames and pixels -> latent frames, rows and columns. Raises ValueError where they do not divide."""
        st, sh, sw = self.stride
        t = self.encoder.rule.latent_frames(frames, st)
        if height % sh or width % sw:
            raise ValueError(f"frames of {height} x {width} pixels do not divide into {sh} x {sw} patches: resize them")
        return t, height // sh, width // sw

    def latents(self, video: Tensor) -> Tensor:
        """float (b, 3, t, h, w) in [-1, 1] -> continuous latents (b, c, t', h', w'), before the quantizer."""
        _check_video(video)
        self.lattice(*video.shape[2:])
        return self.encoder(video)

    @torch.no_grad()
    def encode(self, video: Tensor, stream: Stream | None = None) -> Tensor:
        """float (b, 3, t, h, w) in [-1, 1] -> codes int64 (b, t', h', w').

        With a stream the video is its next chunk, of any number of frames, and t' may be 0. Raises ValueError on frames
        that do not fit, and where this tokenizer cannot stream.
        """
        if stream is None:
            return self.quantizer(self.latents(video)).codes
        _check_video(video)
        b, _, _, h, w = video.shape
        lattice = self.lattice(self.encoder.rule.frames(1, self.stride[0]), h, w)
        self._open(stream, self.encoder, "encoding", (b, h, w))
        codes = [self.quantizer(self.encoder(piece, stream)).codes for piece in stream.steps(video, self.stride[0])]
        return torch.cat([torch.zeros(b, 0, *lattice[1:], dtype=torch.int64, device=video.device), *codes], 1)

    @torch.no_grad()
    def decode(self, codes: Tensor, stream: Stream | None = None) -> Tensor:
        """codes int64 (b, t', h', w') -> float (b, 3, t, h, w) in [-1, 1].

        With a stream the codes are its next chunk, of any number of latent frames; those of a stream's start make
        1 + s*(t'-1) frames, later ones s*t'. Raises ValueError on codes out of range, and where this tokenizer cannot
        stream.
        """
        if codes.ndim != 4:
            raise ValueError(f"codes are (b, t, h, w), got {tuple(codes.shape)}")
        if codes.numel() and not 0 <= codes.min() <= codes.max() < self.codebook_size:
            raise ValueError(
                f"codes span {codes.min()} to {codes.max()}, the tokenizer has {self.codebook_size} of them"
            )
        if stream is None:
            return self.decoder(self.quantizer.embed(codes)).float().clamp(-1, 1)
        b, _, h, w = codes.shape
        h, w = h * self.stride[1], w * self.stride[2]
        self._open(stream, self.decoder, "decoding", (b, h, w))
        pieces = stream.steps(self.quantizer.embed(codes), 1)
        frames = [self.decoder(piece, stream).float().clamp(-1, 1) for piece in pieces]
        return torch.cat([torch.zeros(b, 3, 0, h, w, device=codes.device), *frames], 2)

    def forward(self, video: Tensor) -> Reconstruction:
        """float (b, 3, t, h, w) -> its reconstruction, with gradients and the quantizer's loss."""
        latents, codes, loss, metrics = self.quantizer(self.latents(video))
        return Reconstruction(self.decoder(latents), codes, loss, metrics)

    def _open(self, stream: Stream, network: VideoEncoder | VideoDecoder, direction: str, size: Triple) -> None:
        if self.training:
            raise ValueError("streaming is for a trained tokenizer: call .eval() first")
        if not (network.streams and network.causal):
            why = "its memory of the past would grow" if network.causal else "it is not causal"
            raise ValueError(f"{type(network).__name__} cannot stream ({why}): pass the whole clip")
        batch, height, width = size
        stream.open(self, direction, batch=batch, height=height, width=width)


def _check_video(video: Tensor) -> None:
    if video.ndim != 5 or video.shape[1] != 3:
        raise ValueError(f"a video is (b, 3, t, h, w), got {tuple(video.shape)}")

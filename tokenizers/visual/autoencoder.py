"""VideoTokenizer: video <-> codes, an image being a clip of one frame."""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from videopoet.tokenizers.quantizers.quantizer import Quantizer
from videopoet.tokenizers.visual.causal import Triple
from videopoet.tokenizers.visual.cnn import Decoder, Encoder


class Reconstruction(NamedTuple):
    """video (b, 3, t, h, w); codes (b, t', h', w'); loss: the quantizer's; metrics: the quantizer's."""

    video: Tensor
    codes: Tensor
    loss: Tensor
    metrics: dict[str, Tensor]


class VideoTokenizer(nn.Module):
    """Encoder, quantizer and decoder, all strictly causal in time (MAGVIT-v2).

    `encode(video)[:, :1] == encode(video[:, :, :1])`, and decoding the first codes gives the first frames.
    17 x 128 x 128 pixels with strides (4, 8, 8) -> 5 x 16 x 16 codes.
    """

    def __init__(self, encoder: Encoder, quantizer: Quantizer, decoder: Decoder, stride: Triple = (4, 8, 8)):
        super().__init__()
        self.encoder, self.quantizer, self.decoder, self.stride = encoder, quantizer, decoder, stride

    @property
    def codebook_size(self) -> int:
        return self.quantizer.size

    def lattice(self, frames: int, height: int, width: int) -> Triple:
        """Frames and pixels -> latent frames, rows and columns. Raises ValueError where they do not divide."""
        st, sh, sw = self.stride
        if frames < 1 or (frames - 1) % st:
            low = 1 + (frames - 1) // st * st
            raise ValueError(f"a clip has 1 + {st}k frames, got {frames}: use {max(1, low)} or {max(1, low) + st}")
        if height % sh or width % sw:
            raise ValueError(f"frames of {height} x {width} pixels do not divide into {sh} x {sw} patches: resize them")
        return 1 + (frames - 1) // st, height // sh, width // sw

    def latents(self, video: Tensor) -> Tensor:
        """float (b, 3, t, h, w) in [-1, 1] -> continuous latents (b, c, t', h', w'), before the quantizer."""
        if video.ndim != 5 or video.shape[1] != 3:
            raise ValueError(f"a video is (b, 3, t, h, w), got {tuple(video.shape)}")
        self.lattice(*video.shape[2:])
        return self.encoder(video)

    @torch.no_grad()
    def encode(self, video: Tensor) -> Tensor:
        """float (b, 3, t, h, w) in [-1, 1] -> codes int64 (b, t', h', w')."""
        return self.quantizer(self.latents(video)).codes

    @torch.no_grad()
    def decode(self, codes: Tensor) -> Tensor:
        """codes int64 (b, t', h', w') -> float (b, 3, t, h, w) in [-1, 1]. Raises ValueError on codes out of range."""
        if codes.ndim != 4:
            raise ValueError(f"codes are (b, t, h, w), got {tuple(codes.shape)}")
        if codes.numel() and not 0 <= codes.min() <= codes.max() < self.codebook_size:
            raise ValueError(
                f"codes span {codes.min()} to {codes.max()}, the tokenizer has {self.codebook_size} of them"
            )
        return self.decoder(self.quantizer.embed(codes)).float().clamp(-1, 1)

    def forward(self, video: Tensor) -> Reconstruction:
        """float (b, 3, t, h, w) -> its reconstruction, with gradients and the quantizer's loss."""
        latents, codes, loss, metrics = self.quantizer(self.latents(video))
        return Reconstruction(self.decoder(latents), codes, loss, metrics)

"""MAGVIT's 3D-VQ network (MAGVIT, §3.1): centred convolutions, average pooling, time downsampled first.

16 x 128 x 128 pixels -> 4 x 16 x 16 latents; nothing about it is causal, and an image is no clip.
"""

from collections.abc import Sequence

from videopoet.tokenizers.visual.causal import Triple
from videopoet.tokenizers.visual.cnn import EARLY_TEMPORAL, Decoder, Encoder
from videopoet.tokenizers.visual.layers import AveragePooling, ResizeConvolution, SymmetricLayers, Unconditioned


class Magvit3DEncoder(Encoder):
    """`Encoder` with the choices of MAGVIT; `channels` is 64 in its base and 128 in its large model."""

    def __init__(
        self,
        dimension: int = 256,
        channels: int = 64,
        multipliers: Sequence[int] = (1, 2, 2, 4),
        strides: Sequence[Triple] = EARLY_TEMPORAL,
        num_blocks: int = 2,
        checkpoint: bool = False,
    ):
        super().__init__(
            dimension, channels, multipliers, strides, num_blocks,
            layers=SymmetricLayers(), down=AveragePooling(), checkpoint=checkpoint,
        )  # fmt: skip


class Magvit3DDecoder(Decoder):
    """`Decoder` with the choices of MAGVIT: nearest resize and convolution, no adaptive norm."""

    def __init__(
        self,
        dimension: int = 256,
        channels: int = 64,
        multipliers: Sequence[int] = (1, 2, 2, 4),
        strides: Sequence[Triple] = EARLY_TEMPORAL,
        num_blocks: int = 2,
        checkpoint: bool = False,
    ):
        super().__init__(
            dimension, channels, multipliers, strides, num_blocks,
            layers=SymmetricLayers(), up=ResizeConvolution(), conditioning=Unconditioned(), checkpoint=checkpoint,
        )  # fmt: skip

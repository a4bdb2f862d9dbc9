"""Published codecs behind `AudioTokenizer`, by their classes in `transformers`, from local files or a hub.

    tokenizer = TransformersDac.from_pretrained("FOLDER/dac_16khz", levels=4)  # VideoPoet's 50 Hz x 4 x 1024

`tools/convert_audio_codec.py` writes one into a component file, for `videopoet tokenize --audio` and beside a language
model. EnCodec's own checkpoints (.th) become a `SoundStream`, which is made of the same modules (`encodec_state`).
"""

from pathlib import Path
from typing import Self

import torch.nn.functional as F
from torch import Tensor, nn
from transformers import DacConfig, DacModel, EncodecConfig, EncodecModel, PreTrainedConfig, PreTrainedModel
from transformers.models.encodec import modeling_encodec as modules

from videopoet.tokenizers.audio.streaming import (
    after_past,
    causal_left,
    centred_left,
    continued,
    look_ahead_of,
    recurrent,
    upsampled,
)
from videopoet.tokenizers.audio.tokenizer import AudioTokenizer, LookAhead
from videopoet.tokenizers.streaming import Stream


class TransformersCodec(AudioTokenizer):
    """Encoder, quantizer and decoder of a codec of `transformers`, of whose residual levels the first `levels` stay.

    config: the geometry as the codec's `config.json` says it. Untrained weights mean nothing: EnCodec's codebooks start
    as zeros, which give one code for every sound. `from_pretrained` reads trained ones.
    """

    model_type: type[PreTrainedModel]
    config_type: type[PreTrainedConfig]
    geometry: tuple[str, ...]  # the settings that shape the networks

    def __init__(self, config: dict, levels: int | None = None):
        """Raises ValueError where the codec cannot be a tokenizer, or has fewer levels."""
        super().__init__()
        settings = self.config_type(**config)
        self.refuse(settings)
        model = self.model_type(settings)
        self.encoder, self.quantizer, self.decoder = model.encoder, model.quantizer, model.decoder
        self.sample_rate, self.hop = settings.sampling_rate, settings.hop_length
        self.size = settings.codebook_size
        self.settings = settings
        levels = len(self.stack) if levels is None else levels
        if not 1 <= levels <= len(self.stack):
            raise ValueError(
                f"{levels} levels are asked for, the codec has {len(self.stack)}: take between 1 and those"
            )
        del self.stack[levels:]

    @classmethod
    def from_pretrained(cls, source: str | Path, levels: int | None = None, *, download: bool = False) -> Self:
        """Read a folder with `config.json` and `model.safetensors`, or a name on the hub that was downloaded before.

        download: fetch the name from the hub where it is not there yet. Weights are safetensors, never pickles. Raises
        ValueError where nothing is there, or it is another codec.
        """
        said = published_type(source, download=download)
        if said != cls.config_type.model_type:
            raise ValueError(
                f"{source} is a codec of type {said!r}, {cls.__name__} reads {cls.config_type.model_type!r}"
            )
        how = {"local_files_only": not download}
        try:
            config = cls.config_type.from_pretrained(source, **how)
            cls.refuse(config)
            model = cls.model_type.from_pretrained(source, config=config, use_safetensors=True, **how)
        except OSError as error:
            raise ValueError(
                f"{source} has no weights to read ({_first_line(error)}): model.safetensors is needed"
            ) from None
        tokenizer = cls({name: getattr(config, name) for name in cls.geometry}, levels)
        state = model.state_dict()
        tokenizer.load_state_dict({name: state[name] for name in tokenizer.state_dict()})
        return tokenizer.eval()

    def spec(self) -> dict:
        """Class and arguments, for `component.save`."""
        cls = type(self)
        config = {name: getattr(self.settings, name) for name in self.geometry}
        config = {name: list(value) if isinstance(value, tuple) else value for name, value in config.items()}
        return {
            "class_path": f"{cls.__module__}.{cls.__qualname__}",
            "init_args": {"config": config, "levels": self.levels},
        }

    @classmethod
    def refuse(cls, settings: PreTrainedConfig) -> None:
        """Raises ValueError for a codec whose codes alone do not make its sound."""

    @property
    def stack(self) -> nn.ModuleList:
        """The quantizer's levels, coarsest first."""
        raise NotImplementedError

    @property
    def levels(self) -> int:
        return len(self.stack)

    @property
    def codebook_size(self) -> int:
        return self.size


class TransformersEncodec(TransformersCodec):
    """EnCodec of one channel: 24 kHz (causal, streams) and what MusicGen writes, 32 kHz (not causal).

    The 48 kHz model is refused: it cuts stereo sound into seconds and divides each by its loudness, which stands beside
    the codes, so that a language model would have to write that too.

    Source: Défossez et al. 2022.
    """

    model_type, config_type = EncodecModel, EncodecConfig
    geometry = (
        *("sampling_rate", "audio_channels", "target_bandwidths", "codebook_size", "codebook_dim", "hidden_size"),
        *("num_filters", "num_residual_layers", "upsampling_ratios", "kernel_size", "last_kernel_size"),
        *("residual_kernel_size", "dilation_growth_rate", "use_causal_conv", "pad_mode", "compress"),
        *("num_lstm_layers", "use_conv_shortcut"),
    )

    @classmethod
    def refuse(cls, settings: EncodecConfig) -> None:
        if settings.audio_channels != 1 or settings.normalize or settings.chunk_length_s is not None:
            raise ValueError(
                f"EnCodec of {settings.audio_channels} channels, in chunks of {settings.chunk_length_s} s, "
                f"{'' if settings.normalize else 'not '}normalized: its loudness stands beside the codes. Take a model "
                "of 1 channel without chunks, as that of 24 kHz"
            )
        if settings.norm_type != "weight_norm" or settings.trim_right_ratio != 1.0:
            raise ValueError(
                f"EnCodec with norm_type {settings.norm_type!r} and trim_right_ratio {settings.trim_right_ratio}: only "
                "'weight_norm' and 1.0 are known here"
            )

    @property
    def stack(self) -> nn.ModuleList:
        return self.quantizer.layers

    @property
    def look_ahead(self) -> LookAhead:
        left = causal_left if self.settings.use_causal_conv else centred_left
        return look_ahead_of(self.encoder, self.decoder, left, self.settings.pad_mode == "reflect")

    def latents(self, audio: Tensor, stream: Stream | None = None) -> Tensor:
        return self.encoder(audio) if stream is None else continued(self.encoder.layers, audio, stream)

    def quantize(self, latents: Tensor) -> Tensor:
        return self.quantizer.encode(latents).permute(1, 2, 0)

    def embed(self, codes: Tensor) -> Tensor:
        return self.quantizer.decode(codes.permute(2, 0, 1))

    def synthesize(self, latents: Tensor, stream: Stream | None = None) -> Tensor:
        return self.decoder(latents) if stream is None else continued(self.decoder.layers, latents, stream)


@continued.register
def _(layer: modules.EncodecConv1d, x: Tensor, stream: Stream) -> Tensor:
    return layer.conv(after_past(x, layer, layer.conv, layer.pad_mode, stream))


@continued.register
def _(layer: modules.EncodecConvTranspose1d, x: Tensor, stream: Stream) -> Tensor:
    return upsampled(x, layer, layer.conv, stream)


@continued.register
def _(layer: modules.EncodecLSTM, x: Tensor, stream: Stream) -> Tensor:
    return recurrent(x, layer.lstm, stream) + x


@continued.register
def _(layer: modules.EncodecResnetBlock, x: Tensor, stream: Stream) -> Tensor:
    return continued(layer.shortcut, x, stream) + continued(layer.block, x, stream)


class TransformersDac(TransformersCodec):
    """Descript's codec. Of its 16 kHz model the first 4 levels are VideoPoet's geometry: 50 Hz x 4 x 1024.

    Not causal: convolutions are centred, so it takes whole sounds. Its feature extractor pads on the right, which makes
    34,000 samples 107 frames; here whole hops are coded, 106. Its decoder gives up to 8 samples fewer than t * hop (one
    at the upsampling by 5, times the 8 after it); silence stands in their place, half a millisecond.

    Source: Kumar et al. 2023.
    """

    model_type, config_type = DacModel, DacConfig
    geometry = (
        *("sampling_rate", "encoder_hidden_size", "downsampling_ratios", "decoder_hidden_size"),
        *("n_codebooks", "codebook_size", "codebook_dim"),
    )

    @property
    def stack(self) -> nn.ModuleList:
        return self.quantizer.quantizers

    @property
    def look_ahead(self) -> LookAhead:
        return look_ahead_of(self.encoder, self.decoder, lambda conv: conv.padding[0], reflects=False)

    def latents(self, audio: Tensor, stream: Stream | None = None) -> Tensor:
        return self.encoder(audio)

    def quantize(self, latents: Tensor) -> Tensor:
        return self.quantizer(latents)[1].transpose(1, 2)

    def embed(self, codes: Tensor) -> Tensor:
        return self.quantizer.from_codes(codes.transpose(1, 2))[0]

    def synthesize(self, latents: Tensor, stream: Stream | None = None) -> Tensor:
        audio = self.decoder(latents)
        return F.pad(audio, (0, latents.shape[2] * self.hop - audio.shape[2]))


#: Type in `config.json` -> class.
CODECS: dict[str, type[TransformersCodec]] = {"dac": TransformersDac, "encodec": TransformersEncodec}


def published_type(source: str | Path, *, download: bool = False) -> str:
    """The type that `config.json` of a folder or hub name says. Raises ValueError where there is none, or no codec."""
    try:
        said, _ = PreTrainedConfig.get_config_dict(source, local_files_only=not download)
    except OSError as error:
        hint = "" if download else "; a name on the hub is fetched only where asked"
        raise ValueError(f"no codec at {source} ({_first_line(error)}){hint}") from None
    if said.get("model_type") not in CODECS:
        raise ValueError(f"{source} is of type {said.get('model_type')!r}: only {' and '.join(CODECS)} are known")
    return said["model_type"]


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0]


def encodec_state(state: dict[str, Tensor], levels: int) -> dict[str, Tensor]:
    """A checkpoint of the package `encodec` at its first levels: what `SoundStream(**ENCODEC_24KHZ)` loads."""
    places = [f"quantizer.vq.layers.{level}." for level in range(levels)]
    return {k: v for k, v in state.items() if not k.startswith("quantizer.") or k.startswith(tuple(places))}


#: EnCodec's causal model of 24 kHz as a `SoundStream`, but for the number of its 32 levels: 75 frames a second.
ENCODEC_24KHZ = {
    "sample_rate": 24_000,
    "ratios": [8, 5, 4, 2],
    "num_filters": 32,
    "dimension": 128,
    "num_residual_layers": 1,
    "num_lstm_layers": 2,
    "codebook_size": 1024,
    "causal": True,
    "pad_mode": "reflect",
}

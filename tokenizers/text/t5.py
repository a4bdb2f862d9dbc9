"""T5 text encoders behind one contract: a small one trained jointly, or any pretrained one, frozen.

A prompt becomes `length` ids: its pieces, one `</s>`, then padding. The encoder turns them into states `b s d`.

    "a red circle"   ids   ▁a  ▁red  ▁circle  </s>  pad  pad      (length 6)
                     mask   1   1     1        1     0    0
                     states d   d     d        d     0    0
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn
from transformers import AutoConfig, AutoTokenizer, T5Config, T5EncoderModel

from videopoet.tokenizers.text.sentencepiece import END, PAD, load_sentencepiece


class TextTokens(NamedTuple):
    """`ids` int64 `b s`, padded to the encoder's length; `mask` bool `b s`, true where there is text or `</s>`."""

    ids: Tensor
    mask: Tensor


class TextEncoder(nn.Module, ABC):
    """Prompts to states `b s d`. `width` is d, `length` the text slot: the most tokens a prompt may have, `</s>`
    included. `encoder` is the T5 encoder."""

    width: int
    length: int
    pad: int  # id of padding
    encoder: T5EncoderModel

    def __init__(self):
        super().__init__()
        self.register_state_dict_post_hook(_drop_unstored)

    @abstractmethod
    def pieces_of(self, text: str) -> list[int]:
        """Ids of one prompt, `</s>` included, of any length."""

    @abstractmethod
    def stores(self, key: str) -> bool:
        """Whether the weight `key` of `encoder` belongs in a state dict."""

    def tokenize(self, texts: Sequence[str], truncate: bool = False) -> TextTokens:
        """Ids and mask of a batch of prompts, on the CPU; "" is the empty prompt, `</s>` alone.

        Raises ValueError for anything but a list of strings, and for a prompt longer than the slot: cutting it would
        drop what the prompt asks for without saying so. Captions to train on are cut instead, with `truncate`.
        """
        if isinstance(texts, str) or not all(isinstance(text, str) for text in texts):
            raise ValueError(f"prompts must be a list of strings, not {_kind(texts)}")
        ids = torch.full((len(texts), self.length), self.pad, dtype=torch.int64)
        mask = torch.zeros(len(texts), self.length, dtype=torch.bool)
        for row, text in enumerate(texts):
            pieces = self.pieces_of(text)
            if truncate and len(pieces) > self.length:
                pieces = [*pieces[: self.length - 1], pieces[-1]]
            if len(pieces) > self.length:
                raise ValueError(f"prompt has {len(pieces)} text tokens, the limit is {self.length}: shorten it")
            ids[row, : len(pieces)] = torch.tensor(pieces)
            mask[row, : len(pieces)] = True
        return TextTokens(ids, mask)

    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        """States `b s d` in the encoder's own dtype, from ids int64 `b s` and mask bool `b s`.

        States at padding are zero (T5's are not), and states of text do not depend on how much padding follows.
        """
        if self.encoder.dtype == torch.float16:
            raise ValueError("T5 overflows in float16: use bfloat16 or float32 (--trainer.precision bf16-mixed or 32)")
        states = self.encoder(input_ids=ids, attention_mask=mask.long()).last_hidden_state
        return states.masked_fill(~mask[..., None], 0)

    def _load_from_state_dict(self, state_dict: dict[str, Tensor], prefix: str, *arguments: Any) -> None:
        """Let a state dict without the weights that are not stored load strictly: they keep their present values."""
        for key, value in self.encoder.state_dict().items():
            if not self.stores(key):
                state_dict[f"{prefix}encoder.{key}"] = value
        super()._load_from_state_dict(state_dict, prefix, *arguments)


class TrainedT5(TextEncoder):
    """A small T5 encoder, randomly initialised and trained jointly, over a SentencePiece model of our own.

    The SentencePiece model travels in the uint8 buffer `pieces`, so one safetensors file carries everything that turns
    a prompt into states. `sentencepiece` names the `.model` file to start from; none leaves the buffer empty until a
    state dict fills it.

    `vocabulary_size` fixes the embedding; the SentencePiece model may have fewer pieces, never more (ValueError).
    `width` must be divisible by `heads`. `ff` is the width inside the gated MLP (T5 v1.1).
    """

    pieces: Tensor

    def __init__(
        self,
        sentencepiece: str | None = None,
        vocabulary_size: int = 512,
        width: int = 128,
        layers: int = 2,
        heads: int = 4,
        ff: int = 256,
        length: int = 24,
        dropout: float = 0.0,
    ):
        super().__init__()
        if width % heads:
            raise ValueError(f"width {width} cannot be shared by {heads} heads: choose a multiple of {heads}")
        self.width, self.length, self.pad = width, length, PAD
        self.encoder = T5EncoderModel(
            T5Config(
                vocab_size=vocabulary_size,
                d_model=width,
                d_kv=width // heads,
                d_ff=ff,
                num_layers=layers,
                num_heads=heads,
                dropout_rate=dropout,
                feed_forward_proj="gated-gelu",
                pad_token_id=PAD,
                eos_token_id=END,
            )
        )
        proto = _read(Path(sentencepiece)) if sentencepiece else b""
        self.register_buffer("pieces", torch.frombuffer(bytearray(proto), dtype=torch.uint8) if proto else _no_pieces())
        self._processor = None
        if proto:
            self._load_processor()

    def pieces_of(self, text: str) -> list[int]:
        if self._processor is None:
            self._load_processor()
        return [*self._processor.encode(text), END]

    def stores(self, key: str) -> bool:
        return key != "encoder.embed_tokens.weight"  # one tensor with shared.weight; safetensors refuses it twice

    def _load_processor(self) -> None:
        """Read the SentencePiece model out of the buffer."""
        if not self.pieces.numel():
            raise ValueError(
                "this text encoder has no SentencePiece model: give sentencepiece=PATH ('videopoet text-model' makes one) "
                "or load a checkpoint"
            )
        processor = load_sentencepiece(self.pieces.cpu().numpy().tobytes())
        size = self.encoder.config.vocab_size
        if processor.get_piece_size() > size:
            raise ValueError(
                f"the SentencePiece model has {processor.get_piece_size()} pieces, the embedding {size}: "
                f"set vocabulary_size to at least {processor.get_piece_size()}"
            )
        self._processor = processor

    def _load_from_state_dict(self, state_dict: dict[str, Tensor], prefix: str, *arguments: Any) -> None:
        """Take the buffer's length from the state dict: SentencePiece models differ in size."""
        stored = state_dict.get(f"{prefix}pieces")
        if stored is not None:
            self.pieces = torch.empty(stored.shape, dtype=torch.uint8, device=self.pieces.device)
            self._processor = None
        super()._load_from_state_dict(state_dict, prefix, *arguments)


class PretrainedT5(TextEncoder):
    """Any pretrained T5 encoder (T5, v1.1, Flan, UL2) by local folder or Hugging Face name, frozen.

    Nothing is downloaded here: a name must have been fetched into the local cache (`hf download NAME`).
    It stays in evaluation mode, gets no gradients and stays out of state dicts: the name is enough to find it again.
    It runs in its own dtype even under autocast; float16 is refused, T5 overflows in it.

    Raises ValueError if the folder or name holds no T5 encoder with all its weights and a tokenizer.
    """

    def __init__(self, name_or_path: str, length: int = 64, dtype: Literal["float32", "bfloat16"] = "float32"):
        super().__init__()
        if dtype not in ("float32", "bfloat16"):
            raise ValueError(f"dtype {dtype!r} does not suit T5: use float32 or bfloat16")
        self.encoder, self.tokenizer = _load_pretrained(name_or_path, getattr(torch, dtype))
        self.encoder.requires_grad_(False)
        self.width, self.length = self.encoder.config.d_model, length
        self.pad = self.tokenizer.pad_token_id
        self.train(False)

    def train(self, mode: bool = True) -> "PretrainedT5":
        """Stays in evaluation mode: dropout in a frozen encoder would only blur the prompt."""
        return super().train(False)

    def pieces_of(self, text: str) -> list[int]:
        # verbose=False: tokenize() itself says when a prompt is too long.
        return self.tokenizer(text, add_special_tokens=True, verbose=False).input_ids

    def stores(self, key: str) -> bool:
        return False

    @torch.no_grad()
    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        with torch.autocast(ids.device.type, enabled=False):
            return super().forward(ids, mask)


def _load_pretrained(name: str, dtype: torch.dtype) -> tuple[T5EncoderModel, Any]:
    """Encoder and tokenizer; every way of not finding them becomes one ValueError that says what is needed."""
    needed = (
        "give a folder with config.json, model.safetensors and tokenizer.json (or spiece.model), or a name such as "
        f"google/t5-v1_1-small fetched beforehand with `hf download {name}`"
    )
    try:
        config = AutoConfig.from_pretrained(name, local_files_only=True)
        if config.model_type != "t5":
            raise ValueError(f"it is a {config.model_type} model")
        encoder, report = T5EncoderModel.from_pretrained(
            name, dtype=dtype, output_loading_info=True, local_files_only=True
        )
        tokenizer = AutoTokenizer.from_pretrained(name, local_files_only=True)
    except (OSError, ValueError) as error:
        reason = (str(error).strip().splitlines() or ["no reason given"])[0]
        raise ValueError(f"no T5 encoder at {name!r} ({reason}): {needed}") from error
    # The input embedding is stored once, as `shared`; anything else that is missing would stay random.
    if missing := sorted(key for key in report["missing_keys"] if not key.endswith("embed_tokens.weight")):
        raise ValueError(f"T5 encoder at {name!r} lacks {len(missing)} weights, the first is {missing[0]}: {needed}")
    return encoder, tokenizer


def _drop_unstored(module: TextEncoder, state_dict: dict[str, Tensor], prefix: str, _: Any) -> None:
    for key in module.encoder.state_dict():
        if not module.stores(key):
            del state_dict[f"{prefix}encoder.{key}"]


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        reason = f"no SentencePiece model at {path} ({error.strerror})"
        raise ValueError(f"{reason}: make one with 'videopoet text-model'") from error


def _no_pieces() -> Tensor:
    return torch.empty(0, dtype=torch.uint8)


def _kind(texts: Any) -> str:
    if isinstance(texts, str):
        return "one string"
    return "a list with " + next(type(text).__name__ for text in texts if not isinstance(text, str))

"""SentencePiece: a small subword vocabulary trained on the captions (Kudo & Richardson, 2018).

Ids follow T5: `<pad>` 0, `</s>` 1, `<unk>` 2, then the pieces. There is no begin-of-text token.
"""

import io
import os
from collections.abc import Iterable, Iterator
from pathlib import Path

import sentencepiece

PAD, END, UNKNOWN = 0, 1, 2
ERRORS_ONLY = 2  # sentencepiece's own log levels: 0 info, 1 warning, 2 error


def train_sentencepiece(captions: Iterable[str], path: str | os.PathLike, vocabulary_size: int) -> int:
    """Train a byte-pair model on captions, write it to `path` (whole or not at all), return its number of pieces.

    Byte-pair merges, not unigram pieces: captions written from templates have few different words, and a unigram model
    never learns a word whose parts occur nowhere else. Over the bounce captions 256 byte-pair pieces give at most 23
    tokens a caption (16 on average), a unigram model 58 (40).

    `vocabulary_size` counts the three special tokens and is an upper limit: few or uniform captions give fewer pieces.
    Text is NFKC-normalised and case-folded, so "A Red Ball" and "a red ball" are the same prompt. One thread and no
    sampling: the same captions in the same order give the same bytes.

    Raises ValueError if a caption is not a string, if there is no text at all, or if the vocabulary is too small to
    hold every character of the captions.
    """
    # Read here, not by the trainer: it would swallow an error of the iterator. It holds all of it in memory anyway.
    lines = list(_clean(captions))
    if not lines:
        raise ValueError("no caption with text in it: a SentencePiece model needs captions to train on")
    proto = io.BytesIO()
    try:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(lines),
            model_writer=proto,
            model_type="bpe",
            vocab_size=vocabulary_size,
            hard_vocab_limit=False,
            character_coverage=1.0,
            normalization_rule_name="nmt_nfkc_cf",
            max_sentence_length=1 << 20,  # bytes; longer captions would be dropped without a word
            pad_id=PAD,
            eos_id=END,
            unk_id=UNKNOWN,
            bos_id=-1,
            num_threads=1,
            minloglevel=ERRORS_ONLY,
        )
    except (RuntimeError, OSError) as error:
        characters = len(set().union(*lines))
        raise ValueError(
            f"SentencePiece cannot make {vocabulary_size} pieces from captions with {characters} different characters: "
            f"ask for at least {characters + 4} pieces ({_reason(error)})"
        ) from error
    _write_whole(Path(path), proto.getvalue())
    return load_sentencepiece(proto.getvalue()).get_piece_size()


def load_sentencepiece(proto: bytes) -> sentencepiece.SentencePieceProcessor:
    """The model whose serialised proto is given; ValueError if these bytes are not one, or lack T5's special ids."""
    processor = sentencepiece.SentencePieceProcessor()
    try:
        processor.load_from_serialized_proto(proto)
    except RuntimeError as error:
        raise ValueError(f"these {len(proto)} bytes are not a SentencePiece model: {_reason(error)}") from error
    special = (processor.pad_id(), processor.eos_id(), processor.unk_id())
    if special != (PAD, END, UNKNOWN):
        raise ValueError(
            f"this SentencePiece model has pad, end, unknown = {special}, needed are {(PAD, END, UNKNOWN)}: "
            "train it with 'videopoet text-model'"
        )
    return processor


def _clean(captions: Iterable[str]) -> Iterator[str]:
    """Captions on one line each, empty ones dropped."""
    for caption in captions:
        if not isinstance(caption, str):
            raise ValueError(f"a caption must be text, not {type(caption).__name__}")
        if line := " ".join(caption.split()):
            yield line


def _reason(error: Exception) -> str:
    """Last line of sentencepiece's message, without the source position in front of it."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return lines[-1].rpartition("] ")[2] or lines[-1]


def _write_whole(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{path.name}.{os.getpid()}.partial")
    try:
        partial.write_bytes(content)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)

"""Media shards -> token shards: every clip once through the tokenizers, and so every clip made to be a condition."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from videopoet.component import spec_of
from videopoet.conditions.shot import Condition, NotKnown, Shot
from videopoet.data.progress import bar
from videopoet.data.schema import MediaManifest, TokenManifest
from videopoet.data.shards import ShardReader, ShardWriter
from videopoet.data.transforms import audio_to_float, video_to_float
from videopoet.tasks.audio_length import num_audio_frames
from videopoet.tokenizers.audio.tokenizer import AudioTokenizer
from videopoet.tokenizers.visual.autoencoder import VideoTokenizer


def smallest_unsigned(size: int) -> np.dtype:
    """The smallest unsigned integer type that holds `size` different codes."""
    return np.min_scalar_type(size - 1)


def tokenize_shards(
    folder: str | Path,
    out: str | Path,
    visual: VideoTokenizer,
    audio: AudioTokenizer,
    *,
    conditions: Mapping[str, Condition] | None = None,
    batch_size: int = 32,
    samples_per_shard: int = 4096,
    precision: str = "fp32",
    overwrite: bool = False,
) -> TokenManifest:
    """Encode every clip of the media shards in `folder` and write token shards to `out`, whole or not at all.

    Members per sample: `visual.npy` (t, h, w) and `audio.npy` (t, k) in the smallest unsigned type, captions in `json`,
    and `NAME.npy` (t, h, w) of every condition that can be made of the clip. The manifest carries the tokenizers'
    fingerprints and how each stream is made, and `audio_frames` 0 where no clip has sound. `precision` "bf16" runs the
    visual encoder under autocast: faster, and a few codes in a thousand differ from fp32's. Raises ValueError where a
    tokenizer or a condition does not fit the clips.
    """
    conditions = conditions or {}
    reader = ShardReader(folder, "media")
    manifest = token_manifest(reader.manifest, visual, audio)
    manifest = replace(manifest, streams={name: spec_of(value) for name, value in conditions.items()},
                       precision=precision)  # fmt: skip
    heard = False  # whether any clip has sound
    encode = VisualEncoding(visual, precision)
    with ShardWriter(out, prefix="tokens", max_samples=samples_per_shard, overwrite=overwrite) as writer:
        with bar("clips", total=len(reader)) as advance:
            for start in range(0, len(reader), batch_size):
                records = [reader[i] for i in range(start, min(start + batch_size, len(reader)))]
                encoded = _encode(records, encode, audio)
                for name, condition in conditions.items():
                    _encode_condition(name, condition, records, encoded, encode, manifest.fps)
                for record, fields in zip(records, encoded):
                    heard |= "audio" in fields
                    writer.write(record["__key__"], {**fields, "json": record["json"]})
                advance(len(records))
        return writer.finish(manifest if heard else replace(manifest, audio_frames=0))


def token_manifest(media: MediaManifest, visual: VideoTokenizer, audio: AudioTokenizer) -> TokenManifest:
    """The manifest of the tokens that these tokenizers make of such clips."""
    if not media.has_video:
        raise ValueError(
            "the clips are sound alone, token shards need pictures too: build the shards without --sound-seconds"
        )
    if media.sample_rate != audio.sample_rate:
        raise ValueError(
            f"the clips' sound is at {media.sample_rate} Hz, the audio tokenizer takes {audio.sample_rate} Hz: "
            f"build the shards with --sample-rate {audio.sample_rate}"
        )
    return TokenManifest(
        fps=media.fps,
        frames=media.frames,
        height=media.height,
        width=media.width,
        sample_rate=media.sample_rate,
        fingerprints={"visual": visual.fingerprint, "audio": audio.fingerprint},
        visual_lattice=visual.lattice(media.frames, media.height, media.width),
        visual_codebook_size=visual.codebook_size,
        audio_frames=num_audio_frames(media.frames, media.fps, media.sample_rate, audio.hop),
        audio_levels=audio.levels,
        audio_codebook_size=audio.codebook_size,
        audio_hop=audio.hop,
    )


@dataclass(frozen=True)
class VisualEncoding:
    """uint8 clips (t, h, w, 3) -> codes (t, h, w), in the arithmetic that was asked for ("fp32" or "bf16")."""

    tokenizer: VideoTokenizer
    precision: str

    def __post_init__(self) -> None:
        if self.precision not in ("fp32", "bf16"):
            raise ValueError(f"precision '{self.precision}': there are fp32 and bf16")

    def __call__(self, clips: Iterable[np.ndarray]) -> list[np.ndarray]:
        device = next(self.tokenizer.parameters()).device
        video = torch.stack([video_to_float(clip) for clip in clips]).to(device)
        with torch.autocast(device.type, torch.bfloat16, enabled=self.precision == "bf16"):
            codes = self.tokenizer.encode(video).cpu().numpy()
        return list(codes.astype(smallest_unsigned(self.tokenizer.codebook_size)))


def _encode(records: list[dict], encode: VisualEncoding, audio: AudioTokenizer) -> list[dict]:
    """Code grids of a batch of clips; a clip without sound gets no audio codes."""
    fields = [{"visual": codes} for codes in encode(record["video"] for record in records)]
    heard = [i for i, record in enumerate(records) if record.get("audio") is not None]
    if heard:
        sound = torch.stack([audio_to_float(records[i]["audio"])[None] for i in heard])
        for i, codes in zip(heard, audio.encode(sound.to(next(audio.parameters()).device)).cpu().numpy()):
            fields[i]["audio"] = codes.astype(smallest_unsigned(audio.codebook_size))
    return fields


def _encode_condition(
    name: str, condition: Condition, records: list[dict], fields: list[dict], encode: VisualEncoding, fps: float
) -> None:
    """Add the codes of the condition's clip to the fields of every clip that it can be made of."""
    clips = {}
    for i, record in enumerate(records):
        try:
            clips[i] = condition(Shot(video=record["video"], fps=fps, source=record["json"]["source"]))
        except NotKnown:
            continue
    if clips:
        for i, codes in zip(clips, encode(clips.values())):
            fields[i][name] = codes

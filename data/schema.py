"""What a shard folder says about itself (`manifest.json`) and what one sample of it is."""

import json
import os
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np

from videopoet.data.remote import Files, Storage

SCHEMA_VERSION = 1
MANIFEST = "manifest.json"


@dataclass(frozen=True, kw_only=True)
class Clip:
    """One sample of a media shard: pictures, the sound of the same span, and what is said about them; or sound alone."""

    key: str
    video: np.ndarray | None  # uint8 t h w c, or None in a folder of sounds
    audio: np.ndarray | None  # int16 s, or None where the source has no audio track
    captions: tuple[str, ...] = ()
    source: dict[str, Any] = field(default_factory=dict)  # file, second, and whatever the sidecar holds

    def record(self) -> dict[str, np.ndarray | dict]:
        """Fields of the tar members `key.video.npy`, `key.audio.npy` (each if there is one) and `key.json`."""
        streams = {"video": self.video, "audio": self.audio}
        arrays = {name: stream for name, stream in streams.items() if stream is not None}
        return arrays | {"json": {"captions": list(self.captions), "source": self.source}}

    @classmethod
    def from_record(cls, record: dict[str, Any]) -> Self:
        """Inverse of `record` for what `ShardReader` returns, which also holds the key as `__key__`."""
        said = record["json"]
        return cls(
            key=record["__key__"],
            video=record.get("video"),
            audio=record.get("audio"),
            captions=tuple(said["captions"]),
            source=said["source"],
        )


@dataclass(frozen=True, kw_only=True)
class Shard:
    """One tar of a folder."""

    name: str
    samples: int
    bytes: int
    sha256: str


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """Fields every shard folder has; the classes below add what their kind needs."""

    kind: ClassVar[str]
    schema_version: int = SCHEMA_VERSION
    shards: tuple[Shard, ...] = ()
    num_samples: int = 0
    fps: float
    frames: int  # pictures per clip, 1 + 4k; a clip lasts frames / fps seconds, also where it is sound alone
    height: int  # pixels; 0 where clips are sound alone
    width: int  # pixels
    sample_rate: int  # Hz

    def to_json(self) -> str:
        """Readable JSON with the kind first."""
        return json.dumps({"kind": self.kind} | asdict(self), indent=2, ensure_ascii=False) + "\n"


@dataclass(frozen=True, kw_only=True)
class MediaManifest(Manifest):
    """Folder of media shards: samples are `Clip`s."""

    kind: ClassVar[str] = "media"
    rejected: dict[str, int] = field(default_factory=dict)  # reason -> number of files

    @property
    def has_video(self) -> bool:
        """Whether the clips have pictures; where not, they are sound alone."""
        return self.height > 0


@dataclass(frozen=True, kw_only=True)
class TokenManifest(Manifest):
    """Folder of token shards: samples are code grids, made by the tokenizers of these fingerprints."""

    kind: ClassVar[str] = "tokens"
    fingerprints: dict[str, str]  # "visual", "audio" -> fingerprint of the tokenizer
    visual_lattice: tuple[int, int, int]  # latent frames, rows, columns
    visual_codebook_size: int
    audio_frames: int  # latent frames per clip
    audio_levels: int  # residual quantiser levels
    audio_codebook_size: int
    streams: dict[str, dict] = field(default_factory=dict)  # condition stream -> class_path and init_args of its making
    audio_hop: int | None = None  # samples per audio frame; None in shards that were made without saying so
    precision: str = "fp32"  # arithmetic of the visual encoder that made the codes: fp32, or bf16 by autocast


KINDS: dict[str, type[Manifest]] = {cls.kind: cls for cls in (MediaManifest, TokenManifest)}


def read_manifest(folder: str | os.PathLike, kind: str | None = None, files: Files | None = None) -> Manifest:
    """Manifest of a shard folder or URL; ValueError if there is none, or if it is of another kind or a newer schema."""
    files = Storage().open(folder) if files is None else files
    path, content = files.where(MANIFEST), files.read(MANIFEST)
    if content is None:
        there = "://" in os.fspath(folder) or Path(folder).is_dir()
        why = f"no {MANIFEST} in it" if there else "no such folder"
        raise ValueError(f"{folder}: not a shard folder ({why}); build one with `videopoet shards build`")
    try:
        raw = json.loads(content)
        found, version = raw.pop("kind"), raw["schema_version"]
    except (ValueError, KeyError, AttributeError, TypeError) as error:
        raise ValueError(f"{path}: not a manifest of shards ({type(error).__name__}: {error})") from error
    if not isinstance(version, int) or version > SCHEMA_VERSION:
        raise ValueError(f"{path}: schema version {version}, this program reads up to {SCHEMA_VERSION}; update it")
    if found not in KINDS or kind not in (None, found):
        raise ValueError(f"{path}: shards of kind {found!r}, expected {kind or ' or '.join(map(repr, KINDS))}")
    return _manifest(path, KINDS[found], raw)


def _manifest(path: str, cls: type[Manifest], raw: dict[str, Any]) -> Manifest:
    known = {f.name for f in fields(cls)}
    try:
        raw = {name: value for name, value in raw.items() if name in known}
        raw["shards"] = tuple(Shard(**shard) for shard in raw["shards"])
        outside = [shard.name for shard in raw["shards"] if Path(shard.name).name != shard.name]
        if outside:
            raise TypeError(f"shard {outside[0]!r} is no plain file name")
        if "visual_lattice" in raw:
            raw["visual_lattice"] = tuple(raw["visual_lattice"])
        return cls(**raw)
    except (TypeError, KeyError) as error:
        raise ValueError(f"{path}: not a whole {cls.kind} manifest ({error})") from error

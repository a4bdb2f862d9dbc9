"""Media shards -> token shards: every clip once through the tokenizers, and so every clip made to be a condition."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Self

import numpy as np
import torch

from videopoet.component import fit, instantiate, spec_of
from videopoet.conditions.shot import Condition, NotKnown, Shot
from videopoet.data.building import Build, Plan, Totals
from videopoet.data.schema import MediaManifest, TokenManifest, read_manifest
from videopoet.data.shards import ShardReader
from videopoet.data.transforms import audio_to_float, video_to_float
from videopoet.data.work import Advance, Place, run_tasks
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
    workers: int = 0,
    devices: Sequence[torch.device | str] = ("cpu",),
    place: Place | None = None,
) -> TokenManifest | None:
    """Encode every clip of the media shards in `folder` and write token shards to `out`, whole or not at all.

    Members per sample: `visual.npy` (t, h, w) and `audio.npy` (t, k) in the smallest unsigned type, captions in `json`,
    and `NAME.npy` (t, h, w) of every condition that can be made of the clip. The manifest carries the tokenizers'
    fingerprints and how each stream is made, and `audio_frames` 0 where no clip has sound. `precision` "bf16" runs the
    visual encoder under autocast: faster, and a few codes in a thousand differ from fp32's.

    Clips i * samples_per_shard and following make shard i. With `workers`, so many processes encode, the i-th on
    `devices[i % n]`, with one thread each on a CPU; without, this one does, with the tokenizers where they are. `place`:
    this process among those that a launcher started, each of which does its share. What a killed run has finished is
    kept. The shards do not depend on any of these, if batches are of one size and processors of one kind.

    Returns None where other ranks have not yet done their shares. Raises ValueError where a tokenizer or a condition does
    not fit the clips, where `out` is in use, and where a clip cannot be read.
    """
    conditions, place = dict(conditions or {}), place or Place()
    if batch_size < 1 or samples_per_shard < 1 or workers < 0:
        raise ValueError(f"batches of {batch_size}, shards of {samples_per_shard}, {workers} workers: cannot be")
    reader = ShardReader(folder, "media")
    VisualEncoding(visual, precision)  # refuses a precision that there is not
    streams = {name: spec_of(value) for name, value in conditions.items()}
    manifest = replace(token_manifest(reader.manifest, visual, audio), streams=streams, precision=precision)
    units = [range(first, min(first + samples_per_shard, len(reader)))
             for first in range(0, len(reader), samples_per_shard)]  # fmt: skip
    settings = {"fingerprints": manifest.fingerprints, "streams": streams, "precision": precision,
                "batch_size": batch_size, "samples_per_shard": samples_per_shard}  # fmt: skip
    inputs = ([shard.samples, shard.sha256] for shard in reader.manifest.shards)
    plan = Plan.of(settings, inputs, len(reader), len(units))
    build = Build(out, plan, manifest, prefix="tokens", inputs="clips", overwrite=overwrite)
    if build.open():
        missing = build.missing(place.mine(len(units)))
        job = Tokenizing(
            build=build,
            folder=Path(folder),
            visual=Portable.of(visual) if workers else visual,
            audio=Portable.of(audio) if workers else audio,
            conditions=conditions,
            batch_size=batch_size,
            devices=tuple(map(str, devices)),
        )
        run_tasks(job, ((unit, units[unit]) for unit in missing), len(missing), workers=workers,
                  title="clips", total=sum(len(units[unit]) for unit in missing))  # fmt: skip
    return build.publish(_finished) and read_manifest(out, "tokens")


def _finished(manifest: TokenManifest, totals: Totals) -> TokenManifest:
    return manifest if totals.fields.get("audio") else replace(manifest, audio_frames=0)


@dataclass(frozen=True, kw_only=True)
class Portable:
    """A loaded component on its way to another process."""

    spec: dict
    state: dict[str, torch.Tensor]
    fingerprint: str

    @classmethod
    def of(cls, module: torch.nn.Module) -> Self:
        """Raises ValueError for a module that was not loaded from a file."""
        if not hasattr(module, "spec"):
            raise ValueError(f"this {type(module).__name__} does not come from a file: write it by 'videopoet export', "
                             "or use no workers")  # fmt: skip
        state = {name: tensor.detach().cpu() for name, tensor in module.state_dict().items()}
        return cls(spec=module.spec, state=state, fingerprint=module.fingerprint)

    def rebuilt(self, device: torch.device) -> torch.nn.Module:
        """The same component, in evaluation mode."""
        module = instantiate(self.spec)
        fit(module, self.state, "a tokenizer sent to a worker")
        module.fingerprint = self.fingerprint
        return module.eval().to(device)


@dataclass(frozen=True, kw_only=True)
class Tokenizing:
    """The job of a process: ranges of clips -> token shards."""

    build: Build
    folder: Path
    visual: VideoTokenizer | Portable
    audio: AudioTokenizer | Portable
    conditions: dict[str, Condition]
    batch_size: int
    devices: tuple[str, ...]

    def start(self, worker: int) -> Callable[[tuple[int, range], Advance], None]:
        """Open the clips; in a worker process, build the tokenizers on its device."""
        visual, audio = self.visual, self.audio
        if isinstance(visual, Portable):
            device = torch.device(self.devices[worker % len(self.devices)])
            if device.type == "cpu":
                torch.set_num_threads(1)  # however many workers there are: sums are rounded by how they are split
            visual, audio = visual.rebuilt(device), audio.rebuilt(device)
        reader = ShardReader(self.folder, "media")
        encode = VisualEncoding(visual, self.build.manifest.precision)

        def unit(task: tuple[int, range], advance: Advance) -> None:
            number, clips = task
            self.build.write(number, self._samples(reader, clips, encode, audio, advance))

        return unit

    def _samples(
        self, reader: ShardReader, clips: range, encode: "VisualEncoding", audio: AudioTokenizer, advance: Advance
    ) -> Iterator[tuple[str, dict]]:
        for start in range(clips.start, clips.stop, self.batch_size):
            records = [reader[i] for i in range(start, min(start + self.batch_size, clips.stop))]
            encoded = _encode(records, encode, audio)
            for name, condition in self.conditions.items():
                _encode_condition(name, condition, records, encoded, encode, self.build.manifest.fps)
            for record, fields in zip(records, encoded):
                yield record["__key__"], {**fields, "json": record["json"]}
            advance(len(records))


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

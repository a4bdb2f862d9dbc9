"""A study of audio codecs: points of sounds as they come in, kept in a file, and the tables made of them."""

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from videopoet.evaluation.audio import compare_audio, measured_entropy, standard_audio_metrics
from videopoet.evaluation.audio_codecs import CodedSound, Opus, code_by_audio_tokenizer
from videopoet.evaluation.rate_distortion import Point, at_rate, bd_rate
from videopoet.evaluation.report import markdown
from videopoet.tokenizers.audio.tokenizer import AudioTokenizer

OPUS = "Opus"  # the codec's name in points


@dataclass(frozen=True, kw_only=True)
class Sound:
    """What is coded: mono float s."""

    name: str
    kind: str
    audio: Tensor

    @property
    def digest(self) -> str:
        return hashlib.sha256(self.audio.numpy().tobytes()).hexdigest()


class Study:
    """The points of all sounds, as they come in; those of an earlier run in the same folder are taken from there."""

    def __init__(self, out: Path, sample_rate: int):
        self.sample_rate = sample_rate
        self.metrics = standard_audio_metrics(sample_rate)
        self.points: list[Point] = []
        self.codes: dict[str, list[Tensor]] = {}  # codec -> (t, k) of every sound
        self._file = out / "points.jsonl"
        self._known: dict[str, dict] = {}
        for line in self._file.read_text().splitlines() if self._file.is_file() else []:
            try:
                entry = json.loads(line)
            except ValueError:  # the last line of a run that was cut off
                continue
            self._known[entry["key"]] = entry

    def add_tokenizer(self, sound: Sound, name: str, tokenizer: AudioTokenizer) -> None:
        """A point for every number of levels, and the codes of all."""

        def code() -> tuple[dict[str, CodedSound], list]:
            coded = code_by_audio_tokenizer(sound.audio, self.sample_rate, tokenizer)
            return {f"{k} of {tokenizer.levels} levels": c for k, c in coded.by_levels.items()}, coded.codes.tolist()

        self._add(sound, name, digest(tokenizer), code)

    def add_opus(self, sound: Sound, opus: Opus) -> None:
        """One point, called after the rate that was asked for."""
        asked = f"asked for {opus.bit_rate / 1000:g}"
        self._add(sound, OPUS, repr(opus), lambda: ({asked: opus.code(sound.audio, self.sample_rate)}, []))

    def _add(
        self, sound: Sound, codec: str, settings: str, code: Callable[[], tuple[dict[str, CodedSound], list]]
    ) -> None:
        key = hashlib.sha256(json.dumps([sound.digest, codec, settings, repr(self.metrics)]).encode()).hexdigest()
        if key not in self._known:
            coded, codes = code()
            points = [self._point(sound, codec, quality, c).to_json() for quality, c in coded.items()]
            self._known[key] = {"key": key, "points": points, "codes": codes}
            with self._file.open("a") as file:
                file.write(json.dumps(self._known[key], allow_nan=False) + "\n")
        entry = self._known[key]
        # The name is the file's, not the sound's: it may have moved.
        self.points += [Point.from_json(content | {"clip": sound.name}) for content in entry["points"]]
        if entry["codes"]:
            self.codes.setdefault(codec, []).append(torch.tensor(entry["codes"]))

    def _point(self, sound: Sound, codec: str, quality: str, coded: CodedSound) -> Point:
        length = len(sound.audio)
        file_bpp = None if coded.file_bits is None else coded.file_bits / length
        return Point(codec=codec, quality=quality, clip=sound.name, bpp=coded.bits / length, file_bpp=file_bpp,
                     encode_seconds=coded.encode_seconds, decode_seconds=coded.decode_seconds,
                     scores=compare_audio(sound.audio, coded.audio, self.metrics))  # fmt: skip


def digest(tokenizer: AudioTokenizer) -> str:
    """Changes with any weight, the decoder's included."""
    found = hashlib.sha256(repr(tokenizer).encode())
    for name, tensor in sorted(tokenizer.state_dict().items()):
        found.update(name.encode() + tensor.cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return found.hexdigest()


def tables(found: dict[str, list[Point]], own: list[str], sample_rate: int) -> str:
    """Every point; Opus at the codecs' rates; what the codecs save against Opus at equal quality."""
    metrics = list(dict.fromkeys(name for line in found.values() for p in line for name in p.scores))
    units = {name: score.unit for line in found.values() for p in line for name, score in p.scores.items()}
    names = [m if units[m] == "1" else f"{m} ({units[m]})" for m in metrics]

    def values(p: Point) -> list[str]:
        return [f"{p.scores[m].overall:.2f}" if m in p.scores else "" for m in metrics]

    rows = [
        [codec, p.quality, f"{p.bpp * sample_rate / 1000:.2f}", *values(p)]
        for codec, line in found.items()
        for p in line
    ]
    parts = [markdown(["codec", "quality", "kbit/s", *names], rows, left=2)]
    opus = found.get(OPUS, [])
    rows = []
    for name in own if opus else []:
        for p in found.get(name, []):
            there = [at_rate(opus, m, p.bpp) for m in metrics]
            if any(value is not None for value in there):
                rate = f"{p.bpp * sample_rate / 1000:.2f} kbit/s"
                rows += [
                    [f"{name}, {rate}", *values(p)],
                    ["Opus there", *("" if v is None else f"{v:.2f}" for v in there)],
                ]
        saved = [bd_rate(opus, found.get(name, []), m) for m in metrics]
        if any(value is not None for value in saved):
            rows.append([f"{name}: BD-rate against Opus", *("" if v is None else f"{v:+.0f} %" for v in saved)])
    least = min((p.bpp * sample_rate / 1000 for p in opus), default=None)
    if rows:
        parts.append(markdown(["at equal rates", *names], rows))
    elif least is not None:
        parts.append(f"No equal rates: the least that Opus sent is {least:.2f} kbit/s.")
    return "\n\n".join(parts)


def entropies(codes: dict[str, list[Tensor]], tokenizers: dict[str, AudioTokenizer]) -> str:
    """Bitrate and measured entropy of each codec, level by level."""
    rows = []
    for name, tokenizer in tokenizers.items():
        size, rate = tokenizer.codebook_size, tokenizer.frame_rate
        levels = measured_entropy(codes[name], size, rate)
        rows.append([name, f"{tokenizer.levels} x {size} at {rate:g} Hz", f"{tokenizer.bit_rate() / 1000:.2f}",
                     f"{sum(levels):.2f}", " + ".join(f"{level:.3f}" for level in levels)])  # fmt: skip
    return markdown(["codec", "codes", "kbit/s", "entropy, kbit/s", "by level"], rows, left=2)

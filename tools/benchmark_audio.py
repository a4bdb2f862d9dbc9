"""An audio tokenizer beside Opus, rate against distortion, and beside `encodec`, in speed and memory.

    python tools/prepare_natural_sounds.py --out out/sounds --unpacked FOLDER
    python tools/benchmark_audio.py out/sounds/test --codec ours=CODEC.safetensors --out out/audio
    python tools/benchmark_audio.py --only speed --codec soundstream=configs/tokenizer/soundstream.yaml
    python tools/benchmark_audio.py --quick

A codec is a file of `videopoet export`, or a YAML that names an AudioTokenizer by class_path (pretrained weights by their
path, for example), or a training config, which stands for its untrained tokenizer: random weights, for speed or as a
lower bound. Several may be given.

Quality: every sound is coded by every codec, from its first level alone to all of them, and by Opus at several rates; how
is written in `videopoet/evaluation/audio_codecs.py`. Fewer levels than a codec was trained for (see its
`trained_levels`) are its coarser sound, not what a codec of that rate could do. A codec's rate is that of its codes as
they are; "entropy" is what the codes' frequencies say they hold, from these sounds. Opus's is that of its packets, and
does not go below about 4 kbit/s: where a table is blank there is no Opus of that rate. Tables are by kind (speech, music,
effects: the "kind" in a sound's sidecar) and over all; each sound counts once. Sounds longer than --seconds are cut
there; silent ones are left out. In --out: `points.jsonl` (every sound, codec and rate; a second run takes from there what
it has), `report.json`, `table.md`, `curves-KIND.png` (with matplotlib).

Speed: encode and decode of one sound beside `encodec`'s EncodecModel of the same geometry and weights. Contestants run
in processes of their own and take turns, so that a busy machine slows all alike; medians of CPU seconds over all threads,
"x real time" = seconds of sound per CPU second, and the peak of resident memory above what was resident before (so
without weights). Ratios are ours against the peer's, above 1 where ours is better. Measured anew every time.
"""

import argparse
import inspect
import json
import math
import os
import re
import subprocess
import sys
import time
import warnings
from pathlib import Path

import torch
import yaml
from benchmark_tokenizer import Contestant, contest, forget_peak, memory  # the script beside this one
from safetensors import safe_open

from videopoet import component
from videopoet.commands.safely import run_safely
from videopoet.commands.sample import best_device
from videopoet.data.captions import read_sidecars
from videopoet.data.media import read_audio
from videopoet.data.progress import bar
from videopoet.evaluation.audio import is_silent
from videopoet.evaluation.audio_codecs import Opus
from videopoet.evaluation.audio_study import Sound, Study, entropies, tables
from videopoet.evaluation.rate_distortion import curves, plot
from videopoet.evaluation.report import command, machine, markdown
from videopoet.pipeline import SHIPPED
from videopoet.tokenizers.audio.codec import SoundStream
from videopoet.tokenizers.audio.tokenizer import AudioTokenizer

SUFFIXES = (".wav", ".flac", ".ogg", ".opus", ".mp3", ".m4a", ".g722")
OPUS_RATES = (4000, 5000, 6000, 8000, 12_000, 16_000, 24_000)  # bits per second asked for
QUICK_NOTE = "--quick: generated sounds, few rates, one repeat; for trying out, not to be quoted"


def read_sounds(paths: list[Path], a: argparse.Namespace) -> list[Sound]:
    """Every sound file, folders searched. ValueError for one that cannot be read, or if there are none."""
    files = [file for path in paths if path.is_dir() for file in sorted(path.rglob("*")) if file.suffix in SUFFIXES]
    files += [path for path in paths if not path.is_dir()]
    if not files:
        raise ValueError(f"no sounds in {', '.join(map(str, paths))} (looked for {' '.join(SUFFIXES)})")
    found, stems = [], [file.stem for file in files]
    for file in files:
        audio = torch.from_numpy(read_audio(file, sample_rate=a.sample_rate).audio[0])
        kind = read_sidecars(file).extra.get("kind", "unsorted")
        name = file.stem if stems.count(file.stem) == 1 else file.as_posix()
        found.append(Sound(name=name, kind=kind, audio=audio[: round(a.seconds * a.sample_rate)].contiguous()))
    return found


def generated_sounds(sample_rate: int) -> list[Sound]:
    """A gliding harmonic tone, hits with a decay, and pink-ish noise, 2 s each: no natural sound."""
    t = torch.arange(2 * sample_rate) / sample_rate
    phase = 2 * math.pi * torch.cumsum(150 + 40 * torch.sin(2 * math.pi * 0.9 * t), 0) / sample_rate
    glide = 0.15 * sum(torch.sin(k * phase) / k for k in range(1, 8))
    hits = 0.4 * torch.sin(2 * math.pi * 440 * t) * torch.exp(-12 * (t % 0.5))
    white = torch.randn(len(t), generator=torch.Generator().manual_seed(0))
    noise = 0.1 * torch.nn.functional.avg_pool1d(white[None], 4, 1, 2)[0, : len(t)]
    return [Sound(name=n, kind="generated", audio=x) for n, x in (("glide", glide), ("hits", hits), ("noise", noise))]


def load_codec(path: Path) -> tuple[AudioTokenizer, dict]:
    """A tokenizer in eval mode and its class_path and init_args; random weights (seed 0) where a YAML gives none."""
    if path.suffix not in (".yaml", ".yml"):
        tokenizer = component.load(path, AudioTokenizer)
        with safe_open(path, "pt") as file:
            return tokenizer, json.loads(file.metadata()["spec"])
    spec = yaml.safe_load(path.read_text())
    try:
        spec = spec["model"]["init_args"]["tokenizer"] if "model" in spec else spec
        torch.manual_seed(0)
        tokenizer = component.instantiate(spec)
    except (KeyError, TypeError):
        tokenizer = None
    if not isinstance(tokenizer, AudioTokenizer):
        raise ValueError(f"{path} names no AudioTokenizer: give its class_path and init_args, or a training config")
    return tokenizer.eval(), spec


# --- quality


def measure_quality(a: argparse.Namespace, codecs: dict[str, Path]) -> str:
    """Codes all sounds, writes the report, gives the page of tables."""
    sounds = generated_sounds(a.sample_rate) if a.quick and not a.sounds else read_sounds(a.sounds, a)
    silent = [sound.name for sound in sounds if is_silent(sound.audio)]
    sounds = [sound for sound in sounds if sound.name not in silent]
    if not sounds:
        raise ValueError(f"all {len(silent)} sounds are silent (below -80 dB): nothing to compare")
    tokenizers = {name: load_codec(path)[0].to(best_device()) for name, path in codecs.items()}
    study = Study(a.out, a.sample_rate)
    with bar("codings", (len(tokenizers) + len(a.opus)) * len(sounds)) as advance:
        for sound in sounds:
            for name, tokenizer in tokenizers.items():
                study.add_tokenizer(sound, name, tokenizer)
                advance(1)
            for bit_rate in a.opus:
                study.add_opus(sound, Opus(bit_rate=bit_rate, application=a.opus_application))
                advance(1)
    kinds = list(dict.fromkeys(sound.kind for sound in sounds))
    groups = {kind: [sound.name for sound in sounds if sound.kind == kind] for kind in kinds}
    if len(groups) > 1:
        groups["all"] = [sound.name for sound in sounds]
    found = {group: curves(study.points, names) for group, names in groups.items()}
    parts = []
    for group, names in groups.items():
        seconds = sum(len(sound.audio) for sound in sounds if sound.name in names) / a.sample_rate
        parts += [
            f"### {group}: {len(names)} sounds, {seconds:.0f} s",
            tables(found[group], list(tokenizers), a.sample_rate),
        ]
        plot(found[group], a.out / f"curves-{group}.png", title=f"{group}, {len(names)} sounds", unit="kbit/s",
             scale=a.sample_rate / 1000)  # fmt: skip
    parts.append(entropies(study.codes, tokenizers))
    parts += [f"silent, left out: {', '.join(silent)}"] if silent else []
    content = {"command": command(), "machine": machine(), "quick": a.quick, "sample_rate": a.sample_rate,
               "sounds": {sound.name: [sound.kind, len(sound.audio)] for sound in sounds}, "silent": silent,
               "curves": {group: {codec: [p.to_json() for p in line] for codec, line in lines.items()}
                          for group, lines in found.items()}}  # fmt: skip
    (a.out / "report.json").write_text(json.dumps(content, indent=1, allow_nan=False) + "\n")
    return "\n\n".join(parts)


# --- speed, in a contestant's process


def encodec_model(ours: SoundStream, arguments: dict):
    """`encodec`'s model that computes what `ours`, built with these arguments, computes: geometry, weights, codebooks.

    With other weights the comparison would be of other numbers: the time of an ELU depends on its inputs.
    """
    from encodec import EncodecModel
    from encodec.modules import SEANetDecoder, SEANetEncoder
    from encodec.quantization import ResidualVectorQuantizer

    defaults = {name: p.default for name, p in inspect.signature(SoundStream).parameters.items()}
    g = defaults | arguments
    geometry = {"dimension": g["dimension"], "n_filters": g["num_filters"], "n_residual_layers": g["num_residual_layers"],
                "ratios": list(g["ratios"]), "lstm": g["num_lstm_layers"], "causal": g["causal"], "norm": "weight_norm",
                "pad_mode": "constant"}  # fmt: skip
    quantizer = ResidualVectorQuantizer(dimension=g["dimension"], n_q=g["levels"], bins=g["codebook_size"])
    encoder, decoder, rates = SEANetEncoder(**geometry), SEANetDecoder(**geometry), [ours.bit_rate() / 1000]
    model = EncodecModel(encoder, decoder, quantizer, rates, g["sample_rate"], 1)
    names = {"parametrizations.weight.original0": "weight_g", "parametrizations.weight.original1": "weight_v"}
    for mine, theirs in ((ours.encoder, model.encoder), (ours.decoder, model.decoder)):
        state = {
            re.sub("|".join(names), lambda match: names[match[0]], name): w for name, w in mine.state_dict().items()
        }
        theirs.load_state_dict(state)
    for mine, theirs in zip(ours.quantizer.layers, quantizer.vq.layers, strict=True):
        theirs._codebook.embed.copy_(mine.codebook)
        theirs._codebook.inited.fill_(1)
    return model.eval()


@torch.no_grad()
def work(order: dict) -> None:
    """Answers lines `{"operation"}` on standard input by lines of measurements."""
    out, sys.stdout = sys.stdout, sys.stderr  # what libraries print is no answer
    warnings.filterwarnings("ignore")
    torch.set_num_threads(order["threads"])
    torch.manual_seed(0)
    tokenizer, spec = load_codec(Path(order["path"]))
    audio = 0.1 * torch.randn(1, 1, round(order["seconds"] * tokenizer.sample_rate) // tokenizer.hop * tokenizer.hop)
    facts = {"seconds": audio.shape[2] / tokenizer.sample_rate}
    model = encodec_model(tokenizer, spec.get("init_args") or {}) if order["peer"] else tokenizer
    del tokenizer
    codes = model.encode(audio)
    model.decode(codes)
    operations = {"encode": lambda: model.encode(audio), "decode": lambda: model.decode(codes)}
    facts["parameters"] = sum(p.numel() for p in model.parameters())
    print(json.dumps(facts), file=out, flush=True)
    for line in sys.stdin:
        forget_peak()
        resident, start = memory("VmRSS"), time.process_time()
        operations[json.loads(line)["operation"]]()
        cpu = time.process_time() - start
        print(json.dumps({"cpu_s": cpu, "peak_mib": memory("VmHWM") - resident}), file=out, flush=True)


# --- speed, in the main process


def start(name: str, order: dict) -> Contestant:
    root = Path(__file__).resolve().parents[1]
    environment = os.environ | {"PYTHONPATH": str(root)}
    process = subprocess.Popen([sys.executable, __file__, "--work", json.dumps(order)], stdin=subprocess.PIPE,
                               stdout=subprocess.PIPE, text=True, env=environment)  # fmt: skip
    contestant = Contestant(name, process, None)
    contestant.facts = contestant._answer()
    return contestant


def measure_speed(a: argparse.Namespace, codecs: dict[str, Path]) -> str:
    """One table: every codec and, where it is a SoundStream, encodec in its geometry; raw medians to speed.jsonl."""
    rows, lines = [], []
    for name, path in codecs.items():
        order = {"path": str(path), "seconds": a.speed_seconds, "threads": a.threads}
        started = [start(name, order | {"peer": False})]
        if load_codec(path)[1]["class_path"].endswith(".SoundStream"):
            started.append(start("encodec, same network", order | {"peer": True}))
        plan = [("encode", "float32"), ("decode", "float32")]
        results = contest(started, plan, a.repeats)
        for contestant in started:
            contestant.end()
        for operation, dtype in plan:
            theirs = results[operation, dtype, started[-1].name]
            for contestant in started:
                mine, seconds = results[operation, dtype, contestant.name], contestant.facts["seconds"]
                ours = contestant is started[0] and len(started) > 1
                ratios = [f"{theirs['cpu_s'] / mine['cpu_s']:.2f}",
                          f"{max(theirs['peak_mib'], 1.0) / max(mine['peak_mib'], 1.0):.2f}"] if ours else ["", ""]  # fmt: skip
                rows.append([name, operation, contestant.name if contestant is not started[0] else "ours",
                             f"{contestant.facts['parameters'] / 1e6:.2f} M", f"{mine['cpu_s']:.3f}",
                             f"{seconds / mine['cpu_s']:.1f}", f"{mine['peak_mib']:.0f}", *ratios])  # fmt: skip
                lines.append({"codec": name, "operation": operation, "contestant": contestant.name, **contestant.facts,
                              **mine, "repeats": a.repeats, "threads": a.threads, "machine": machine()})  # fmt: skip
    with (a.out / "speed.jsonl").open("a") as file:
        file.writelines(json.dumps(line) + "\n" for line in lines)
    columns = ["codec", "operation", "by", "parameters", "CPU s", "x real time", "MiB", "x faster", "x memory"]
    head = f"### speed: {a.speed_seconds:g} s of sound, {a.threads} thread(s), medians of {a.repeats}, taking turns"
    return f"{head}\n\n{markdown(columns, rows, left=3)}"


def run(a: argparse.Namespace) -> None:
    codecs = dict(_named(text) for text in a.codec or [f"demo={SHIPPED / 'audio.safetensors'}"])
    if not a.sounds and not a.quick and a.only != "speed":
        raise ValueError("name at least one sound file or folder, or --quick, or --only speed")
    a.out.mkdir(parents=True, exist_ok=True)
    parts = [f"`{command()}`", machine(), *([QUICK_NOTE] if a.quick else [])]
    if a.only != "speed":
        parts.append(measure_quality(a, codecs))
    if a.only != "quality":
        parts.append(measure_speed(a, codecs))
    page = "\n\n".join(parts)
    name = f"table-{a.only}.md" if a.only else "table.md"
    (a.out / name).write_text(page + "\n")
    print(f"{page}\n\nin {a.out}: {name} and the numbers behind it")


def _named(text: str) -> tuple[str, Path]:
    name, _, path = text.rpartition("=")
    return name or Path(path).stem, Path(path)


def parser() -> argparse.ArgumentParser:
    root = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    root.add_argument("sounds", type=Path, nargs="*", help="sound files, or folders of them")
    root.add_argument("--out", type=Path, default=Path("out/audio"), metavar="DIR")
    root.add_argument(
        "--codec", action="append", metavar="[NAME=]FILE", help="may be repeated (default: the shipped one)"
    )
    root.add_argument("--only", choices=("quality", "speed"), help="one of the two")
    root.add_argument("--sample-rate", type=int, default=16_000, help="Hz at which sounds are compared (default 16000)")
    root.add_argument("--seconds", type=float, default=10.0, help="at most so many of a sound (default 10)")
    root.add_argument(
        "--opus", type=int, nargs="*", default=list(OPUS_RATES), metavar="BIT/S", help="rates to ask Opus for"
    )
    root.add_argument("--opus-application", choices=("audio", "voip"), default="audio")
    root.add_argument("--speed-seconds", type=float, default=10.0, help="of sound to time (default 10)")
    root.add_argument("--repeats", type=int, default=5, help="rounds of the timing (default 5)")
    root.add_argument("--threads", type=int, default=1, help="1 by default: waiting threads burn CPU seconds too")
    root.add_argument("--quick", action="store_true", help="generated sounds, two Opus rates, one repeat")
    root.add_argument("--work", type=json.loads, help=argparse.SUPPRESS)
    root.set_defaults(run=run)
    return root


def main(arguments: list[str] | None = None) -> None:
    a = parser().parse_args(arguments)
    if a.work is not None:
        return work(a.work)
    if a.quick:
        a.opus, a.repeats, a.speed_seconds = [6000, 12_000], 1, 2.0
    run_safely(a, [])


if __name__ == "__main__":
    main()

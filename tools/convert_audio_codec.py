#!/usr/bin/env python3
"""A published audio codec (EnCodec or DAC) -> an audio tokenizer of ours, one component file.

example: python tools/convert_audio_codec.py descript/dac_16khz --levels 4 --download --out out/dac.safetensors

SOURCE is a folder or a hub name of `transformers` (config.json, model.safetensors), or EnCodec's own checkpoint of its
24 kHz model (.th). The codes are theirs: weights are kept in float32. With 4 levels DAC of 16 kHz is VideoPoet's geometry,
50 frames a second x 4 x 1024; EnCodec of 24 kHz has 75. Nothing is fetched without --download.
"""

import argparse
import re
import sys
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from videopoet import component
from videopoet.commands.safely import run_safely
from videopoet.foreign_weights import read_state
from videopoet.tokenizers.audio.codec import SoundStream
from videopoet.tokenizers.audio.pretrained import CODECS, ENCODEC_24KHZ, encodec_state, published_type
from videopoet.tokenizers.audio.tokenizer import AudioTokenizer


def read(source: str, levels: int | None, download: bool) -> tuple[AudioTokenizer, dict]:
    """The tokenizer of a source and the spec that rebuilds it. Raises ValueError where it cannot be read or used."""
    if Path(source).is_file():
        return read_encodec(Path(source), levels)
    tokenizer = CODECS[published_type(source, download=download)].from_pretrained(source, levels, download=download)
    return tokenizer, tokenizer.spec()


def read_encodec(path: Path, levels: int | None) -> tuple[AudioTokenizer, dict]:
    """The package's own checkpoint of EnCodec's 24 kHz model."""
    state = read_state(path)
    numbers = [int(match[1]) for key in state if (match := re.match(r"quantizer\.vq\.layers\.(\d+)\.", key))]
    if not numbers or any(key.endswith(".norm.weight") for key in state):
        what = "the stereo model of 48 kHz, whose loudness stands beside the codes" if numbers else "no EnCodec"
        raise ValueError(f"{path} is {what}: give the checkpoint of the 24 kHz model")
    available = 1 + max(numbers)
    levels = available if levels is None else levels
    if not 1 <= levels <= available:
        raise ValueError(f"{levels} levels are asked for, the codec has {available}: take between 1 and those")
    arguments = ENCODEC_24KHZ | {"levels": levels}
    tokenizer = SoundStream(**arguments).eval()
    component.fit(tokenizer, encodec_state(state, levels), str(path))
    return tokenizer, {"class_path": f"{SoundStream.__module__}.SoundStream", "init_args": arguments}


def check_trained(tokenizer: AudioTokenizer, source: str) -> None:
    """Raises ValueError where a codebook holds one vector only, as EnCodec's do before training: all sounds are one."""
    every = torch.arange(tokenizer.codebook_size)[None, :, None]
    for level in range(tokenizer.levels):
        codes = torch.zeros(1, tokenizer.codebook_size, level + 1, dtype=torch.long)
        codes[..., level:] = every
        if not tokenizer.embed(codes).std(2).any():
            raise ValueError(f"all codes of level {level} of {source} are the same: these weights are not trained")


def run(arguments: argparse.Namespace) -> None:
    a = arguments
    if a.out.suffix != ".safetensors" or not a.out.parent.is_dir():
        raise ValueError(f"--out is {a.out}: name a .safetensors file in a folder that exists")
    tokenizer, spec = read(a.source, a.levels, a.download)
    with torch.no_grad():
        check_trained(tokenizer, a.source)
    component.save(a.out, spec, tokenizer.state_dict(), {"source": Path(a.source).name}, half=False)
    made = component.load(a.out, AudioTokenizer)
    encoding, decoding, _ = made.look_ahead
    how = "streams" if not encoding + decoding else f"takes whole sounds: looks {encoding} samples ahead"
    print(
        f"{a.out}: {made.sample_rate} Hz, {made.frame_rate:g} frames a second x {made.levels} x {made.codebook_size}; {how}\n"
        f"next: videopoet shards build VIDEOS --out SHARDS --sample-rate {made.sample_rate}, "
        f"then videopoet tokenize SHARDS --audio {a.out} --out TOKENS"
    )


def parser() -> argparse.ArgumentParser:
    text = (__doc__ or "").strip().splitlines()
    root = argparse.ArgumentParser(description=text[0], epilog=text[2])
    root.add_argument("source", help="folder, hub name, or EnCodec's .th file")
    root.add_argument("--out", type=Path, required=True, metavar="FILE", help="file to write, .safetensors")
    root.add_argument("--levels", type=int, help="residual levels to keep, the coarsest first (default: all)")
    root.add_argument("--download", action="store_true", help="fetch a hub name that is not there yet")
    root.set_defaults(run=run)
    return root


if __name__ == "__main__":
    run_safely(parser().parse_args(), [])

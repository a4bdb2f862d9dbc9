"""Two ways to make a clip small: the encoders of an ffmpeg binary, and a tokenizer. Both count only the bits of pictures.

`imageio-ffmpeg` (PyPI) carries a whole ffmpeg with x265 (HEVC), VVenC (VVC) and SVT-AV1; any other ffmpeg does too. The
choices below are kind to the codecs:

- constant quality, one key frame at the start, the encoder tuned for the error that is measured (not for the eye);
- 10 bits per sample, which codes 8-bit sources better; 4:2:0 as video is mostly coded, or 4:4:4 on request;
- matrix and range are named on both sides (BT.709, limited), so no decoder has to guess them;
- `bits` are the packets of pictures: no container, no parameter sets (VPS, SPS, PPS, sequence header of the container),
  which cost HEVC 7 % of a small file. The tokens, too, are counted without header. `file_bits` has everything.

ffmpeg replaces a pixel format that an encoder does not take by one it does, silently: the file's own is checked.
"""

import math
import os
import resource
import subprocess
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import av
import numpy as np
import torch

from videopoet.data.transforms import video_to_float, video_to_uint8
from videopoet.tokenizers.token_file.bits import bits_needed, codes_to_bits
from videopoet.tokenizers.token_file.coders import CODERS
from videopoet.tokenizers.visual.autoencoder import VideoTokenizer
from videopoet.tokenizers.visual.padding import pad_to_lattice, trim

Chroma = Literal["4:2:0", "4:4:4"]
PIXEL_FORMATS: dict[Chroma, str] = {"4:2:0": "yuv420p10le", "4:4:4": "yuv444p10le"}
_SCALE = "flags=bicubic+accurate_rnd+full_chroma_int+full_chroma_inp:sws_dither=none"
_TO_YUV = f"scale=out_color_matrix=bt709:out_range=tv:{_SCALE}"
_TO_RGB = f"scale=in_color_matrix=bt709:in_range=tv:out_range=pc:{_SCALE},format=rgb24"
_COLOUR = "-colorspace bt709 -color_range tv -color_primaries bt709 -color_trc bt709".split()


@dataclass(frozen=True, kw_only=True)
class Coded:
    """A clip after the round trip. Seconds are of CPU time, all threads, conversions of colour included."""

    video: np.ndarray  # uint8 t h w 3, the size and length that went in
    bits: int
    file_bits: int | None  # the whole file; None where there is none
    encode_seconds: float
    decode_seconds: float


@dataclass(frozen=True, kw_only=True)
class Encoder:
    """One encoder of ffmpeg: `arguments` may hold {quality} and {seconds} (a period longer than the clip)."""

    name: str
    library: str
    arguments: str
    quick: str  # arguments that make it fast; come last
    qualities: tuple[int, ...]  # from good to bad
    chroma: tuple[Chroma, ...] = ("4:2:0",)
    least_side: int = 1  # pixels


ENCODERS = {
    "x264": Encoder(name="AVC (x264)", library="libx264", quick="-preset ultrafast", qualities=(20, 26, 32, 38, 44),
                    arguments="-preset medium -tune psnr -crf {quality}", chroma=("4:2:0", "4:4:4")),
    "x265": Encoder(name="HEVC (x265)", library="libx265", quick="-preset ultrafast", qualities=(20, 26, 32, 38, 44, 50),
                    arguments="-preset medium -tune psnr -crf {quality} "
                    "-x265-params log-level=error:info=0:keyint=-1:repeat-headers=0", chroma=("4:2:0", "4:4:4")),
    "vvenc": Encoder(name="VVC (VVenC)", library="libvvenc", quick="-preset faster", qualities=(22, 27, 32, 37, 42, 47, 52),
                     arguments="-preset medium -qpa 0 -period {seconds} -qp {quality}"),
    "svtav1": Encoder(name="AV1 (SVT-AV1)", library="libsvtav1", quick="-preset 10", qualities=(20, 30, 40, 50, 57, 63),
                      arguments="-preset 4 -crf {quality} -svtav1-params tune=1", least_side=64),
    "aom": Encoder(name="AV1 (libaom)", library="libaom-av1", quick="-cpu-used 8", qualities=(20, 30, 40, 50, 57, 63),
                   arguments="-cpu-used 3 -b:v 0 -crf {quality}", chroma=("4:2:0", "4:4:4")),
}  # fmt: skip


def find_ffmpeg() -> str:
    """Path of the binary that `imageio-ffmpeg` carries; ValueError, with what to install, where it is missing."""
    try:
        import imageio_ffmpeg

        return imageio_ffmpeg.get_ffmpeg_exe()
    except (ImportError, RuntimeError) as error:
        raise ValueError(
            f"no ffmpeg with HEVC, VVC and AV1 encoders ({error}): pip install imageio-ffmpeg, or name one by --ffmpeg"
        ) from None


@dataclass(frozen=True, kw_only=True)
class Ffmpeg:
    """Runs the encoders of one binary; `quick` trades compression for time, to try things out only."""

    path: str
    chroma: Chroma = "4:2:0"
    quick: bool = False
    timeout: float = 1800.0  # seconds for one run

    @property
    def version(self) -> str:
        return self._run(["-version"]).decode(errors="replace").partition("Copyright")[0].strip()

    def libraries(self) -> set[str]:
        """Names of the video encoders the binary has."""
        lines = self._run(["-hide_banner", "-encoders"]).decode(errors="replace").splitlines()
        return {words[1] for line in lines if len(words := line.split()) > 1 and words[0].startswith("V")}

    def code(self, video: np.ndarray, fps: float, encoder: Encoder, quality: int) -> Coded:
        """uint8 t h w 3 through one encoder and back. Odd sizes are coded with the last row or column repeated.

        Raises ValueError where the encoder refuses, or gives back another number, size or format of pictures.
        """
        if self.chroma not in encoder.chroma:
            raise ValueError(f"{encoder.library} has no {self.chroma} with 10 bits: use {' or '.join(encoder.chroma)}")
        if min(video.shape[1:3]) < encoder.least_side:
            raise ValueError(f"{encoder.library} takes {encoder.least_side} pixels and more, not {video.shape[1:3]}")
        even = _even(video)
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "clip.mp4"
            _, encode_seconds = self._timed(self._arguments(even.shape, fps, encoder, quality, file), even.tobytes())
            bits = self._picture_bits(file, len(video), encoder)
            raw, decode_seconds = self._timed(["-i", str(file), "-vf", _TO_RGB, *_RAW, "-"])
            file_bits = 8 * file.stat().st_size
        if len(raw) != even.size:
            raise ValueError(f"{encoder.library} gave back {len(raw)} bytes of pictures, {even.size} went in")
        back = np.frombuffer(raw, np.uint8).reshape(even.shape)[:, : video.shape[1], : video.shape[2]].copy()
        return Coded(video=back, bits=bits, file_bits=file_bits, encode_seconds=encode_seconds,
                     decode_seconds=decode_seconds)  # fmt: skip

    def ceiling(self, video: np.ndarray) -> np.ndarray:
        """The clip to Y'CbCr of this chroma and back, not coded at all: what no encoder can exceed in RGB."""
        even = _even(video)
        yuv = self._run([*_input(even.shape, 25.0), "-vf", f"{_TO_YUV},format={PIXEL_FORMATS[self.chroma]}",
                         "-f", "rawvideo", "-"], even.tobytes())  # fmt: skip
        back = self._run([*_input(even.shape, 25.0, PIXEL_FORMATS[self.chroma]), "-vf", _TO_RGB, *_RAW, "-"], yuv)
        return np.frombuffer(back, np.uint8).reshape(even.shape)[:, : video.shape[1], : video.shape[2]].copy()

    def _arguments(self, shape: tuple, fps: float, encoder: Encoder, quality: int, file: Path) -> list[str]:
        seconds = math.ceil(shape[0] / fps) + 1
        own = encoder.arguments.format(quality=quality, seconds=seconds).split()
        quick = encoder.quick.split() if self.quick else []
        return [*_input(shape, fps), "-vf", f"{_TO_YUV},format={PIXEL_FORMATS[self.chroma]}", "-c:v", encoder.library,
                *own, *quick, *_COLOUR, "-g", "9999", "-fps_mode", "passthrough", "-y", str(file)]  # fmt: skip

    def _picture_bits(self, file: Path, frames: int, encoder: Encoder) -> int:
        with av.open(str(file)) as container:
            stream = container.streams.video[0]
            sizes = [packet.size for packet in container.demux(stream) if packet.size]
            found = stream.codec_context.pix_fmt
        if found is not None and found != PIXEL_FORMATS[self.chroma]:
            raise ValueError(f"{encoder.library} coded {found}, asked for {PIXEL_FORMATS[self.chroma]}")
        if not sizes or len(sizes) > frames:
            raise ValueError(f"{encoder.library} wrote {len(sizes)} packets for {frames} pictures")
        return 8 * sum(sizes)

    def _timed(self, arguments: list[str], data: bytes = b"") -> tuple[bytes, float]:
        before = _children_seconds()
        out = self._run(arguments, data)
        return out, _children_seconds() - before

    def _run(self, arguments: list[str], data: bytes = b"") -> bytes:
        try:
            command = (
                [self.path, "-v", "error", "-nostdin", *arguments] if "-i" in arguments else [self.path, *arguments]
            )
            environment = os.environ | {"SVT_LOG": "1"}  # SVT-AV1 talks past ffmpeg's own level
            done = subprocess.run(command, input=data, capture_output=True, timeout=self.timeout, env=environment)
        except OSError as error:
            raise ValueError(f"{self.path} cannot be run ({error.strerror})") from None
        except subprocess.TimeoutExpired:
            raise ValueError(f"ffmpeg took more than {self.timeout:g} s: take fewer frames or a smaller size") from None
        if done.returncode:
            lines = done.stderr.decode(errors="replace").strip().splitlines()
            raise ValueError(f"ffmpeg failed with code {done.returncode}: {lines[0] if lines else 'without a message'}")
        return done.stdout


_RAW = ["-fps_mode", "passthrough", "-f", "rawvideo"]


def _input(shape: tuple, fps: float, pixel_format: str = "rgb24") -> list[str]:
    return ["-f", "rawvideo", "-pix_fmt", pixel_format, "-s", f"{shape[2]}x{shape[1]}", "-r", f"{fps:.6f}", "-i", "-"]


def _even(video: np.ndarray) -> np.ndarray:
    padding = (0, video.shape[1] % 2), (0, video.shape[2] % 2)
    return np.ascontiguousarray(np.pad(video, ((0, 0), *padding, (0, 0)), mode="edge"))


def _children_seconds() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def tokenizer_bits(codes: np.ndarray, codebook_size: int) -> dict[str, int]:
    """Codes (t, h, w) -> bits by each coder of token files: as they are ("packed"), or entropy-coded. Whole bytes."""
    bits = codes_to_bits(codes, bits_needed(codebook_size))
    return {name: 8 * len(coder().encode(bits)) for name, coder in CODERS.items()}


@torch.no_grad()
def code_by_tokenizer(
    video: np.ndarray, tokenizer: VideoTokenizer, clock: Callable[[], float] = time.process_time
) -> dict[str, Coded]:
    """uint8 t h w 3 through a tokenizer and back, by the name of the coder that counted the bits.

    Frames and pixels are padded to the lattice by repetition, all its codes are counted, and the padding is trimmed.
    `encode_seconds` is of the network alone, not of the entropy coder.
    """
    device = next(tokenizer.parameters()).device
    padded, size = pad_to_lattice(video_to_float(video)[None].to(device), tokenizer.stride, tokenizer.encoder.rule)
    start = clock()
    codes = tokenizer.encode(padded)
    middle = clock()
    decoded = tokenizer.decode(codes)
    end = clock()
    back = video_to_uint8(trim(decoded, size)[0])
    bits = tokenizer_bits(codes[0].cpu().numpy(), tokenizer.codebook_size)
    return {
        name: Coded(video=back, bits=count, file_bits=None, encode_seconds=middle - start, decode_seconds=end - middle)
        for name, count in bits.items()
    }

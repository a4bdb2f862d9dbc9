"""The token file `.vpt`: the codes of one video, with what it takes to decode them.

    offset  bytes
    0       8      magic 89 56 50 54 0D 0A 1A 0A ("\\x89VPT\\r\\n\\x1a\\n"; as in PNG, a transfer as text damages it visibly)
    8       2      version, 1
    10      2      0
    12      4      length of the header in bytes
    16      8      length of the payload in bytes
    24      4      CRC-32 of bytes 8 to 23 and the header
    28      4      CRC-32 of the payload
    32             header: JSON, padded with spaces to a multiple of 64 bytes, with the fields of `Header`
                   payload: blocks of consecutive latent frames, each
                       4      latent frames in the block
                       4      bytes of code that follow
                       ...    their bits through the coder, in the order (latent frame, row, column, bit)

All integers are little-endian. Writing and reading go block by block: memory does not grow with the video.
"""

import json
import math
import os
import struct
import zlib
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import BinaryIO

import numpy as np

from videopoet.tokenizers.token_file.bits import BIT_ORDER, bits_needed, bits_to_codes, codes_to_bits
from videopoet.tokenizers.token_file.coders import CODERS

MAGIC = b"\x89VPT\r\n\x1a\n"
VERSION = 1
PREFIX = struct.Struct("<8sHHIQII")  # 32 bytes
BLOCK = struct.Struct("<II")
MAX_HEADER = 1 << 16  # bytes
BLOCK_CODES = 1 << 16  # codes per block, as whole latent frames, at least one
MAX_SIDE, MAX_FRAMES = 1 << 16, 1 << 32  # larger ones are damage, not video


@dataclass(frozen=True, kw_only=True)
class Header:
    """What a token file says about its codes.

    Worked example: 18 frames of 60 x 64 pixels at 30000/1001 fps, padded to 21 x 64 x 64, stride (4, 8, 8), 2^18 codes:
    lattice (6, 8, 8), size (18, 60, 64), bits 18, 6 * 8 * 8 * 18 / 8 = 864 bytes packed.
    """

    lattice: tuple[int, int, int]  # latent frames, rows, columns
    size: tuple[int, int, int]  # frames, height, width (pixels) before padding
    stride: tuple[int, int, int]  # frames, pixels, pixels per code
    fps: Fraction  # frames per second
    codebook_size: int
    fingerprint: str  # of the tokenizer that made the codes
    coder: str = "packed"
    bit_order: str = BIT_ORDER

    @property
    def bits(self) -> int:
        """Bits per code."""
        return bits_needed(self.codebook_size)

    @property
    def num_codes(self) -> int:
        return math.prod(self.lattice)

    @property
    def seconds(self) -> Fraction:
        return self.size[0] / self.fps

    @property
    def block_frames(self) -> int:
        """Latent frames per block; the last block may have fewer."""
        return max(1, BLOCK_CODES // (self.lattice[1] * self.lattice[2]))

    def to_json(self) -> bytes:
        fields = asdict(self) | {"fps": [self.fps.numerator, self.fps.denominator], "bits": self.bits}
        text = json.dumps(fields).encode()
        return text.ljust(-(-len(text) // 64) * 64)

    @classmethod
    def from_json(cls, text: bytes) -> "Header":
        """Raises ValueError where a field is missing, of a wrong type or out of range."""
        try:
            fields = json.loads(text)
            triples = {name: tuple(map(_integer, fields[name])) for name in ("lattice", "size", "stride")}
            numbers = {
                "codebook_size": _integer(fields["codebook_size"]),
                "fps": Fraction(*map(_integer, fields["fps"])),
            }
            strings = {name: str(fields[name]) for name in ("fingerprint", "coder", "bit_order")}
            bits = _integer(fields["bits"])
        except (KeyError, TypeError, ValueError, ZeroDivisionError, RecursionError) as error:
            raise ValueError(f"the header is damaged ({type(error).__name__}: {error}): make the file again") from None
        header = cls(**triples, **numbers, **strings)
        header.check()
        if bits != header.bits:
            raise ValueError(f"the header says {bits} bits per code, {header.codebook_size} codes take {header.bits}")
        return header

    def check(self) -> None:
        """Raises ValueError where the fields contradict each other or cannot be a video's."""
        for name in ("lattice", "size", "stride"):
            value, most = getattr(self, name), (MAX_FRAMES, MAX_SIDE, MAX_SIDE)
            if len(value) != 3 or not all(1 <= v <= m for v, m in zip(value, most)):
                raise ValueError(f"{name} is {value}: three numbers from 1 to {most} are possible")
        if not 1 <= self.codebook_size <= 1 << 62 or not 0 < self.fps <= 1000:
            raise ValueError(
                f"a codebook of {self.codebook_size} at {self.fps} fps: 1 to 2^62, and up to 1000 fps, are possible"
            )
        if self.coder not in CODERS:
            raise ValueError(f"unknown coder {self.coder!r}: this version knows {', '.join(CODERS)}; update videopoet")
        if self.bit_order != BIT_ORDER:
            raise ValueError(f"bit order {self.bit_order!r}: this version knows {BIT_ORDER!r}; update videopoet")
        for have, pixels, stride in zip(self.lattice[1:], self.size[1:], self.stride[1:]):
            if have != -(-pixels // stride):
                raise ValueError(f"lattice {self.lattice} is not that of {self.size} with stride {self.stride}")
        if not -(-self.size[0] // self.stride[0]) <= self.lattice[0] <= -(-(self.size[0] - 1) // self.stride[0]) + 1:
            raise ValueError(
                f"{self.lattice[0]} latent frames are not those of {self.size[0]} frames by {self.stride[0]}"
            )


def _integer(value) -> int:
    if type(value) is not int:
        raise TypeError(f"{value!r} is no whole number")
    return value


class TokenWriter:
    """Writes a token file part by part, whole or not at all.

        with TokenWriter("x.vpt", header) as writer:      # header.lattice[0] and size[0] may be 1: they are counted
            for codes in parts: writer.write(codes)       # int64 (t, h, w), any t
            writer.close(frames=18)                       # frames before padding

    Leaving the block without `close`, or by an error, leaves no file. Raises ValueError for codes that do not fit.
    """

    def __init__(self, path: str | os.PathLike, header: Header):
        self._path, self._header = Path(path), header
        header.check()
        if not self._path.parent.is_dir():
            raise ValueError(f"the folder of {path} does not exist: make it first")
        self._part = self._path.with_name(f".{self._path.name}.{os.getpid()}.part")
        self._coder = CODERS[header.coder]()
        self._held: list[np.ndarray] = []  # latent frames that do not fill a block yet
        self._frames = self._bytes = self._crc = 0

    def __enter__(self) -> "TokenWriter":
        self._file = self._part.open("wb")
        self._room = len(replace(self._header, lattice=(MAX_FRAMES, *self._header.lattice[1:]),
                                 size=(MAX_FRAMES, *self._header.size[1:])).to_json())  # fmt: skip
        self._file.write(bytes(PREFIX.size + self._room))
        return self

    def __exit__(self, *exception) -> None:
        self._file.close()
        self._part.unlink(missing_ok=True)

    def write(self, codes: np.ndarray) -> None:
        """Append latent frames: codes of any integer type (t, h, w), t may be 0."""
        if codes.ndim != 3 or codes.shape[1:] != self._header.lattice[1:] or codes.dtype.kind not in "iu":
            raise ValueError(f"codes are integers (t, {self._header.lattice[1]}, {self._header.lattice[2]}), got "
                             f"{codes.dtype} {codes.shape}")  # fmt: skip
        if codes.size and not 0 <= codes.min() <= codes.max() < self._header.codebook_size:
            raise ValueError(
                f"codes span {codes.min()} to {codes.max()}, the codebook has {self._header.codebook_size}"
            )
        self._held += list(codes.astype(np.int64))
        while len(self._held) >= self._header.block_frames:
            self._block(self._header.block_frames)

    def close(self, frames: int) -> Header:
        """Write the last block and the header, and give the file its name. `frames` is the number before padding."""
        if self._held:
            self._block(len(self._held))
        lattice, size = (self._frames, *self._header.lattice[1:]), (frames, *self._header.size[1:])
        header = replace(self._header, lattice=lattice, size=size)
        header.check()
        text = header.to_json().ljust(self._room)
        facts = struct.pack("<HHIQ", VERSION, 0, self._room, self._bytes)
        self._file.seek(0)
        self._file.write(MAGIC + facts + struct.pack("<II", zlib.crc32(facts + text), self._crc) + text)
        self._file.close()
        os.replace(self._part, self._path)
        return header

    def _block(self, frames: int) -> None:
        bits = codes_to_bits(np.stack(self._held[:frames]), self._header.bits)
        del self._held[:frames]
        data = self._coder.encode(bits)
        data = BLOCK.pack(frames, len(data)) + data
        self._file.write(data)
        self._frames, self._bytes, self._crc = (
            self._frames + frames,
            self._bytes + len(data),
            zlib.crc32(data, self._crc),
        )


class TokenReader:
    """A token file opened and checked: header, lengths and checksums. Iterate over it for codes int64 (t, h, w), in blocks.

    Raises ValueError, with the cause and the remedy, for whatever is not a whole token file of a known version.
    Nothing is allocated by what the file claims before it is held against the bytes that are there.
    """

    def __init__(self, path: str | os.PathLike):
        self.path = Path(path)
        if not self.path.is_file():
            raise ValueError(f"no token file at {path}")
        try:
            with self.path.open("rb") as file:
                self.header, self.payload_bytes, crc = _read_header(file)
                self._start = file.tell()
                _check_payload(file, self.payload_bytes, crc)
            CODERS[self.header.coder]().check(self.payload_bytes, self.header.num_codes * self.header.bits)
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from None
        self.file_bytes = self.path.stat().st_size

    def check_tokenizer(self, fingerprint: str) -> None:
        """Raises ValueError where the codes are another tokenizer's."""
        if fingerprint != self.header.fingerprint:
            raise ValueError(
                f"{self.path} holds codes of the tokenizer {self.header.fingerprint}, the one given is {fingerprint}: "
                "name the right file by --tokenizer"
            )

    def __iter__(self) -> Iterator[np.ndarray]:
        try:
            yield from self._blocks()
        except ValueError as error:
            raise ValueError(f"{self.path}: {error}") from None

    def _blocks(self) -> Iterator[np.ndarray]:
        header, coder = self.header, CODERS[self.header.coder]()
        left, remaining = header.lattice[0], self.payload_bytes
        with self.path.open("rb") as file:
            file.seek(self._start)
            while left:
                head = file.read(BLOCK.size)
                frames, length = BLOCK.unpack(head) if len(head) == BLOCK.size else (0, 0)
                remaining -= BLOCK.size + length
                if not 1 <= frames <= min(left, header.block_frames) or remaining < 0:
                    raise ValueError(f"a block of {frames} latent frames and {length} bytes does not fit: damaged file")
                codes = bits_to_codes(coder.decode(file.read(length), (frames, *header.lattice[1:], header.bits)))
                if codes.max() >= header.codebook_size:
                    raise ValueError(f"code {codes.max()} of a codebook of {header.codebook_size}: damaged file")
                left -= frames
                yield codes
        if remaining:
            raise ValueError(f"{remaining} bytes follow the last block: damaged file")


def _read_header(file: BinaryIO) -> tuple[Header, int, int]:
    """The checked header, the payload's length in bytes and its checksum; the file stands at the payload."""
    prefix = file.read(PREFIX.size)
    if prefix[:8] != MAGIC[: len(prefix)] or not prefix:
        raise ValueError("is no token file: make one by 'videopoet tokenizer encode'")
    if len(prefix) < PREFIX.size:
        raise ValueError(f"is cut off after {len(prefix)} bytes: copy or make it again")
    _, version, _, header_bytes, payload_bytes, crc, payload_crc = PREFIX.unpack(prefix)
    if version != VERSION:
        raise ValueError(f"is of version {version}, this program reads version {VERSION}: update videopoet")
    there = os.fstat(file.fileno()).st_size - PREFIX.size
    if header_bytes > min(MAX_HEADER, there):
        raise ValueError(f"claims a header of {header_bytes} bytes, {there} follow: copy or make it again")
    text = file.read(header_bytes)
    if zlib.crc32(prefix[8:24] + text) != crc:
        raise ValueError("the header's checksum is wrong: the file is damaged, copy or make it again")
    if payload_bytes != there - header_bytes:
        raise ValueError(
            f"claims {payload_bytes} bytes of codes, {there - header_bytes} are there: copy or make it again"
        )
    return Header.from_json(text), payload_bytes, payload_crc


def _check_payload(file: BinaryIO, length: int, expected: int) -> None:
    crc = 0
    while length > 0 and (data := file.read(min(length, 1 << 20))):
        crc, length = zlib.crc32(data, crc), length - len(data)
    if crc != expected:
        raise ValueError("the checksum of the codes is wrong: the file is damaged, copy or make it again")

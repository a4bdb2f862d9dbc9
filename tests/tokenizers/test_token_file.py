"""Token files: coders round-trip and compress, the container round-trips, and hostile files end in one ValueError."""

import json
import math
import struct
import zlib
from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest

from videopoet.tokenizers.token_file.bits import bits_needed, bits_to_codes, codes_to_bits, pack, unpack
from videopoet.tokenizers.token_file.coders import CODERS
from videopoet.tokenizers.token_file.container import MAGIC, PREFIX, Header, TokenReader, TokenWriter
from videopoet.tokenizers.token_file.range_coder import ONE, BitDecoder, encode_bits

HEADER = Header(
    lattice=(6, 8, 8),
    size=(18, 60, 64),
    stride=(4, 8, 8),
    fps=Fraction(30000, 1001),
    codebook_size=2**18,
    fingerprint="f00d",
)


def still_video(frames=6, change=0.05, seed=0, size=2**18, rows=8, columns=8) -> np.ndarray:
    """Codes of which a share `change` differ from the latent frame before."""
    random = np.random.default_rng(seed)
    codes = [random.integers(0, size, (rows, columns))]
    for _ in range(frames - 1):
        codes.append(
            np.where(random.random((rows, columns)) < change, random.integers(0, size, (rows, columns)), codes[-1])
        )
    return np.stack(codes)


def write(path, codes, header=HEADER, parts=1, frames=None):
    with TokenWriter(path, header) as writer:
        for part in np.array_split(codes, parts):
            writer.write(part)
        return writer.close(frames or 1 + 4 * (len(codes) - 1))


@pytest.mark.parametrize("bits", [1, 3, 18, 40, 62])
def test_bits_of_codes_are_least_significant_first_and_return(bits):
    codes = np.random.default_rng(0).integers(0, 2**bits, (2, 3, 4))
    assert np.array_equal(bits_to_codes(codes_to_bits(codes, bits)), codes)
    table = codes_to_bits(codes, bits)
    assert np.array_equal(unpack(pack(table), table.shape), table)
    assert codes_to_bits(np.array([5, 1]), 3).tolist() == [[1, 0, 1], [1, 0, 0]]
    assert [bits_needed(n) for n in (1, 2, 3, 2**18, 2**18 + 1, 64000)] == [1, 1, 2, 18, 19, 16]


def test_bits_agree_with_the_quantizer():
    import torch

    from videopoet.tokenizers.quantizers.lookup_free import LookupFreeQuantizer

    codes = torch.randint(0, 2**10, (1, 2, 3, 3))
    signs = LookupFreeQuantizer(10).embed(codes)  # (1, 10, 2, 3, 3)
    assert np.array_equal(codes_to_bits(codes.numpy(), 10), (signs.movedim(1, -1) > 0).numpy())


@pytest.mark.parametrize("seed", range(12))
def test_the_range_coder_returns_any_bits_near_their_information(seed):
    random = np.random.default_rng(seed)
    p = random.choice([1, 2, 700, ONE // 2, ONE - 3, ONE - 1], 3000) if seed % 2 else random.integers(1, ONE, 3000)
    fair = random.random(3000) < p / ONE
    bits = (fair if seed % 3 else ~fair).astype(int).tolist()  # also bits that the model holds improbable
    data = encode_bits(bits, p.tolist())
    decoder = BitDecoder(data)
    assert decoder.read(p[:1000].tolist()) + decoder.read(p[1000:].tolist()) == bits
    information = -np.log2(np.where(bits, p, ONE - p) / ONE).sum()
    assert 0.998 * information - 16 < 8 * len(data) < 1.001 * information + 56


@pytest.mark.parametrize("bits", [[], [1] * 5000, [0] * 5000])
@pytest.mark.parametrize("p", [1, ONE - 1, 40000])
def test_the_range_coder_at_its_ends(bits, p):
    assert BitDecoder(encode_bits(bits, [p] * len(bits))).read([p] * len(bits)) == bits


@pytest.mark.parametrize("name", CODERS)
@pytest.mark.parametrize("shape", [(1, 1, 1, 1), (3, 2, 5, 7), (5, 8, 8, 18)])
@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 1.0])
def test_coders_return_blocks_of_bits(name, shape, share):
    random = np.random.default_rng(1)
    blocks = [(random.random((t, *shape[1:])) < share).astype(np.uint8) for t in (shape[0], 2, 1)]
    encoder, decoder = CODERS[name](), CODERS[name]()
    for block in blocks:
        data = encoder.encode(block)
        assert np.array_equal(decoder.decode(data, block.shape), block)


def test_entropy_coding_pays_where_frames_repeat_and_costs_little_where_not():
    def size(name, codes):
        return len(CODERS[name]().encode(codes_to_bits(codes, 18)))

    still, noise = still_video(16), still_video(16, change=1.0)
    assert size("packed", still) == size("packed", noise) == 16 * 64 * 18 // 8
    assert size("static", still) < 0.4 * size("packed", still) and size("adaptive", still) < 0.4 * size("packed", still)
    assert size("static", noise) < 1.03 * size("packed", noise) and size("adaptive", noise) < 1.03 * size(
        "packed", noise
    )


def test_the_adaptive_coder_stays_near_the_entropy_of_its_contexts():
    bits = (np.random.default_rng(0).random((40, 16, 16, 4)) < [0.5, 0.1, 0.02, 0.98]).astype(np.uint8)
    entropy = sum(-p * math.log2(p) - (1 - p) * math.log2(1 - p) for p in (0.5, 0.1, 0.02, 0.98)) * 40 * 256
    assert entropy * 0.97 < 8 * len(CODERS["adaptive"]().encode(bits)) < entropy * 1.05


@pytest.mark.parametrize("coder", CODERS)
@pytest.mark.parametrize("parts", [1, 3, 6])
def test_a_file_returns_its_codes_and_header_however_it_was_written(tmp_path, coder, parts):
    codes, path = still_video(), tmp_path / "x.vpt"
    header = write(path, codes, replace(HEADER, coder=coder), parts, frames=18)
    assert header == replace(HEADER, coder=coder)
    reader = TokenReader(path)
    assert reader.header == header and np.array_equal(np.concatenate(list(reader)), codes)
    assert np.array_equal(np.concatenate(list(reader)), codes)  # a second time
    assert [p.name for p in tmp_path.iterdir()] == ["x.vpt"]
    assert reader.file_bytes == PREFIX.size + len(path.read_bytes()[32:]) and path.read_bytes()[:8] == MAGIC
    if coder == "packed":
        assert reader.payload_bytes == 864 + 8
    reader.check_tokenizer("f00d")
    with pytest.raises(ValueError, match="codes of the tokenizer f00d, the one given is beef: name the right file"):
        reader.check_tokenizer("beef")


@pytest.mark.parametrize("coder", CODERS)
def test_long_videos_go_in_blocks(tmp_path, coder):
    codes = still_video(40, rows=40, columns=64, size=6)
    header = Header(lattice=(1, 40, 64), size=(1, 40, 64), stride=(4, 1, 1), fps=Fraction(8), codebook_size=6,
                    fingerprint="a", coder=coder)  # fmt: skip
    write(tmp_path / "x.vpt", codes, header, parts=9)
    blocks = list(TokenReader(tmp_path / "x.vpt"))
    assert [len(b) for b in blocks] == [25, 15] and np.array_equal(np.concatenate(blocks), codes)


@pytest.mark.parametrize("how", ["error", "no close", "bad codes", "no codes"])
def test_nothing_is_left_of_a_file_that_was_not_finished(tmp_path, how):
    path = tmp_path / "x.vpt"
    path.write_text("what was there")
    try:
        with TokenWriter(path, HEADER) as writer:
            if how != "no codes":
                writer.write(still_video())
            if how == "error":
                raise KeyboardInterrupt
            if how == "bad codes":
                writer.write(np.full((1, 8, 8), 2**18))
            if how == "no codes":
                writer.close(0)
    except (KeyboardInterrupt, ValueError):
        assert how != "no close"
    assert [p.name for p in tmp_path.iterdir()] == ["x.vpt"] and path.read_text() == "what was there"


def test_the_writer_refuses_what_does_not_fit(tmp_path):
    for codes, message in [
        (still_video().astype(float), "codes are integers"),
        (still_video(rows=7), r"got int64 \(6, 7, 8\)"),
        (still_video() - 2**18, "the codebook has 262144"),
    ]:
        with pytest.raises(ValueError, match=message), TokenWriter(tmp_path / "x.vpt", HEADER) as writer:
            writer.write(codes)
    with pytest.raises(ValueError, match=r"folder of .* does not exist"):
        TokenWriter(tmp_path / "no" / "x.vpt", HEADER)
    with pytest.raises(ValueError, match="6 latent frames are not those of 30 frames"):
        write(tmp_path / "x.vpt", still_video(), frames=30)


@pytest.fixture(params=CODERS)
def whole(request, tmp_path) -> bytes:
    write(tmp_path / "whole.vpt", still_video(), replace(HEADER, coder=request.param))
    return (tmp_path / "whole.vpt").read_bytes()


def read(tmp_path, data: bytes) -> list[np.ndarray]:
    (tmp_path / "bad.vpt").write_bytes(data)
    return list(TokenReader(tmp_path / "bad.vpt"))


def forge(whole: bytes, payload: bytes | None = None, **fields) -> bytes:
    """A file with other header fields or payload whose lengths and checksums are right."""
    _, version, _, length, *_ = PREFIX.unpack(whole[:32])
    text = json.dumps(json.loads(whole[32 : 32 + length]) | fields).encode()
    payload = whole[32 + length :] if payload is None else payload
    facts = struct.pack("<HHIQ", version, 0, len(text), len(payload))
    return MAGIC + facts + struct.pack("<II", zlib.crc32(facts + text), zlib.crc32(payload)) + text + payload


def test_every_cut_and_every_flipped_byte_is_found(tmp_path, whole):
    assert np.array_equal(np.concatenate(read(tmp_path, whole)), still_video())
    for end in [*range(0, 40), *range(40, len(whole), 37), len(whole) - 1]:
        with pytest.raises(ValueError, match=r"bad\.vpt.*(make|update)"):
            read(tmp_path, whole[:end])
    for at in [*range(10), *range(12, len(whole), 11)]:
        with pytest.raises(ValueError, match=r"bad\.vpt"):
            read(tmp_path, whole[:at] + bytes([whole[at] ^ 0x20]) + whole[at + 1 :])
    with pytest.raises(ValueError, match="bytes of codes"):
        read(tmp_path, whole + b"x")


def test_other_files_and_versions_are_named(tmp_path, whole):
    with pytest.raises(ValueError, match="is no token file: make one"):
        read(tmp_path, b"\0\0\0\x18ftypmp42" + bytes(100))
    with pytest.raises(ValueError, match="is of version 7, this program reads version 1: update"):
        read(tmp_path, whole[:8] + struct.pack("<H", 7) + whole[10:])
    with pytest.raises(ValueError, match="no token file at"):
        TokenReader(tmp_path / "absent.vpt")


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"lattice": [2**31, 8, 8], "size": [2**33, 60, 64]}, "size is"),
        ({"lattice": [2**29, 8, 8], "size": [2**31, 60, 64]}, "cannot hold"),
        ({"lattice": [6, 65536, 65536], "size": [18, 65536, 65536], "stride": [4, 1, 1]}, "cannot hold"),
        ({"lattice": [6, 9, 8]}, "is not that of"),
        ({"lattice": [60, 8, 8]}, "latent frames are not those of"),
        ({"lattice": [0, 8, 8]}, "lattice is"),
        ({"lattice": [6.0, 8, 8]}, "no whole number"),
        ({"lattice": "6x8x8"}, "header is damaged"),
        ({"size": [-18, 60, 64]}, "size is"),
        ({"fps": [1, 0]}, "header is damaged"),
        ({"fps": [0, 1]}, "0 fps"),
        ({"codebook_size": 2**80, "bits": 80}, "a codebook of"),
        ({"bits": 17}, "17 bits per code"),
        ({"coder": "zip"}, "unknown coder 'zip'.*update"),
        ({"bit_order": "most significant first"}, "bit order"),
    ],
)
def test_forged_headers_with_right_checksums_are_refused(tmp_path, whole, fields, message):
    with pytest.raises(ValueError, match=message):
        read(tmp_path, forge(whole, **fields))


def test_forged_payloads_with_right_checksums_are_refused_or_harmless(tmp_path, whole):
    start = 32 + PREFIX.unpack(whole[:32])[3]
    payload = whole[start:]
    for frames, length in [
        (0, len(payload) - 8),
        (7, len(payload) - 8),
        (2**32 - 1, 8),
        (6, 2**32 - 1),
        (6, 0),
        (5, 100),
    ]:
        with pytest.raises(ValueError, match=r"bad\.vpt"):
            read(tmp_path, forge(whole, struct.pack("<II", frames, length) + payload[8:]))
    with pytest.raises(ValueError, match=r"cannot hold|does not fit"):
        read(tmp_path, forge(whole, b""))
    random = np.random.default_rng(0)
    for _ in range(5):  # any bytes decode to codes of the codebook or raise ValueError, nothing else
        try:
            codes = np.concatenate(read(tmp_path, forge(whole, payload[:8] + random.bytes(len(payload) - 8))))
            assert codes.shape == (6, 8, 8) and 0 <= codes.min() <= codes.max() < 2**18
        except ValueError:
            pass


def test_codes_outside_a_codebook_that_is_no_power_of_two_are_refused(tmp_path):
    header = replace(HEADER, codebook_size=200000)
    write(tmp_path / "x.vpt", still_video(size=200000), header)
    data = (tmp_path / "x.vpt").read_bytes()
    with pytest.raises(ValueError, match="of a codebook of 200000"):
        read(tmp_path, forge(data, data[32 + PREFIX.unpack(data[:32])[3] :][:8] + b"\xff" * 864))


@pytest.mark.parametrize("coder", ["static", "adaptive"])
def test_constant_codes_pass_the_check_against_bombs(tmp_path, coder):
    codes = np.zeros((200, 8, 8), np.int64)
    write(tmp_path / "x.vpt", codes, replace(HEADER, coder=coder))
    reader = TokenReader(tmp_path / "x.vpt")
    assert np.array_equal(np.concatenate(list(reader)), codes) and reader.payload_bytes < 0.01 * 200 * 64 * 18 / 8 + 60

"""`videopoet tokenizer`: videos of any size and length to token files and back, in constant memory; failures in one line."""

import gc
import weakref

import numpy as np
import pytest
import torch

from videopoet import component, token_file
from videopoet.cli import main
from videopoet.data.bounce import Scene
from videopoet.data.media import Media, read_media, write_media
from videopoet.data.transforms import video_to_float, video_to_uint8
from videopoet.token_file import decode_video, encode_video
from videopoet.tokenizers.token_file.container import TokenReader
from videopoet.tokenizers.visual.padding import pad_to_lattice


@pytest.fixture(scope="module")
def visual(shipped):
    return component.load(shipped / "visual.safetensors")


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    """18 frames of 44 x 30 pixels with sound: neither frames, rows nor columns are on the lattice of (4, 8, 8)."""
    path, scene = tmp_path_factory.mktemp("clip") / "clip.mp4", Scene.sample(3)
    write_media(path, Media(video=scene.render(18, 8, 64)[:, :30, :44], fps=8.0, audio=scene.sound(18, 8)[None]))
    return path


def codes_of(path) -> np.ndarray:
    return np.concatenate(list(TokenReader(path)))


@pytest.mark.parametrize("coder", ["packed", "static", "adaptive"])
def test_any_video_goes_to_a_token_file_and_back(visual, shipped, clip, tmp_path, capsys, coder):
    tokens, out, tokenizer = (
        tmp_path / "x.vpt",
        tmp_path / "x.mp4",
        ("--tokenizer", str(shipped / "visual.safetensors")),
    )
    main(["tokenizer", "encode", str(clip), "--out", str(tokens), "--coder", coder, *tokenizer])
    assert "18 frames of 44 x 30 as 6 x 4 x 6 codes" in capsys.readouterr().out
    header = TokenReader(tokens).header
    assert (header.size, header.lattice, header.fps) == ((18, 30, 44), (6, 4, 6), 8)
    padded, _ = pad_to_lattice(video_to_float(read_media(clip).video)[None], visual.stride)
    codes = visual.encode(padded)
    assert (torch.from_numpy(codes_of(tokens)) == codes[0]).float().mean() > 0.99  # one-shot may round otherwise
    main(["tokenizer", "decode", str(tokens), "--out", str(out), *tokenizer])
    assert "18 frames of 44 x 30" in capsys.readouterr().out
    made = read_media(out)
    assert made.video.shape == (18, 30, 44, 3) and made.fps == 8 and made.audio is None
    assert sorted(p.name for p in tmp_path.iterdir()) == ["x.mp4", "x.vpt"]


def test_the_decoded_pictures_are_those_of_the_codes_trimmed(visual, clip, tmp_path, monkeypatch):
    encode_video(clip, tmp_path / "x.vpt", visual)
    written = []
    monkeypatch.setattr(token_file, "write_chunks", lambda out, chunks: written.extend(c.video for c in chunks))
    decode_video(tmp_path / "x.vpt", tmp_path / "x.mp4", visual)
    whole = video_to_uint8(visual.decode(torch.from_numpy(codes_of(tmp_path / "x.vpt"))[None]))[0, :18, :30, :44]
    assert np.abs(np.concatenate(written).astype(int) - whole).max() <= 1  # one-shot may round otherwise


def test_coders_hold_the_same_codes(visual, clip, tmp_path):
    files = {coder: tmp_path / f"{coder}.vpt" for coder in ("packed", "static", "adaptive")}
    for coder, path in files.items():
        encode_video(clip, path, visual, coder=coder)
    assert np.array_equal(codes_of(files["packed"]), codes_of(files["static"]))
    assert np.array_equal(codes_of(files["packed"]), codes_of(files["adaptive"]))


def test_size_rate_and_length_can_be_asked_for(shipped, clip, tmp_path):
    main(["tokenizer", "encode", str(clip), "--out", str(tmp_path / "x.vpt"), "--size", "16", "--fps", "4", "--seconds", "1.5",
          "--tokenizer", str(shipped / "visual.safetensors")])  # fmt: skip
    header = TokenReader(tmp_path / "x.vpt").header
    assert (header.size, header.lattice, header.fps) == ((6, 16, 16), (3, 2, 2), 4)


def test_tiles_keep_the_grid(visual, clip, tmp_path):
    from videopoet.tokenizers.visual.tiling import Tiles

    header = encode_video(clip, tmp_path / "x.vpt", visual, tiles=Tiles(size=24, overlap=8))
    assert header.lattice == (6, 4, 6)
    decode_video(tmp_path / "x.vpt", tmp_path / "x.mp4", visual, tiles=Tiles(size=24, overlap=8))
    assert read_media(tmp_path / "x.mp4").video.shape == (18, 30, 44, 3)


def test_a_long_video_is_never_held(visual, tmp_path, monkeypatch):
    made, most = [], 0

    class Chunk(np.ndarray):
        pass

    def stream(path, **options):
        nonlocal most
        random = np.random.default_rng(0)
        for _ in range(60):
            chunk = random.integers(0, 256, (options["chunk_frames"], 16, 16, 3), np.uint8).view(Chunk)
            made.append(weakref.ref(chunk))
            gc.collect()
            most = max(most, sum(chunk() is not None for chunk in made))
            yield Media(video=chunk, fps=8.0)
            del chunk

    monkeypatch.setattr(token_file, "stream_media", stream)
    seen = []
    header = encode_video("x", tmp_path / "x.vpt", visual, progress=seen.append)
    assert header.size[0] == 240 and header.lattice[0] == 61 and sum(seen) == 240
    assert most <= 4  # the first, the last and the present chunk


def test_a_tokenizer_that_cannot_stream_gets_whole_clips_up_to_a_limit(visual, clip, tmp_path, monkeypatch):
    calls = []
    monkeypatch.setattr(token_file, "can_stream", lambda tokenizer: False)
    monkeypatch.setattr(
        type(visual), "encode", lambda self, v: calls.append(v.shape[2]) or torch.zeros(1, 6, 4, 6).long()
    )
    encode_video(clip, tmp_path / "x.vpt", visual)
    assert calls == [21]
    monkeypatch.setattr(token_file, "MOST_WHOLE", 16)
    with pytest.raises(ValueError, match="takes at most 16 frames at once: encode a shorter part"):
        encode_video(clip, tmp_path / "y.vpt", visual)
    assert [p.name for p in tmp_path.iterdir()] == ["x.vpt"]


def test_inspect_tells_what_is_in_a_file(visual, shipped, clip, tmp_path, capsys):
    encode_video(clip, tmp_path / "x.vpt", visual, coder="adaptive")
    main(["tokenizer", "inspect", str(tmp_path / "x.vpt")])
    said = capsys.readouterr().out
    for fact in ("18 frames of 44 x 30 at 8 fps, 2.25 s", "6 x 4 x 6 = 144, stride 4 x 8 x 8", "64, 6 bits per code",
                 "adaptive, ", "bits per pixel", " of 64", visual.fingerprint):  # fmt: skip
        assert fact in said, fact
    used = len(np.unique(codes_of(tmp_path / "x.vpt")))
    assert f"{used} of 64" in said
    main(["tokenizer", "inspect", str(shipped / "visual.safetensors")])
    said = capsys.readouterr().out
    parameters = sum(p.numel() for p in visual.parameters())
    for fact in (f"{parameters:,}", "1 + 4k frames", "yes; streams", "64, 6 bits", visual.fingerprint):
        assert fact in said, fact


def test_statistics_count_what_they_say():
    from videopoet.tokenizers.token_file.statistics import _statistics

    blocks = [np.array([[[0, 3]], [[0, 1]]]), np.array([[[2, 1]]])]  # codes 0, 3, 0, 1, 2, 1 over three latent frames
    facts = _statistics(blocks, 4, 2)
    assert facts.codes_used == 4 and facts.changed == pytest.approx(2 / 4)
    h = -(1 / 3 * np.log2(1 / 3) + 2 / 3 * np.log2(2 / 3))  # second bit: set in 3 and 2 of 6; first: in 3 of 6
    assert facts.bit_entropy == pytest.approx(1 + h)


@pytest.mark.parametrize("action", ["encode", "decode", "inspect"])
def test_help_has_an_example(action, capsys):
    with pytest.raises(SystemExit, match="0"):
        main(["tokenizer", action, "--help"])
    assert f"example: videopoet tokenizer {action}" in " ".join(capsys.readouterr().out.split())


def test_failures_are_one_line_and_leave_nothing(visual, shipped, clip, tmp_path, capsys):
    good, text, cut = tmp_path / "good.vpt", tmp_path / "text.mp4", tmp_path / "cut.vpt"
    encode_video(clip, good, visual)
    text.write_text("not a video")
    cut.write_bytes(good.read_bytes()[:-5])
    (tmp_path / "other.vpt").write_bytes(text.read_bytes())
    tokenizer = ("--tokenizer", shipped / "visual.safetensors")
    encode, decode = ("tokenizer", "encode"), ("tokenizer", "decode")
    out, mp4 = ("--out", tmp_path / "x.vpt"), ("--out", tmp_path / "x.mp4")
    before = sorted(p.name for p in tmp_path.iterdir())
    cases = [
        ((*encode, tmp_path / "absent.mp4", *out, *tokenizer), "no such file"),
        ((*encode, text, *out, *tokenizer), "text.mp4"),
        ((*encode, clip, "--out", tmp_path / "x.bin", *tokenizer), "writes .vpt files"),
        ((*encode, clip, "--out", tmp_path / "no" / "x.vpt", *tokenizer), "does not exist"),
        ((*encode, clip, *out, "--tokenizer", tmp_path / "no.safetensors"), "no checkpoint at"),
        ((*encode, clip, *out, "--tokenizer", shipped / "audio.safetensors"), "VideoTokenizer is needed"),
        ((*encode, clip, *out, *tokenizer, "--fps", "0"), "fps must lie between"),
        ((*encode, clip, *out, *tokenizer, "--seconds", "-1"), "give more than 0"),
        ((*encode, clip, *out, *tokenizer, "--tile", "30", "--overlap", "8"), "give multiples of 8"),
        ((*encode, clip, *out, *tokenizer, "--coder", "zip"), "invalid choice"),
        ((*decode, good, *mp4), "name the right file by --tokenizer"),  # the shipped tokenizer is another one
        ((*decode, cut, *mp4, *tokenizer), "are there: copy or make it again"),
        ((*decode, text, *mp4, *tokenizer), "is no token file"),
        ((*decode, good, "--out", tmp_path / "x.gif", *tokenizer), "writes .mp4 files"),
        (("tokenizer", "inspect", tmp_path / "other.vpt"), "is no token file"),
        (("tokenizer", "inspect", text), "is not a safetensors file"),
        (("tokenizer", "inspect", tmp_path / "absent.vpt"), "no file at"),
        (("tokenizer", "inspect", tmp_path), "no file at"),
    ]
    for arguments, message in cases:
        with pytest.raises(SystemExit) as stop:
            main([str(a) for a in arguments])
        error = capsys.readouterr().err.strip()
        assert stop.value.code not in (0, None) and "Traceback" not in error, (arguments, error)
        assert message in error.splitlines()[-1], (arguments, error)
        assert sorted(p.name for p in tmp_path.iterdir()) == before, arguments

"""Rates are honest, curves compare as their closed forms say, and a failing encoder is reported."""

import importlib.util
import json
import math
import shutil
import stat
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from videopoet import component
from videopoet.data.media import Media, write_media
from videopoet.evaluation import codecs
from videopoet.evaluation.codecs import ENCODERS, Ffmpeg, code_by_tokenizer, find_ffmpeg, tokenizer_bits
from videopoet.evaluation.rate_distortion import Point, at_rate, bd_rate, curves, plot, point
from videopoet.evaluation.reconstruction import PSNR, LearnedDistance, Score, compare, learned_distance
from videopoet.evaluation.report import markdown

SCRIPT = Path(__file__).parents[2] / "tools" / "benchmark_compression.py"


def score(value: float, metric: str = "psnr_luma") -> Score:
    return Score(metric=metric, unit="dB", higher_is_better=True, by_frame=(value,), overall=value)


def at(bpp: float, quality: float, *, codec: str = "a", setting: str = "", clip: str = "") -> Point:
    return Point(codec=codec, quality=setting, clip=clip, bpp=bpp, file_bpp=None, encode_seconds=1.0, decode_seconds=0.5,
                 scores={"psnr_luma": score(quality)})  # fmt: skip


def line(scale: float = 1.0, offset: float = 0.0) -> list[Point]:
    return [at(scale * 0.01 * 2**i, 28 + 3 * i + 0.2 * i * i + offset) for i in range(5)]


def clip(frames: int, height: int, width: int) -> np.ndarray:
    """A textured square that moves over a gradient."""
    y, x = np.mgrid[:height, :width]
    video = np.empty((frames, height, width, 3), np.uint8)
    for t in range(frames):
        picture = 60 + 100 * x / width + 40 * np.sin((x + 3 * t) / 5) * np.cos(y / 6)
        video[t] = np.stack([picture, picture[::-1], 255 - picture], -1).clip(0, 255)
    return video


@pytest.fixture(scope="module")
def ffmpeg() -> Ffmpeg:
    try:
        return Ffmpeg(path=find_ffmpeg(), quick=True, timeout=250)
    except ValueError:
        if shutil.which("ffmpeg") is None:
            pytest.skip("no ffmpeg: pip install imageio-ffmpeg")
        return Ffmpeg(path="ffmpeg", quick=True, timeout=250)


def fake_ffmpeg(tmp_path: Path, script: str) -> Ffmpeg:
    """A program that answers as `script` says."""
    path = tmp_path / "ffmpeg"
    path.write_text(f"#!{sys.executable}\nimport sys\n{script}\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return Ffmpeg(path=str(path))


@pytest.fixture(scope="module")
def tool():
    spec = importlib.util.spec_from_file_location("benchmark_compression", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("share", [0.5, 1.0, 1.3])
def test_bd_rate_of_a_shifted_curve_is_the_shift(share):
    assert bd_rate(line(), line(scale=share)) == pytest.approx(100 * (share - 1), abs=1e-6)


def test_bd_rate_needs_points_and_common_qualities():
    assert bd_rate(line()[:3], line()) is None
    assert bd_rate(line(), line(offset=50)) is None
    assert bd_rate(line(), [at(0.01, math.inf), *line()[:3]]) is None


def test_between_points_the_metric_is_linear_in_log_rate_and_outside_there_is_none():
    curve = [at(0.01, 30.0), at(0.04, 40.0)]
    assert at_rate(curve, "psnr_luma", 0.02) == pytest.approx(35.0)
    assert at_rate(curve, "psnr_luma", 0.04) == pytest.approx(40.0)
    assert at_rate(curve, "psnr_luma", 0.05) is None and at_rate(curve, "ssim_luma", 0.02) is None


def test_a_quality_that_failed_on_one_clip_is_not_on_the_curve():
    points = [at(0.04, 40.0, setting="q 1", clip="x"), at(0.02, 30.0, setting="q 1", clip="y"),
              at(0.01, 20.0, setting="q 2", clip="x")]  # fmt: skip
    (mean,) = curves(points, ["x", "y"])["a"]
    assert (mean.quality, mean.bpp, mean.scores["psnr_luma"].overall) == ("q 1", 0.03, 35.0)
    assert [p.quality for p in curves(points, ["x"])["a"]] == ["q 2", "q 1"]


def test_points_survive_json_with_their_infinities():
    original = at(0.1, math.inf, codec="a | b", setting="q 1", clip="x.mp4")
    assert Point.from_json(json.loads(json.dumps(original.to_json(), allow_nan=False))) == original


def test_codes_are_counted_bit_by_bit():
    rng = np.random.default_rng(0)
    random, still = rng.integers(0, 2**12, (5, 8, 8)), np.full((5, 8, 8), 77)
    assert tokenizer_bits(random, 2**12)["packed"] == 5 * 8 * 8 * 12
    assert tokenizer_bits(random, 1000 * 4)["packed"] == 5 * 8 * 8 * 12  # 4000 codes take 12 bits
    assert tokenizer_bits(still, 2**12)["adaptive"] < 0.3 * 5 * 8 * 8 * 12 < tokenizer_bits(random, 2**12)["adaptive"]


@pytest.mark.parametrize(("frames", "height", "width", "lattice"), [(5, 16, 16, 2 * 2 * 2), (6, 15, 17, 3 * 2 * 3)])
def test_a_tokenizer_pays_for_padding_and_gives_back_what_went_in(shipped, frames, height, width, lattice):
    tokenizer, video = component.load(shipped / "visual.safetensors"), clip(frames, height, width)
    coded = code_by_tokenizer(video, tokenizer)
    assert coded["packed"].video.shape == video.shape and coded["packed"].bits == -(-lattice * 6 // 8) * 8
    assert coded["packed"].file_bits is None
    found = point("t", "its codes", "x", video, coded["packed"], compare(video, coded["packed"].video, [PSNR()]))
    assert found.bpp == coded["packed"].bits / (frames * height * width)


@pytest.mark.parametrize("name", ["x264", "x265"])
def test_an_encoder_codes_odd_sizes_and_counts_packets(ffmpeg, name):
    encoder, video = ENCODERS[name], clip(5, 65, 79)
    if encoder.library not in ffmpeg.libraries():
        pytest.skip(f"this ffmpeg has no {encoder.library}")
    good, bad = (
        ffmpeg.code(video, 29.97, encoder, quality) for quality in (encoder.qualities[0], encoder.qualities[-1])
    )
    assert good.video.shape == bad.video.shape == video.shape
    assert 0 < bad.bits < good.bits < good.file_bits and good.encode_seconds > 0
    psnr = [PSNR(plane="luma")(video, coded.video).overall for coded in (bad, good)]
    assert psnr[0] + 3 < psnr[1] and psnr[1] > 33  # upright, in order, with the right matrix and range


def test_colour_conversion_alone_is_the_ceiling(ffmpeg):
    video = clip(2, 33, 35)
    (by_half,) = compare(video, ffmpeg.ceiling(video), [PSNR()]).values()
    (whole,) = compare(video, Ffmpeg(path=ffmpeg.path, chroma="4:4:4").ceiling(video), [PSNR()]).values()
    assert 30 < by_half.overall < 55 < whole.overall


@pytest.mark.parametrize(
    ("script", "message"),
    [
        ("sys.stderr.write('[libx265] cannot open\\nmore\\n'); sys.exit(3)", r"code 3: \[libx265\] cannot open$"),
        ("sys.exit(1)", "without a message"),
        ("import time; time.sleep(20)", "more than 0.5 s"),
    ],
)
def test_a_failing_encoder_says_why_in_one_line(tmp_path, script, message):
    failing = fake_ffmpeg(tmp_path, script)
    failing = Ffmpeg(path=failing.path, timeout=0.5 if "sleep" in script else 200)
    with pytest.raises(ValueError, match=message):
        failing.code(clip(2, 16, 16), 8.0, ENCODERS["x265"], 30)


def test_what_an_encoder_cannot_do_is_known_before_it_runs(tmp_path):
    with pytest.raises(ValueError, match="cannot be run"):
        Ffmpeg(path=str(tmp_path / "none")).libraries()
    with pytest.raises(ValueError, match=r"no 4:4:4.*use 4:2:0"):
        Ffmpeg(path="none", chroma="4:4:4").code(clip(1, 64, 64), 8.0, ENCODERS["vvenc"], 30)
    with pytest.raises(ValueError, match="64 pixels and more"):
        Ffmpeg(path="none").code(clip(1, 64, 32), 8.0, ENCODERS["svtav1"], 30)


FAKE = """
if "-encoders" in sys.argv: print(" V....D libx265  x"); sys.exit()
if "-version" in sys.argv: print("ffmpeg version fake Copyright"); sys.exit()
if "-i" in sys.argv and sys.argv[-1].endswith(".mp4"): sys.stderr.write("no room"); sys.exit(1)
data = sys.stdin.buffer.read()
sys.stdout.buffer.write(data)
"""


def test_the_study_goes_on_where_an_encoder_fails_and_keeps_what_it_has(tool, tmp_path, shipped, monkeypatch, capsys):
    ffmpeg = fake_ffmpeg(tmp_path, FAKE)
    write_media(tmp_path / "a.mp4", Media(video=clip(7, 18, 22), fps=12.0))
    out, counted = tmp_path / "study", []
    real = tool.code_by_tokenizer
    monkeypatch.setattr(tool, "code_by_tokenizer", lambda *given: counted.append(1) or real(*given))
    arguments = [str(tmp_path / "a.mp4"), "--out", str(out), "--ffmpeg", ffmpeg.path, "--frames", "6",
                 "--encoder", "x265", "--tokenizer", f"ours={shipped / 'visual.safetensors'}"]  # fmt: skip
    tool.main(arguments)
    report = json.loads((out / "report.json").read_text())
    assert set(report["curves"]) == {"ours", "ours, entropy-coded"}
    assert report["clips"] == {"a.mp4": [6, 18, 22, 12.0]}
    assert report["curves"]["ours"][0]["bpp"] == 8 * 21 / (6 * 18 * 22)  # 27 codes of 6 bits are 21 bytes
    assert len(report["failures"]) == len(ENCODERS["x265"].qualities) and "no room" in report["failures"][0]
    assert "failed: HEVC (x265), q 20, a.mp4: ffmpeg failed with code 1: no room" in capsys.readouterr().out
    assert "| ours | its codes | 0.0707 |" in (out / "table.md").read_text()

    (out / "points.jsonl").open("a").write('{"key": "cut off')
    tool.main(arguments)
    assert len(counted) == 1 and len((out / "points.jsonl").read_text().splitlines()) == 3


def test_tables_say_what_each_codec_has_at_the_tokenizers_rate(tool):
    found = {"ours": [at(0.04, 33.0)], "A": line(), "B": line(scale=0.5)}
    text = tool.tables(found, {"psnr_luma": 60.0}, ["ours"])
    assert "| ours: 0.0400 bpp | 33.00 |" in text and "| A there | 34.80 |" in text and "| B there | 38.80 |" in text
    assert "| B | -50.0 % |" in text


def test_a_perceptual_loss_becomes_a_distance_by_frame():
    class Mean(torch.nn.Module):
        weight, network = 0.25, torch.nn.Identity()

        def forward(self, reconstruction, video):
            assert reconstruction.shape == (1, 3, 1, 8, 8)
            return self.weight * (reconstruction - video).abs().mean()

    metric = learned_distance(Mean())
    assert isinstance(metric, LearnedDistance) and metric.name == "mean_identity"
    video = np.full((3, 8, 8, 3), 100, np.uint8)
    other = video.copy()
    other[1] += 51
    assert metric(video, other).by_frame == pytest.approx((0, 0.4, 0), abs=1e-6)


def test_plot_draws_curves_or_says_it_cannot(tmp_path, monkeypatch):
    drawn = plot({"A": line(), "ours": [at(0.04, 33.0)]}, tmp_path / "x.png", ceiling={"psnr_luma": 60.0})
    assert drawn == (tmp_path / "x.png").is_file() == (importlib.util.find_spec("matplotlib") is not None)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert not plot({"A": line()}, tmp_path / "y.png")


def test_markdown_keeps_its_columns():
    assert markdown(["a", "b"], [["x|y", "1"]]) == "| a | b |\n| --- | ---: |\n| x/y | 1 |"


def test_without_ffmpeg_it_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "imageio_ffmpeg", None)
    with pytest.raises(ValueError, match="pip install imageio-ffmpeg"):
        codecs.find_ffmpeg()

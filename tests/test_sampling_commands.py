"""The options that every sampling command shares, and `videopoet sample long-video`."""

import subprocess
import sys
from argparse import ArgumentTypeError
from pathlib import Path

import pytest
from PIL import Image

from videopoet.cli import main, parser
from videopoet.commands.drawing import draw_of, value
from videopoet.commands.sample import COMMANDS
from videopoet.data.bounce import Scene
from videopoet.data.media import Media, read_media, write_media
from videopoet.pipeline import DEFAULT_DRAW
from videopoet.sampling.rules import Draw, Guidance, Temperature, TopK, TopP
from videopoet.sampling.schedules import Linear
from videopoet.sampling.scorers import OracleScorer

ROOT = Path(__file__).parents[1]
CAPTION = "a small red circle falls and rebounds on a plain dark background"
T2I = ("sample", "text-to-image", "--prompt", CAPTION, "--out")


def drawing(*options, task: str = "text-to-image") -> Draw:
    return draw_of(parser().parse_args([str(o) for o in ("sample", task, "--prompt", CAPTION, "--out", "x.png", *options)]))


@pytest.mark.parametrize("command", COMMANDS, ids=[c.task for c in COMMANDS])
def test_only_options_that_do_something_are_offered(poet, command, capsys):
    """Guidance by what the task reads, and candidates where a prompt ranks them."""
    with pytest.raises(SystemExit):
        parser().parse_args(["sample", command.task, "--help"])
    said, reads = capsys.readouterr().out, set(poet.reads(command.task))
    assert ("--guidance" in said) == bool(reads & {"text", "label"})
    assert ("--visual-guidance" in said) == bool(reads - {"text", "label", "audio"})
    assert ("--audio-guidance" in said) == ("audio" in reads)
    assert ("--rank" in said) == ("text" in reads)


def test_candidates_that_cannot_be_ranked_are_refused_before_they_are_made(poet, monkeypatch):
    monkeypatch.setattr(poet, "_draw", lambda *a: pytest.fail("something was made"))
    with pytest.raises(ValueError, match="unicorn"):
        poet.generate("text-to-image", prompt="a unicorn", num_candidates=2, scorer=OracleScorer())


def test_options_make_the_draw():
    assert drawing() == DEFAULT_DRAW
    assert drawing("--guidance", 1).copies == 1
    given = ("--image", "x.png", "--temperature", "1.2:0.8", "--top-k", 50, "--top-p", 0.9, "--guidance", 3)
    made = drawing(*given, "--visual-guidance", 2, task="image-to-video")
    filters = (Temperature(value=Linear(start=1.2, end=0.8)), TopK(k=50.0), TopP(p=0.9))
    assert made == Draw(filters=filters, guidance=Guidance(text=3.0, visual=2.0))


@pytest.mark.parametrize("text, cause", [("x", "neither a number"), ("1:2:3", "has 3 numbers"), ("1:", "neither")])
def test_values_that_are_none_are_refused(text, cause):
    with pytest.raises(ArgumentTypeError, match=cause):
        value(text)


def test_candidates_are_ranked_by_the_oracle(shipped, tmp_path, monkeypatch):
    """One candidate is what is made without ranking; the options reach the model."""
    for name, options in (("a", ()), ("b", ("--candidates", "1")), ("c", ("--candidates", "3", "--rank", "oracle"))):
        main([*T2I, str(tmp_path / f"{name}.png"), "--model", str(shipped), *options])
    a, b = ((tmp_path / f"{name}.png").read_bytes() for name in "ab")
    assert a == b and Image.open(tmp_path / "c.png").size == (16, 16)


@pytest.mark.parametrize(
    "arguments, message",
    [
        ((*T2I, "x.png", "--candidates", "3"), "--candidates and --rank go together"),
        ((*T2I, "x.png", "--rank", "oracle"), "--candidates and --rank go together"),
        ((*T2I, "x.png", "--candidates", "0"), "--candidates is 0"),
        ((*T2I, "x.png", "--candidates", "2", "--rank", "absent"), "no folder at absent"),
        ((*T2I, "x.png", "--temperature", "1:0"), "temperature is 0.0"),
        ((*T2I, "x.png", "--temperature", "hot"), "'hot' is neither a number nor two"),
        ((*T2I, "x.png", "--negative-prompt", "dim", "--guidance", "1"), "works through text guidance"),
        (("sample", "text-to-image", "--prompt", "a dog", "--out", "x.png", "--candidates", "2", "--rank", "oracle"),
         "does not name size, colour and shape"),
        (("sample", "long-video", "--out", "x.mp4"), "begins with a prompt, or with a picture or video"),
        (("sample", "long-video", "--prompt", "x", "--seconds", "0", "--out", "x.mp4"), "0 frames for 1 prompts"),
        (("sample", "long-video", "--prompt", "x", "--refresh", "0", "--out", "x.mp4"), "every 0 frames"),
        (("sample", "long-video", "--prompt", "x", "--out", "x.png"), "writes .mp4 files"),
        (("sample", "long-video", "--video", "absent.mp4", "--out", "x.mp4"), "no file at absent.mp4"),
    ],
)  # fmt: skip
def test_mistakes_are_one_line_and_leave_nothing(shipped, tmp_path, monkeypatch, capsys, arguments, message):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as stop:
        main([*arguments, "--model", str(shipped)])
    error = capsys.readouterr().err.strip()
    assert stop.value.code == 2 and "Traceback" not in error and message in error.splitlines()[-1], error
    assert not list(tmp_path.iterdir())


def test_a_long_video_of_two_prompts(shipped, tmp_path, capsys):
    out = tmp_path / "long.mp4"
    prompts = ("--prompt", "a red circle", "--prompt", "a blue square")
    main(["sample", "long-video", *prompts, "--seconds", "5", "--out", str(out), "--model", str(shipped)])
    assert "40 frames, 5.00 s, in 4 steps, 5.00 s of sound" in capsys.readouterr().out
    media = read_media(out)
    assert media.video.shape == (40, 16, 16, 3) and media.audio.shape == (1, 80000)
    assert [p.name for p in tmp_path.iterdir()] == ["long.mp4"]


@pytest.mark.parametrize("kind", ["image", "video"])
def test_a_long_video_goes_on_from_a_file(shipped, tmp_path, kind):
    clip, given = Scene.sample(3).render(12, 8, 32), tmp_path / ("first.png" if kind == "image" else "in.mp4")
    Image.fromarray(clip[0]).save(given) if kind == "image" else write_media(given, Media(video=clip, fps=8.0))
    how = ["--prompt", "a red circle"] if kind == "image" else ["--silent"]
    out = tmp_path / "long.mp4"
    main(["sample", "long-video", f"--{kind}", str(given), *how, "--seconds", "3.5", "--out", str(out),
          "--model", str(shipped)])  # fmt: skip
    media = read_media(out)
    assert media.video.shape == (28, 16, 16, 3) and (media.audio is None) == (kind == "video")


def test_its_script_is_the_same_command():
    command = [sys.executable, str(ROOT / "tools/sample_long_video.py"), "--help"]
    said = subprocess.run(command, check=True, cwd=ROOT, capture_output=True, text=True, timeout=200).stdout
    assert "python tools/sample_long_video.py --prompt" in " ".join(said.split())

"""The command line: help, bad input in one line, and one chained run from files to a continued video."""

import json
import subprocess
import sys
from functools import cache
from pathlib import Path
from tempfile import mkdtemp

import av
import numpy as np
import pytest
from conftest import LAYOUT
from PIL import Image

from videopoet.cli import main
from videopoet.commands.sample import COMMANDS
from videopoet.data.bounce import Scene
from videopoet.data.media import Media, read_audio, read_media, write_media
from videopoet.pipeline import VideoPoet
from videopoet.tasks.registry import TASKS

ROOT = Path(__file__).parents[1]
TINY = str(Path(__file__).with_name("tiny.yaml"))
PROMPT = "a red circle"


def fails(capsys, *arguments) -> str:
    """Run a command that must fail: exit code not 0, one line, no traceback; returns the line."""
    with pytest.raises(SystemExit) as stop:
        main([str(a) for a in arguments])
    assert stop.value.code not in (0, None)
    error = capsys.readouterr().err.strip()
    assert "Traceback" not in error
    return error.splitlines()[-1]


@pytest.fixture(scope="module")
def clip(tmp_path_factory) -> Path:
    """A real mp4 of 17 frames."""
    path, scene = tmp_path_factory.mktemp("clip") / "clip.mp4", Scene.sample(3)
    write_media(path, Media(video=scene.render(17, 8, 32), fps=8.0, audio=scene.sound(17, 8)[None]))
    return path


@pytest.fixture(scope="module")
def picture(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("picture") / "first.png"
    Image.fromarray(Scene.sample(3).render(1, 8, 40)[0]).save(path)
    return path


def test_a_command_takes_what_its_task_reads():
    assert [command.task for command in COMMANDS] == list(TASKS)
    for command in COMMANDS:
        reads = set(TASKS[command.task].reads(LAYOUT))
        assert command.prompt == bool(reads & {"text", "label"}), command.task
        assert command.image == ("image" in reads), command.task
        assert command.video == bool(reads - {"text", "label", "image", "audio"}), command.task
        assert command.audio == ("audio" in reads and not command.video), command.task


@pytest.mark.parametrize("task", [name for name in TASKS if name not in ("text-to-video", "text-to-image")])
def test_a_model_refuses_what_it_was_not_trained_for(task, clip, picture, tmp_path, capsys):
    command = next(c for c in COMMANDS if c.task == task)
    given = ["--prompt", PROMPT] * command.prompt + ["--image", picture] * command.image
    given += ["--video", clip] * command.video + ["--audio", clip] * command.audio
    line = fails(capsys, "sample", task, *given, "--model", text_only(), "--out", tmp_path / f"x{command.suffix}")
    assert f"this model was not trained for {task}, only for text-to-video" in line
    assert not list(tmp_path.iterdir())


@cache
def text_only() -> Path:
    """A folder with the shipped model as if it had been trained on text tasks alone."""
    poet, folder = VideoPoet.from_pretrained(), Path(mkdtemp())
    texts = {name: poet.model.metadata["tasks"][name] for name in ("text-to-video", "text-to-image")}
    poet.model.metadata = {**poet.model.metadata, "tasks": texts}
    poet.save_pretrained(folder)
    return folder


def test_the_shipped_model_knows_every_task():
    assert set(TASKS) <= set(VideoPoet.from_pretrained().tasks)


@pytest.mark.parametrize("command", COMMANDS, ids=[c.task for c in COMMANDS])
def test_every_task_has_a_command_and_a_script_with_an_example(command, capsys):
    with pytest.raises(SystemExit, match="0"):
        main(["sample", command.task, "--help"])
    assert "example: videopoet sample" in " ".join(capsys.readouterr().out.split())
    script = (ROOT / f"tools/sample_{command.task.replace('-', '_')}.py").read_text()
    assert f'script("{command.task}")' in script


def test_a_script_runs(tmp_path, shipped):
    out = tmp_path / "x.png"
    command = [sys.executable, str(ROOT / "tools/sample_text_to_image.py"), "--prompt", PROMPT, "--out", str(out)]
    subprocess.run([*command, "--model", str(shipped)], check=True, cwd=ROOT, capture_output=True, timeout=200)
    assert Image.open(out).size == (16, 16)


@pytest.mark.parametrize("command", COMMANDS, ids=[c.task for c in COMMANDS])
def test_every_task_writes_its_file(command, shipped, clip, picture, tmp_path, capsys):
    given = ["--prompt", PROMPT] * command.prompt + ["--image", picture] * command.image
    given += ["--video", clip] * command.video + ["--audio", clip] * command.audio
    out = tmp_path / f"x{command.suffix}"
    main([str(a) for a in ("sample", command.task, *given, "--out", out, "--model", shipped, "--top-k", 5)])
    assert str(out) in capsys.readouterr().out
    assert [p.name for p in tmp_path.iterdir()] == [out.name]
    if command.suffix == ".png":
        assert Image.open(out).size == (16, 16)
        return
    if command.task == "denoise-audio":  # nothing to see
        assert read_audio(out).audio.shape[1] >= 34000
        return
    media, past = read_media(out), LAYOUT.frames_of(TASKS[command.task].past(LAYOUT))
    assert media.video.shape == (34 - past if past else 17, 16, 16, 3)
    with av.open(str(out)) as container:
        stream = container.streams.video[0]
        assert (stream.codec_context.name, stream.codec_context.pix_fmt) == ("h264", "yuv420p")


def test_bad_input_is_one_line_and_leaves_nothing(shipped, clip, tmp_path, capsys):
    text, model = tmp_path / "text.mp4", ("--model", shipped)
    text.write_text("not a video")
    sound_only = tmp_path / "sound.mp4"
    write_media(sound_only, Media(video=None, fps=8.0, audio=np.zeros((1, 16000), np.float32)))
    before = sorted(p.name for p in tmp_path.iterdir())
    out = tmp_path / "x.mp4"
    t2v, fp = ("sample", "text-to-video", "--out", out), ("sample", "frame-prediction", "--out", out)
    cases = [
        ((*t2v, "--prompt", "word " * 99, *model), "the limit is 32: shorten it"),
        ((*t2v, "--prompt", PROMPT, "--model", tmp_path / "none"), "no checkpoint at"),
        ((*t2v, "--prompt", PROMPT, "--temperature", 0, *model), "temperature is 0.0"),
        (("sample", "text-to-video", "--prompt", PROMPT, "--out", tmp_path / "x.avi", *model), "writes .mp4 files"),
        (("sample", "text-to-video", "--prompt", PROMPT, "--out", tmp_path / "no" / "x.mp4", *model), "does not exist"),
        ((*fp, "--video", tmp_path / "absent.mp4", *model), "no file at"),
        ((*fp, "--video", text, *model), "text.mp4"),
        ((*fp, "--video", sound_only, *model), "sound.mp4"),
        (("sample", "image-to-video", "--image", text, "--prompt", "x", "--out", out, *model), "text.mp4"),
        (("sample", "text-to-vidoe"), "invalid choice"),
        (("evaluate", "bounce", "--task", "text-to-vidoe", *model), "did you mean text-to-video?"),
        (("shards", "build", tmp_path / "absent", "--out", tmp_path / "s"), "absent"),
        (("shards", "build", clip.parent, "--out", tmp_path / "s", "--frames", 16), "the nearest are 13 and 17"),
        (("tokenize", tmp_path / "absent", "--out", tmp_path / "t", "--visual", text), "not a safetensors file"),
        (("export", text, "--out", tmp_path / "e.safetensors"), "is not a checkpoint of 'videopoet fit'"),
    ]
    for arguments, message in cases:
        line = fails(capsys, *arguments)
        assert message in line, (arguments, line)
        assert sorted(p.name for p in tmp_path.iterdir()) == before, arguments


def test_files_to_continuation(shipped, text_model, tmp_path, monkeypatch, capsys):
    """A folder of mixed files -> shards -> tokens -> a few steps of training -> export -> a continued video."""
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "files"
    folder.mkdir()
    for seed, name in enumerate(("a.mp4", "b.mp4")):
        scene = Scene.sample(seed)
        write_media(folder / name, Media(video=scene.render(24, 10, 48), fps=10.0, audio=scene.sound(24, 10)[None]))
        (folder / name).with_suffix(".txt").write_text(scene.captions()[0])
    pictures = [Image.fromarray(frame) for frame in Scene.sample(2).render(20, 8, 40)]
    pictures[0].save(folder / "c.gif", save_all=True, append_images=pictures[1:], duration=125)
    (folder / "broken.mp4").write_bytes(b"\0" * 100)
    main(["shards", "build", "files", "--out", "shards", "--size", "16"])
    said = capsys.readouterr().out
    assert "skipped broken.mp4" in said and "1 skipped" in said and "2 with sound" in said
    parts = ["--visual", str(shipped / "visual.safetensors"), "--audio", str(shipped / "audio.safetensors")]
    main(["tokenize", "shards", "--out", "tokens", *parts])
    assert json.loads(Path("tokens/manifest.json").read_text())["num_samples"] == 3

    overlay = [
        "--data.init_args.tokens=tokens",
        "--data.init_args.validation_tokens=null",
        f"--data.init_args.tokenizers={{visual: {parts[1]}, audio: {parts[3]}}}",
        "--data.init_args.tokens_per_batch=100",
        "--data.init_args.tasks={frame-prediction: {task: {class_path: videopoet.tasks.frame_prediction.FramePrediction}}}",
        f"--model.init_args.model.init_args.text_encoder.init_args.sentencepiece={text_model}",
        "--model.init_args.model.init_args.text_encoder.init_args.length=32",
        "--model.init_args.model.init_args.io.init_args={vocabulary_size: 352, width: 256, visual_start: 256, visual_size: 64}",
        "--trainer.enable_checkpointing=true",
        "--trainer.callbacks+=lightning.pytorch.callbacks.ModelCheckpoint",
        "--trainer.callbacks.dirpath=run",
        "--trainer.callbacks.save_last=true",
        "--trainer.max_steps=2",
    ]

    main(["fit", "-c", str(ROOT / "configs/demo/lm.yaml"), "-c", TINY, *overlay])
    (tmp_path / "model").mkdir()
    for part in ("visual", "audio"):
        (tmp_path / "model" / f"{part}.safetensors").write_bytes((shipped / f"{part}.safetensors").read_bytes())
    main(["export", "run/last.ckpt", "--out", "model/lm.safetensors"])
    main(["sample", "continuation", "--video", "files/a.mp4", "--out", "x.mp4", "--model", "model"])
    assert read_media("x.mp4").video.shape == (28, 16, 16, 3)
    error = fails(capsys, "sample", "text-to-video", "--prompt", "x", "--out", "y.mp4", "--model", "model")
    assert "not trained for text-to-video, only for frame-prediction" in error


def test_evaluation_reports_every_number(shipped, tmp_path, capsys):
    tasks = ("text-to-video", "video-to-audio", "stylization", "outpainting-central")
    asked = [word for task in tasks for word in ("--task", task)]
    main(["evaluate", "bounce", *asked, "--n", "2", "--model", str(shipped), "--out", str(tmp_path / "report.json")])
    report = json.loads((tmp_path / "report.json").read_text())
    assert set(report) == {task.replace("-", "_") for task in tasks}
    for task in report.values():
        assert task["n"] == 2 and 0 <= task["attribute_accuracy"] <= 1 and 0 <= task["ceiling"] <= 1
        assert set(task["attributes"]) == set(task["ceiling_attributes"])
    assert "right / ceiling" in capsys.readouterr().out


def test_the_image_is_the_head_of_the_video_by_command(shipped, capsys):
    main(["evaluate", "prefix", "--prompt", "a small red circle", "--model", str(shipped)])
    assert "largest difference of image and first frame: 0 of 255" in capsys.readouterr().out


def test_the_demo_writes_what_it_promises(shipped, tmp_path):
    tasks = ("text-to-video", "text-to-image", "image-to-video", "audio-to-video")
    asked = [word for task in tasks for word in ("--task", task)]
    main(["demo", "--out", str(tmp_path / "demo"), *asked, "--n", "3", "--model", str(shipped)])
    files = {p.name for p in (tmp_path / "demo").iterdir()}
    videos = [name for name in files if name.endswith(".mp4")]
    assert len(videos) >= 8 and {"contact_sheet.png", "report.json", "index.html"} <= files
    report = json.loads((tmp_path / "demo/report.json").read_text())
    assert report["seconds"] > 0 and report["versions"]["torch"] and report["text_to_video"]["tokens_per_second"] > 0
    page = (tmp_path / "demo/index.html").read_text()
    assert all(name in page for name in videos) and "http" not in page

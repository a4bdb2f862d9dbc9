"""Chains: what a step makes is what the next is given, by Python, by words and by YAML."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from videopoet import chain
from videopoet.cli import main
from videopoet.commands.chain import read_step, words_of
from videopoet.commands.sample import COMMANDS
from videopoet.data.media import Media, read_media
from videopoet.sampling.request import Request

IMAGE, VIDEO = np.full((8, 8, 3), 9, np.uint8), Media(video=np.zeros((2, 8, 8, 3), np.uint8), fps=8.0)
MADE = Media(video=np.arange(3, dtype=np.uint8)[:, None, None, None].repeat(8, 1).repeat(8, 2).repeat(3, 3), fps=8.0)


def test_what_was_made_is_carried_where_nothing_is_given():
    empty = chain.carry(Request(prompt="p"), MADE, ("text", "image"))
    assert empty.prompt == "p" and (empty.image == 2).all() and empty.video is MADE, "the last frame, the whole video"
    full = chain.carry(Request(image=IMAGE, video=VIDEO), MADE, ("image", "video"))
    assert full.image is IMAGE and full.video is VIDEO
    again = chain.carry(Request(), MADE, ("text", "flow_depth", "image"))
    assert (again.image == 0).all() and again.video is MADE, "the first frame of a clip that is made again"


@pytest.mark.parametrize("tasks", [("image-to-video", "stylization"), ("image-to-video", "stylization-of-image"),
                                   ("outpainting-central", "stylization"), ("text-to-image", "image-to-video")],
                         ids=" to ".join)  # fmt: skip
def test_the_papers_chains(poet, tasks):
    given = Request(prompt="a red circle", image=np.full((16, 16, 3), 9, np.uint8),
                    video=Media(video=np.zeros((17, 16, 16, 3), np.uint8), fps=8.0))  # fmt: skip
    first, second = tasks
    steps = [chain.Step(task=first, request=given), chain.Step(task=second, request=Request(prompt="a red circle"))]
    made = chain.run(poet, steps)
    before = poet.generate(first, [given])[0]
    image = before.video[0 if second == "stylization-of-image" else -1]
    after = poet.generate(second, [Request(prompt="a red circle", image=image, video=before)])[0]
    assert np.array_equal(made.video, after.video) and len(made.video) == 17


def test_a_chain_is_its_tasks_one_by_one(poet):
    steps = [
        chain.Step(task="text-to-image", request=Request(prompt="a red circle"), how={"seed": 1}),
        chain.Step(task="image-to-video", request=Request(prompt="a red circle"), how={"seed": 2}),
        chain.Step(task="frame-prediction", how={"seed": 3}),
    ]
    tokens = []
    made = chain.run(poet, steps, progress=tokens.append)
    image = poet.generate("text-to-image", prompt="a red circle", seed=1)[0].video[0]
    video = poet.generate("image-to-video", prompt="a red circle", image=image, seed=2)[0]
    longer = poet.generate("frame-prediction", video=video, seed=3)[0]
    assert np.array_equal(made.video, longer.video) and len(made.video) == 25
    assert np.array_equal(made.audio, longer.audio)
    assert sum(tokens) == sum(poet.num_tokens(step.task) for step in steps)


def test_the_step_that_fails_is_named(poet):
    picture = chain.Step(task="text-to-image", request=Request(prompt="x"))
    with pytest.raises(ValueError, match=r"step 2 of 2, video-to-audio: the video has 1 frames"):
        chain.run(poet, [picture, chain.Step(task="video-to-audio")])
    with pytest.raises(ValueError, match="at least one step"):
        chain.run(poet, [])


@pytest.mark.parametrize("command", COMMANDS, ids=[c.task for c in COMMANDS])
def test_every_task_can_be_a_step_without_its_files(command):
    words = [command.task, *["--prompt", "a red circle"] * command.prompt, "--seed", "4", "--top-k", "5:2"]
    read, options = read_step(words, 1)
    assert read is command and options.seed == 4 and (options.top_k.start, options.top_k.end) == (5, 2)


def test_a_chain_by_words_and_by_yaml_is_the_same(shipped, tmp_path, capsys):
    words = ["text-to-image --prompt 'a red circle' --seed 3", "image-to-video --prompt 'a red circle' --top-k 9"]
    (tmp_path / "steps.yaml").write_text(
        "- {task: text-to-image, prompt: a red circle, seed: 3}\n- {task: image-to-video, prompt: a red circle, top_k: 9}\n"
    )
    assert words_of([str(tmp_path / "steps.yaml")]) == [
        ["text-to-image", "--prompt", "a red circle", "--seed", "3"],
        ["image-to-video", "--prompt", "a red circle", "--top-k", "9"],
    ]
    for name, steps in (("a.mp4", words), ("b.mp4", [str(tmp_path / "steps.yaml")])):
        main(["chain", *steps, "--out", str(tmp_path / name), "--model", str(shipped)])
        assert "17 frames of 16 x 16, 2.12 s of sound, by text-to-image -> image-to-video" in capsys.readouterr().out
    assert (tmp_path / "a.mp4").read_bytes() == (tmp_path / "b.mp4").read_bytes()
    assert read_media(tmp_path / "a.mp4").video.shape == (17, 16, 16, 3)


def test_a_chain_may_begin_with_a_file_and_end_in_a_picture(shipped, tmp_path):
    Image.fromarray(IMAGE).save(tmp_path / "first.png")
    first = f"image-to-video --image '{tmp_path / 'first.png'}'"
    main(["chain", first, "text-to-image --prompt x", "--out", str(tmp_path / "x.png"), "--model", str(shipped)])
    assert Image.open(tmp_path / "x.png").size == (16, 16)


@pytest.mark.parametrize(
    "steps, message",
    [
        (["text-to-vidoe --prompt x"], "step 1 of the chain has no task 'text-to-vidoe': did you mean text-to-video?"),
        (["text-to-video --prompt x", ""], "step 2 of the chain has no task ''"),
        (["text-to-video --promt x"], "step 1, text-to-video: error:"),
        (["text-to-video --prompt x --candidates 3"], "--candidates and --rank go together"),
        (["text-to-image --prompt x"], "text-to-image writes .png files"),
        (["image-to-video --prompt x"], "step 1 of 1, image-to-video: this task needs an image"),
        (["absent.yaml"], "no file at absent.yaml"),
        (["bad.yaml"], "bad.yaml must be a list of steps"),
    ],
)
def test_mistakes_are_one_line_and_leave_nothing(shipped, tmp_path, monkeypatch, capsys, steps, message):
    monkeypatch.chdir(tmp_path)
    Path("bad.yaml").write_text("task: text-to-video\n")
    with pytest.raises(SystemExit) as stop:
        main(["chain", *steps, "--out", "x.mp4", "--model", str(shipped)])
    error = capsys.readouterr().err.strip()
    assert stop.value.code == 2 and "Traceback" not in error and message in error.splitlines()[-1], error
    assert [p.name for p in tmp_path.iterdir()] == ["bad.yaml"]


def test_help_shows_an_example(capsys):
    with pytest.raises(SystemExit, match="0"):
        main(["chain", "--help"])
    assert 'videopoet chain "text-to-image' in capsys.readouterr().out

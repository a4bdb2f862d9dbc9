"""From a request to media, on tiny untrained components."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from conftest import AUDIO, LAYOUT

from videopoet import component
from videopoet.data.bounce import Scene
from videopoet.data.media import Media
from videopoet.evaluation.prefix import compare
from videopoet.pipeline import DEFAULT_DRAW, TASKS, VideoPoet
from videopoet.sampling.request import Request
from videopoet.sampling.rules import Draw, Guidance
from videopoet.tokenizers.audio.tokenizer import AudioTokenizer
from videopoet.tokenizers.visual.autoencoder import VideoTokenizer

SCENE = Scene.sample(5)


def request_of(task: str) -> Request:
    """A request with everything that the task reads, and nothing else; a past of 9 frames."""
    clip, sound = SCENE.render(17, 8, 32), SCENE.sound(17, 8)[None]
    reads = set(TASKS[task].reads(LAYOUT))
    frames = 9 if TASKS[task].past(LAYOUT) else 17
    audio = sound[:, : frames * 2000] if "audio" in reads else None
    video = Media(video=clip[:frames], fps=8.0, audio=audio) if reads - {"text", "label", "image", "audio"} else None
    return Request(
        prompt="a red circle" if reads & {"text", "label"} else "",
        image=clip[0] if "image" in reads else None,
        video=video,
        audio=Media(video=None, fps=8.0, audio=audio) if audio is not None and video is None else None,
    )


@pytest.mark.parametrize("task", TASKS)
def test_every_task_makes_media_of_its_shape(poet, task):
    tokens = []
    media = poet.generate(task, [request_of(task)] * 2, progress=tokens.append)
    given, spec = request_of(task), TASKS[task]
    frames = 1 if task.endswith("-to-image") else 17
    if spec.past(LAYOUT):
        frames = 9 + 17 - LAYOUT.frames_of(spec.past(LAYOUT))
    if task == "denoise-audio":
        assert media[0].video is None
    else:
        assert [m.video.shape for m in media] == [(frames, 16, 16, 3)] * 2 and media[0].video.dtype == np.uint8
    heard = given.audio is not None or (given.video is not None and given.video.audio is not None)
    assert (media[0].audio is not None) == ("audio" in spec.writes(LAYOUT) or (heard and frames > 1))
    if media[0].audio is not None:
        assert media[0].audio.shape == (1, frames * 2000) and np.abs(media[0].audio).max() <= 1
    assert sum(tokens) > 0 and sum(tokens) % 2 == 0


OTHER_CODECS = {
    "sound at 24000 Hz, 16000 are needed": {"sample_rate": 24000},
    "3 levels, 2 are needed": {"levels": 3},
    "codebooks of 32 codes, 16 are needed": {"codebook_size": 32},
    r"makes 42 frames of a clip \(hop 800\), 21 are needed": {"ratios": [8, 5, 5, 4]},
    "the audio tokenizer [0-9a-f]{16}, the one given is other": {},
}


@pytest.mark.parametrize("message", OTHER_CODECS)
def test_a_codec_of_another_geometry_is_an_error_with_both_numbers(poet, message):
    spec = AUDIO | {"init_args": AUDIO["init_args"] | OTHER_CODECS[message]}
    audio = component.instantiate(spec).eval()
    audio.fingerprint = "other"
    with pytest.raises(ValueError, match=message):
        VideoPoet(poet.visual, audio, poet.model)


@pytest.mark.parametrize("task", TASKS)
def test_a_seed_reproduces_and_rows_are_independent(poet, task):
    request = request_of(task)
    drawn = [
        poet._draw(poet.tasks[task], rows, poet._examples(poet.tasks[task], rows), DEFAULT_DRAW, seed, None)
        for rows, seed in (([request] * 2, 4), ([request], 5))
    ]
    assert all(torch.equal(ids[1], drawn[1][modality][0]) for modality, ids in drawn[0].items())
    both = poet.generate(task, [request, request], seed=4)
    second = poet.generate(task, [request], seed=5)[0]
    if second.video is not None:
        difference = np.abs(both[1].video.astype(int) - second.video)
        assert difference.max() <= 1, "same tokens, decoded alone and in a batch"
    if second.audio is not None:
        np.testing.assert_allclose(both[1].audio, second.audio, atol=1e-5)


@pytest.mark.parametrize("task", TASKS)
def test_every_task_takes_candidates_and_a_negative_prompt(poet, task):
    """The scorer's choice is returned; a negative prompt changes the draws of a text or class, others refuse it."""
    made = []

    def last(request, candidates):
        made.extend(candidates)
        return list(range(len(candidates)))

    request, reads = request_of(task), TASKS[task].reads(LAYOUT)
    assert poet.generate(task, [request], num_candidates=2, scorer=last)[0] is made[1]
    negative = replace(request, negative_prompt="a blue square")
    fitted = poet._fitted(poet.tasks[task], [request])

    def drawn(r):
        draw = Draw(guidance=Guidance(text=20.0))
        return poet._draw(fitted, [r], poet._examples(fitted, [r]), draw, [0], None)

    if not {"text", "label"} & set(reads):
        with pytest.raises(ValueError, match="works through text guidance"):
            drawn(negative)
        return
    plain, led = drawn(request), drawn(negative)
    assert any(not torch.equal(ids, led[modality]) for modality, ids in plain.items())


def test_a_sound_stays_only_where_the_task_reads_its_video(poet):
    """As in a chain, where what was made before is given to tasks that do not ask for it."""
    video = Media(video=SCENE.render(17, 8, 32), fps=8.0, audio=SCENE.sound(17, 8)[None])
    for task in ("class-to-video", "text-to-image"):
        assert poet.generate(task, [Request(prompt="red circle", video=video)])[0].audio is None
    assert poet.generate("frame-interpolation", [Request(video=video)])[0].audio is not None


def test_the_image_is_the_first_frame_of_the_video(poet):
    request = Request(prompt="a red circle")
    image, video = (poet.generate(task, [request], seed=2)[0] for task in ("text-to-image", "text-to-video"))
    difference = np.abs(image.video[0].astype(int) - video.video[0])
    assert difference.max() <= 1, "same tokens, decoded alone and as the head of a clip"


@pytest.mark.parametrize("seed", range(3))
def test_text_to_image_is_the_head_of_text_to_video(poet, seed):
    report = compare(poet, "a small red circle", seed=seed, draw=DEFAULT_DRAW)
    assert report.holds and report.equal_draws == report.draws > 0


def test_the_prefix_check_notices_a_difference(poet):
    class Forgetful(VideoPoet):
        def generate(self, task, requests, *, seed, **how):
            return super().generate(task, requests, seed=seed + (task == "text-to-video"), **how)

    report = compare(Forgetful(poet.visual, poet.audio, poet.model), "x", seed=0, draw=DEFAULT_DRAW)
    assert not report.holds and report.equal_draws < report.draws


def test_prediction_keeps_what_was_given(poet):
    given = request_of("frame-prediction")
    made = poet.generate("frame-prediction", [given])[0]
    assert np.array_equal(made.video[:9], poet._fit(given.video.video))
    longer = poet.generate("frame-prediction", [Request(video=made)])[0]
    assert len(longer.video) == 25, "applied again it goes on"


@pytest.mark.parametrize("task", ["inpainting-central", "outpainting-dynamic", "frame-interpolation"])
def test_what_a_condition_shows_is_kept_and_the_rest_is_made(poet, task):
    video = np.random.default_rng(0).integers(0, 256, (20, 16, 16, 3), np.uint8)
    made = poet.generate(task, [Request(video=Media(video=video, fps=8.0))])[0].video
    (stream,) = poet.tasks[task].reads(poet.layout)
    shown = poet.streams[stream].shows(17, 16, 16)
    assert np.array_equal(made[shown], video[:17][shown])
    assert (made[~shown] != video[:17][~shown]).mean() > 0.9


def test_reconstruction_has_the_shape_of_the_original(poet):
    clip = Media(video=SCENE.render(17, 8, 16), fps=8.0, audio=SCENE.sound(17, 8)[None])
    back = poet.reconstruct([clip])[0]
    assert back.video.shape == clip.video.shape and back.audio.shape == clip.audio.shape


@pytest.mark.parametrize(
    "task, request_, message",
    [
        ("text-to-vidoe", Request(), "did you mean text-to-video"),
        ("text-to-video", Request(prompt=3), "a prompt is a text"),
        ("text-to-video", "a red circle", "a prompt is a text"),
        ("image-to-video", Request(image="first.png"), "an image is an array"),
        ("frame-prediction", Request(video="in.mp4"), "a video is a Media"),
        ("text-to-video", Request(prompt="red circle " * 40), "the limit is 32: shorten it"),
        ("image-to-video", Request(prompt="x"), "needs an image"),
        ("frame-prediction", Request(), "needs a video"),
        (
            "frame-prediction",
            Request(video=Media(video=SCENE.render(4, 8, 16), fps=8.0)),
            "4 frames at 8 fps, 9 are needed",
        ),
        (
            "video-to-audio",
            Request(video=Media(video=SCENE.render(9, 8, 16), fps=8.0)),
            "9 frames at 8 fps, 17 are needed",
        ),
    ],
)
def test_bad_requests_are_refused_in_one_line(poet, task, request_, message):
    with pytest.raises(ValueError, match=message) as caught:
        poet.generate(task, [request_])
    assert "\n" not in str(caught.value)


def test_an_untrained_task_is_refused(shipped):
    poet = VideoPoet.from_pretrained(shipped)
    poet.tasks = {"text-to-video": TASKS["text-to-video"]}
    with pytest.raises(ValueError, match="not trained for video-to-audio, only for text-to-video"):
        poet.generate("video-to-audio", [request_of("video-to-audio")])


def test_tokenizers_of_another_run_are_refused(shipped, tmp_path):
    shutil.copytree(shipped, tmp_path / "model")
    spec, state = _parts(shipped / "visual.safetensors")
    state = {k: v + 1 if k == "encoder.conv_in.bias" else v for k, v in state.items()}
    component.save(tmp_path / "model" / "visual.safetensors", spec, state)
    with pytest.raises(ValueError, match="was trained on tokens of the visual tokenizer"):
        VideoPoet.from_pretrained(tmp_path / "model")


# --- components


def _parts(path):
    header, state = component._read(path)
    return json.loads(header["spec"]), state


def test_a_component_round_trips(shipped, tmp_path):
    spec, state = _parts(shipped / "visual.safetensors")
    component.save(tmp_path / "again.safetensors", spec, state)
    again = component.load(tmp_path / "again.safetensors", VideoTokenizer)
    first = component.load(shipped / "visual.safetensors")
    assert again.fingerprint == first.fingerprint == component.read_fingerprint(tmp_path / "again.safetensors")
    assert all(torch.equal(a, b) for a, b in zip(again.state_dict().values(), first.state_dict().values()))


def test_eight_bits_are_close_and_leave_the_codes_alone(shipped, tmp_path):
    spec, state = _parts(shipped / "visual.safetensors")
    component.save(tmp_path / "small.safetensors", spec, state, int8="decoder.")
    small, whole = component.load(tmp_path / "small.safetensors"), component.load(shipped / "visual.safetensors")
    assert (tmp_path / "small.safetensors").stat().st_size < 0.85 * (shipped / "visual.safetensors").stat().st_size
    assert small.fingerprint == whole.fingerprint
    for (name, a), b in zip(small.state_dict().items(), whole.state_dict().values()):
        step = b.abs().amax() / 127 if name.startswith("decoder.") else 0
        assert ((a - b).abs() <= step).all(), name


def test_misfits_are_refused_in_one_line(shipped, tmp_path):
    spec, state = _parts(shipped / "visual.safetensors")
    cases = {
        "no checkpoint": tmp_path / "absent.safetensors",
        "not a safetensors file": tmp_path / "text.safetensors",
        "does not fit the configured VideoTokenizer": tmp_path / "small.safetensors",
        "refusing to build it": tmp_path / "hostile.safetensors",
    }
    cases["not a safetensors file"].write_text("hello")
    component.save(cases["does not fit the configured VideoTokenizer"], spec, dict(list(state.items())[1:]))
    hostile = {"class_path": "os.system", "init_args": {"command": "true"}}
    component.save(cases["refusing to build it"], hostile, {})
    for message, path in cases.items():
        with pytest.raises(ValueError, match=message) as caught:
            component.load(path)
        assert "\n" not in str(caught.value)
    with pytest.raises(ValueError, match="holds VideoTokenizer, AudioTokenizer is needed"):
        component.load(shipped / "visual.safetensors", AudioTokenizer)

"""The Python API of `VideoPoet.generate`: how a task, requests and how to draw are said."""

import numpy as np
import pytest

from videopoet.data.media import Media
from videopoet.pipeline import DEFAULT_DRAW, TASKS, VideoPoet
from videopoet.sampling.request import Request
from videopoet.sampling.rules import Draw, Guidance
from videopoet.tasks.frame_prediction import FramePrediction
from videopoet.tasks.text_to_video import TextToVideo


def same(a, b) -> bool:
    return len(a) == len(b) and all(np.array_equal(x.video, y.video) for x, y in zip(a, b))


def test_a_task_may_be_an_object_and_a_request_its_fields(poet):
    by_name = poet.generate("text-to-image", [Request(prompt="a red circle")], seed=3)
    assert same(by_name, poet.generate(TextToVideo(image=True), prompt="a red circle", seed=3))
    assert not same(by_name, poet.generate(TextToVideo(image=True), prompt="a red circle", seed=4))
    assert poet.generate(TextToVideo(sound=False), prompt="a red circle")[0].audio is None


@pytest.mark.parametrize(
    "arguments, given, message",
    [
        (("text-to-image",), {}, "give a list of requests, or the fields of one"),
        (("text-to-image", [Request()]), {"prompt": "x"}, "give a list of requests, or the fields of one"),
        (("text-to-image",), {"promt": "x"}, "a request has no 'promt', it has prompt, negative_prompt, image"),
        (("text-to-image",), {"prompt": "x", "num_candidates": 2}, "2 candidates need a scorer"),
        (("text-to-image",), {"prompt": "x", "num_candidates": 0, "scorer": max}, "0 candidates: at least 1"),
        (("text-to-image",), {"prompt": "x", "negative_prompt": "y", "draw": Draw()}, "works through text guidance"),
        (("text-to-image",), {"prompt": "x", "seed": -1}, "seed is -1"),
    ],
)
def test_what_makes_no_sense_is_refused_in_one_line(poet, arguments, given, message):
    with pytest.raises(ValueError, match=message) as caught:
        poet.generate(*arguments, **given)
    assert "\n" not in str(caught.value)


def test_a_task_of_an_untrained_class_is_refused(shipped):
    poet = VideoPoet.from_pretrained(shipped)
    poet.tasks = {"text-to-video": TASKS["text-to-video"]}
    with pytest.raises(ValueError, match="not trained for frame-prediction, only for text-to-video"):
        poet.generate(FramePrediction(), prompt="x")
    with pytest.raises(ValueError, match="no task 'FramePrediction'"):
        poet.generate(FramePrediction(given=2), prompt="x")


def test_a_negative_prompt_and_visual_guidance_reach_the_draw(poet):
    def drawn(request, draw):
        task = poet.tasks["image-to-video"]
        return poet._draw(task, [request], poet._examples(task, [request]), draw, [0], None)

    frame = np.zeros((16, 16, 3), np.uint8)
    strong = Draw(guidance=Guidance(text=6.0))
    plain = drawn(Request(prompt="a red circle", image=frame), strong)
    negative = drawn(Request(prompt="a red circle", image=frame, negative_prompt="a blue square"), strong)
    visual = drawn(Request(prompt="a red circle", image=frame), Draw(guidance=Guidance(text=6.0, visual=6.0)))
    for other in (negative, visual):
        assert any(not ids.equal(other[modality]) for modality, ids in plain.items())


def test_the_model_says_what_a_task_is_guided_by(poet, monkeypatch):
    """Unless the caller says otherwise, and for that task alone."""
    sounds = np.random.default_rng(0).uniform(-0.5, 0.5, (1, 34_000)).astype(np.float32)
    request = Request(audio=Media(video=None, fps=8.0, audio=sounds, sample_rate=16_000))

    def drawn(task, scale=None):
        return poet.generate(task, [request], draw=Draw(guidance=Guidance(audio=scale)))[0].video

    plain, strong = drawn("audio-to-video"), drawn("audio-to-video", 9.0)
    assert not np.array_equal(plain, strong)
    monkeypatch.setattr(poet, "guidance", {"audio-to-video": {"audio": 9.0}})
    assert np.array_equal(drawn("audio-to-video"), strong) and np.array_equal(drawn(TASKS["audio-to-video"]), strong)
    assert np.array_equal(drawn("audio-to-video", 1.0), plain)
    assert np.array_equal(drawn("audio-to-image"), drawn("audio-to-image", 1.0))


def test_progress_counts_what_num_tokens_says(poet):
    for task in ("text-to-image", "class-to-video", "unconditional"):
        counts = []
        poet.generate(task, [Request(prompt="x")] * 3, progress=counts.append, draw=DEFAULT_DRAW)
        assert sum(counts) == 3 * poet.num_tokens(task) == 3 * poet.num_tokens(TASKS[task])
    assert poet.num_tokens("text-to-image") == 4  # one latent frame of 2 x 2


# --- candidates


class Darkest:
    """Scores by darkness, and notes what it was asked."""

    def __init__(self):
        self.asked = []

    def __call__(self, request, candidates):
        self.asked.append((request.prompt, len(candidates)))
        return [-float(media.video.mean()) for media in candidates]


def test_the_best_of_several_is_returned_for_each_request(poet):
    requests, scorer = [Request(prompt="a"), Request(prompt="b")], Darkest()
    best = poet.generate("text-to-image", requests, num_candidates=3, scorer=scorer, seed=5)
    assert scorer.asked == [("a", 3), ("b", 3)] and len(best) == 2
    first = poet.generate("text-to-image", requests, seed=5)
    for chosen, plain in zip(best, first):
        assert chosen.video.mean() <= plain.video.mean(), "the first candidate is the one there is without ranking"
    alone = poet.generate("text-to-image", requests[1:], num_candidates=3, scorer=Darkest(), seed=6)
    assert same(alone, best[1:]), "the candidates of a request do not depend on the others"
    assert same(poet.generate("text-to-image", requests, num_candidates=1, scorer=Darkest(), seed=5), first)


def test_candidates_differ_and_fill_several_batches(poet, monkeypatch):
    monkeypatch.setattr("videopoet.pipeline.ROWS", 2)
    seen = []

    def keep(request, candidates):
        seen.extend(candidates)
        return [0.0] * len(candidates)

    poet.generate("text-to-image", prompt="a", num_candidates=5, scorer=keep)
    assert len({media.video.tobytes() for media in seen}) > 1 and len(seen) == 5

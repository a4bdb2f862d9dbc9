"""Long videos: every frame once, in order, with its own sound, in constant memory, by the steps that were planned."""

from types import SimpleNamespace

import numpy as np
import pytest

from videopoet.data.media import Media
from videopoet.long_video import CHANGE, OPEN, PREDICT, SOUND, num_tokens, plan, stream
from videopoet.pipeline import Geometry, VideoPoet
from videopoet.sampling.request import Request
from videopoet.tasks.frame_prediction import FramePrediction

CLIP = 17


class Counting:
    """A stand-in for VideoPoet whose frame i is a picture of brightness i, and whose sound under it has the value i."""

    def __init__(self, fps: float = 8.0, sample_rate: int = 16000, sounds: bool = True, given: int = 3, fewest=None):
        self.geometry = Geometry(frames=CLIP, fps=fps, height=4, width=4, sample_rate=sample_rate)
        predict = FramePrediction(given=given, fewest=fewest)
        self.tasks = dict.fromkeys((OPEN, PREDICT, CHANGE, *[SOUND] * sounds), predict)
        self.layout, self.calls, self.seeds, self.largest = SimpleNamespace(frame_stride=4), [], [], 0

    def num_tokens(self, task: str, requests=()) -> int:
        return {OPEN: 1000, PREDICT: 100, CHANGE: 900, SOUND: 7}[task]

    def generate(self, task, requests: list[Request], *, seed, progress=None, num_candidates=1, scorer=None):
        (request,) = requests
        self.calls.append((task, request.prompt))
        self.seeds.append(seed)
        if progress:
            progress(self.num_tokens(task) * num_candidates)
        if task == SOUND:
            assert len(request.video.video) == CLIP
            return [self.media(request.video.video[:, 0, 0, 0].astype(int), sound=True)]
        if task == PREDICT:
            past = request.video.video[:, 0, 0, 0].astype(int)
            self.largest = max(self.largest, len(past))
            assert len(past) == 9
            return [self.media([*past, *range(past[-1] + 1, past[-1] + 9)], sound=False)]
        first = 0 if task == OPEN else int(request.image[0, 0, 0])
        return [self.media(range(first, first + CLIP), sound=True)]

    def media(self, numbers, sound: bool) -> Media:
        numbers = np.asarray(list(numbers))
        video = np.broadcast_to(numbers[:, None, None, None], (len(numbers), 4, 4, 3)).astype(np.uint8)
        edges = [round(i / self.geometry.fps * self.geometry.sample_rate) for i in range(len(numbers) + 1)]
        audio = np.repeat(numbers, np.diff(edges))[None].astype(np.float32) if sound else None
        return Media(video=video, fps=self.geometry.fps, audio=audio, sample_rate=self.geometry.sample_rate)


def whole(chunks):
    chunks = list(chunks)
    video = np.concatenate([chunk.video for chunk in chunks])[:, 0, 0, 0]
    audio = None if chunks[0].audio is None else np.concatenate([chunk.audio for chunk in chunks], 1)[0]
    return video.tolist(), audio


@pytest.mark.parametrize("given, fewest", [(3, None), (4, 1), (3, 2), (9, 1)])
def test_a_variable_past_is_the_last_second(given, fewest):
    """9 of 9 or 13 frames that it was trained on: at 8 frames a second every step makes the next 8 frames."""
    poet = Counting(given=given, fewest=fewest)
    steps = plan(poet, ["a"], 17 + 8 * 5)
    assert [step.frames for step in steps] == [17, 8, 8, 8, 8, 8]
    video, _ = whole(stream(poet, ["a"], (17 + 8 * 5) / 8))
    assert video == list(range(57))


@pytest.mark.parametrize("prompts", [1, 2, 3, 7])
@pytest.mark.parametrize("frames", [7, 17, 18, 33, 40, 160])
def test_every_frame_comes_once_in_order_with_its_own_sound(prompts, frames):
    poet, tokens = Counting(), []
    names = [f"prompt {i}" for i in range(prompts)]
    steps = plan(poet, names, frames)
    assert sum(step.frames for step in steps) == frames
    assert [step.prompt for step in steps if step.task != PREDICT] == names
    video, audio = whole(stream(poet, names, frames / 8, progress=tokens.append))
    assert video == list(range(frames))
    np.testing.assert_array_equal(audio, np.repeat(np.arange(frames), 2000))
    assert [call for call in poet.calls if call[0] != SOUND] == [(step.task, step.prompt) for step in steps]
    assert sum(tokens) == num_tokens(poet, steps)
    assert len(set(poet.seeds)) == len(poet.seeds)


def test_three_prompts_open_and_change():
    tasks = [step.task for step in plan(Counting(), ["a", "b", "c"], 160)]
    assert tasks[0] == OPEN and tasks.count(OPEN) == 1 and tasks.count(CHANGE) == 2 and tasks.count(PREDICT) == 15
    assert [i for i, task in enumerate(tasks) if task == CHANGE] == [6, 12]


@pytest.mark.parametrize("refresh, times", [(1, 5), (17, 4), (25, 3), (41, 2), (999, 1)])
def test_a_prompt_can_begin_again(refresh, times):
    """80 frames of one prompt: 17 and then, if it is time, 16 that begin again, or 8 that go on."""
    poet = Counting()
    steps = plan(poet, ["a"], 80, refresh=refresh)
    assert sum(step.task != PREDICT for step in steps) == times
    video, audio = whole(stream(poet, ["a"], 10, refresh=refresh / 8))
    assert video == list(range(80)) and len(audio) == 160000
    assert [call for call in poet.calls if call[0] != SOUND] == [(step.task, step.prompt) for step in steps]


@pytest.mark.parametrize("sounding", [True, False])
@pytest.mark.parametrize("given, prompts", [(1, ["a"]), (1, ["a", "b"]), (12, ["a"]), (30, []), (40, ["a", "b"])])
def test_a_given_picture_or_video_is_gone_on_from(given, prompts, sounding):
    poet, tokens = Counting(), []
    start = poet.media(range(given), sound=sounding)
    video, audio = whole(stream(poet, prompts, 10, start=start, progress=tokens.append))
    assert video == list(range(80))
    np.testing.assert_array_equal(audio, np.repeat(np.arange(80), 2000))
    assert OPEN not in [task for task, _ in poet.calls]
    steps = plan(poet, prompts, 80 - given, started=True)
    assert sum(tokens) == num_tokens(poet, steps, started=0 if sounding else given)


@pytest.mark.parametrize("fps, sample_rate", [(8.0, 16000), (12.0, 16000), (29.97, 44100)])
def test_sound_does_not_drift_from_the_pictures(fps, sample_rate):
    poet = Counting(fps, sample_rate)
    video, audio = whole(stream(poet, ["a", "b"], 250 / fps))
    assert video == list(range(250)) and len(audio) == round(250 / fps * sample_rate)
    middles = [round((i + 0.5) / fps * sample_rate) for i in range(250)]
    np.testing.assert_array_equal(audio[middles], np.arange(250))


def test_a_silent_video_is_made_without_sound():
    for poet, sound in ((Counting(), False), (Counting(sounds=False), True)):
        tokens = []
        video, audio = whole(stream(poet, ["a", "b"], 10, sound=sound, progress=tokens.append))
        assert video == list(range(80)) and audio is None and SOUND not in [task for task, _ in poet.calls]
        assert sum(tokens) == num_tokens(poet, plan(poet, ["a", "b"], 80), sound=sound)


def test_chunks_come_as_they_are_made_and_nothing_piles_up():
    poet = Counting()
    chunks = stream(poet, ["a"], 250 / 8)
    assert poet.calls == []
    lengths = [len(next(chunks).video)]
    assert [task for task, _ in poet.calls] == [OPEN], "the first clip is given out before the next is made"
    for chunk in chunks:
        lengths.append(len(chunk.video))
    assert max(lengths) <= CLIP and sum(lengths) == 250
    assert poet.largest == 9, "each step looks back on the last second alone"


def test_candidates_are_made_of_the_steps_with_a_prompt():
    poet, tokens = Counting(), []
    ranking = {"num_candidates": 4, "scorer": max}
    whole(stream(poet, ["a", "b"], 10, ranking=ranking, progress=tokens.append))
    assert sum(tokens) == num_tokens(poet, plan(poet, ["a", "b"], 80), num_candidates=4)


@pytest.mark.parametrize(
    "prompts, frames, message",
    [
        ([], 40, "begins with a prompt, or with a picture or video"),
        (["a", "b", "c"], 2, "2 frames for 3 prompts: make it longer"),
        (["a"], 0, "0 frames for 1 prompts"),
    ],
)
def test_what_cannot_be_planned_is_refused(prompts, frames, message):
    with pytest.raises(ValueError, match=message):
        plan(Counting(), prompts, frames)


def test_the_model_itself_makes_a_long_video(poet):
    made = [list(stream(poet, ["a red circle", "a blue square"], 5.0, seed=3)) for _ in range(2)]
    video, audio = (
        np.concatenate([getattr(c, name) for c in made[0]], axis) for name, axis in (("video", 0), ("audio", 1))
    )
    assert video.shape == (40, 16, 16, 3) and audio.shape == (1, 80000)
    assert np.array_equal(video, np.concatenate([chunk.video for chunk in made[1]])), "same seed, same video"
    opening = poet.generate("text-to-video", prompt="a red circle", seed=3)[0]
    assert np.array_equal(video[:17], opening.video)


def test_a_model_without_frame_prediction_is_refused(shipped):
    poet = VideoPoet.from_pretrained(shipped)
    del poet.tasks[PREDICT]
    with pytest.raises(ValueError, match="not trained for frame-prediction"):
        next(stream(poet, ["a"], 5))

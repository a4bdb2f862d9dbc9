"""The trials in the built-in world: the truth answers them, and nothing that is asked for is given away."""

from dataclasses import replace
from itertools import islice, pairwise

import numpy as np
import pytest
from conftest import LAYOUT

from videopoet.conditions.registry import CONDITIONS
from videopoet.evaluation.bounce import held_out, know_nothing, mean_scores, scores, true_media
from videopoet.evaluation.bounce_trials import TRIALS, restyled, strikes
from videopoet.tasks.registry import TASKS

N = 8


@pytest.mark.parametrize("task", TRIALS)
def test_the_truth_answers_every_trial(task):
    trial = TRIALS[task]
    rows = []
    for scene in islice(held_out(trial), N):
        wanted = trial.wanted(scene)
        media = true_media(wanted, trial.frames or 17, 8.0, 64, 16000)
        rows.append(scores(media, wanted, trial))
    assert task in TASKS and set(rows[0]) == set(trial.attributes)
    assert mean_scores(rows)["attribute_accuracy"] > 0.93


@pytest.mark.parametrize("task", TRIALS)
def test_another_scene_does_not(task):
    """A clip of other things answers wrongly; where sound and picture are held against each other, one of them is another's."""
    trial = TRIALS[task]
    rows = []
    scenes = list(islice(held_out(trial), 4 * N))
    for scene, other in pairwise(scenes):
        media = true_media(trial.wanted(other), trial.frames or 17, 8.0, 64, 16000)
        sound = true_media(scene, 17, 8.0, 64, 16000).audio
        rows.append(scores(replace(media, audio=sound) if trial.own_impacts else media, trial.wanted(scene), trial))
    assert mean_scores(rows)["attribute_accuracy"] < 0.65


@pytest.mark.parametrize("task", [t for t, trial in TRIALS.items() if {"sound_impacts", "sound_timing"} & {*trial.attributes}])
def test_silence_over_stillness_answers_no_question_of_sound(task):
    trial, rows = TRIALS[task], []
    for scene in islice(held_out(trial), 2 * N):
        true = true_media(trial.wanted(scene), 17, 8.0, 64, 16000)
        still = np.repeat(true.video[:1], 17, 0) if "video" in TASKS[task].writes(LAYOUT) else true.video
        silent = np.zeros_like(true.audio) if "audio" in TASKS[task].writes(LAYOUT) else true.audio
        rows.append(scores(replace(true, video=still, audio=silent), trial.wanted(scene), trial))
    found = mean_scores(rows)["attributes"]
    assert all(found.get(name, 0) < 0.2 for name in ("sound_impacts", "sound_timing"))


@pytest.mark.parametrize("task", TRIALS)
def test_the_floor_keeps_what_is_given(poet, task):
    """An answer that knows nothing: given frames, sound and pixels as they are, and of the rest another scene."""
    trial = TRIALS[task]
    scene, other = islice(filter(strikes, held_out(trial)), 2)
    truth, wrong = (true_media(trial.wanted(each), 17, 8.0, 16, 16000) for each in (scene, other))
    request = trial.give(scene, true_media(scene, 17, 8.0, 16, 16000))
    floor = know_nothing(poet, task, request, truth, wrong, trial.frames)
    writes = TASKS[task].writes(poet.layout)
    assert len(floor.video) == (trial.frames or 17) and floor.audio.shape == truth.audio.shape
    assert np.array_equal(floor.audio, truth.audio) == ("audio" not in writes)
    assert np.array_equal(floor.video, truth.video) == ("video" not in writes)


@pytest.mark.parametrize("task", TRIALS)
def test_requests_hold_no_more_than_is_said(task):
    trial = TRIALS[task]
    scene = next(held_out(trial))
    request = trial.give(scene, true_media(scene, 17, 8.0, 64, 16000))
    given = "" if not trial.given else trial.given
    shown = request.video
    assert (shown is not None and shown.audio is not None) == ("with sound" in given)
    assert (request.image is not None) == ("first frame and" in given)
    assert (request.audio is not None) == given.startswith("sound")
    if shown is not None and "frames" in given:
        assert len(shown.video) == int(next(word for word in given.split() if word.isdigit()))
    assert bool(request.prompt) == (not given or "prompt" in given or "kind" in given)


def test_painting_asks_for_what_is_seen_beside_the_hidden_region():
    for stream, condition in CONDITIONS.items():
        if not stream.startswith(("inpainting", "outpainting")):
            continue
        for scene in islice(held_out(TRIALS[stream.replace("_", "-")]), 4):
            truth, hidden = scene.truth(), condition.region.mask(17, 64, 64)
            for number in range(1, 1 + len(scene.objects)):
                area = (truth.depth == number).sum((1, 2))
                seen = ((truth.depth == number) & ~hidden).sum((1, 2))
                assert np.sum(seen >= 0.6 * np.maximum(area, 1)) >= 9


def test_a_restyled_scene_moves_alike_and_looks_otherwise():
    for scene in islice(held_out(TRIALS["stylization"]), N):
        other = restyled(scene)
        assert all(a.colour != b.colour and a.motion == b.motion for a, b in zip(scene.objects, other.objects))
        assert len({body.colour for body in other.objects}) == len(other.objects)
        assert np.array_equal(scene.truth().flow, other.truth().flow)

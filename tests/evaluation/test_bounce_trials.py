"""The trials in the built-in world: the truth answers them, and nothing that is asked for is given away."""

from itertools import islice, pairwise

import numpy as np
import pytest

from videopoet.conditions.registry import CONDITIONS
from videopoet.evaluation.bounce import held_out, mean_scores, scores, true_media
from videopoet.evaluation.bounce_trials import TRIALS, restyled
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
    """A clip of other things answers wrongly; silence and stillness go together, so sound is held against a moving clip."""
    trial = TRIALS[task]
    rows = []
    scenes = list(islice(held_out(trial), 4 * N))
    for scene, other in pairwise(scenes):
        media = true_media(trial.wanted(other), trial.frames or 17, 8.0, 64, 16000)
        sound = true_media(scene, 17, 8.0, 64, 16000).audio
        media = media.__class__(**{**vars(media), "audio": sound}) if trial.own_impacts else media
        rows.append(scores(media, trial.wanted(scene), trial))
    assert mean_scores(rows)["attribute_accuracy"] < 0.85


@pytest.mark.parametrize("task", TRIALS)
def test_requests_hold_no_more_than_is_said(task):
    trial = TRIALS[task]
    scene = next(held_out(trial))
    request = trial.give(scene, true_media(scene, 17, 8.0, 64, 16000))
    given = "" if not trial.given else trial.given
    shown = request.video
    assert (shown is not None and shown.audio is not None) == ("with sound" in given)
    assert (request.image is not None) == ("first frame and" in given)
    assert (request.audio is not None) == (given == "sound")
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

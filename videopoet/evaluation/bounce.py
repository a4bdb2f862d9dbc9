"""How well a model does in the built-in world: held-out prompts, and an oracle that reads the answers back.

For each task n scenes are drawn from combinations of shape, colour and motion that training never saw; `bounce_trials`
says what each task is given and asked. The score of an
attribute is the fraction that the oracle reads right; beside it stands the ceiling, the same score of the true clips
after a round trip through the tokenizers.
"""

from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from itertools import count, islice

import numpy as np
from rich.table import Table

from videopoet.data.bounce import Scene
from videopoet.data.bounce_oracle import read_scene, score
from videopoet.data.media import Media
from videopoet.evaluation.bounce_trials import TRIALS, Trial

#: Held-out scenes start at this seed, apart from the seeds that the README writes to files.
FIRST_SEED = 500_000


def held_out(trial: Trial) -> Iterator[Scene]:
    """The scenes that can be asked for, without end."""
    scenes = (Scene.sample(seed, "heldout") for seed in count(FIRST_SEED))
    return (scene for scene in scenes if trial.fits(scene))


def true_media(scene: Scene, frames: int, fps: float, size: int, sample_rate: int) -> Media:
    """The scene itself, as pixels and samples."""
    return Media(
        video=scene.render(frames, fps, size), fps=fps, audio=scene.sound(frames, fps)[None], sample_rate=sample_rate
    )


def scores(media: Media, scene: Scene, trial: Trial) -> dict[str, float]:
    """The trial's attributes of one clip, each in [0, 1]."""
    audio = None if media.audio is None else np.asarray(media.audio[0], np.float32)
    reading = read_scene(media.video, audio, media.fps, media.sample_rate)
    found = score(reading, scene, reading.impacts if trial.own_impacts else None)
    return {name: found[name] for name in trial.attributes}


def mean_scores(rows: list[dict[str, float]]) -> dict:
    """Means over clips of each attribute, and over attributes as `attribute_accuracy`."""
    means = {name: float(np.mean([row[name] for row in rows])) for name in rows[0]}
    return {"attribute_accuracy": float(np.mean(list(means.values()))), "attributes": means}


def evaluate(
    poet, task: str, n: int, *, seed: int = 0, progress=None, **sampling
) -> tuple[dict, list[Scene], list[Media]]:
    """Try one task on n held-out scenes with a `VideoPoet`.

    Returns the report (`attribute_accuracy`, `attributes`, `ceiling`, `n`), the scenes and the media made.
    """
    if task not in TRIALS:
        raise ValueError(f"no bounce trial of task '{task}': there are {', '.join(TRIALS)}")
    if n < 1:
        raise ValueError(f"n is {n}: at least 1 scene is needed")
    trial, geometry = TRIALS[task], poet.geometry
    if (geometry.frames, geometry.height) != (17, geometry.width):
        raise ValueError(f"the bounce world has square clips of 17 frames, the model makes {geometry}")
    true = partial(true_media, frames=geometry.frames, fps=geometry.fps, size=geometry.height,
                   sample_rate=geometry.sample_rate)  # fmt: skip
    scenes = list(islice(held_out(trial), n))
    requests = [trial.give(scene, true(scene)) for scene in scenes]
    scenes = [trial.wanted(scene) for scene in scenes]
    truth = [true(scene) for scene in scenes]
    made = poet.generate(task, requests, seed=seed, progress=progress, **sampling)
    back = [media for start in range(0, n, 32) for media in poet.reconstruct(truth[start : start + 32])]
    back = [replace(media, video=media.video[: trial.frames]) for media in back]
    report = mean_scores([scores(m, s, trial) for m, s in zip(made, scenes)])
    ceiling = mean_scores([scores(m, s, trial) for m, s in zip(back, scenes)])
    report |= {"ceiling": ceiling["attribute_accuracy"], "ceiling_attributes": ceiling["attributes"], "n": n}
    return report, scenes, made


def table(reports: dict[str, dict]) -> Table:
    """Tasks down, attributes across: accuracy over ceiling, in percent."""
    attributes = list(dict.fromkeys(name for report in reports.values() for name in report["attributes"]))
    view = Table(title="held-out scenes: right / ceiling, %")
    for name in ("task", "n", "mean", *attributes):
        view.add_column(name.replace("_", " "), justify="left" if name == "task" else "right")
    for task, report in reports.items():
        cells = [f"{100 * report['attribute_accuracy']:.1f} / {100 * report['ceiling']:.1f}"]
        for name in attributes:
            known = name in report["attributes"]
            pair = (report["attributes"].get(name, 0), report["ceiling_attributes"].get(name, 0))
            cells.append(f"{100 * pair[0]:.0f} / {100 * pair[1]:.0f}" if known else "")
        view.add_row(task, str(report["n"]), *cells)
    return view

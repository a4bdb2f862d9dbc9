"""How well a model does in the built-in world: held-out prompts, and an oracle that reads the answers back.

For each task n scenes are drawn from combinations of shape, colour and motion that training never saw; `bounce_trials`
says what each task is given and asked. The score of an attribute is the fraction that the oracle reads right. Beside it
stand the ceiling, the same score of the true clips after a round trip through the tokenizers, and the floor, that of an
answer that knows nothing: what is given as it is, and another scene's clip for what is made.
"""

from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from itertools import count, islice

import numpy as np
from rich.table import Table

from videopoet.conditions.shot import keep
from videopoet.data.bounce import Scene
from videopoet.data.bounce_oracle import read_scene, score
from videopoet.data.media import Media
from videopoet.evaluation.bounce_trials import TRIALS, Trial
from videopoet.sampling.request import Request

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
    """Means of each attribute over the clips that have it, and over attributes as `attribute_accuracy`."""
    known = {name: [row[name] for row in rows if not np.isnan(row[name])] for name in rows[0]}
    means = {name: float(np.mean(each)) for name, each in known.items() if each}
    return {"attribute_accuracy": float(np.mean(list(means.values()))), "attributes": means}


def evaluate(
    poet, task: str, n: int, *, seed: int = 0, progress=None, **sampling
) -> tuple[dict, list[Scene], list[Media]]:
    """Try one task on n held-out scenes with a `VideoPoet`.

    Returns the report (`attribute_accuracy`, `attributes`, `ceiling`, `floor`, `n`), the scenes and the media made.
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
    scenes = list(islice(held_out(trial), n + 1))
    requests = [trial.give(scene, true(scene)) for scene in scenes[:n]]
    wanted = [trial.wanted(scene) for scene in scenes]
    scenes, truth, others = wanted[:n], [true(scene) for scene in wanted[:n]], [true(scene) for scene in wanted[1:]]
    made = poet.generate(task, requests, seed=seed, progress=progress, **sampling)
    back = [media for start in range(0, n, 32) for media in poet.reconstruct(truth[start : start + 32])]
    back = [replace(media, video=media.video[: trial.frames]) for media in back]
    report = mean_scores([scores(m, s, trial) for m, s in zip(made, scenes)])
    ceiling = mean_scores([scores(m, s, trial) for m, s in zip(back, scenes)])
    report |= {"ceiling": ceiling["attribute_accuracy"], "ceiling_attributes": ceiling["attributes"], "n": n}
    wrong = [know_nothing(poet, task, *each, trial.frames) for each in zip(requests, truth, others)]
    floor = mean_scores([scores(m, s, trial) for m, s in zip(wrong, scenes)])
    report |= {"floor": floor["attribute_accuracy"], "floor_attributes": floor["attributes"]}
    return report, scenes, made


def know_nothing(poet, name: str, request: Request, truth: Media, other: Media, frames: int | None = None) -> Media:
    """What is given as it is, and for what is made that of another scene's clip."""
    task = poet.tasks[name]
    reads, writes = task.reads(poet.layout), task.writes(poet.layout)
    video = other.video if "video" in writes else truth.video
    audio = other.audio if "audio" in writes else truth.audio
    if task.past(poet.layout):
        given = len(request.video.video)
        video = np.concatenate([truth.video[:given], video[given:]])
        if "audio" in writes:
            heard = request.video.audio.shape[1]
            audio = np.concatenate([truth.audio[:, :heard], audio[:, heard:]], 1)
    elif "video" in writes and request.video is not None:
        video = keep(video, request.video.video, [poet.streams[read] for read in reads if read in poet.streams])
    return replace(truth, video=video[:frames], audio=audio)


def table(reports: dict[str, dict]) -> Table:
    """Tasks down, attributes across: accuracy over ceiling, in percent, and the floor of the mean."""
    attributes = list(dict.fromkeys(name for report in reports.values() for name in report["attributes"]))
    view = Table(title="held-out scenes: right / ceiling, %")
    for name in ("task", "n", "mean", "floor", *attributes):
        view.add_column(name.replace("_", " "), justify="left" if name == "task" else "right")
    for task, report in reports.items():
        cells = [f"{100 * report['attribute_accuracy']:.1f} / {100 * report['ceiling']:.1f}", f"{100 * report['floor']:.1f}"]
        for name in attributes:
            known = name in report["attributes"]
            pair = (report["attributes"].get(name, 0), report["ceiling_attributes"].get(name, np.nan))
            cells.append(f"{100 * pair[0]:.0f} / {100 * pair[1]:.0f}" if known else "")
        view.add_row(task, str(report["n"]), *cells)
    return view

"""How well a model does in the built-in world: held-out prompts, and an oracle that reads the answers back.

For each task n scenes are drawn from combinations of shape, colour and motion that training never saw. The score of an
attribute is the fraction that the oracle reads right; beside it stands the ceiling, the same score of the true clips
after a round trip through the tokenizers.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
from rich.table import Table

from videopoet.data.bounce import Scene
from videopoet.data.bounce_oracle import read_scene, score
from videopoet.data.media import Media
from videopoet.sampling.request import Request

#: Held-out scenes start at this seed, apart from the seeds that the README writes to files.
FIRST_SEED = 500_000

LOOK = ("colour", "shape", "size", "background", "count")
SOUND = ("sound_pitch", "sound_timing")


@dataclass(frozen=True, kw_only=True)
class Trial:
    """How one task is tried: what it is given of a scene, and what of the answer is scored."""

    give: Callable[[Scene, Media], Request]
    attributes: tuple[str, ...]
    frames: int | None = None  # of the true clip, for the ceiling; None for all
    own_impacts: bool = False  # hold the sound against the impacts seen in the made video, not in the scene


def _prompt(scene: Scene, media: Media) -> Request:
    return Request(prompt=scene.captions()[0])


def _prompt_and_image(scene: Scene, media: Media) -> Request:
    return Request(prompt=scene.captions()[0], image=media.video[0])


def _video(scene: Scene, media: Media, frames: int | None = None) -> Request:
    return Request(video=replace(media, video=media.video[:frames], audio=None))


TRIALS: dict[str, Trial] = {
    "text-to-video": Trial(give=_prompt, attributes=(*LOOK, "motion", *SOUND), own_impacts=True),
    "text-to-image": Trial(give=_prompt, attributes=LOOK, frames=1),
    "image-to-video": Trial(give=_prompt_and_image, attributes=(*LOOK, "motion", *SOUND), own_impacts=True),
    "frame-prediction": Trial(give=partial(_video, frames=9), attributes=(*LOOK, "motion")),
    "video-to-audio": Trial(give=_video, attributes=SOUND),
}


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
    scenes = [Scene.sample(FIRST_SEED + i, "heldout") for i in range(n)]
    truth = [true_media(s, geometry.frames, geometry.fps, geometry.height, geometry.sample_rate) for s in scenes]
    requests = [trial.give(scene, media) for scene, media in zip(scenes, truth)]
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

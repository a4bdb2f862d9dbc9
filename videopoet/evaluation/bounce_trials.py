"""How each task is tried in the built-in world: what it is given of a held-out scene, and what of the answer is scored.

Only what the given things tell can be asked for, and nothing that silence answers. So sound is made for scenes in which
something strikes, painting is tried on scenes in which every object is seen well
beside what is hidden, and stylization on a scene's motion with the looks of another, described by the prompt.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

import numpy as np

from videopoet.conditions.hidden import HiddenRegion
from videopoet.conditions.registry import CONDITIONS
from videopoet.data.bounce import COLOURS, Scene
from videopoet.data.media import Media
from videopoet.sampling.request import Request

LOOK = ("colour", "shape", "size", "background", "count")
SEEN = (*LOOK, "motion")
SOUND = ("sound_pitch", "sound_timing")
MATCH = ("sound_pitch", "sound_impacts")  # where the impacts are those of the clip itself, and there may be none
BOTH = ("sound_shapes", "sound_timing")  # of what is seen and what is heard in one clip

SEEN_SHARE, SEEN_FRAMES = 0.6, 9  # an object is seen well where so much of it is not hidden, in so many frames


def as_it_is(scene: Scene) -> Scene:
    return scene


def any_scene(scene: Scene) -> bool:
    return True


def strikes(scene: Scene) -> bool:
    """Silence is no answer to such a scene."""
    return bool(scene.impacts())


@dataclass(frozen=True, kw_only=True)
class Trial:
    """One task: `give` makes the request of a scene and its true clip, `wanted` is the scene that the answer should show.

    attributes: what the oracle scores. given: what is given beside the prompt, in words. frames: of the true clip, for
    the ceiling; None for all. own_impacts: hold the sound against the impacts seen in the made video, not in the scene.
    fits: whether a scene can be asked for at all.
    """

    give: Callable[[Scene, Media], Request]
    attributes: tuple[str, ...]
    given: str = ""
    frames: int | None = None
    own_impacts: bool = False
    fits: Callable[[Scene], bool] = any_scene
    wanted: Callable[[Scene], Scene] = as_it_is


def prompt(scene: Scene, media: Media) -> Request:
    return Request(prompt=scene.captions()[0])


def prompt_and_image(scene: Scene, media: Media) -> Request:
    return Request(prompt=scene.captions()[0], image=media.video[0])


def video(scene: Scene, media: Media, frames: int | None = None) -> Request:
    return Request(video=replace(media, video=media.video[:frames], audio=None))


def video_and_sound(scene: Scene, media: Media, frames: int | None = None) -> Request:
    shown = media.video[:frames]
    samples = round(len(shown) / media.fps * media.sample_rate)
    return Request(video=replace(media, video=shown, audio=media.audio[:, :samples]))


def sound(scene: Scene, media: Media) -> Request:
    return Request(audio=replace(media, video=None))


def nothing(scene: Scene, media: Media) -> Request:
    return Request()


def motion_class(scene: Scene, media: Media) -> Request:
    return Request(prompt=scene.objects[0].motion.kind)


def motion_class_and_video(scene: Scene, media: Media, frames: int) -> Request:
    return replace(video(scene, media, frames), prompt=scene.objects[0].motion.kind)


def structure_and_looks(scene: Scene, media: Media, image: bool = False) -> Request:
    """The scene's own clip, from which flow and depth are estimated, with the prompt (and first frame) of other looks."""
    wanted = restyled(scene)
    first = wanted.render(1, media.fps, media.video.shape[1])[0] if image else None
    return Request(prompt=wanted.captions()[0], video=replace(media, audio=None), image=first)


def restyled(scene: Scene) -> Scene:
    """The scene in other colours, on the background of another scene."""
    names = list(COLOURS)
    turn = 1 + scene.seed % (len(names) - 1)
    bodies = tuple(replace(b, colour=names[(names.index(b.colour) + turn) % len(names)]) for b in scene.objects)
    return replace(scene, objects=bodies, background=Scene.sample(scene.seed + 1, scene.split).background)


def one_object(scene: Scene) -> bool:
    return len(scene.objects) == 1


def one_that_strikes(scene: Scene) -> bool:
    return one_object(scene) and strikes(scene)


def seen_beside(scene: Scene, condition: HiddenRegion, frames: int = 17, size: int = 64) -> bool:
    """Whether every object is seen well where the condition hides nothing."""
    truth, hidden = scene.truth(frames, resolution=size), condition.region.mask(frames, size, size)
    for number in range(1, 1 + len(scene.objects)):
        area = (truth.depth == number).sum((1, 2))
        shown = ((truth.depth == number) & ~hidden).sum((1, 2))
        if np.sum(shown >= SEEN_SHARE * np.maximum(area, 1)) < SEEN_FRAMES:
            return False
    return True


def painting(stream: str, given: str) -> Trial:
    fits = partial(seen_beside, condition=CONDITIONS[stream])
    return Trial(give=video, attributes=SEEN, fits=fits, given=given)


TRIALS: dict[str, Trial] = {
    "text-to-video": Trial(give=prompt, attributes=(*SEEN, *MATCH), own_impacts=True),
    "text-to-image": Trial(give=prompt, attributes=LOOK, frames=1),
    "image-to-video": Trial(
        give=prompt_and_image, attributes=(*SEEN, *MATCH), own_impacts=True, given="first frame and prompt"
    ),
    "frame-prediction": Trial(give=partial(video, frames=9), attributes=SEEN, given="9 frames"),
    "video-to-audio": Trial(give=video, attributes=SOUND, fits=strikes, given="silent video"),
    "unconditional": Trial(
        give=nothing, attributes=("sound_shapes", "sound_impacts"), own_impacts=True, given="nothing"
    ),
    "frame-interpolation": Trial(give=video, attributes=SEEN, given="first and last frame"),
    "inpainting-central": painting("inpainting_central", "all but the middle"),
    "inpainting-dynamic": painting("inpainting_dynamic", "all but a moving rectangle"),
    "outpainting-central": painting("outpainting_central", "the middle"),
    "outpainting-vertical": painting("outpainting_vertical", "the strip in the middle, top to bottom"),
    "outpainting-horizontal": painting("outpainting_horizontal", "the strip in the middle, left to right"),
    "outpainting-dynamic": painting("outpainting_dynamic", "a moving strip"),
    "stylization": Trial(
        give=structure_and_looks, attributes=SEEN, wanted=restyled, given="flow and depth, prompt of other looks"
    ),
    "stylization-of-image": Trial(
        give=partial(structure_and_looks, image=True),
        attributes=SEEN,
        wanted=restyled,
        given="flow and depth, first frame and prompt of other looks",
    ),
    "audio-to-video": Trial(give=sound, attributes=BOTH, own_impacts=True, fits=strikes, given="sound"),
    "audio-to-image": Trial(give=sound, attributes=("shape",), frames=1, fits=one_that_strikes, given="sound"),
    "audio-visual-continuation": Trial(
        give=partial(video_and_sound, frames=9), attributes=(*SEEN, *SOUND), fits=strikes, given="9 frames with sound"
    ),
    **{
        name: Trial(give=video, attributes=SEEN, given="all but spans of its tokens")
        for name in ("denoise-r", "denoise-s", "denoise-x", "denoise-frames", "denoise-blocks")
    },
    "denoise-audio": Trial(
        give=video_and_sound, attributes=SOUND, fits=strikes, given="the clip with sound, but spans of the sound"
    ),
    "class-to-video": Trial(give=motion_class, attributes=("motion_kind",), fits=one_object, given="kind of motion"),
    "class-frame-prediction": Trial(
        give=partial(motion_class_and_video, frames=5),
        attributes=(*LOOK, "motion_kind"),
        fits=one_object,
        given="kind of motion and 5 frames",
    ),
}

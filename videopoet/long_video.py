"""Videos of any length, made and given out piece by piece in constant memory, with prompts that change on the way.

What a model of clips can do, taken in turns (VideoPoet, §3.3: a longer video is made by predicting one second after
another, each from the last one):

    text-to-video      opens the video by the first prompt, with sound
    frame-prediction   goes on within a scene: the last second is encoded again and the next one made; takes no prompt
    image-to-video     begins every further prompt, from the last frame, with sound
    video-to-audio     gives sound, a clip's length of frames at a time, to the frames that were made without

So a new prompt changes what happens from a frame on, and the picture goes on without a cut.
"""

import math
from collections.abc import Callable, Iterator
from collections.abc import Sequence as Many
from dataclasses import dataclass, field

import numpy as np

from videopoet.data.media import Media
from videopoet.data.transforms import ResizeCrop
from videopoet.pipeline import check_task
from videopoet.sampling.request import Request

OPEN, PREDICT, CHANGE, SOUND = "text-to-video", "frame-prediction", "image-to-video", "video-to-audio"
STEP_STRIDE = 2**50  # between the seeds of the steps of one video: above all of a step's candidates


@dataclass(frozen=True, kw_only=True)
class Step:
    """One call of the model: the task, its prompt, and how many of the frames it makes are kept."""

    task: str
    prompt: str = ""
    frames: int = 0


def plan(poet, prompts: Many[str], frames: int, *, started: bool = False, refresh: int | None = None) -> list[Step]:
    """The steps that make `frames` frames, every prompt an equal share of them.

    started: whether there is a frame to go on from; without prompts there must be.
    refresh: begin a prompt again after so many frames. What is seen then stays what the prompt says, which frame
    prediction knows from the last second alone; but the motion begins anew. None: each prompt begins once.
    Raises ValueError where there is nothing to begin with or a prompt would get no frame.
    """
    if not (prompts or started):
        raise ValueError("a long video begins with a prompt, or with a picture or video that is given")
    if frames < max(1, len(prompts)):
        raise ValueError(f"{frames} frames for {len(prompts)} prompts: make it longer, every prompt needs at least one")
    if refresh is not None and refresh < 1:
        raise ValueError(f"a prompt cannot begin again every {refresh} frames: give at least 1")
    whole, ahead = poet.geometry.frames, poet.geometry.frames - _context(poet)
    steps: list[Step] = []
    bounds = [round(i * frames / max(1, len(prompts))) for i in range(1, max(1, len(prompts)) + 1)]
    for prompt, start, stop in zip(prompts or [None], [0, *bounds], bounds):
        left, since = stop - start, None  # since: frames after the prompt began
        while left:
            fresh = prompt is not None and (since is None or (refresh is not None and since >= refresh))
            task = PREDICT if not fresh else CHANGE if steps or started else OPEN
            made = {OPEN: whole, CHANGE: whole - 1, PREDICT: ahead}[task]
            steps.append(Step(task=task, prompt=prompt if fresh else "", frames=min(made, left)))
            left, since = left - steps[-1].frames, (0 if fresh else since or 0) + steps[-1].frames
    return steps


def num_tokens(poet, steps: Many[Step], *, started: int = 0, sound: bool = True, num_candidates: int = 1) -> int:
    """Tokens that the steps take in all, as `progress` counts them, sound for frames without it included."""
    total, silent, clip = 0, started, poet.geometry.frames
    sound = sound and SOUND in poet.tasks
    for step in steps:
        total += _tokens(poet, step.task) * (num_candidates if step.task != PREDICT else 1)
        if step.task == PREDICT:
            silent += step.frames
        elif sound:
            total += -(-max(0, silent - 1) // clip) * poet.num_tokens(SOUND)
            silent = 0
    return total + (-(-silent // clip) * poet.num_tokens(SOUND) if sound else 0)


def _tokens(poet, task: str) -> int:
    """Of one step, which prediction takes from the last second."""
    geometry = poet.geometry
    blank = np.zeros((_context(poet), geometry.height, geometry.width, 3), np.uint8)
    past = [Request(video=Media(video=blank, fps=geometry.fps))] if task == PREDICT else []
    return poet.num_tokens(task, past)


def stream(
    poet,
    prompts: Many[str],
    seconds: float,
    *,
    start: Media | None = None,
    sound: bool = True,
    refresh: float | None = None,
    seed: int = 0,
    ranking: dict | None = None,
    progress: Callable[[int], None] | None = None,
    **how,
) -> Iterator[Media]:
    """Make a video with a `VideoPoet` and give it out in consecutive chunks, each with its sound.

    seconds: of the whole, what is given included. start: pictures it begins with, one or many, at the model's rates;
    sound is made for them where they have none. sound: False for a silent video, as is any of a model without
    video-to-audio.
    refresh: seconds after which a prompt begins again, see `plan`.
    ranking: `num_candidates` and `scorer` for the steps that have a prompt. how: `draw`, as for `VideoPoet.generate`.

    Memory holds one clip and what waits for its sound, however long the video is.
    """
    geometry = poet.geometry
    given = 0 if start is None else len(start.video)
    steps = plan(poet, prompts, round(seconds * geometry.fps) - given, started=given > 0,
                 refresh=None if refresh is None else round(refresh * geometry.fps))  # fmt: skip
    number = 0

    def make(task: str, request: Request, **more) -> Media:
        nonlocal number
        number += 1
        where = seed + (number - 1) * STEP_STRIDE
        return poet.generate(task, [request], seed=where, progress=progress, **more, **how)[0]

    reel = _Reel(poet, make, sound and SOUND in poet.tasks)
    if start is not None:
        fit = ResizeCrop(height=geometry.height, width=geometry.width)
        yield from reel.add(fit(start.video), start.audio)
    for step in steps:
        if step.task == PREDICT:
            past = reel.tail[-_context(poet) :]
            made = make(PREDICT, Request(video=Media(video=past, fps=geometry.fps)))
            yield from reel.add(made.video[len(past) :][: step.frames], None)
            continue
        image = reel.tail[-1] if step.task == CHANGE else None
        made = make(step.task, Request(prompt=step.prompt, image=image), **(ranking or {}))
        again = int(step.task == CHANGE)  # frames that are there already
        yield from reel.add(made.video[again : again + step.frames], made.audio, again=again)
    yield from reel.finish()


def _context(poet) -> int:
    """Frames that frame prediction goes on from: the last second, or as near to it as it was trained on."""
    check_task(PREDICT, poet.tasks)
    stride = poet.layout.frame_stride
    second = 1 + math.ceil((poet.geometry.fps - 1) / stride)  # latent frames
    return 1 + (poet.tasks[PREDICT].with_past(second).given - 1) * stride


@dataclass
class _Reel:
    """The end of the video so far: frames to go on from, the last of which may still wait for their sound.

    tail: uint8 (t, h, w, 3), as many frames as any step looks back on. waiting: how many of them are not given out yet.
    """

    poet: object
    make: Callable[..., Media]
    sound: bool
    tail: np.ndarray | None = None
    waiting: int = 0
    frames: int = field(default=0, init=False)  # given out
    samples: int = field(default=0, init=False)

    def add(self, video: np.ndarray, audio: np.ndarray | None, again: int = 0) -> Iterator[Media]:
        """Append frames. audio (c, s): their sound, which begins `again` frames before them; None: made here."""
        clip = self.poet.geometry.frames
        if self.sound and audio is not None:
            shared = min(again, self.waiting)  # the last waiting frames may have their sound from the new clip
            yield from self._voice(shared)
            self._append(video)
            waiting, self.waiting = self.waiting, 0
            audio = np.asarray(audio, np.float32).mean(0, keepdims=True)[:, self._at(again - shared) :]
            yield self._chunk(self.tail[-waiting:], audio)
            return
        for piece in np.array_split(video, range(clip, len(video), clip)):
            self._append(piece)
            yield from (self._voice(self.waiting % clip) if self.sound else self._silent())

    def finish(self) -> Iterator[Media]:
        """What still waits."""
        yield from self._voice(0)

    def _append(self, video: np.ndarray) -> None:
        self.waiting += len(video)
        keep = max(self.waiting, self.poet.geometry.frames)
        self.tail = video if self.tail is None else np.concatenate([self.tail, video])
        self.tail = self.tail[-keep:]

    def _silent(self) -> Iterator[Media]:
        waiting, self.waiting = self.waiting, 0
        if waiting:
            yield self._chunk(self.tail[-waiting:], None)

    def _voice(self, left: int) -> Iterator[Media]:
        """Make sound for the waiting frames but the last `left`, a clip at a time."""
        clip = self.poet.geometry.frames
        while (count := min(clip, self.waiting - left)) > 0:
            stop = len(self.tail) - self.waiting + count
            window = self.tail[
                max(0, stop - clip) : stop
            ]  # frames before complete a short piece, or copies of the first
            window = np.concatenate([np.repeat(window[:1], clip - len(window), 0), window])
            made = self.make(SOUND, Request(video=Media(video=window, fps=self.poet.geometry.fps)))
            self.waiting -= count
            yield self._chunk(window[-count:], made.audio[:, self._at(clip - count) :])

    def _at(self, frames: int) -> int:
        """The sample at which a frame begins."""
        return round(frames / self.poet.geometry.fps * self.poet.geometry.sample_rate)

    def _chunk(self, video: np.ndarray, audio: np.ndarray | None) -> Media:
        """Frames with exactly their sound, counted from the start so that rounding does not add up."""
        geometry, self.frames = self.poet.geometry, self.frames + len(video)
        if audio is not None:
            count = self._at(self.frames) - self.samples
            audio = np.pad(audio[:, :count], ((0, 0), (0, max(0, count - audio.shape[1]))))
            self.samples += count
        return Media(video=video, fps=geometry.fps, audio=audio, sample_rate=geometry.sample_rate)

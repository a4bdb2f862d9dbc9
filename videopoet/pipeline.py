"""VideoPoet: one object that holds the tokenizers and the language model, and makes media."""

import difflib
from collections.abc import Callable, Iterable
from collections.abc import Sequence as Many
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from videopoet import component, hub
from videopoet.conditions.shot import Condition, Shot, keep
from videopoet.data.media import Media, read_audio, read_image, read_media
from videopoet.data.transforms import ResizeCrop, video_to_float, video_to_uint8
from videopoet.models.token_lm import TokenLM
from videopoet.sampling.autoregressive import generate, num_tokens
from videopoet.sampling.conditions import unconditioned
from videopoet.sampling.ranking import Scorer, best, candidate_seeds
from videopoet.sampling.request import Request, requests_of, sound_of
from videopoet.sampling.rules import Draw, Guidance, Temperature
from videopoet.tasks.absent import present
from videopoet.tasks.audio_length import num_audio_frames, num_samples
from videopoet.tasks.base import Example, Layout, Task, read_layout
from videopoet.tasks.registry import TASKS
from videopoet.tokenizers.audio.tokenizer import AudioTokenizer
from videopoet.tokenizers.visual.autoencoder import VideoTokenizer
from videopoet.training import checkpoints
from videopoet.vocabulary import Modality

#: The model that ships with the package.
SHIPPED = Path(__file__).parent / "shipped"

DEFAULT_DRAW = Draw(filters=(Temperature(value=0.8),), guidance=Guidance(text=2.0))
ROWS = 64  # requests or candidates sampled at one time


@dataclass(frozen=True, kw_only=True)
class Geometry:
    """The clip the model makes: frames at fps, pixels, and sound at sample_rate Hz."""

    frames: int
    fps: float
    height: int
    width: int
    sample_rate: int


class VideoPoet:
    """Text, images, video and sound to video with sound.

    poet = VideoPoet.from_pretrained()
    media = poet.generate("text-to-video", [Request(prompt="a red ball falls")])[0]
    write_media("ball.mp4", media)
    """

    def __init__(self, visual: VideoTokenizer, audio: AudioTokenizer, model: TokenLM):
        self.visual, self.audio, self.model = visual, audio, model
        facts = model.metadata
        self.layout = read_layout(facts["layout"])
        self.geometry = Geometry(**{k: facts[k] for k in ("frames", "fps", "height", "width", "sample_rate")})
        check_audio(audio, self.layout, self.geometry)
        for name, tokenizer in (("visual", visual), ("audio", audio)):
            if facts["fingerprints"].get(name) != tokenizer.fingerprint:
                raise ValueError(
                    f"the language model was trained on tokens of the {name} tokenizer "
                    f"{facts['fingerprints'].get(name)}, the one given is {tokenizer.fingerprint}: use files of one run"
                )
        self.tasks: dict[str, Task] = {name: component.instantiate(spec) for name, spec in facts["tasks"].items()}
        self.guidance: dict[str, dict[str, float]] = facts.get("guidance", {})
        streams = facts.get("streams", {})
        self.streams: dict[str, Condition] = {name: component.instantiate(spec) for name, spec in streams.items()}

    @classmethod
    def from_pretrained(cls, folder: str | Path = SHIPPED) -> "VideoPoet":
        """Load `visual.safetensors`, `audio.safetensors` and `lm.safetensors` from a folder; by default the shipped ones.

        A checkpoint of a training of the language model, whatever strategy wrote it, loads too: with the tokenizers that
        its run names, or those beside it.
        """
        folder = Path(folder)
        if checkpoints.is_checkpoint(folder):
            model, files = checkpoints.load(folder, TokenLM)
            where = [folder.parent, SHIPPED]
            visual = checkpoints.find("visual", model.metadata["fingerprints"], files, where)
            audio = checkpoints.find("audio", model.metadata["fingerprints"], files, where)
            return cls(component.load(visual, VideoTokenizer), component.load(audio, AudioTokenizer), model)
        return cls(
            component.load(folder / "visual.safetensors", VideoTokenizer),
            component.load(folder / "audio.safetensors", AudioTokenizer),
            component.load(folder / "lm.safetensors", TokenLM),
        )

    @classmethod
    def from_hub(cls, repo: str, revision: str | None = None) -> "VideoPoet":
        """Download a model that `push_to_hub` wrote, and load it. Nothing else here uses the network."""
        return cls.from_pretrained(hub.download(repo, revision))

    def save_pretrained(self, folder: str | Path, *, measured: dict | None = None) -> None:
        """Write what `from_pretrained` reads, `config.json` with the facts and `README.md`, a model card.

        measured: a report of `videopoet evaluate bounce --out`; what was not measured the card leaves blank.
        """
        hub.save(self, Path(folder), measured)

    def push_to_hub(self, repo: str, *, measured: dict | None = None, private: bool = True) -> str:
        """Upload the same files to `repo` ("user/name") with your Hugging Face login; returns the address."""
        return hub.push(self, repo, measured, private)

    def to(self, device: str | torch.device) -> "VideoPoet":
        for part in (self.visual, self.audio, self.model):
            part.to(device)
        return self

    @property
    def device(self) -> torch.device:
        return next(self.model.parameters()).device

    def generate(
        self,
        task: str | Task,
        requests: list[Request] | None = None,
        *,
        draw: Draw = DEFAULT_DRAW,
        seed: int = 0,
        num_candidates: int = 1,
        scorer: Scorer | None = None,
        progress: Callable[[int], None] | None = None,
        **given,
    ) -> list[Media]:
        """Make one media per request; request i draws from seed + i, alone or in a batch.

        task: a name, or a task such as `TextToVideo()`. In place of a list of requests the fields of one may be given:
        `poet.generate("text-to-video", prompt="...")`.
        draw: how tokens are drawn; guidance that it leaves open is as the model says of the task.
        num_candidates, scorer: make so many of each request at once and return the one that the scorer likes best.
        Text-to-image and audio-to-image give one frame, without sound. Tasks with a past (frame prediction, audio-visual
        continuation) give the given video and what follows it, painting and interpolation the given pixels and the others
        made. A given sound stays where none is made, and given pictures where none are made.
        `progress` is called with the number of tokens each step made.
        Raises ValueError for an unknown or untrained task and for requests that lack what the task needs.
        """
        draw = self.drawn_as(task, draw)
        task, requests = self._task(task), requests_of(requests, given)
        if num_candidates > 1 and scorer is None:
            raise ValueError(f"{num_candidates} candidates need a scorer that chooses between them")
        if check := getattr(scorer, "check", None):
            for request in requests:
                check(request)
        rows = [(r, s) for i, r in enumerate(requests) for s in candidate_seeds(seed + i, num_candidates)]
        media: list[Media] = []
        for start in range(0, len(rows), ROWS):
            part, seeds = zip(*rows[start : start + ROWS])
            fitted = self._fitted(task, part)
            examples = self._examples(fitted, part)
            ids = self._draw(fitted, part, examples, draw, seeds, progress)
            media += self._media(fitted, part, examples, ids)
        if scorer is None:
            return media
        groups = [media[start : start + num_candidates] for start in range(0, len(media), num_candidates)]
        return [best(scorer, request, group) for request, group in zip(requests, groups)]

    def drawn_as(self, task: str | Task, draw: Draw = DEFAULT_DRAW) -> Draw:
        """How a task is drawn when it is asked to be drawn so: the guidance that is left open is the model's."""
        name = task if isinstance(task, str) else next((name for name, each in self.tasks.items() if each == task), "")
        return replace(draw, guidance=draw.guidance.over(Guidance(**self.guidance.get(name, {}))))

    def reads(self, task: str | Task) -> tuple[str, ...]:
        """What the task must be given, see `Task.reads`."""
        return self._task(task).reads(self.layout)

    def num_tokens(self, task: str | Task, requests: Many[Request] = ()) -> int:
        """Tokens that one candidate of one request takes, as `progress` counts them; `requests` may give more of the past."""
        task = self._fitted(self._task(task), requests)
        return num_tokens(task.target(task.blank(self.layout), self.layout))

    def _task(self, task: str | Task) -> Task:
        """A task of the model by its name, or a given one whose class the model was trained on."""
        if isinstance(task, Task):
            name = next((name for name, each in (*TASKS.items(), *self.tasks.items()) if each == task), None)
            if any(type(task) is type(trained) for trained in self.tasks.values()):
                return task
            task = name or type(task).__name__
        check_task(task, self.tasks)
        return self.tasks[task]

    def _draw(
        self,
        task: Task,
        requests: Many[Request],
        examples: Many[Example],
        draw: Draw,
        seeds: int | Many[int],
        progress: Callable[[int], None] | None,
    ) -> dict[Modality, torch.Tensor]:
        last = 0

        def advance(done: int, total: int) -> None:
            nonlocal last
            if progress:
                progress((done - last) * len(examples))
            last = done

        conditions = [task.condition(example, self.layout) for example in examples]
        draw = replace(draw, guidance=draw.guidance.within(present(conditions[0])))
        if Modality.TEXT not in draw.guidance.guided and any(request.negative_prompt for request in requests):
            raise ValueError("a negative prompt works through text guidance, and there is none: set it to other than 1")
        negatives = self.model.text([request.negative_prompt for request in requests])
        return generate(
            self.model,
            conditions,
            unconditioned(conditions, negatives, draw.guidance),
            task.target(task.blank(self.layout), self.layout),
            self.layout.vocabulary,
            draw,
            seeds,
            advance,
        )

    def _fitted(self, task: Task, requests: Many[Request]) -> Task:
        """The task with the past that the shortest of the given videos has, where its past is variable."""
        videos = [r.video.video for r in requests if r.video is not None and r.video.video is not None]
        if not task.past(self.layout):
            return task
        if not videos:
            return task.with_past(task.past(self.layout))
        return task.with_past(1 + (min(map(len, videos)) - 1) // self.layout.frame_stride)

    def _examples(self, task: Task, requests: Many[Request]) -> list[Example]:
        """What is given, as codes: exactly what the task reads is encoded, anything else is blank."""
        readers = {"image": self._read_image, "video": self._read_video, "audio": self._read_audio}
        examples = []
        for request, text in zip(requests, self.model.text([request.prompt for request in requests])):
            example = replace(task.blank(self.layout), text=text, label=text)
            for name in task.reads(self.layout):
                if name in readers:
                    example = readers[name](task, request, example)
                elif name in example.streams:
                    codes = self._codes(self._condition(name, request))
                    example = replace(example, streams={**example.streams, name: codes})
            examples.append(example)
        return examples

    def _read_image(self, task: Task, request: Request, example: Example) -> Example:
        if request.image is None:
            raise ValueError("this task needs an image: the first frame")
        return replace(example, video=self._codes(self._fit(request.image[None])))

    def _read_video(self, task: Task, request: Request, example: Example) -> Example:
        return replace(example, video=self._codes(self._given_frames(task.past(self.layout), request)))

    def _read_audio(self, task: Task, request: Request, example: Example) -> Example:
        """The sound of the whole clip from its start, or of the past up to its end."""
        sound, past = sound_of(request), task.past(self.layout)
        if sound is None:
            raise ValueError("this task needs a sound: a sound file, or a video that has sound")
        frames = self.layout.frames_of(past) or self.geometry.frames
        start, samples = self._samples(len(request.video.video) - frames) if past else 0, self._samples(frames)
        sound = sound[:, start : start + samples]
        if sound.shape[1] < samples:
            rate = self.geometry.sample_rate
            raise ValueError(f"the sound lasts {sound.shape[1] / rate:.2f} s, {samples / rate:.2f} s are needed")
        codes = self.audio.encode(torch.as_tensor(sound, dtype=torch.float32)[None].to(self.device))[0].cpu()
        return replace(example, audio=codes[: self.layout.sound_of(past) or self.layout.audio_frames])

    def _condition(self, name: str, request: Request) -> np.ndarray:
        """The clip of a condition stream, made of the given video as it was made of the clips of the training."""
        if name not in self.streams:
            raise ValueError(f"this model does not say how its stream '{name}' is made: export it again")
        return self.streams[name](Shot(video=self._given_frames(0, request), fps=self.geometry.fps))

    def _given_frames(self, past: int, request: Request) -> np.ndarray:
        """The frames of the first clip of the given video, or its last frames that make `past` latent frames."""
        if request.video is None or request.video.video is None:
            raise ValueError("this task needs a video")
        frames = self._fit(request.video.video)
        needed = self.layout.frames_of(past) or self.geometry.frames
        if len(frames) < needed:
            raise ValueError(
                f"the video has {len(frames)} frames at {self.geometry.fps:g} fps, {needed} are needed: "
                f"give at least {needed / self.geometry.fps:.2f} seconds"
            )
        return frames[-needed:] if past else frames[:needed]

    def _fit(self, video: np.ndarray) -> np.ndarray:
        return ResizeCrop(height=self.geometry.height, width=self.geometry.width)(video)

    def _codes(self, video: np.ndarray) -> torch.Tensor:
        return self.visual.encode(video_to_float(video)[None].to(self.device))[0].cpu()

    def _samples(self, frames: int) -> int:
        """Audio samples under so many frames."""
        return num_samples(frames, self.geometry.fps, self.geometry.sample_rate)

    @torch.inference_mode()
    def _media(
        self, task: Task, requests: Many[Request], examples: Many[Example], ids: dict[Modality, torch.Tensor]
    ) -> list[Media]:
        rows = [{modality: drawn[i].cpu() for modality, drawn in ids.items()} for i in range(len(requests))]
        whole = [task.complete(example, row, self.layout) for example, row in zip(examples, rows)]
        writes, past = task.writes(self.layout), self.layout.frames_of(task.past(self.layout))
        videos = [None if r.video is None or r.video.video is None else self._fit(r.video.video) for r in requests]
        if "video" in writes:
            made = video_to_uint8(self.visual.decode(torch.stack([e.video for e in whole]).to(self.device)))[:, past:]
            if past:
                videos = [np.concatenate([v, m]) for v, m in zip(videos, made)]
            else:
                kept = [self.streams[name] for name in task.reads(self.layout) if name in self.streams]
                videos = [keep(m, v, kept) for m, v in zip(made, videos)]
        else:
            videos = [None if video is None else video[: self.geometry.frames] for video in videos]
        timed = set(task.reads(self.layout)) - {"text", "label", "image"}  # else the clip has nothing to do with a video
        picture = all(video is not None and len(video) == 1 for video in videos)
        sounds = [sound_of(request) if timed and not picture else None for request in requests]
        if "audio" in writes:
            codes = torch.stack([example.audio for example in whole]).to(self.device)
            made = self.audio.decode(codes).float().cpu().numpy()[:, :, self._samples(past) :]
            sounds = [np.concatenate([s[:, : self._samples(len(v) - self.geometry.frames + past)], m], axis=1)
                      for s, v, m in zip(sounds, videos, made)] if past else list(made)  # fmt: skip
        return [self._lined_up(video, sound) for video, sound in zip(videos, sounds)]

    def _lined_up(self, video: np.ndarray | None, sound: np.ndarray | None) -> Media:
        """Pictures with the sound of their span: cut, or silence under the end."""
        if sound is not None:
            samples = self._samples(self.geometry.frames if video is None else len(video))
            sound = np.pad(sound[:, :samples], ((0, 0), (0, max(0, samples - sound.shape[1]))))
        return Media(video=video, fps=self.geometry.fps, audio=sound, sample_rate=self.geometry.sample_rate)

    @torch.inference_mode()
    def reconstruct(self, media: list[Media]) -> list[Media]:
        """Clips through both tokenizers and back: what no language model over these tokens can beat."""
        video = torch.stack([video_to_float(self._fit(m.video)) for m in media]).to(self.device)
        frames = video_to_uint8(self.visual.decode(self.visual.encode(video)))
        audio = [None] * len(media)
        if all(m.audio is not None for m in media):
            sound = torch.stack([torch.as_tensor(m.audio, dtype=torch.float32) for m in media]).to(self.device)
            back = self.audio.decode(self.audio.encode(sound)).cpu()
            audio = list(torch.nn.functional.pad(back, (0, sound.shape[-1] - back.shape[-1])).numpy())
        return [replace(m, video=f, audio=a) for m, f, a in zip(media, frames, audio)]

    def read_video(self, path: str | Path) -> Media:
        """A video file at the model's frame rate, size and sample rate. Raises ValueError where it cannot be read."""
        if not Path(path).is_file():
            raise ValueError(f"no file at {path}")
        size = ResizeCrop(height=self.geometry.height, width=self.geometry.width)
        return read_media(path, fps=self.geometry.fps, sample_rate=self.geometry.sample_rate, resize=size)

    def read_audio(self, path: str | Path) -> Media:
        """The sound of any file at the model's sample rate. Raises ValueError where there is none."""
        if not Path(path).is_file():
            raise ValueError(f"no file at {path}")
        return read_audio(path, sample_rate=self.geometry.sample_rate)

    def read_image(self, path: str | Path) -> np.ndarray:
        """An image file as uint8 (h, w, 3). Raises ValueError where it cannot be read."""
        if not Path(path).is_file():
            raise ValueError(f"no file at {path}")
        return read_image(path)


def check_audio(audio: AudioTokenizer, layout: Layout, geometry: Geometry) -> None:
    """Raises ValueError, naming both numbers, where the tokenizer does not make the audio tokens of the layout."""
    vocabulary = layout.vocabulary
    audio.must_match(
        sample_rate=geometry.sample_rate, levels=vocabulary.audio_levels, codebook_size=vocabulary.audio_codes
    )
    frames = num_audio_frames(geometry.frames, geometry.fps, geometry.sample_rate, audio.hop)
    if layout.audio_frames not in (0, frames):
        raise ValueError(
            f"the audio tokenizer makes {frames} frames of a clip (hop {audio.hop}), {layout.audio_frames} are needed: "
            "use the one of the same run"
        )


def check_task(task: str, trained: Iterable[str]) -> None:
    """Raises ValueError naming the nearest task for an unknown one, and the trained ones for an untrained one."""
    if task not in TASKS and task not in trained:
        near = difflib.get_close_matches(task, TASKS, 1)
        hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(TASKS)}"
        raise ValueError(f"no task '{task}': {hint}")
    if task not in trained:
        raise ValueError(
            f"this model was not trained for {task}, only for {', '.join(trained)}: train it or name another"
        )

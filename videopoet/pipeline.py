"""VideoPoet: one object that holds the tokenizers and the language model, and makes media."""

import dataclasses
import difflib
from collections.abc import Callable, Iterable
from collections.abc import Sequence as Many
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from videopoet import component, hub
from videopoet.data.media import Media, read_image, read_media
from videopoet.data.transforms import ResizeCrop, video_to_float, video_to_uint8
from videopoet.models.token_lm import TokenLM
from videopoet.sampling.autoregressive import generate, num_tokens
from videopoet.sampling.conditions import present, unconditioned
from videopoet.sampling.ranking import Scorer, best, candidate_seeds
from videopoet.sampling.request import Request
from videopoet.sampling.rules import Draw, Guidance, Temperature
from videopoet.tasks.audio_length import num_samples
from videopoet.tasks.base import Example, Task, read_layout
from videopoet.tasks.frame_prediction import FramePrediction
from videopoet.tasks.image_to_video import ImageToVideo
from videopoet.tasks.text_to_video import TextToVideo
from videopoet.tasks.video_to_audio import VideoToAudio
from videopoet.tokenizers.audio.tokenizer import AudioTokenizer
from videopoet.tokenizers.visual.autoencoder import VideoTokenizer
from videopoet.vocabulary import Modality

#: The model that ships with the package.
SHIPPED = Path(__file__).parent / "shipped"

#: Names of the tasks, as in the mixture's YAML and on the command line.
TASKS: dict[str, Task] = {
    "text-to-video": TextToVideo(),
    "text-to-image": TextToVideo(image=True),
    "image-to-video": ImageToVideo(),
    "frame-prediction": FramePrediction(),
    "video-to-audio": VideoToAudio(),
}

DEFAULT_DRAW = Draw(filters=(Temperature(value=0.9),), guidance=Guidance(text=2.0))
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
        for name, tokenizer in (("visual", visual), ("audio", audio)):
            if facts["fingerprints"].get(name) != tokenizer.fingerprint:
                raise ValueError(
                    f"the language model was trained on tokens of the {name} tokenizer "
                    f"{facts['fingerprints'].get(name)}, the one given is {tokenizer.fingerprint}: use files of one run"
                )
        self.layout = read_layout(facts["layout"])
        self.geometry = Geometry(**{k: facts[k] for k in ("frames", "fps", "height", "width", "sample_rate")})
        self.tasks: dict[str, Task] = {name: component.instantiate(spec) for name, spec in facts["tasks"].items()}

    @classmethod
    def from_pretrained(cls, folder: str | Path = SHIPPED) -> "VideoPoet":
        """Load `visual.safetensors`, `audio.safetensors` and `lm.safetensors` from a folder; by default the shipped ones."""
        folder = Path(folder)
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
        num_candidates, scorer: make so many of each request at once and return the one that the scorer likes best.
        Text-to-image gives one frame; frame prediction the given video and the frames after it; video-to-audio the
        given video with its sound. `progress` is called with the number of tokens each step made.
        Raises ValueError for an unknown or untrained task and for requests that lack what the task needs.
        """
        task, requests = self._task(task), _requests(requests, given)
        if num_candidates > 1 and scorer is None:
            raise ValueError(f"{num_candidates} candidates need a scorer that chooses between them")
        rows = [(r, s) for i, r in enumerate(requests) for s in candidate_seeds(seed + i, num_candidates)]
        media: list[Media] = []
        for start in range(0, len(rows), ROWS):
            part, seeds = zip(*rows[start : start + ROWS])
            ids = self._draw(task, part, draw, seeds, progress)
            media += self._media(task, part, ids)
        if scorer is None:
            return media
        groups = [media[start : start + num_candidates] for start in range(0, len(media), num_candidates)]
        return [best(scorer, request, group) for request, group in zip(requests, groups)]

    def num_tokens(self, task: str | Task) -> int:
        """Tokens that one candidate of one request takes, as `progress` counts them."""
        return num_tokens(self._task(task).target(Example.blank(self.layout), self.layout))

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
        self, task: Task, requests: Many[Request], draw: Draw, seeds: int | Many[int], progress
    ) -> dict[Modality, torch.Tensor]:
        blank = Example.blank(self.layout)
        texts = self.model.text([request.prompt for request in requests])
        examples = [self._example(task, r, replace(blank, text=t)) for r, t in zip(requests, texts)]
        last = 0

        def advance(done: int, total: int) -> None:
            nonlocal last
            if progress:
                progress((done - last) * len(requests))
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
            task.target(blank, self.layout),
            self.layout.vocabulary,
            draw,
            seeds,
            advance,
        )

    def _example(self, task: Task, request: Request, example: Example) -> Example:
        """The given pixels as codes. Only what a task conditions on is encoded."""
        if isinstance(task, ImageToVideo):
            if request.image is None:
                raise ValueError("image-to-video needs an image")
            return replace(example, video=self._codes(self._fit(request.image[None])))
        if isinstance(task, FramePrediction | VideoToAudio):
            if request.video is None or request.video.video is None:
                raise ValueError("this task needs a video")
            past = isinstance(task, FramePrediction)
            needed = 1 + (task.given - 1) * self.layout.frame_stride if past else self.geometry.frames
            frames = self._fit(request.video.video)
            if len(frames) < needed:
                raise ValueError(
                    f"the video has {len(frames)} frames at {self.geometry.fps:g} fps, {needed} are needed: "
                    f"give at least {needed / self.geometry.fps:.2f} seconds"
                )
            return replace(example, video=self._codes(frames[-needed:] if past else frames[:needed]))
        return example

    def _fit(self, video: np.ndarray) -> np.ndarray:
        return ResizeCrop(height=self.geometry.height, width=self.geometry.width)(video)

    def _codes(self, video: np.ndarray) -> torch.Tensor:
        return self.visual.encode(video_to_float(video)[None].to(self.device))[0].cpu()

    @torch.inference_mode()
    def _media(self, task: Task, requests: list[Request], ids: dict[Modality, torch.Tensor]) -> list[Media]:
        audio = [None] * len(requests)
        if Modality.AUDIO in ids:
            samples = num_samples(self.geometry.frames, self.geometry.fps, self.geometry.sample_rate)
            sound = self.audio.decode(self.layout.audio_codes(ids[Modality.AUDIO])).float().cpu().numpy()
            audio = list(np.pad(sound, ((0, 0), (0, 0), (0, samples - sound.shape[-1]))))
        if Modality.VISUAL in ids:
            codes = self.layout.visual_codes(ids[Modality.VISUAL])
            videos = self._frames(task, requests, codes)
        else:
            videos = [self._fit(request.video.video)[: self.geometry.frames] for request in requests]
        geometry = self.geometry
        if isinstance(task, FramePrediction):
            audio = [self._given_sound(request.video, len(video)) for request, video in zip(requests, videos)]
        return [
            Media(video=video, fps=geometry.fps, audio=sound, sample_rate=geometry.sample_rate)
            for video, sound in zip(videos, audio)
        ]

    def _given_sound(self, media: Media, frames: int) -> np.ndarray | None:
        """The sound of the given video, then silence under the frames that were added."""
        if media.audio is None:
            return None
        samples = num_samples(frames, self.geometry.fps, self.geometry.sample_rate)
        sound = media.audio[:, :samples]
        return np.pad(sound, ((0, 0), (0, samples - sound.shape[1])))

    def _frames(self, task: Task, requests: list[Request], codes: torch.Tensor) -> list[np.ndarray]:
        """Codes -> uint8 frames. Predicted frames are decoded after the codes of the past and appended to the given."""
        if not isinstance(task, FramePrediction):
            return list(video_to_uint8(self.visual.decode(codes)))
        blank = Example.blank(self.layout)
        past = torch.stack([self._example(task, request, blank).video for request in requests]).to(codes.device)
        made = video_to_uint8(self.visual.decode(torch.cat([past, codes], dim=1)))
        new = made[:, 1 + (task.given - 1) * self.layout.frame_stride :]
        return [np.concatenate([self._fit(r.video.video), frames]) for r, frames in zip(requests, new)]

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

    def read_image(self, path: str | Path) -> np.ndarray:
        """An image file as uint8 (h, w, 3). Raises ValueError where it cannot be read."""
        if not Path(path).is_file():
            raise ValueError(f"no file at {path}")
        return read_image(path)


def _requests(requests: list[Request] | None, given: dict) -> list[Request]:
    """The requests, or the one whose fields are given. Raises ValueError for neither, both, and what is no request."""
    fields = [field.name for field in dataclasses.fields(Request)]
    if unknown := [name for name in given if name not in fields]:
        raise ValueError(f"a request has no '{unknown[0]}', it has {', '.join(fields)}")
    if (requests is None) != bool(given):
        raise ValueError("give a list of requests, or the fields of one: poet.generate(task, prompt='...')")
    requests = [Request(**given)] if requests is None else list(requests)
    for request in requests:
        check_request(request)
    return requests


def check_request(request: Request) -> None:
    """Raises ValueError where a request is not what it should be."""
    if not isinstance(request, Request) or not isinstance(request.prompt, str):
        raise ValueError("a prompt is a text: pass a list of Request(prompt='...')")
    image = request.image
    if image is not None and not (isinstance(image, np.ndarray) and image.dtype == np.uint8 and image.ndim == 3):
        raise ValueError("an image is an array uint8 (h, w, 3): read a file with poet.read_image(path)")
    if request.video is not None and not isinstance(request.video, Media):
        raise ValueError("a video is a Media: read a file with poet.read_video(path)")


def check_task(task: str, trained: Iterable[str]) -> None:
    """Raises ValueError naming the nearest task for an unknown one, and the trained ones for an untrained one."""
    if task not in TASKS:
        near = difflib.get_close_matches(task, TASKS, 1)
        hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(TASKS)}"
        raise ValueError(f"no task '{task}': {hint}")
    if task not in trained:
        raise ValueError(
            f"this model was not trained for {task}, only for {', '.join(trained)}: train it or name another"
        )

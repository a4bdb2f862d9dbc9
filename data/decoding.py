"""Opening a media file: pictures with their times, and sound, in the order the file interleaves them."""

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path

import av
from av import AudioFrame, VideoFrame
from av.error import FFmpegError
from av.video.stream import VideoStream
from PIL import Image

SEEKING = (0.0, 1.0, 10.0, float("inf"))  # seconds before; without an index (MPEG-TS), seeking may lie too far on
SMALL = 640 * 480  # pixels; below this, starting decoder threads costs more than it saves


@dataclass(frozen=True, kw_only=True)
class Picture:
    """One decoded picture and the time it goes on show."""

    frame: VideoFrame
    second: float
    duration: float  # seconds; 0 where the file does not say


@dataclass(frozen=True, kw_only=True)
class Source:
    """An open file; iterate it once."""

    items: Iterator[Picture | AudioFrame]
    frame_rate: float | None  # frames per second; None where only the frame times can say
    has_audio: bool
    pixel_aspect: float = 1.0  # width of a pixel over its height
    start: float | None = None  # second of the file's clock that was asked for; None for the beginning


@dataclass(frozen=True, kw_only=True)
class Facts:
    """What a file says of itself before anything is decoded; None is what it does not say or hold."""

    width: int | None  # pixels, as stored
    height: int | None
    seconds: float | None
    has_audio: bool


def read_facts(path: str | os.PathLike) -> Facts:
    """The facts of any file of pictures or sound; ValueError, one line, if it cannot be read."""
    path = Path(path)
    with _readable(path):
        if _is_webp(path):
            with Image.open(path) as image:
                return Facts(width=image.width, height=image.height, seconds=None, has_audio=False)
        with av.open(str(path), metadata_errors="replace") as container:
            pictures, sound = _video_stream(container), container.streams.best("audio")
            stream = pictures or sound
            seconds = None if container.duration is None else container.duration / av.time_base
            if seconds is None and stream is not None and stream.duration:
                seconds = float(stream.duration * stream.time_base)
            return Facts(
                width=pictures and pictures.width,
                height=pictures and pictures.height,
                seconds=seconds,
                has_audio=sound is not None,
            )


@contextmanager
def open_source(
    path: str | os.PathLike, *, video: bool = True, audio: bool = True, start: float = 0.0
) -> Iterator[Source]:
    """Open `path`, to be decoded from `start` seconds on; pictures begin with the one then on show, sound a little before.

    Whatever goes wrong here or while decoding becomes one ValueError that names the file and cause.
    """
    path = Path(path)
    with _readable(path):
        if _is_webp(path):
            with Image.open(path) as image:
                yield _from(start, _pillow_source(image)) if start else _pillow_source(image)
        else:
            with av.open(str(path), metadata_errors="replace") as container:
                second = (container.start_time or 0) / av.time_base + start
                source = _av_source(path, container, video=video, audio=audio, second=second if start else None)
                yield _from(second, source) if start else source


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    """Whatever goes wrong inside becomes one ValueError that names the file and the cause."""
    if not path.is_file():
        raise ValueError(f"{path}: {'is a folder, not a file' if path.is_dir() else 'no such file'}")
    if path.stat().st_size == 0:
        raise ValueError(f"{path}: the file is empty (0 bytes)")
    try:
        yield
    except (FFmpegError, OSError, SyntaxError, EOFError, Image.DecompressionBombError) as error:
        raise ValueError(f"{path}: cannot be read ({_cause(error)})") from error


def _from(second: float, source: Source) -> Source:
    return replace(source, items=_begun(second, source.items), start=second)


def _begun(second: float, items: Iterator[Picture | AudioFrame]) -> Iterator[Picture | AudioFrame]:
    """The items from `second` on, the picture then on show as if it began there; the sound before is let through."""
    held: Picture | None = None
    begun = False
    for item in items:
        if not begun and isinstance(item, Picture):
            if item.second <= second:
                held = item
                continue
            if held is not None:
                yield replace(held, second=second)
            begun = True
        yield item
    if held is not None and not begun and held.second + (held.duration or 1.0) > second:
        yield replace(held, second=second, duration=max(0.0, held.second + held.duration - second))


def _cause(error: BaseException) -> str:
    text = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return " ".join(text.split())


def _is_webp(path: Path) -> bool:
    # FFmpeg's own reader does not animate webp; Pillow's does.
    with path.open("rb") as file:
        head = file.read(12)
    return head[:4] == b"RIFF" and head[8:] == b"WEBP"


def _pillow_source(image: Image.Image) -> Source:
    def pictures() -> Iterator[Picture]:
        second = 0.0
        for index in range(getattr(image, "n_frames", 1)):
            image.seek(index)
            image.load()
            duration = image.info.get("duration", 0) / 1000  # stored in milliseconds
            yield Picture(frame=VideoFrame.from_image(image.convert("RGB")), second=second, duration=duration)
            second += duration or 0.1  # browsers show frames without a duration for 100 ms

    return Source(items=pictures(), frame_rate=None, has_audio=False)


def _av_source(
    path: Path, container: av.container.InputContainer, *, video: bool, audio: bool, second: float | None
) -> Source:
    pictures = _video_stream(container) if video else None
    if video and pictures is None:
        raise ValueError(f"{path}: holds no video" + (", only sound" if container.streams.audio else ""))
    sound = container.streams.best("audio") if audio else None
    if pictures is not None:
        if pictures.width * pictures.height > SMALL:
            pictures.thread_type = "AUTO"
        else:
            pictures.codec_context.thread_count = 1
    streams = [stream for stream in (pictures, sound) if stream is not None]
    aspect = float(pictures.sample_aspect_ratio or 1) if pictures is not None else 1.0
    return Source(
        items=_decode(container, streams) if second is None else _decode_from(second, container, streams),
        frame_rate=_frame_rate(pictures) if pictures is not None else None,
        has_audio=sound is not None,
        pixel_aspect=aspect if 0.1 < aspect < 10 else 1.0,
    )


def _video_stream(container: av.container.InputContainer) -> VideoStream | None:
    # A cover picture in a music file is stored as a video stream.
    streams = [s for s in container.streams.video if not s.disposition & av.stream.Disposition.attached_pic]
    best = container.streams.best("video")
    return best if best in streams else next(iter(streams), None)


def _frame_rate(stream: VideoStream) -> float | None:
    """Nominal rate; the average where the nominal one is only the clock of a variable-rate file."""
    nominal = float(stream.guessed_rate or 0)
    average = float(stream.average_rate or 0)
    if average and not 0.67 < nominal / average < 1.5:
        return average
    return nominal or None


def _decode_from(
    second: float, container: av.container.InputContainer, streams: list
) -> Iterator[Picture | AudioFrame]:
    """What is decoded from the last key frame before `second` of the file's clock on."""
    wanted = Picture if any(stream.type == "video" for stream in streams) else AudioFrame
    for margin in SEEKING:
        with suppress(FFmpegError, OSError):  # what cannot be sought is decoded from its beginning
            container.seek(int(max(0.0, second - margin) * av.time_base))
        items, first, time = _decode(container, streams), [], None
        for item in items:
            first.append(item)
            if isinstance(item, wanted):
                time = item.second if wanted is Picture else item.time
                break
        if time is None or time <= second or margin == SEEKING[-1]:
            yield from chain(first, items)
            return


def _decode(container: av.container.InputContainer, streams: list) -> Iterator[Picture | AudioFrame]:
    if not streams:  # demuxing none would mean all
        return
    second, step = 0.0, 0.0
    for packet in container.demux(streams):
        for frame in packet.decode():
            if isinstance(frame, AudioFrame):
                yield frame
                continue
            if frame.time is not None:
                second = frame.time
            else:  # raw streams carry no times
                second += step
            duration = float(frame.duration * frame.time_base) if frame.duration and frame.time_base else 0.0
            step = duration or 1 / float(packet.stream.average_rate or 25)
            yield Picture(frame=frame, second=second, duration=duration)

"""Every task by name: as in the mixture's YAML, in `VideoPoet.generate` and on the command line."""

from videopoet.tasks.audio_to_video import AudioToVideo
from videopoet.tasks.audio_visual_continuation import AudioVisualContinuation
from videopoet.tasks.base import Task
from videopoet.tasks.class_conditional import ClassFramePrediction, ClassToVideo
from videopoet.tasks.denoise import Denoise
from videopoet.tasks.frame_interpolation import FrameInterpolation
from videopoet.tasks.frame_prediction import FramePrediction
from videopoet.tasks.image_to_video import ImageToVideo
from videopoet.tasks.painting import Painting
from videopoet.tasks.spans import Blocks, LatentFrames, Runs, Suffix
from videopoet.tasks.stylization import Stylization
from videopoet.tasks.text_to_video import TextToVideo
from videopoet.tasks.unconditional import Unconditional
from videopoet.tasks.video_to_audio import VideoToAudio

TASKS: dict[str, Task] = {
    "text-to-video": TextToVideo(),
    "text-to-image": TextToVideo(image=True),
    "image-to-video": ImageToVideo(),
    "frame-prediction": FramePrediction(),
    "video-to-audio": VideoToAudio(),
    "unconditional": Unconditional(),
    "frame-interpolation": FrameInterpolation(),
    "inpainting-central": Painting(stream="inpainting_central"),
    "inpainting-dynamic": Painting(stream="inpainting_dynamic"),
    "outpainting-central": Painting(stream="outpainting_central"),
    "outpainting-vertical": Painting(stream="outpainting_vertical"),
    "outpainting-horizontal": Painting(stream="outpainting_horizontal"),
    "outpainting-dynamic": Painting(stream="outpainting_dynamic"),
    "stylization": Stylization(),
    "stylization-of-image": Stylization(image=True),
    "audio-to-video": AudioToVideo(),
    "audio-to-image": AudioToVideo(image=True),
    "audio-visual-continuation": AudioVisualContinuation(),
    "class-to-video": ClassToVideo(),
    "class-frame-prediction": ClassFramePrediction(),
    # UL2's R, S and X (Table 1 there), and two of our own over the lattice. A mixture may hold more of them, each with
    # its own spans: see `configs/mixture/base.yaml`.
    "denoise-r": Denoise(spans=Runs(mean=3, rate=0.15)),
    "denoise-s": Denoise(spans=Suffix(rate=0.25)),
    "denoise-x": Denoise(spans=Runs(mean=64, rate=0.5)),
    "denoise-frames": Denoise(spans=LatentFrames(rate=0.4)),
    "denoise-blocks": Denoise(spans=Blocks(frames=2, rows=4, columns=4, rate=0.5)),
    "denoise-audio": Denoise(stream="audio", spans=Runs(mean=8, rate=0.5)),
}

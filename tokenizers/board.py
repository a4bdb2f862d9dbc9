"""Videos in TensorBoard, as animated GIFs, without a video package."""

import io

from PIL import Image
from torch import Tensor
from torch.utils.tensorboard import SummaryWriter
from torch.utils.tensorboard.summary import Summary


def add_video(board: SummaryWriter, tag: str, video: Tensor, step: int, fps: float = 8.0) -> None:
    """Write `video`, float (3, t, h, w) in [0, 1], under `tag`; TensorBoard plays it in the image tab."""
    frames = (video.permute(1, 2, 3, 0).clamp(0, 1) * 255).byte().cpu().numpy()
    images, file = [Image.fromarray(frame) for frame in frames], io.BytesIO()
    images[0].save(file, "GIF", save_all=True, append_images=images[1:], duration=round(1000 / fps), loop=0)
    image = Summary.Image(
        height=frames.shape[1], width=frames.shape[2], colorspace=3, encoded_image_string=file.getvalue()
    )
    board._get_file_writer().add_summary(Summary(value=[Summary.Value(tag=tag, image=image)]), step)

"""Pictures, videos, sounds and words for a logger: TensorBoard's, or one that has Weights & Biases' methods."""

from torch import Tensor

from videopoet.tokenizers.board import add_video


class MediaLog:
    """Writes to one logger; a logger that takes no media gets none.

    TensorBoard is known by its writer's `add_image`, Weights & Biases by `WandbLogger.log_video`.
    """

    def __init__(self, logger):
        self.logger = logger
        self.board = logger.experiment if hasattr(logger.experiment, "add_image") else None
        self.tracks = self.board is None and hasattr(logger, "log_video")

    def video(self, tag: str, video: Tensor, step: int, fps: float) -> None:
        """float (3, t, h, w) in [0, 1]."""
        if self.board is not None:
            add_video(self.board, tag, video, step, fps)
        elif self.tracks:
            frames = (video.clamp(0, 1) * 255).byte().permute(1, 0, 2, 3).cpu().numpy()
            self.logger.log_video(tag, [frames], step, fps=[round(fps)], format=["gif"])

    def image(self, tag: str, image: Tensor, step: int) -> None:
        """float (3, h, w) in [0, 1]."""
        if self.board is not None:
            self.board.add_image(tag, image.clamp(0, 1), step)
        elif self.tracks:
            self.logger.log_image(tag, [image.clamp(0, 1).permute(1, 2, 0).cpu().numpy()], step)

    def sound(self, tag: str, sound: Tensor, step: int, sample_rate: int) -> None:
        """float (s,) in [-1, 1]."""
        if self.board is not None:
            self.board.add_audio(tag, sound, step, sample_rate)
        elif self.tracks:
            self.logger.log_audio(tag, [sound.cpu().numpy()], step, sample_rate=[sample_rate])

    def words(self, tag: str, words: str, step: int) -> None:
        if self.board is not None:
            self.board.add_text(tag, words, step)
        elif self.tracks:
            self.logger.log_text(tag, columns=["text"], data=[[words]], step=step)

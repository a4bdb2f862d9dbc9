"""Training of a video tokenizer: reconstruction, commitment and entropy, as a LightningModule."""

import lightning
import torch
from torch import Tensor
from torch.optim.lr_scheduler import LambdaLR

from videopoet.tokenizers.board import add_video
from videopoet.tokenizers.schedule import warmup_cosine
from videopoet.tokenizers.visual.autoencoder import VideoTokenizer
from videopoet.tokenizers.visual.losses import PixelLoss


class VideoTokenizerTraining(lightning.LightningModule):
    """Adam with beta1 = 0, linear warm-up and cosine decay (MAGVIT-v2, App. A.2).

    Batches have a field `video`, float (b, 3, t, h, w) in [-1, 1]; an image is a clip of one frame.
    """

    component = "tokenizer"  # the part that is exported

    def __init__(
        self,
        tokenizer: VideoTokenizer,
        loss: PixelLoss,
        learning_rate: float = 1e-4,
        betas: tuple[float, float] = (0.0, 0.99),
        warmup_steps: int = 1000,
    ):
        super().__init__()
        self.tokenizer, self.pixel_loss = tokenizer.to(memory_format=torch.channels_last_3d), loss
        self.learning_rate, self.betas, self.warmup_steps = learning_rate, betas, warmup_steps

    def training_step(self, batch, index: int) -> Tensor:
        reconstruction = self.tokenizer(batch.video)
        pixels = self.pixel_loss(reconstruction.video, batch.video)
        self.log("train/pixels", pixels, prog_bar=True)
        self.log_dict({f"train/{name}": value for name, value in reconstruction.metrics.items()})
        loss = pixels + reconstruction.loss
        self.log("train/loss", loss)
        return loss

    def validation_step(self, batch, index: int) -> None:
        reconstruction = self.tokenizer(batch.video)
        video = reconstruction.video.float().clamp(-1, 1)
        error = (video - batch.video).square().mean(dim=(1, 2, 3, 4)) / 4  # on [0, 1]
        self.log("validation/psnr", (-10 * error.clamp_min(1e-10).log10()).mean(), prog_bar=True)  # dB
        self.log("validation/codes_used", float(reconstruction.codes.unique().numel()))
        if index == 0 and self.logger is not None:
            self._show(batch.video[:4], video[:4])

    def _show(self, video: Tensor, reconstruction: Tensor) -> None:
        """Originals above reconstructions, as a picture (first, middle, last frame) and as a video."""
        both = torch.cat([torch.cat(list(video), -1), torch.cat(list(reconstruction), -1)], -2).float().cpu() / 2 + 0.5
        frames = both.shape[1]
        rows = torch.cat([both[:, i] for i in sorted({0, frames // 2, frames - 1})], -2)
        self.logger.experiment.add_image("reconstruction", rows, self.global_step)
        add_video(self.logger.experiment, "reconstruction_video", both, self.global_step)

    def configure_optimizers(self):
        optimizer = torch.optim.Adam(self.tokenizer.parameters(), self.learning_rate, self.betas)
        schedule = LambdaLR(optimizer, lambda step: warmup_cosine(step, self.warmup_steps, self.trainer.max_steps))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

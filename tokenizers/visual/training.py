"""Training of a video tokenizer: reconstruction, commitment, entropy and an adversary, as a LightningModule."""

import torch
from torch import Tensor

from videopoet.tokenizers.board import add_video
from videopoet.tokenizers.training import TokenizerTraining
from videopoet.tokenizers.visual.adversarial import Adversarial
from videopoet.tokenizers.visual.autoencoder import VideoTokenizer
from videopoet.tokenizers.visual.losses import PixelLoss, ReconstructionLoss


class VideoTokenizerTraining(TokenizerTraining):
    """Adam with beta1 = 0, linear warm-up and cosine decay (MAGVIT-v2, App. A.2), as `TokenizerTraining` steps it.

    Batches have a field `video`, float (b, 3, t, h, w) in [-1, 1]; an image is a clip of one frame, for the adversary
    too.
    """

    def __init__(
        self,
        tokenizer: VideoTokenizer,
        loss: PixelLoss | ReconstructionLoss,
        learning_rate: float = 1e-4,
        betas: tuple[float, float] = (0.0, 0.99),
        warmup_steps: int = 1000,
        adversarial: Adversarial | None = None,
    ):
        tokenizer = tokenizer.to(memory_format=torch.channels_last_3d)
        adversarial = None if adversarial is None else adversarial.to(memory_format=torch.channels_last_3d)
        super().__init__(tokenizer, adversarial, learning_rate, betas, warmup_steps)
        self.loss = ReconstructionLoss(loss) if isinstance(loss, PixelLoss) else loss

    def setup(self, stage: str) -> None:
        """Raises ValueError where the clips are sound alone."""
        super().setup(stage)
        if not getattr(getattr(self.trainer, "datamodule", None), "has_video", True):
            raise ValueError("the shards hold sound alone: build them without --sound-seconds to train on pictures")

    def training_step(self, batch, index: int) -> Tensor | None:
        made, step = self.tokenizer(batch.video), self.global_step
        distance = self.loss(made.video, batch.video, step)
        loss = distance.total + made.loss
        self._log(distance.parts, made.metrics, {"loss": loss})

        def tokenizer() -> Tensor:
            if not self.judged:
                return loss
            cost = self.adversarial.generator_cost(made.video, distance.total, self.tokenizer)
            self._log(cost.metrics)
            return loss + cost.loss

        def discriminator() -> Tensor:
            cost = self.adversarial.discriminator_cost(made.video, batch.video, step)
            self._log(cost.metrics)
            return cost.loss

        return self.descend(index, tokenizer, discriminator)

    def _log(self, *groups: dict[str, Tensor]) -> None:
        for name, value in {name: value for group in groups for name, value in group.items()}.items():
            self.log(f"train/{name}", value, prog_bar=name in ("pixels", "accuracy"))

    def validation_step(self, batch, index: int) -> None:
        reconstruction = self.tokenizer(batch.video)
        video = reconstruction.video.float().clamp(-1, 1)
        error = (video - batch.video).square().mean(dim=(1, 2, 3, 4)) / 4  # on [0, 1]
        self.log("validation/psnr", (-10 * error.clamp_min(1e-10).log10()).mean(), prog_bar=True)  # dB
        self.log("validation/codes_used", float(reconstruction.codes.unique().numel()))
        parts = self.loss(video, batch.video, index).parts
        self.log_dict({f"validation/{name}": value for name, value in parts.items()})
        if index == 0 and self.logger is not None:
            self._show(batch.video[:4], video[:4])

    def _show(self, video: Tensor, reconstruction: Tensor) -> None:
        """Originals above reconstructions, as a picture (first, middle, last frame) and as a video."""
        both = torch.cat([torch.cat(list(video), -1), torch.cat(list(reconstruction), -1)], -2).float().cpu() / 2 + 0.5
        frames = both.shape[1]
        rows = torch.cat([both[:, i] for i in sorted({0, frames // 2, frames - 1})], -2)
        self.logger.experiment.add_image("reconstruction", rows, self.global_step)
        add_video(self.logger.experiment, "reconstruction_video", both, self.global_step)

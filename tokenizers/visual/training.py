"""Training of a video tokenizer: reconstruction, commitment, entropy and an adversary, as a LightningModule."""

import lightning
import torch
from torch import Tensor, nn
from torch.optim import Adam, Optimizer
from torch.optim.lr_scheduler import LambdaLR

from videopoet.tokenizers.board import add_video
from videopoet.tokenizers.schedule import warmup_cosine
from videopoet.tokenizers.visual.adversarial import Adversarial
from videopoet.tokenizers.visual.autoencoder import VideoTokenizer
from videopoet.tokenizers.visual.losses import PixelLoss, ReconstructionLoss

TOKENIZER, DISCRIMINATOR = 0, 1  # their places among the optimizers


class VideoTokenizerTraining(lightning.LightningModule):
    """Adam with beta1 = 0, linear warm-up and cosine decay (MAGVIT-v2, App. A.2).

    Batches have a field `video`, float (b, 3, t, h, w) in [-1, 1]; an image is a clip of one frame, for the adversary
    too. A step is an update of the tokenizer: `max_steps`, schedules, averages and logs count nothing else.

    With an adversary the two optimizers are stepped here, and `gradient_clip_val` (for each of them) and
    `accumulate_grad_batches` mean what they mean without one. Several GPUs then need the strategy
    `ddp_find_unused_parameters_true`, because each backward pass reaches one of the two networks.
    """

    component = "tokenizer"  # the part that is exported

    def __init__(
        self,
        tokenizer: VideoTokenizer,
        loss: PixelLoss | ReconstructionLoss,
        learning_rate: float = 1e-4,
        betas: tuple[float, float] = (0.0, 0.99),
        warmup_steps: int = 1000,
        adversarial: Adversarial | None = None,
    ):
        super().__init__()
        self.tokenizer = tokenizer.to(memory_format=torch.channels_last_3d)
        self.loss = ReconstructionLoss(loss) if isinstance(loss, PixelLoss) else loss
        self.adversarial = None if adversarial is None else adversarial.to(memory_format=torch.channels_last_3d)
        self.learning_rate, self.betas, self.warmup_steps = learning_rate, betas, warmup_steps

    def setup(self, stage: str) -> None:
        # Set here, after Lightning has refused to clip or accumulate for manual steps: these do both themselves.
        self.automatic_optimization = self.adversarial is None

    def training_step(self, batch, index: int) -> Tensor | None:
        made = self.tokenizer(batch.video)
        distance = self.loss(made.video, batch.video, self.global_step)
        loss = distance.total + made.loss
        self._log(distance.parts, made.metrics, {"loss": loss})
        if self.automatic_optimization:
            return loss
        if self.global_step < self.adversarial.start_step:
            self._descend(TOKENIZER, loss, index)
        else:
            self._take_turns(made.video, batch.video, distance.total, loss, index)

    def _take_turns(self, made: Tensor, video: Tensor, distance: Tensor, loss: Tensor, index: int) -> None:
        """One turn of each network on the same reconstructions. `distance` is the part of `loss` that compares videos."""
        adversarial, step = self.adversarial, self.global_step

        def generator() -> None:
            cost = adversarial.generator_cost(made, distance, self.tokenizer)
            self._log(cost.metrics)
            self._descend(TOKENIZER, loss + cost.loss, index)

        def discriminator() -> None:
            cost = adversarial.discriminator_cost(made, video, step)
            self._log(cost.metrics)
            self._descend(DISCRIMINATOR, cost.loss, index)

        for turn in adversarial.updates.order(generator, discriminator):
            turn()

    def _descend(self, which: int, loss: Tensor, index: int) -> None:
        """Backward, and where the accumulated batches are complete a step of that optimizer and its schedule."""
        batches = self.trainer.accumulate_grad_batches
        self.manual_backward(loss / batches)
        if (index + 1) % batches and not self.trainer.is_last_batch:
            return
        optimizer = self.optimizers()[which]
        if which == TOKENIZER:
            optimizer.step()
        else:  # past Lightning's counter: `global_step` would run twice as fast
            self.trainer.strategy.optimizer_step(optimizer.optimizer, lambda: None)
        optimizer.zero_grad()
        self.lr_schedulers()[which].step()

    def on_before_optimizer_step(self, optimizer: Optimizer) -> None:
        if not self.automatic_optimization:  # else Lightning clips by the same two settings, after this hook
            self.clip_gradients(optimizer, self.trainer.gradient_clip_val, self.trainer.gradient_clip_algorithm)

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

    def configure_optimizers(self):
        tokenizer = self._optimizer("tokenizer", self.tokenizer, self.learning_rate, self.betas)
        if self.adversarial is None:
            return tokenizer
        a = self.adversarial
        return tokenizer, self._optimizer("discriminator", a.discriminator, a.learning_rate, a.betas, a.start_step)

    def _optimizer(
        self, name: str, network: nn.Module, rate: float, betas: tuple[float, float], start: int = 0
    ) -> dict:
        """Adam whose schedule begins at step `start` and ends at `max_steps`."""
        optimizer, warmup_steps, length = (
            Adam(network.parameters(), rate, betas),
            self.warmup_steps,
            self.trainer.max_steps,
        )
        schedule = LambdaLR(optimizer, lambda step: warmup_cosine(step, warmup_steps, length - start))
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": schedule, "interval": "step", "name": f"lr-{name}"},
        }

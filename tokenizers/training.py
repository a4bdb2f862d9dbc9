"""What the training of every tokenizer shares: Adam, its schedule, and turns with an adversary."""

from collections.abc import Callable
from functools import partial

import lightning
from torch import Tensor, nn
from torch.optim import Adam, Optimizer
from torch.optim.lr_scheduler import LambdaLR

from videopoet.tokenizers.adversarial import Adversary
from videopoet.tokenizers.schedule import warmup_cosine

TOKENIZER, DISCRIMINATOR = 0, 1  # their places among the optimizers


class TokenizerTraining(lightning.LightningModule):
    """Adam, linear warm-up over `warmup_steps` and cosine decay to `max_steps`.

    A step is an update of the tokenizer: `max_steps`, schedules, averages and logs count nothing else.

    With an adversary the two optimizers are stepped here, and `gradient_clip_val` (for each of them) and
    `accumulate_grad_batches` mean what they mean without one. Several GPUs then need the strategy
    `ddp_find_unused_parameters_true`, because each backward pass reaches one of the two networks.
    """

    component = "tokenizer"  # the part that is exported

    def __init__(
        self,
        tokenizer: nn.Module,
        adversarial: Adversary | None,
        learning_rate: float,
        betas: tuple[float, float],
        warmup_steps: int,
    ):
        super().__init__()
        self.tokenizer, self.adversarial = tokenizer, adversarial
        self.learning_rate, self.betas, self.warmup_steps = learning_rate, betas, warmup_steps

    def setup(self, stage: str) -> None:
        # Set here, after Lightning has refused to clip or accumulate for manual steps: these do both themselves.
        self.automatic_optimization = self.adversarial is None

    @property
    def judged(self) -> bool:
        """Whether the adversary takes part in this step."""
        return self.adversarial is not None and self.global_step >= self.adversarial.start_step

    def descend(
        self, index: int, tokenizer: Callable[[], Tensor], discriminator: Callable[[], Tensor]
    ) -> Tensor | None:
        """The step of batch `index`, from what computes the loss of either side; the value `training_step` returns.

        Both are called in the adversary's order, each just before its network's backward pass; without an adversary, or
        before it starts, only the tokenizer's.
        """
        if self.automatic_optimization:
            return tokenizer()
        turns = [
            partial(self._turn, TOKENIZER, tokenizer, index),
            partial(self._turn, DISCRIMINATOR, discriminator, index),
        ]
        for turn in self.adversarial.updates.order(*turns) if self.judged else turns[:1]:
            turn()

    def _turn(self, which: int, loss: Callable[[], Tensor], index: int) -> None:
        """Backward, and where the accumulated batches are complete a step of that optimizer and its schedule."""
        batches = self.trainer.accumulate_grad_batches
        self.manual_backward(loss() / batches)
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

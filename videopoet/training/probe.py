"""Training of an understanding probe."""

import lightning
import torch
from torch import Tensor
from torch.optim.lr_scheduler import LambdaLR

from videopoet.data.labelled import LabelledBatch
from videopoet.evaluation.probe import Probe
from videopoet.tokenizers.schedule import warmup_cosine


class ProbeTraining(lightning.LightningModule):
    """AdamW with linear warm-up and cosine decay; validation logs the accuracy over all validation samples."""

    component = "probe"

    def __init__(self, probe: Probe, learning_rate: float = 1e-3, weight_decay: float = 0.05, warmup_steps: int = 50):
        super().__init__()
        self.probe = probe
        self.learning_rate, self.weight_decay, self.warmup_steps = learning_rate, weight_decay, warmup_steps

    def setup(self, stage: str) -> None:
        """Raises ValueError where the shards do not fit the embedding, or have more classes than the probe."""
        data = self.trainer.datamodule
        self.probe.embedding.check(data.train.manifest)
        if len(data.classes) > self.probe.num_classes:
            raise ValueError(
                f"the shards have {len(data.classes)} classes ({', '.join(data.classes[:8])} ...), the probe "
                f"{self.probe.num_classes}: set model.init_args.probe.init_args.num_classes"
            )

    def training_step(self, batch: LabelledBatch, index: int) -> Tensor:
        loss, accuracy = self.probe.loss(batch.inputs, batch.classes)
        self.log("train/loss", loss, prog_bar=True)
        self.log("train/accuracy", accuracy, prog_bar=True)
        return loss

    def validation_step(self, batch: LabelledBatch, index: int) -> None:
        loss, accuracy = self.probe.loss(batch.inputs, batch.classes)
        self.log("validation/loss", loss, batch_size=len(batch.classes))
        self.log("validation/accuracy", accuracy, prog_bar=True, batch_size=len(batch.classes))

    def configure_optimizers(self):
        decayed = [p for p in self.probe.parameters() if p.requires_grad and p.ndim == 2]
        others = [p for p in self.probe.parameters() if p.requires_grad and p.ndim != 2]
        groups = [{"params": decayed, "weight_decay": self.weight_decay}, {"params": others, "weight_decay": 0.0}]
        optimizer = torch.optim.AdamW(groups, self.learning_rate)
        schedule = LambdaLR(optimizer, lambda step: warmup_cosine(step, self.warmup_steps, self.trainer.max_steps))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

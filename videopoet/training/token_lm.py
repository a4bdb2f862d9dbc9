"""Training of the language model: one cross-entropy over whatever the batch predicts."""

from collections.abc import Iterator
from functools import partial

import lightning
import torch
from torch import nn
from torch.optim.lr_scheduler import LambdaLR

from videopoet.models.token_lm import TokenLM
from videopoet.sequence import Batch
from videopoet.tasks.base import read_layout
from videopoet.tokenizers.schedule import warmup_cosine
from videopoet.training.optimisation import OneRate, Rates


class TokenLMTraining(lightning.LightningModule):
    """AdamW with linear warm-up and cosine decay; logs the loss of each task and modality.

    compile: compile the trunk's blocks, once for all shapes (needs a C++ compiler; a minute at the start).
    rates: what share of `learning_rate` each weight learns at; the whole of it unless said otherwise.
    """

    component = "model"  # the part that is exported
    started_from: dict = {}  # metadata of the exported model it started from

    def __init__(
        self,
        model: TokenLM,
        learning_rate: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.95),
        weight_decay: float = 0.05,
        warmup_steps: int = 200,
        compile: bool = False,
        rates: Rates | None = None,
    ):
        super().__init__()
        self.model = model
        self.learning_rate, self.betas, self.weight_decay = learning_rate, betas, weight_decay
        self.warmup_steps, self.compiled = warmup_steps, compile
        self.rates = OneRate() if rates is None else rates

    def setup(self, stage: str) -> None:
        """The text encoder brings its tokenizer: the data module tokenizes captions with it, cutting long ones.

        Raises ValueError where the model's tables, or the model it starts from, do not fit the token shards.
        """
        self.trainer.datamodule.tokenize = partial(self.model.text, truncate=True)
        self.metadata = self.trainer.datamodule.metadata()
        self.model.io.check(read_layout(self.metadata["layout"]).vocabulary)
        self._check_fingerprints("model started from", self.started_from)
        if "layout" in self.started_from:
            read_layout(self.started_from["layout"])  # raises where its tokens stood elsewhere
        if self.compiled:
            torch._dynamo.config.recompile_limit = 64  # tasks differ in who sees whom, and each way is a program
            torch._dynamo.config.optimize_ddp = False  # splits what is compiled by DDP's buckets: a block is small enough
            for block in self.model.transformer.blocks:
                block.compile(dynamic=True)

    def training_step(self, batch: Batch, index: int) -> dict:
        loss = self.model.loss(batch)
        self.log("train/loss", loss.total, prog_bar=True)
        self.log("train/padding", batch.padding)
        self.log_dict({f"train/{batch.task}/{name}": value for name, value in loss.by_modality.items()})
        return {"loss": loss.total, "nats": {"all": loss.total.detach(), **loss.by_modality}}

    def validation_step(self, batch: Batch, index: int) -> None:
        loss = self.model.loss(batch)
        self.log("validation/loss", loss.total, prog_bar=True, batch_size=len(batch.inputs))
        for name, value in loss.by_modality.items():
            self.log(f"validation/{batch.task}/{name}", value, batch_size=len(batch.inputs))

    def on_save_checkpoint(self, checkpoint: dict) -> None:
        checkpoint["metadata"] = self.metadata

    def on_load_checkpoint(self, checkpoint: dict) -> None:
        """Raises ValueError where the checkpoint was trained on tokens of other tokenizers."""
        self._check_fingerprints("checkpoint", checkpoint["metadata"])

    def _check_fingerprints(self, what: str, metadata: dict) -> None:
        before, now = metadata.get("fingerprints"), self.metadata["fingerprints"]
        if before not in (None, now):
            raise ValueError(f"the {what} was trained on tokens of {before}, the shards are of {now}: use those it had")

    def external_weights(self) -> Iterator[tuple[nn.Module, nn.Parameter]]:
        """(module, weight) wherever a module reads a weight of one that it does not call: ZeRO-3 must be told."""
        for block in self.model.transformer.blocks:
            yield from ((block.attention, norm.weight) for norm in (block.attention.norm_q, block.attention.norm_k))
        yield from ((self, weight) for weight in self.model.io.parameters())

    def configure_optimizers(self):
        groups = self.rates.groups(self.model, self.learning_rate, self.weight_decay)
        optimizer = torch.optim.AdamW(groups, self.learning_rate, self.betas)
        schedule = LambdaLR(optimizer, lambda step: warmup_cosine(step, self.warmup_steps, self.trainer.max_steps))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

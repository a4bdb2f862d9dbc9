"""Lightning module that trains the audio tokenizer."""

import torch
from lightning import LightningModule
from torch import Tensor
from torch.optim import AdamW
from torch.optim.lr_scheduler import LambdaLR

from videopoet.tokenizers.audio.losses import AudioReconstructionLoss, mel_distance, si_sdr
from videopoet.tokenizers.audio.tokenizer import AudioTokenizer
from videopoet.tokenizers.quantizers.usage import code_perplexity, code_usage
from videopoet.tokenizers.ranks import sum_over_ranks
from videopoet.tokenizers.schedule import warmup_cosine


class AudioTokenizerTraining(LightningModule):
    """Trains `tokenizer` on clips with sound: reconstruction `loss` + the quantizer's commitment.

    A batch has `.audio`, float b 1 s at the tokenizer's sample rate. With `segment` (samples) a step trains on a random
    segment of each clip and passes over silent segments, see `sounding_segments`; validation takes whole clips.
    The learning rate rises linearly over `warmup_steps` and falls by a cosine until `trainer.max_steps`. AdamW without
    weight decay: weight norm already fixes scales.

    Logged on validation, under validation/: mel_distance (dB), si_sdr (dB, sounding clips only), silence_level (dB of
    full scale, silent clips only; -100 is digital silence), usage_<level> and perplexity_<level> over the whole
    validation set, and spectrograms and sounds of the first batch, target and then reconstruction.
    """

    component = "tokenizer"  # the part that is exported

    def __init__(
        self,
        tokenizer: AudioTokenizer,
        loss: AudioReconstructionLoss,
        learning_rate: float = 3e-4,
        warmup_steps: int = 200,
        segment: int | None = None,  # samples
        betas: tuple[float, float] = (0.5, 0.9),
        num_logged_clips: int = 4,
    ):
        super().__init__()
        self.tokenizer = tokenizer
        self.loss = loss
        self.learning_rate = learning_rate
        self.warmup_steps = warmup_steps
        self.segment = segment
        self.betas = betas
        self.num_logged_clips = num_logged_clips

    def training_step(self, batch, batch_index: int) -> Tensor:
        audio = batch.audio if self.segment is None else sounding_segments(batch.audio, self.segment)
        target = self.tokenizer.crop(audio)
        reconstruction = self.tokenizer(target)
        losses = self.loss(reconstruction.audio, target)
        total = losses.total + reconstruction.loss
        parts = losses._asdict() | {"loss": total, "commitment": reconstruction.loss} | reconstruction.metrics
        self.log_dict({f"train/{name}": part.detach() for name, part in parts.items()}, batch_size=len(target))
        self.log("loss", total, prog_bar=True, logger=False)
        return total

    def on_validation_epoch_start(self) -> None:
        shape = (self.tokenizer.levels, self.tokenizer.codebook_size)
        self.code_counts = torch.zeros(shape, dtype=torch.long, device=self.device)

    def validation_step(self, batch, batch_index: int) -> None:
        target = self.tokenizer.crop(batch.audio)
        reconstruction = self.tokenizer(target)
        audio = reconstruction.audio.clamp(-1, 1)
        for counts, codes in zip(self.code_counts, reconstruction.codes.unbind(2)):
            counts += torch.bincount(codes.flatten(), minlength=len(counts))
        self._log_mean("validation/loss", self.loss(audio, target).total.expand(len(target)))
        self._log_mean("validation/mel_distance", mel_distance(audio, target, self.loss.mel), prog_bar=True)
        sounding = is_sounding(target)
        self._log_mean("validation/si_sdr", si_sdr(audio, target)[sounding])
        level = audio[~sounding].flatten(1).square().mean(1).sqrt()
        self._log_mean("validation/silence_level", 20 * torch.log10(level + 1e-5))
        if batch_index == 0:
            self._log_media(target[: self.num_logged_clips], audio[: self.num_logged_clips])

    def on_validation_epoch_end(self) -> None:
        for level, level_counts in enumerate(sum_over_ranks(self.code_counts)):
            self.log(f"validation/usage_{level}", code_usage(level_counts))
            self.log(f"validation/perplexity_{level}", code_perplexity(level_counts))

    def _log_mean(self, name: str, values: Tensor, prog_bar: bool = False) -> None:
        # The batch size weights the mean over batches; a batch without such clips has nothing to add.
        if len(values):
            self.log(name, values.mean(), batch_size=len(values), prog_bar=prog_bar, on_epoch=True, on_step=False)

    def _log_media(self, target: Tensor, audio: Tensor) -> None:
        writer = getattr(self.logger, "experiment", None)
        if not hasattr(writer, "add_audio") or not self.trainer.is_global_zero:
            return
        low, high = -4.0, 0.0  # log10 amplitude: -80 dB to full scale
        pictures = [self.loss.mel.log(self.loss.mel(sound)[-1]).flip(1) for sound in (target, audio)]
        for index, pair in enumerate(zip(*pictures)):
            image = ((torch.cat(pair) - low) / (high - low)).clamp(0, 1)[None]
            writer.add_image(f"validation/spectrogram_{index}", image, self.global_step)
            sound = torch.cat([target[index], audio[index]], dim=-1)
            writer.add_audio(
                f"validation/sound_{index}", sound, self.global_step, sample_rate=self.tokenizer.sample_rate
            )

    def configure_optimizers(self):
        optimizer = AdamW(self.tokenizer.parameters(), self.learning_rate, self.betas, weight_decay=0.0)
        schedule = LambdaLR(optimizer, lambda step: warmup_cosine(step, self.warmup_steps, self.trainer.max_steps))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


def is_sounding(audio: Tensor) -> Tensor:
    """Whether each clip of b 1 s has a root mean square above -80 dB of full scale, bool b."""
    return audio.flatten(1).square().mean(1) > 1e-8


def sounding_segments(audio: Tensor, num_samples: int) -> Tensor:
    """One random segment of each clip, less the silent ones but for the first: b 1 s -> b' 1 num_samples, 1 <= b' <= b.

    Where half of the clips are silent, half of the work would go into a sound that one clip a step teaches as well.
    Raises ValueError if clips are shorter than a segment.
    """
    spare = audio.shape[2] - num_samples
    if spare < 0:
        raise ValueError(f"clips have {audio.shape[2]} samples, a segment takes {num_samples}: lower `segment`")
    starts = torch.randint(0, spare + 1, (len(audio),)).tolist()
    segments = torch.stack([clip[:, start : start + num_samples] for clip, start in zip(audio, starts)])
    sounding = is_sounding(segments)
    return segments[sounding | ((~sounding).cumsum(0) == 1)]

"""Lightning modules that train the audio tokenizer, or its decoder alone."""

import torch
from torch import Tensor

from videopoet.tokenizers.audio.adversary import AudioAdversarial
from videopoet.tokenizers.audio.balancer import Balancer
from videopoet.tokenizers.audio.codec import SoundStream
from videopoet.tokenizers.audio.losses import AudioLoss, AudioReconstructionLoss, mel_distance, si_sdr
from videopoet.tokenizers.audio.segments import RandomGain, is_sounding, sounding_segments
from videopoet.tokenizers.quantizers.usage import code_perplexity, code_usage
from videopoet.tokenizers.ranks import sum_over_ranks
from videopoet.tokenizers.training import TokenizerTraining


class AudioTokenizerTraining(TokenizerTraining):
    """Trains `tokenizer` on clips with sound: reconstruction `loss`, the quantizer's commitment and an adversary.

    A batch has `.audio`, float b 1 s at the tokenizer's sample rate, and `.step`. With `segment` (samples) a step trains
    on a random segment of each clip and passes over silent segments, see `sounding_segments`; `gain` makes them louder or
    softer. Both are functions of `.step`. Validation takes whole clips as they are.

    The losses are summed with their weights; with a `balancer` the weights are shares of the gradient at the
    reconstruction instead, and only the commitment keeps its own scale beside them. The rest is `TokenizerTraining`'s.

    Logged on validation, under validation/: mel_distance (dB), si_sdr (dB, sounding clips only), silence_level (dB of
    full scale, silent clips only; -100 is digital silence), mel_distance_<kbit/s>kbps for the fewer levels of quantizer
    dropout, usage_<level> and perplexity_<level> over the whole validation set, and spectrograms and sounds of the first
    batch, target and then reconstruction.
    """

    def __init__(
        self,
        tokenizer: SoundStream,
        loss: AudioReconstructionLoss,
        learning_rate: float = 3e-4,
        warmup_steps: int = 200,
        segment: int | None = None,  # samples
        betas: tuple[float, float] = (0.5, 0.9),
        num_logged_clips: int = 4,
        gain: RandomGain | None = None,
        adversarial: AudioAdversarial | None = None,
        balancer: Balancer | None = None,
    ):
        super().__init__(tokenizer, adversarial, learning_rate, betas, warmup_steps)
        self.loss = loss
        self.segment = segment
        self.gain = gain
        self.balancer = balancer
        self.num_logged_clips = num_logged_clips

    def setup(self, stage: str) -> None:
        """Raises ValueError where the data's sound has another rate than the tokenizer's."""
        super().setup(stage)
        rate = getattr(getattr(self.trainer, "datamodule", None), "sample_rate", None)
        if rate not in (None, self.tokenizer.sample_rate):
            raise ValueError(
                f"the clips' sound is at {rate} Hz, the tokenizer takes {self.tokenizer.sample_rate} Hz: build the "
                f"shards with --sample-rate {self.tokenizer.sample_rate} or change the tokenizer's sample_rate"
            )

    def training_step(self, batch, index: int) -> Tensor | None:
        target = self.tokenizer.crop(self._heard(batch))
        made = self.tokenizer(target)
        parts = self.loss(made.audio, target)
        self._log(parts._asdict(), {"commitment": made.loss}, made.metrics)

        def tokenizer() -> Tensor:
            terms = self.adversarial.generator_terms(made.audio, target) if self.judged else {}
            loss = parts.total + made.loss
            for name, term in terms.items():
                loss = loss + self.adversarial.weights[name] * term
            self._log(terms, {"loss": loss})
            self.log("loss", loss.detach(), prog_bar=True, logger=False)
            return loss if self.balancer is None else made.loss + self._balanced(parts, terms, made.audio)

        def discriminator() -> Tensor:
            cost = self.adversarial.discriminator_cost(made.audio, target)
            self._log(cost.metrics)
            return cost.loss

        return self.descend(index, tokenizer, discriminator)

    def _heard(self, batch) -> Tensor:
        """What this step trains on, b 1 s."""
        audio = batch.audio
        if self.segment is None and self.gain is None:
            return audio
        generator = torch.Generator().manual_seed(batch.step)
        if self.segment is not None:
            audio = sounding_segments(audio, self.segment, generator)
        return audio if self.gain is None else self.gain(audio, generator)

    def _balanced(self, parts: AudioLoss, terms: dict[str, Tensor], made: Tensor) -> Tensor:
        weights = self.loss.weights | ({} if self.adversarial is None else self.adversarial.weights)
        losses = {name: getattr(parts, name) for name in self.loss.weights} | terms
        cost = self.balancer({name: loss for name, loss in losses.items() if weights[name]}, weights, made)
        self._log(cost.metrics)
        return cost.loss

    def _log(self, *groups: dict[str, Tensor]) -> None:
        for group in groups:
            self.log_dict({f"train/{name}": value.detach() for name, value in group.items()})

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
        for levels in self.tokenizer.trained_levels[:-1]:
            coarse = mel_distance(self.tokenizer.decode(reconstruction.codes[..., :levels]), target, self.loss.mel)
            self._log_mean(f"validation/mel_distance_{self.tokenizer.bit_rate(levels) / 1000:g}kbps", coarse)
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


class AudioDecoderTraining(AudioTokenizerTraining):
    """Trains the decoder alone: encoder and codebooks stay as they are, bit for bit, and so do all codes.

    Tokens made so far, and models of them, stay valid, and `videopoet export --decoder-of FILE` keeps the fingerprint.
    The decoder learns what to make of the codes from the same losses; there is no commitment and no quantizer dropout.
    """

    def __init__(self, tokenizer: SoundStream, loss: AudioReconstructionLoss, **how):
        super().__init__(tokenizer, loss, **how)
        for part in (tokenizer.encoder, tokenizer.quantizer):
            part.requires_grad_(False)
        self.train()  # Lightning leaves modules in the mode in which it finds them

    def on_fit_start(self) -> None:
        """Raises ValueError where the tokenizer was never trained: its codes are those of random codebooks."""
        if not all(int(layer.updates) for layer in self.tokenizer.quantizer.layers):
            raise ValueError(
                "a decoder is trained for the codes of a trained tokenizer, and this one's codebooks had 0 updates: "
                "give its file by --start_from"
            )

    def train(self, mode: bool = True):
        """The codebooks of a quantizer in evaluation mode do not move."""
        super().train(mode)
        self.tokenizer.encoder.eval(), self.tokenizer.quantizer.eval()
        return self

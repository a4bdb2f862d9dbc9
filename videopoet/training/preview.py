"""Samples in TensorBoard or Weights & Biases while the language model trains."""

import lightning
import torch

from videopoet import component
from videopoet.data.shards import ShardReader
from videopoet.sampling.autoregressive import generate
from videopoet.sampling.conditions import unconditioned
from videopoet.sampling.rules import Draw, Guidance, Temperature
from videopoet.tasks.base import Example, read_layout
from videopoet.tasks.text_to_video import TextToVideo
from videopoet.tokenizers.audio.tokenizer import AudioTokenizer
from videopoet.tokenizers.visual.autoencoder import VideoTokenizer
from videopoet.training.media_log import MediaLog
from videopoet.vocabulary import Modality

NUM_PROMPTS = 2  # where none are given


class SamplePreview(lightning.Callback):
    """A video, its first frame and its sound for each prompt, by text-to-video: after every validation, or by steps.

    visual, audio: files of the tokenizers that made the tokens.
    prompts: where not given, the first captions of the validation shards, or of those trained on.
    every_n_steps: steps of training from one set of samples to the next, in place of validations.
    """

    def __init__(self, visual: str, audio: str, prompts: list[str] | None = None, guidance: float = 2.0,
                 temperature: float = 0.9, every_n_steps: int | None = None):  # fmt: skip
        self.prompts, self.every_n_steps, self._shown_at = prompts, every_n_steps, 0
        self.visual, self.audio = component.load(visual, VideoTokenizer), component.load(audio, AudioTokenizer)
        self.draw = Draw(filters=(Temperature(value=temperature),), guidance=Guidance(text=guidance))

    def on_fit_start(self, trainer, pl_module) -> None:
        """Raises ValueError where the audio tokenizer does not make the tokens that are trained on."""
        facts = pl_module.metadata
        vocabulary = read_layout(facts["layout"]).vocabulary
        self.audio.must_match(
            sample_rate=facts["sample_rate"], levels=vocabulary.audio_levels, codebook_size=vocabulary.audio_codes
        )

        if self.prompts is None:
            data = trainer.datamodule
            self.prompts = first_captions(data.validation_tokens or data.tokens, NUM_PROMPTS)

    def on_validation_end(self, trainer, pl_module) -> None:
        if not trainer.sanity_checking and self.every_n_steps is None:
            self._show(trainer, pl_module)

    def on_train_batch_end(self, trainer, pl_module, *_) -> None:
        step = trainer.global_step
        if self.every_n_steps and step % self.every_n_steps == 0 and step != self._shown_at:
            self._shown_at = step
            pl_module.eval()
            self._show(trainer, pl_module)
            pl_module.train()

    @torch.inference_mode()
    @torch.compiler.set_stance("force_eager")  # a cache of another length at every step would compile anew
    def _show(self, trainer, pl_module) -> None:
        if pl_module.logger is None or not trainer.is_global_zero or not self.prompts:
            return
        if getattr(trainer.strategy, "partitions_weights", False):  # one rank alone has no model to sample from
            return
        log, step, facts = MediaLog(pl_module.logger), trainer.global_step, pl_module.metadata
        with torch.random.fork_rng():  # training goes on as if nobody had looked
            ids, layout = self._generate(pl_module.model, read_layout(facts["layout"]))
        video = self.visual.decode(layout.visual_codes(ids[Modality.VISUAL].cpu())) / 2 + 0.5
        for number, prompt in enumerate(self.prompts):
            log.video(f"sample/{number}", video[number], step, facts["fps"])
            log.image(f"sample/{number}_first", video[number, :, 0], step)
            log.words(f"sample/{number}_prompt", prompt, step)
        if Modality.AUDIO in ids:
            sound = self.audio.decode(layout.audio_codes(ids[Modality.AUDIO].cpu()))
            for number in range(len(self.prompts)):
                log.sound(f"sample/{number}_sound", sound[number, 0], step, self.audio.sample_rate)

    def _generate(self, model, layout):
        blank, task = Example.blank(layout), TextToVideo(sound=layout.audio_frames > 0)
        texts, none = model.text(self.prompts), model.text([""])[0]
        conditions = [task.condition(Example(text=text), layout) for text in texts]
        guided_from = unconditioned(conditions, [none] * len(texts), self.draw.guidance)
        return generate(
            model, conditions, guided_from, task.target(blank, layout), layout.vocabulary, self.draw
        ), layout


def first_captions(folder: str, count: int) -> list[str]:
    """The first captions of token shards, each once."""
    reader, found = ShardReader(folder, "tokens"), {}
    for index in range(min(len(reader), 10 * count)):
        found |= dict.fromkeys(reader.read(index, fields=("json",))["json"]["captions"][:1])
    return list(found)[:count]

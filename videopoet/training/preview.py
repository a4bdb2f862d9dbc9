"""Samples in TensorBoard while the language model trains."""

import lightning
import torch

from videopoet import component
from videopoet.sampling.autoregressive import generate
from videopoet.sampling.conditions import unconditioned
from videopoet.sampling.rules import Draw, Guidance, Temperature
from videopoet.tasks.base import Example, read_layout
from videopoet.tasks.text_to_video import TextToVideo
from videopoet.tokenizers.audio.tokenizer import AudioTokenizer
from videopoet.tokenizers.board import add_video
from videopoet.tokenizers.visual.autoencoder import VideoTokenizer
from videopoet.vocabulary import Modality


class SamplePreview(lightning.Callback):
    """After every validation: a video, its first frame and its sound for each prompt, by text-to-video.

    visual, audio: files of the tokenizers that made the tokens.
    """

    def __init__(self, prompts: list[str], visual: str, audio: str, guidance: float = 2.0, temperature: float = 0.9):
        self.prompts = prompts
        self.visual, self.audio = component.load(visual, VideoTokenizer), component.load(audio, AudioTokenizer)
        self.draw = Draw(filters=(Temperature(value=temperature),), guidance=Guidance(text=guidance))

    def on_fit_start(self, trainer, pl_module) -> None:
        """Raises ValueError where the audio tokenizer does not make the tokens that are trained on."""
        facts = pl_module.metadata
        vocabulary = read_layout(facts["layout"]).vocabulary
        self.audio.must_match(
            sample_rate=facts["sample_rate"], levels=vocabulary.audio_levels, codebook_size=vocabulary.audio_codes
        )

    @torch.inference_mode()
    @torch.compiler.set_stance("force_eager")  # a cache of another length at every step would compile anew
    def on_validation_end(self, trainer, pl_module) -> None:
        if trainer.sanity_checking or pl_module.logger is None or not trainer.is_global_zero:
            return
        if getattr(trainer.strategy, "partitions_weights", False):  # one rank alone has no model to sample from
            return
        board, step, facts = pl_module.logger.experiment, trainer.global_step, pl_module.metadata
        ids, layout = self._generate(pl_module.model, read_layout(facts["layout"]))
        video = self.visual.decode(layout.visual_codes(ids[Modality.VISUAL].cpu())) / 2 + 0.5
        for number, prompt in enumerate(self.prompts):
            add_video(board, f"sample/{number}", video[number], step, facts["fps"])
            board.add_image(f"sample/{number}_first", video[number, :, 0], step)
            board.add_text(f"sample/{number}_prompt", prompt, step)
        if Modality.AUDIO in ids:
            sound = self.audio.decode(layout.audio_codes(ids[Modality.AUDIO].cpu()))
            for number in range(len(self.prompts)):
                board.add_audio(f"sample/{number}_sound", sound[number, 0], step, self.audio.sample_rate)

    def _generate(self, model, layout):
        blank, task = Example.blank(layout), TextToVideo(sound=layout.audio_frames > 0)
        texts, none = model.text(self.prompts), model.text([""])[0]
        conditions = [task.condition(Example(text=text), layout) for text in texts]
        guided_from = unconditioned(conditions, [none] * len(texts), self.draw.guidance)
        return generate(
            model, conditions, guided_from, task.target(blank, layout), layout.vocabulary, self.draw
        ), layout

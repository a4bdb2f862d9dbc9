"""Training the decoder alone: codes, fingerprint and everything before them stay bit for bit, and the sound gets better."""

import lightning
import pytest
import torch
from conftest import AUDIO
from lightning.pytorch.callbacks import EMAWeightAveraging
from test_audio_training import SPEC, sounds
from test_visual_training import trainer

from videopoet import component
from videopoet.cli import main
from videopoet.pipeline import SHIPPED
from videopoet.tokenizers.audio.adversary import AudioAdversarial, MultiScaleSTFTDiscriminator
from videopoet.tokenizers.audio.balancer import Balancer
from videopoet.tokenizers.audio.losses import AudioReconstructionLoss, MultiScaleMel
from videopoet.tokenizers.audio.training import AudioDecoderTraining, AudioTokenizerTraining
from videopoet.training.cli import SpecCallback
from videopoet.training.export import export_decoder


def loss() -> AudioReconstructionLoss:
    return AudioReconstructionLoss(MultiScaleMel(windows=(64, 256)))


def decoder_training(tokenizer, rate: float = 1e-3) -> AudioDecoderTraining:
    adversarial = AudioAdversarial(MultiScaleSTFTDiscriminator((256, 64), channels=4), start_step=2)
    return AudioDecoderTraining(
        tokenizer,
        loss(),
        learning_rate=rate,
        warmup_steps=1,
        segment=4800,
        adversarial=adversarial,
        balancer=Balancer(),
    )


@pytest.fixture
def trained():
    """A tiny tokenizer with quantizer dropout after three steps."""
    lightning.seed_everything(1, verbose=False)
    module = AudioTokenizerTraining(component.instantiate(SPEC), loss(), learning_rate=1e-3, warmup_steps=1)
    trainer(3).fit(module, sounds(0, 1, 2))
    return module.tokenizer


def test_codes_stay_bit_for_bit_and_the_decoder_learns(trained):
    audio = next(iter(sounds(9))).audio
    before = {name: value.clone() for name, value in trained.state_dict().items()}
    codes = trained.eval().encode(audio)
    far = float(loss()(trained.decode(codes), trained.crop(audio)).total)
    module = decoder_training(trained.train(), rate=3e-3)
    trainer(12).fit(module, sounds(*range(12)))
    for name, value in trained.state_dict().items():
        if not name.startswith("decoder."):
            assert torch.equal(value, before[name]), name
        elif not name.endswith("bias"):
            assert not torch.equal(value, before[name]), name
    assert torch.equal(trained.eval().encode(audio), codes)
    assert float(loss()(trained.decode(codes), trained.crop(audio)).total) < far


def test_random_codebooks_are_refused():
    with pytest.raises(ValueError, match="codebooks had 0 updates: give its file by --start_from"):
        trainer(1).fit(decoder_training(component.instantiate(SPEC)), sounds(0))


def checkpoint(tokenizer, spec: dict, path) -> None:
    t = trainer(2, callbacks=[SpecCallback(spec), EMAWeightAveraging(decay=0.9)])
    t.fit(decoder_training(tokenizer), sounds(0, 1))
    t.save_checkpoint(path)


def test_the_shipped_tokenizer_keeps_its_fingerprint_with_another_decoder(tmp_path):
    shipped, audio = component.load(SHIPPED / "audio.safetensors"), next(iter(sounds(9))).audio
    old = shipped.decode(shipped.encode(audio))
    checkpoint(component.load(SHIPPED / "audio.safetensors").train(), shipped.spec, tmp_path / "last.ckpt")
    arguments = ["export", f"{tmp_path}/last.ckpt", "--out", f"{tmp_path}/audio.safetensors"]
    assert main([*arguments, "--decoder-of", str(SHIPPED / "audio.safetensors")]) in (None, 0)
    again = component.load(tmp_path / "audio.safetensors")
    assert again.fingerprint == shipped.fingerprint and again.stored == shipped.stored
    assert again.metadata == shipped.metadata | {"decoder_steps": 2}
    assert torch.equal(again.encode(audio), shipped.encode(audio))
    assert not torch.equal(again.decode(again.encode(audio)), old)


def test_a_decoder_of_other_codes_is_refused(trained, tmp_path):
    checkpoint(trained, SPEC, tmp_path / "last.ckpt")
    with pytest.raises(ValueError, match="so its decoder is of other codes"):
        export_decoder(tmp_path / "last.ckpt", SHIPPED / "audio.safetensors", tmp_path / "audio.safetensors")
    component.save(tmp_path / "other.safetensors", AUDIO, component.instantiate(AUDIO).state_dict())
    with pytest.raises(ValueError, match=r"has another .* than .*other\.safetensors"):
        export_decoder(tmp_path / "last.ckpt", tmp_path / "other.safetensors", tmp_path / "audio.safetensors")
    assert not (tmp_path / "audio.safetensors").exists()

"""The audio tokenizer: geometry, codes, causality, gradients, training, bad input."""

import copy
import warnings
from math import isfinite
from pathlib import Path
from types import SimpleNamespace

import lightning
import pytest
import torch
from lightning.pytorch.loggers import TensorBoardLogger
from safetensors.torch import load, save
from torch.utils.data import DataLoader

from videopoet.tokenizers.audio.codec import SoundStream
from videopoet.tokenizers.audio.losses import AudioReconstructionLoss, MultiScaleMel, mel_distance, si_sdr
from videopoet.tokenizers.audio.training import AudioTokenizerTraining
from videopoet.tokenizers.quantizers.residual import ResidualVectorQuantizer
from videopoet.tokenizers.quantizers.usage import code_perplexity, code_usage

LEVELS, SIZE, HOP = 3, 16, 64


def small(**changes) -> SoundStream:
    """Hop 64, 3 levels of 16 codes, about 4,000 parameters."""
    torch.manual_seed(0)
    geometry = dict(ratios=(4, 4, 4), num_filters=2, dimension=8, num_lstm_layers=0, levels=LEVELS, codebook_size=SIZE)
    return SoundStream(**(geometry | changes))


def trained() -> SoundStream:
    """After one training forward: k-means has run."""
    tokenizer = small()
    tokenizer(noise(4, 40 * HOP))
    return tokenizer.eval()


def noise(clips: int, samples: int, seed: int = 0) -> torch.Tensor:
    return 0.3 * torch.randn(clips, 1, samples, generator=torch.Generator().manual_seed(seed))


def tones(clips: int = 4, samples: int = 40 * HOP) -> torch.Tensor:
    """Sines of 300, 400, ... Hz at 16 kHz, each starting halfway."""
    time = torch.arange(samples) / 16_000
    frequencies = 300 + 100 * torch.arange(clips)[:, None]
    return (0.4 * torch.sin(2 * torch.pi * frequencies * time) * (time > time[-1] / 2))[:, None]


def small_loss() -> AudioReconstructionLoss:
    return AudioReconstructionLoss(MultiScaleMel(windows=(64, 256)))


@pytest.mark.parametrize(
    ("levels", "codes", "ratios", "sample_rate", "kbps"),
    [(4, 1024, (8, 5, 4, 2), 16_000, 2.0), (2, 512, (8, 5, 4, 4), 16_000, 0.45), (8, 1024, (8, 5, 4, 2), 24_000, 6.0)],
)
def test_bit_rate_of_published_geometries(levels, codes, ratios, sample_rate, kbps):
    tokenizer = small(levels=levels, codebook_size=codes, ratios=ratios, sample_rate=sample_rate)
    assert tokenizer.bit_rate() == pytest.approx(1000 * kbps)
    assert tokenizer.bit_rate(1) == pytest.approx(1000 * kbps / levels)


@pytest.mark.parametrize(("ratios", "frames", "rate"), [((8, 5, 4, 2), 106, 50.0), ((8, 5, 4, 4), 53, 25.0)])
def test_two_seconds_of_sound_have_the_documented_number_of_frames(ratios, frames, rate):
    tokenizer = small(ratios=ratios)
    codes = tokenizer.encode(noise(1, 34_000))
    assert (tokenizer.frame_rate, tokenizer.levels, tokenizer.codebook_size) == (rate, LEVELS, SIZE)
    assert codes.shape == (1, frames, LEVELS) and codes.dtype == torch.int64
    assert tokenizer.decode(codes).shape == (1, 1, frames * tokenizer.hop)


@pytest.mark.parametrize("causal", [True, False])
def test_only_whole_hops_are_coded(causal):
    tokenizer = small(causal=causal)
    audio = noise(2, 5 * HOP + HOP - 1)
    codes = tokenizer.encode(audio)
    assert codes.shape[1] == 5
    assert torch.equal(codes, tokenizer.encode(audio[..., : 5 * HOP]))
    assert tokenizer(audio).audio.shape == (2, 1, 5 * HOP)


@pytest.mark.parametrize("make", [small, trained])
def test_codes_are_in_range_and_differ(make):
    codes = make().encode(noise(2, 100 * HOP))
    assert codes.min() >= 0 and codes.max() < SIZE
    assert all(codes[..., level].unique().numel() > 1 for level in range(LEVELS))


def test_forward_equals_encode_then_decode_in_evaluation():
    tokenizer, audio = trained(), noise(2, 20 * HOP)
    whole = tokenizer(audio)
    assert torch.equal(whole.codes, tokenizer.encode(audio))
    torch.testing.assert_close(whole.audio.clamp(-1, 1), tokenizer.decode(whole.codes), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("num_lstm_layers", [0, 1])
def test_a_prefix_of_the_sound_gives_a_prefix_of_the_codes_and_back(num_lstm_layers):
    tokenizer, audio = small(num_lstm_layers=num_lstm_layers).eval(), noise(2, 20 * HOP)
    latents, sound = tokenizer.encoder(audio), tokenizer.decode(tokenizer.encode(audio))
    for frames in (1, 2, 7, 19):
        torch.testing.assert_close(tokenizer.encoder(audio[..., : frames * HOP]), latents[..., :frames])
        codes = tokenizer.encode(audio)[:, :frames]
        torch.testing.assert_close(tokenizer.decode(codes), sound[..., : frames * HOP], atol=1e-5, rtol=1e-4)


def test_without_causal_the_codes_look_ahead():
    tokenizer, audio = small(causal=False).eval(), noise(1, 20 * HOP)
    assert not torch.allclose(tokenizer.encoder(audio[..., : 7 * HOP]), tokenizer.encoder(audio)[..., :7])


def test_every_level_brings_the_latents_closer():
    tokenizer = trained()
    latents = tokenizer.encoder(noise(4, 40 * HOP))
    codes = tokenizer.quantizer.encode(latents)
    errors = [(tokenizer.quantizer.embed(codes[..., :k]) - latents).square().mean() for k in range(1, LEVELS + 1)]
    assert errors == sorted(errors, reverse=True) and errors[0] > errors[-1]
    assert torch.isfinite(tokenizer.decode(codes[..., :1])).all()


def test_embed_inverts_the_quantizer_in_evaluation():
    quantizer = ResidualVectorQuantizer(dimension=4, levels=2, size=8).eval()
    latents = torch.randn(2, 4, 5)
    quantized = quantizer(latents)
    assert torch.equal(quantizer.embed(quantized.codes), quantized.latents)
    assert torch.equal(quantizer.encode(latents), quantized.codes)


def test_training_moves_the_codebooks_and_evaluation_does_not():
    tokenizer, audio = trained(), noise(4, 40 * HOP, seed=1)
    before = copy.deepcopy(tokenizer.quantizer.state_dict())
    tokenizer(audio)
    tokenizer.encode(audio)
    assert all(torch.equal(value, before[name]) for name, value in tokenizer.quantizer.state_dict().items())
    tokenizer.train()(audio)
    assert not torch.equal(tokenizer.quantizer.layers[0].codebook, before["layers.0.codebook"])


def test_gradient_reaches_the_encoder_through_the_codes():
    tokenizer = small()
    reconstruction = tokenizer(noise(2, 20 * HOP))
    reconstruction.audio.square().mean().backward()  # without the commitment loss
    gradients = [parameter.grad for parameter in tokenizer.encoder.parameters()]
    assert all(gradient is not None and torch.isfinite(gradient).all() for gradient in gradients)
    assert max(gradient.abs().max() for gradient in gradients) > 0


def test_state_dict_survives_safetensors_and_deepcopy():
    tokenizer, audio = trained(), noise(1, 20 * HOP)
    restored = small(num_filters=2).eval()
    assert not torch.equal(restored.encode(audio), tokenizer.encode(audio))
    restored.load_state_dict(load(save(tokenizer.state_dict())))  # safetensors refuses tensors that share memory
    for twin in (restored, copy.deepcopy(tokenizer)):
        codes = twin.encode(audio)
        assert torch.equal(codes, tokenizer.encode(audio))
        assert torch.equal(twin.decode(codes), tokenizer.decode(codes))
    assert restored.quantizer.layers[0].updates == 1  # k-means does not run again on resume


def test_silence_and_full_scale_stay_finite():
    tokenizer, loss = small(), small_loss()
    for audio in (torch.zeros(2, 1, 20 * HOP), torch.ones(2, 1, 20 * HOP)):
        reconstruction = tokenizer(audio)
        total = loss(reconstruction.audio, audio).total + reconstruction.loss
        total.backward()
        assert torch.isfinite(total)
        assert all(torch.isfinite(p.grad).all() for p in tokenizer.parameters())
        assert torch.isfinite(tokenizer.decode(tokenizer.encode(audio))).all()


def test_loss_is_zero_on_the_target_and_grows_with_the_error():
    loss, target = small_loss(), tones()
    silent = torch.zeros_like(target)
    assert loss(target, target).total == 0
    assert 0 < loss(0.9 * target, target).total < loss(0.5 * target, target).total < loss(silent, target).total
    assert loss(silent, target).amplitude == pytest.approx(1.0)
    assert loss(target.flip(0), target).log > 0 < loss(target.flip(0), target).amplitude  # other pitches
    assert 0 < loss(1e-2 * noise(4, silent.shape[-1]), silent).total < torch.inf


def test_mel_reads_a_full_scale_sine_as_zero_decibels():
    time = torch.arange(16_000) / 16_000
    mel = MultiScaleMel(windows=(512, 1024))
    for spectrogram in map(mel.log, mel(torch.sin(2 * torch.pi * 1000 * time)[None, None])):
        assert -0.4 < spectrogram[..., 8:-8].amax() < 0.3  # in units of 20 dB; a band may hold two bins of the peak
    assert all(torch.all(mel.log(spectrogram) == -4.0) for spectrogram in mel(torch.zeros(1, 1, 4096)))  # -80 dB


def test_default_mel_has_no_empty_band():
    assert all((scale.mel_scale.fb.sum(0) > 0).all() for scale in MultiScaleMel().scales)


def test_si_sdr_ignores_scale_and_reads_decibels():
    target = tones()
    disturbance = noise(4, target.shape[-1])
    disturbance *= 0.1 * target.norm(dim=-1, keepdim=True) / disturbance.norm(dim=-1, keepdim=True)
    assert si_sdr(target + disturbance, target).sub(20).abs().max() < 0.5  # noise 20 dB below
    torch.testing.assert_close(si_sdr(3 * (target + disturbance), target), si_sdr(target + disturbance, target))


def test_mel_distance_is_in_decibels():
    target, mel = noise(3, 8192), MultiScaleMel(windows=(256,))
    assert torch.equal(mel_distance(target, target, mel), torch.zeros(3))
    torch.testing.assert_close(mel_distance(0.1 * target, target, mel), torch.full((3,), 20.0), atol=1.0, rtol=0)


def test_code_statistics():
    assert code_usage(torch.tensor([2, 0, 1, 0])) == 0.5
    assert code_perplexity(torch.tensor([3, 3, 3, 3])) == pytest.approx(4.0)
    assert code_perplexity(torch.tensor([7, 0, 0, 0])) == pytest.approx(1.0)


BAD_AUDIO = {
    "shape": torch.zeros(2, 640),
    "mono": torch.zeros(1, 2, 640),
    "floating": torch.zeros(1, 1, 640, dtype=torch.int16),
    "takes 64": torch.zeros(1, 1, HOP - 1),
    "NaN": torch.full((1, 1, 640), torch.nan),
}


@pytest.mark.parametrize("message", BAD_AUDIO)
def test_bad_audio_is_refused(message):
    for call in (small().encode, small()):
        with pytest.raises(ValueError, match=message):
            call(BAD_AUDIO[message])


BAD_CODES = {
    "integers": torch.zeros(1, 4, LEVELS),
    "b t k": torch.zeros(4, LEVELS, dtype=torch.long),
    "4 levels": torch.zeros(1, 4, LEVELS + 1, dtype=torch.long),
    "span 0 to 16": torch.tensor([[[0, 0, SIZE]]]),
    "span -1 to": torch.tensor([[[0, -1, 0]]]),
    "0 frames": torch.zeros(1, 0, LEVELS, dtype=torch.long),
}


@pytest.mark.parametrize("message", BAD_CODES)
def test_bad_codes_are_refused(message):
    with pytest.raises(ValueError, match=message):
        small().decode(BAD_CODES[message])


@pytest.mark.parametrize(
    "changes", [{"ratios": ()}, {"sample_rate": 0}, {"num_filters": 1}, {"levels": 0}, {"codebook_size": 0}]
)
def test_bad_geometry_is_refused(changes):
    with pytest.raises(ValueError):
        small(**changes)


def batches(count: int) -> DataLoader:
    return DataLoader(
        [SimpleNamespace(audio=tones(), step=step) for step in range(count)], batch_size=None, collate_fn=lambda b: b
    )


QUIET = {"enable_progress_bar": False, "enable_model_summary": False, "accelerator": "cpu"}


class StopAfter(lightning.Callback):
    """Ends a run early, the schedule left as it is."""

    def __init__(self, steps: int):
        self.steps = steps

    def on_train_batch_end(self, trainer, *_) -> None:
        trainer.should_stop = trainer.global_step >= self.steps


def fit(
    folder: Path,
    max_steps: int,
    learning_rate: float = 1e-3,
    stop_after: int = 10**6,
    checkpoint_to: Path | None = None,
    resume_from: Path | None = None,
) -> AudioTokenizerTraining:
    """Train on one fixed batch with a schedule of `max_steps`, on random numbers that start the same."""
    module = AudioTokenizerTraining(small(), small_loss(), learning_rate, warmup_steps=1)
    settings = QUIET | {"logger": False, "enable_checkpointing": False, "callbacks": [StopAfter(stop_after)]}
    trainer = lightning.Trainer(**settings, max_steps=max_steps, default_root_dir=folder)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # few workers, no validation, early end of an epoch
        trainer.fit(module, batches(max_steps), ckpt_path=resume_from)
    if checkpoint_to:
        trainer.save_checkpoint(checkpoint_to)
    return module


def fixed_loss(module: AudioTokenizerTraining) -> float:
    target = tones()
    with torch.no_grad():
        return float(module.loss(module.tokenizer.eval()(target).audio, target).total)


def test_training_lowers_the_loss_on_a_fixed_batch(tmp_path):
    one, many = fit(tmp_path, 1), fit(tmp_path, 15, learning_rate=3e-3)
    assert fixed_loss(many) < 0.8 * fixed_loss(one)


def test_a_resumed_run_equals_an_uninterrupted_one(tmp_path):
    whole = fit(tmp_path, 6)
    fit(tmp_path, 6, stop_after=3, checkpoint_to=tmp_path / "half.ckpt")
    resumed = fit(tmp_path, 6, resume_from=tmp_path / "half.ckpt")
    for (name, ours), theirs in zip(resumed.state_dict().items(), whole.state_dict().values()):
        torch.testing.assert_close(ours, theirs, msg=name)


def test_validation_logs_measures_pictures_and_sounds(tmp_path):
    tokenizer = small()
    module = AudioTokenizerTraining(tokenizer, small_loss(), num_logged_clips=1)
    board = TensorBoardLogger(tmp_path)
    data = [SimpleNamespace(audio=tones()), SimpleNamespace(audio=torch.zeros(2, 1, 40 * HOP))]
    loader = DataLoader(data, batch_size=None, collate_fn=lambda batch: batch)
    (logged,) = lightning.Trainer(**QUIET, logger=board, default_root_dir=tmp_path).validate(module, loader)
    names = {"loss", "mel_distance", "si_sdr", "silence_level", "usage_0", "perplexity_0"}
    assert names <= {name.removeprefix("validation/") for name in logged}
    assert all(isfinite(value) for value in logged.values())
    events = b"".join(path.read_bytes() for path in tmp_path.rglob("events*"))
    assert b"validation/spectrogram_0" in events and b"validation/sound_0" in events


@pytest.mark.parametrize("units", [0, 1, 3])
def test_an_untrained_codec_keeps_the_size_of_its_signals(units):
    """However many residual units: latents neither vanish nor grow, and the first reconstruction is soft."""
    torch.manual_seed(0)
    codec = SoundStream(num_filters=8, num_residual_layers=units, num_lstm_layers=0, levels=2, codebook_size=16)
    audio = 0.1 * torch.randn(2, 1, 8000)
    with torch.no_grad():
        latents = codec.latents(audio)
        made = codec.synthesize(torch.randn_like(latents))
    assert 0.02 < latents.std() < 2
    assert 1e-3 < made.std() < 0.3

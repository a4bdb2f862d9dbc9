"""The audio tokenizer's adversary and balancer: terms by hand, whose gradients go where, what a weight means."""

import copy

import pytest
import torch
from torch import nn

from videopoet.tokenizers.adversarial import ClampedHinge
from videopoet.tokenizers.audio.adversary import (
    AudioAdversarial,
    Judgement,
    MultiScaleSTFTDiscriminator,
    feature_distance,
)
from videopoet.tokenizers.audio.balancer import Balancer


def sounds(clips: int = 2, samples: int = 2048, seed: int = 0) -> torch.Tensor:
    return 0.3 * torch.randn(clips, 1, samples, generator=torch.Generator().manual_seed(seed))


def small(**how) -> AudioAdversarial:
    torch.manual_seed(0)
    return AudioAdversarial(MultiScaleSTFTDiscriminator((256, 64), channels=4), **how)


def test_clamped_hinge_by_hand():
    real, fake = torch.tensor([2.0, 0.5]), torch.tensor([3.0, 0.0])
    assert ClampedHinge().generator(fake) == pytest.approx((0 + 1) / 2)
    assert ClampedHinge().discriminator(real, fake) == pytest.approx((0 + 0.5) / 2 + (4 + 1) / 2)


def test_every_scale_judges_every_place_of_its_spectrogram():
    judgement = small().discriminator(sounds())
    assert [tuple(logits.shape) for logits in judgement.logits] == [(2, 1, 29, 17), (2, 1, 125, 5)]
    for window, maps in zip((256, 64), judgement.features):
        assert len(maps) == 5 and all(m.shape[:3] == (2, 4, 1 + (2048 - window) // (window // 4)) for m in maps)


def test_the_discriminator_is_the_packages_at_equal_weights():
    from encodec.msstftd import MultiScaleSTFTDiscriminator as Package

    ours = small().discriminator
    theirs = Package(4, n_ffts=[256, 64], hop_lengths=[64, 16], win_lengths=[256, 64])
    new = {"weight_g": "parametrizations.weight.original0", "weight_v": "parametrizations.weight.original1"}
    state = theirs.state_dict()
    for old, name in new.items():
        state = {key.replace(old, name): value for key, value in state.items()}
    ours.network.load_state_dict(state)
    for mine, package in zip(ours(sounds()).logits, theirs(sounds())[0]):
        torch.testing.assert_close(mine, package)


def test_a_copy_for_averaging_judges_the_same():
    adversarial = small()
    for one, two in zip(
        adversarial.discriminator(sounds()).logits, copy.deepcopy(adversarial).discriminator(sounds())[0]
    ):
        assert torch.equal(one, two)


def test_bad_windows_and_short_sounds_are_refused():
    for windows in ((), (30,), (66,)):
        with pytest.raises(ValueError, match="multiples of 4"):
            MultiScaleSTFTDiscriminator(windows)
    with pytest.raises(ValueError, match="255 samples, the discriminator's longest window 256"):
        small().discriminator(sounds(samples=255))


def test_feature_distance_is_relative_to_the_original():
    one, two = torch.tensor([[1.0, -3.0]]), torch.tensor([[100.0, 100.0]])
    original = Judgement([], [[one], [two]])
    assert feature_distance(original, original) == 0
    assert feature_distance(Judgement([], [[0 * one], [two]]), original) == pytest.approx(0.5)
    assert feature_distance(Judgement([], [[one + 1], [two + 10]]), original) == pytest.approx((1 / 2 + 10 / 100) / 2)


class Fixed(nn.Module):
    """Two scales whose logits are the sound itself and ten times it."""

    def __init__(self):
        super().__init__()
        self.factor = nn.Parameter(torch.ones(()))

    def forward(self, audio):
        return Judgement([self.factor * audio, 10 * self.factor * audio], [[self.factor * audio + 2]])


def test_costs_by_hand():
    adversarial = AudioAdversarial(Fixed())
    real, fake = torch.full((2, 1, 8), 0.5), torch.full((2, 1, 8), -0.25)
    terms = adversarial.generator_terms(fake, real)
    assert terms["adversarial"] == pytest.approx((1.25 + 3.5) / 2)
    assert terms["features"] == pytest.approx(0.75 / 2.5)
    cost = adversarial.discriminator_cost(fake, real)
    assert cost.loss.item() == pytest.approx(((0.5 + 0.75) + (0 + 0)) / 2)
    assert cost.metrics["accuracy"] == 1 and cost.metrics["logits_real"] == pytest.approx((0.5 + 5) / 2)
    assert adversarial.discriminator_cost(real, real).metrics["accuracy"] == 0.5


def test_each_turn_leaves_the_other_network_alone():
    adversarial, fake = small(), sounds(seed=1).requires_grad_()
    sum(adversarial.generator_terms(fake, sounds()).values()).backward()
    assert fake.grad.abs().max() > 0
    assert all(p.grad is None and p.requires_grad for p in adversarial.discriminator.parameters())
    fake.grad = None
    adversarial.discriminator_cost(fake, sounds()).loss.backward()
    assert fake.grad is None
    assert all(p.grad.isfinite().all() for p in adversarial.discriminator.parameters())


def test_the_discriminator_learns_to_tell_noise_from_tones():
    adversarial = small()
    time = torch.arange(2048) / 16_000
    tones = 0.3 * torch.sin(2 * torch.pi * torch.tensor([[400.0], [1100.0]]) * time)[:, None]
    optimizer = torch.optim.Adam(adversarial.parameters(), 3e-3, adversarial.betas)
    for step in range(40):
        cost = adversarial.discriminator_cost(sounds(seed=step), tones)
        optimizer.zero_grad()
        cost.loss.backward()
        optimizer.step()
    assert cost.loss < 1 and cost.metrics["accuracy"] > 0.8


def test_silence_costs_are_finite():
    adversarial, silent = small(), torch.zeros(2, 1, 2048, requires_grad=True)
    terms = adversarial.generator_terms(silent, silent.detach())
    sum(terms.values()).backward()
    assert terms["features"] == 0 and silent.grad.isfinite().all()


# --- balancer


def balanced(balancer: Balancer, made: torch.Tensor, losses: dict, weights: dict) -> torch.Tensor:
    """The gradient at `made`."""
    made = made.detach().requires_grad_()
    cost = balancer({name: loss(made) for name, loss in losses.items()}, weights, made)
    return torch.autograd.grad(cost.loss, made)[0]


WEIGHTS = {"log": 3.0, "waveform": 1.0}


def test_weights_are_shares_of_the_gradient_whatever_the_scale_of_a_loss():
    """Losses along x and along y, the one a million times the other: shares 1/4 and 3/4 of the norm, over two clips."""
    losses = {"waveform": lambda m: 1e6 * m[..., 0].mean(), "log": lambda m: m[..., 1].mean()}
    slope = balanced(Balancer(total_norm=2.0), torch.zeros(2, 1, 2), losses, WEIGHTS)
    torch.testing.assert_close(slope, torch.tensor([[[0.5, 1.5]]] * 2) / 2)
    alone = balanced(Balancer(total_norm=2.0), torch.zeros(2, 1, 2), {"log": losses["log"]}, WEIGHTS)
    torch.testing.assert_close(alone, torch.tensor([[[0.0, 2.0]]] * 2) / 2)


def test_lengths_are_moving_averages_of_each_loss_own_steps():
    balancer = Balancer(total_norm=1.0, decay=0.6)
    for factor in (1.0, 7.0, 3.0):
        slope = balanced(balancer, torch.zeros(1, 1, 1), {"log": lambda m, f=factor: f * m.sum()}, WEIGHTS)
    state = balancer.state_dict()
    assert state["steps"].tolist() == [0, 0, 3, 0, 0]
    expected = 0.6 * (0.5 * 1 + 0.5 * 7) + 0.4 * 3
    assert state["lengths"][2] == pytest.approx(expected) and slope.item() == pytest.approx(3 / expected)
    balanced(balancer, torch.zeros(1, 1, 1), {"log": lambda m: m.sum(), "features": lambda m: 5 * m.sum()},
             WEIGHTS | {"features": 1.0})  # fmt: skip
    assert balancer.steps.tolist() == [0, 0, 4, 0, 1] and balancer.lengths[4] == 5


def test_a_gradient_that_has_grown_takes_its_share_and_no_more():
    balancer, losses = Balancer(total_norm=1.0), {"waveform": lambda m: m[..., 0].sum()}
    for factor in (1.0, 1e4):
        losses["log"] = lambda m, f=factor: f * m[..., 1].sum()
        slope = balanced(balancer, torch.zeros(1, 1, 2), losses, WEIGHTS)
    torch.testing.assert_close(slope, torch.tensor([[[0.25, 0.75]]]))


def test_a_parameter_gets_the_same_gradient_from_half_and_whole_batches_of_equal_clips():
    layer, gradients = nn.Linear(4, 3), []
    for clips in (1, 2, 6):
        layer.zero_grad()
        made = layer(torch.ones(clips, 4))
        cost = Balancer()({"log": made.square().mean(), "waveform": made.abs().mean()}, WEIGHTS, made)
        cost.loss.backward()
        gradients.append(layer.weight.grad.clone())
    for gradient in gradients[1:]:
        torch.testing.assert_close(gradient, gradients[0])


def test_a_loss_without_gradient_stays_finite():
    losses = {"waveform": lambda m: (0 * m).sum(), "log": lambda m: m.sum()}
    slope = balanced(Balancer(total_norm=1.0), torch.zeros(1, 1, 1), losses, WEIGHTS)
    assert slope.item() == pytest.approx(0.75)


def test_bad_balancers_are_refused():
    for bad in ({"total_norm": 0.0}, {"decay": 1.0}):
        with pytest.raises(ValueError, match="must be positive"):
            Balancer(**bad)
    with pytest.raises(ValueError, match="no term loudness, only waveform"):
        balanced(Balancer(total_norm=1.0), torch.zeros(1, 1, 1), {"loudness": lambda m: m.sum()}, {"loudness": 1.0})

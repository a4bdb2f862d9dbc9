"""What every quantizer promises, and what each one does by hand-computed examples."""

import copy
from itertools import pairwise

import pytest
import torch
from safetensors.torch import load, save

from videopoet.tokenizers.quantizers.lookup_free import (
    TABLE_ELEMENTS,
    LookupFreeQuantizer,
    bit_entropy,
    entropy,
    mean_code_distribution,
)
from videopoet.tokenizers.quantizers.residual import QuantizerDropout, ResidualVectorQuantizer
from videopoet.tokenizers.quantizers.usage import code_perplexity, code_usage
from videopoet.tokenizers.quantizers.vector import VectorQuantizer

QUANTIZERS = {
    "lookup_free": lambda: LookupFreeQuantizer(6, temperature=1.0),
    "lookup_free in groups": lambda: LookupFreeQuantizer(6, temperature=1.0, bits_per_group=4),
    "vector": lambda: VectorQuantizer(16, 6),
    "vector, normalized": lambda: VectorQuantizer(16, 6, normalize=True),
    "vector, projected": lambda: VectorQuantizer(16, 6, code_dimension=3, normalize=True),
    "residual": lambda: ResidualVectorQuantizer(6, levels=3, size=8),
    "residual, dropped": lambda: ResidualVectorQuantizer(6, levels=3, size=8, dropout=QuantizerDropout()),
}
LATTICES = [(), (7,), (3, 4), (2, 3, 4)]


@pytest.fixture(params=QUANTIZERS)
def name(request) -> str:
    return request.param


@pytest.fixture
def quantizer(name):
    torch.manual_seed(0)
    return QUANTIZERS[name]()


def some(quantizer, lattice=(40,), batch: int = 4, seed: int = 0) -> torch.Tensor:
    return torch.randn(batch, quantizer.dimension, *lattice, generator=torch.Generator().manual_seed(seed))


def trained(quantizer):
    for seed in range(3):
        quantizer(some(quantizer, seed=seed))
    return quantizer.eval()


# --- every quantizer


@pytest.mark.parametrize("prepare", [lambda q: q.eval(), trained], ids=["untrained", "trained"])
def test_embed_inverts_forward(quantizer, prepare):
    quantizer = prepare(quantizer)
    quantized = quantizer(some(quantizer))
    torch.testing.assert_close(quantizer.embed(quantized.codes), quantized.latents)
    assert quantized.codes.dtype == torch.int64 and quantized.codes.unique().numel() > 1
    assert quantized.loss == 0


def test_codes_of_embedded_codes_are_the_codes(name, quantizer):
    if "residual" in name or name == "vector, projected":
        pytest.skip("greedy levels and projections need not map a quantized latent to itself")
    quantizer = trained(quantizer)
    codes = torch.arange(quantizer.size).reshape(2, -1)
    assert torch.equal(quantizer(quantizer.embed(codes)).codes, codes)


@pytest.mark.parametrize("lattice", LATTICES)
def test_any_lattice(name, quantizer, lattice):
    quantizer = trained(quantizer)
    latents = some(quantizer, lattice)
    quantized = quantizer(latents)
    assert quantized.latents.shape == latents.shape
    assert quantized.codes.shape[: 1 + len(lattice)] == (4, *lattice)
    assert quantizer.embed(quantized.codes).shape == latents.shape


def test_positions_do_not_see_each_other(quantizer):
    """Causality and tiling rest on this: a position's code depends on that position's latent alone."""
    quantizer = trained(quantizer)
    latents = some(quantizer)
    whole, part = quantizer(latents), quantizer(latents[1:3, :, 5:9])
    assert torch.equal(whole.codes[1:3, 5:9], part.codes)


def test_the_gradient_is_the_identity_on_what_is_compared(name, quantizer):
    latents = some(quantizer).requires_grad_()
    weights = some(quantizer, seed=1)
    (quantizer(latents).latents * weights).sum().backward()
    if name == "vector" or "residual" in name:
        torch.testing.assert_close(latents.grad, weights)
    else:  # behind a normalisation: no gradient along the latent itself
        assert latents.grad.abs().max() > 0.01
    if name in ("lookup_free", "vector, normalized"):
        torch.testing.assert_close((latents.grad * latents).sum(1), torch.zeros(4, 40), atol=1e-5, rtol=0)


def test_quantized_latents_in_training_are_those_of_their_codes(name, quantizer):
    """The decoder is trained on exactly what it will be given."""
    trained(quantizer)
    before, quantized = copy.deepcopy(quantizer), quantizer.train()(some(quantizer))
    torch.testing.assert_close(quantized.latents, before.embed(quantized.codes), atol=1e-6, rtol=0)


def test_evaluation_has_no_side_effects(quantizer):
    quantizer = trained(quantizer)
    before = copy.deepcopy(quantizer.state_dict())
    state = torch.get_rng_state()
    quantizer(some(quantizer, seed=5))
    assert torch.equal(state, torch.get_rng_state())
    assert all(torch.equal(value, before[key]) for key, value in quantizer.state_dict().items())


def test_training_without_gradients_learns_nothing(name, quantizer):
    trained(quantizer).train()
    before = copy.deepcopy(quantizer.state_dict())
    with torch.no_grad():
        quantizer(some(quantizer, seed=5))
    assert all(torch.equal(value, before[key]) for key, value in quantizer.state_dict().items())


@pytest.mark.parametrize("training", [True, False])
def test_autocast_changes_neither_codes_nor_loss(name, quantizer, training):
    if "projected" in name:
        pytest.skip("the projection is a linear layer and follows the autocast")
    trained(quantizer).train(training)
    twin, latents = copy.deepcopy(quantizer), some(quantizer)
    with torch.autocast("cpu", torch.bfloat16):
        cast = quantizer(latents)
    plain = twin(latents)
    assert torch.equal(cast.codes, plain.codes)
    assert cast.loss.dtype == torch.float32 and torch.equal(cast.loss, plain.loss)
    assert cast.latents.dtype == torch.float32


def test_latents_keep_their_dtype(quantizer):
    trained(quantizer)
    with torch.autocast("cpu", torch.bfloat16):
        quantized = quantizer(some(quantizer).bfloat16())
    assert quantized.latents.dtype == torch.bfloat16 and quantized.codes.dtype == torch.int64


def test_loss_and_metrics_are_finite_on_extreme_latents(quantizer):
    for latents in (some(quantizer), torch.zeros(4, 6, 40), 1e4 * some(quantizer), 1e-20 * some(quantizer)):
        latents.requires_grad_()
        quantized = quantizer(latents)
        (quantized.loss + quantized.latents.sum()).backward()
        assert torch.isfinite(quantized.loss) and quantized.loss.ndim == 0
        assert latents.grad.isfinite().all()
        assert all(value.isfinite() and not value.requires_grad for value in quantized.metrics.values())


def test_state_survives_safetensors_and_resumes_exactly(name, quantizer):
    """4 steps = 2 + resume + 2, to the bit, whatever the global random state."""
    for seed in (0, 1):
        quantizer(some(quantizer, seed=seed))
    torch.manual_seed(99)
    resumed = QUANTIZERS[name]()
    resumed.load_state_dict(load(save(quantizer.state_dict())))
    for seed in (2, 3):
        torch.manual_seed(seed)
        whole = quantizer(some(quantizer, seed=seed))
        again = resumed(some(quantizer, seed=seed))
        assert torch.equal(whole.codes, again.codes) and torch.equal(whole.loss, again.loss)
    assert all(torch.equal(value, quantizer.state_dict()[key]) for key, value in resumed.state_dict().items())


def test_foreign_codes_and_latents_are_refused(name, quantizer):
    quantizer.eval()
    good = quantizer(some(quantizer)).codes
    for bad in (good - quantizer.size, good + quantizer.size):
        with pytest.raises(ValueError, match="span"):
            quantizer.embed(bad)
    with pytest.raises(ValueError, match="integers"):
        quantizer.embed(good.float())
    with pytest.raises(ValueError, match="takes 6 channels"):
        quantizer(torch.zeros(1, 5, 3))


# --- lookup-free


def test_least_significant_bit_first():
    z = torch.tensor([0.4, -1.0, 2.0]).reshape(1, 3, 1, 1, 1)
    quantized = LookupFreeQuantizer(3).eval()(z)
    assert quantized.codes.item() == 5
    assert quantized.latents.flatten().tolist() == [1, -1, 1]


@pytest.mark.parametrize("num_bits", [1, 6, 12, 18, 31, 40])
def test_codes_round_trip(num_bits):
    quantizer = LookupFreeQuantizer(num_bits, bits_per_group=min(num_bits, 9))
    ends = torch.tensor([[0, 1, quantizer.size - 1, quantizer.size // 2]])
    drawn = torch.randint(quantizer.size, (1, 60), generator=torch.Generator().manual_seed(0))
    codes = torch.cat([ends % quantizer.size, drawn], 1)
    latents = quantizer.embed(codes)
    assert torch.equal(quantizer(latents).codes, codes)
    bits = quantizer.bits(codes)
    assert bits.shape == (1, 64, num_bits) and bits.dtype == torch.bool
    assert torch.equal(quantizer.from_bits(bits), codes)
    assert torch.equal(bits.movedim(-1, 1), latents > 0)


@pytest.mark.parametrize(
    "num_bits, widths", [(18, (9, 9)), (18, (1, 17)), (18, (18,)), (40, (10, 20, 10)), (5, (2, 3))]
)
def test_factors_round_trip(num_bits, widths):
    quantizer = LookupFreeQuantizer(num_bits)
    codes = torch.randint(quantizer.size, (3, 50), generator=torch.Generator().manual_seed(0))
    factors = quantizer.factors(codes, widths)
    assert factors.shape == (3, 50, len(widths))
    assert all(0 <= f.min() and f.max() < 2**w for f, w in zip(factors.unbind(-1), widths))
    assert torch.equal(quantizer.from_factors(factors, widths), codes)


def test_factors_by_hand():
    quantizer = LookupFreeQuantizer(18)
    assert quantizer.factors(torch.tensor(5 * 512 + 7), (9, 9)).tolist() == [7, 5]
    assert quantizer.from_factors(torch.tensor([7, 5]), [9, 9]).item() == 5 * 512 + 7


@pytest.mark.parametrize("widths", [(9, 8), (18, 0), (), (20, -2)])
def test_widths_that_do_not_add_up_are_refused(widths):
    with pytest.raises(ValueError, match="add up to the 18 bits"):
        LookupFreeQuantizer(18).factors(torch.zeros(2, dtype=torch.int64), widths)


@pytest.mark.parametrize("bad, hint", [({"num_bits": 0}, "1 to 40"), ({"num_bits": 41}, "1 to 40"),
                                       ({"bits_per_group": 0}, "use 1 to 20"), ({"temperature": 0.0}, "above 0"),
                                       ({"num_bits": 40, "bits_per_group": 21}, "use 1 to 20")])  # fmt: skip
def test_impossible_lookup_free_quantizers_are_refused(bad, hint):
    with pytest.raises(ValueError, match=hint):
        LookupFreeQuantizer(**bad)


@pytest.mark.parametrize("num_bits, group", [(6, 6), (12, 12), (13, 7), (18, 9), (24, 12), (40, 10)])
def test_default_groups(num_bits, group):
    quantizer = LookupFreeQuantizer(num_bits)
    assert quantizer.bits_per_group == group
    name = "batch_entropy" if num_bits <= 12 else "grouped_batch_entropy"
    assert name in quantizer(torch.randn(2, num_bits, 3)).metrics


@pytest.mark.parametrize("temperature", [0.05, 0.7, 3.0])
def test_entropies_equal_the_full_table(temperature):
    """Closed forms against the softmax over all 2^6 codes, `p(c|z) ~ exp(-|z - c|^2 / temperature)`, in float64."""
    quantizer = LookupFreeQuantizer(6, temperature=temperature)
    z = some(quantizer, (2, 2), 5)
    metrics = quantizer(z).metrics
    scaled = torch.nn.functional.normalize(z.double(), dim=1).movedim(1, -1).reshape(-1, 6) * 6**0.5
    table = quantizer.embed(torch.arange(64).reshape(64, 1)).reshape(64, 6).double()
    p = (-torch.cdist(scaled, table).square() / temperature).softmax(-1)
    token = torch.special.entr(p).sum(-1).mean()
    torch.testing.assert_close(metrics["token_entropy"].double(), token, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(
        metrics["batch_entropy"].double(), torch.special.entr(p.mean(0)).sum(), atol=1e-5, rtol=0
    )


def test_loss_by_hand():
    """One bit, z = +-1 after scaling, temperature 4: p = sigmoid(+-1), mean 1/2."""
    quantizer = LookupFreeQuantizer(1, temperature=4.0, anneal_ratio=1.0)
    quantized = quantizer(torch.tensor([0.2, -3.0]).reshape(2, 1, 1))
    p = 1 / (1 + 2.718281828**-1)
    token = -(p * torch.tensor(p).log() + (1 - p) * torch.tensor(1 - p).log())
    torch.testing.assert_close(quantized.loss, 0.1 * (token - torch.tensor(2.0).log()))
    assert quantized.metrics["commitment"] == 0 and quantized.metrics["bit_imbalance"] == 0


def test_values_of_the_demo_configuration():
    """Recorded before this quantizer was rewritten: the demo's runs repeat."""
    torch.manual_seed(0)
    quantizer = LookupFreeQuantizer(12, entropy_weight=0.02, temperature=1.0, anneal_steps=500, bits_per_group=6)
    latents = torch.randn(2, 12, 5, 8, 8)
    losses = [quantizer(latents).loss.item() for _ in range(3)]
    assert losses == pytest.approx([-0.20247823, -0.20208371, -0.20168918], abs=2e-7)


def test_bit_entropy_is_precise_and_symmetric_to_the_end():
    logits = torch.tensor([0.0, 1e-3, 1.0, 8.0, 16.0, 40.0, 80.0, 400.0, 1e4])
    logits = torch.cat([logits, -logits]).requires_grad_()
    double = logits.detach().double().requires_grad_()
    p, q = double.sigmoid(), (-double).sigmoid()
    expected = -(p * torch.nn.functional.logsigmoid(double) + q * torch.nn.functional.logsigmoid(-double))
    torch.testing.assert_close(bit_entropy(logits).double(), expected, rtol=1e-5, atol=1e-38)
    bit_entropy(logits).sum().backward()
    torch.testing.assert_close(logits.grad.double(), -(double * p * q).detach(), rtol=2e-4, atol=2e-8)


def test_entropy_of_a_code_never_drawn_has_a_finite_gradient():
    p = torch.tensor([0.0, 0.25, 0.75], requires_grad=True)
    value = entropy(p)
    value.backward()
    assert value.item() == pytest.approx(0.5623351) and p.grad.isfinite().all()


@pytest.mark.parametrize("num_bits", [1, 2, 7])
def test_mean_code_distribution_equals_the_products(num_bits):
    logits = torch.randn(9, num_bits, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    bits = (torch.arange(2**num_bits)[:, None] >> torch.arange(num_bits)) & 1
    expected = torch.where(bits.bool(), logits.sigmoid()[:, None], 1 - logits.sigmoid()[:, None]).prod(-1).mean(0)
    torch.testing.assert_close(mean_code_distribution(logits), expected)


def test_mean_code_distribution_in_pieces_is_the_same(monkeypatch):
    logits = torch.randn(50, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    results = []
    for elements in (TABLE_ELEMENTS, 64):  # 64: pieces of 8 vectors
        monkeypatch.setattr("videopoet.tokenizers.quantizers.lookup_free.TABLE_ELEMENTS", elements)
        leaf = logits.clone().requires_grad_()
        entropy(mean_code_distribution(leaf)).backward()
        results.append(leaf.grad)
    torch.testing.assert_close(*results)


def test_grouped_batch_entropy_bounds_the_joint_and_equals_it_for_independent_bits():
    def entropies(latents):
        return [next(value for key, value in LookupFreeQuantizer(6, temperature=0.1, bits_per_group=g)(latents).metrics.items()
                     if "batch_entropy" in key) for g in (6, 3, 2, 1)]  # fmt: skip

    values = entropies(torch.randn(4, 6, 9, generator=torch.Generator().manual_seed(0)))
    assert all(b > a + 1e-3 for a, b in pairwise(values))
    every_code = LookupFreeQuantizer(6).embed(torch.arange(64)[None])
    assert entropies(every_code) == pytest.approx([6 * 0.6931472] * 4, abs=1e-5)


def test_joint_batch_entropy_at_2_18():
    """Every token another code and nearly certain: the batch entropy is log(number of tokens), which groups overstate."""
    quantizer = LookupFreeQuantizer(18, bits_per_group=18)
    codes = torch.randperm(2**18, generator=torch.Generator().manual_seed(0))[None, :100]
    latents = quantizer.embed(codes).requires_grad_()
    quantized = quantizer(latents)
    quantized.loss.backward()
    assert quantized.metrics["batch_entropy"].item() == pytest.approx(4.6051702, abs=1e-4)
    assert LookupFreeQuantizer(18)(latents).metrics["grouped_batch_entropy"] > 8


def test_entropy_weight_is_annealed():
    quantizer = LookupFreeQuantizer(4, anneal_ratio=3.0, anneal_steps=10)
    scales = []
    for _ in range(12):
        scales.append(float(quantizer.entropy_scale()))
        assert quantizer(torch.randn(1, 4, 1, 2, 2)).metrics["entropy_scale"] == scales[-1]
    assert scales[0] == 3.0 and scales[5] == 2.0 and scales[-1] == 1.0


def test_the_penalty_spreads_the_codes():
    """Gradient steps on the loss alone raise the batch entropy and the number of codes from a collapsed start."""
    torch.manual_seed(0)
    quantizer = LookupFreeQuantizer(4, temperature=1.0)
    latents = torch.nn.Parameter(torch.randn(64, 4, 1) * 0.3 + 1)
    optimizer = torch.optim.Adam([latents], 0.05)
    history = []
    for _ in range(60):
        quantized = quantizer(latents)
        optimizer.zero_grad()
        quantized.loss.backward()
        optimizer.step()
        history.append((quantized.metrics["batch_entropy"].item(), quantized.codes.unique().numel()))
    assert history[-1][0] > history[0][0] + 1 and history[-1][1] > 2 * history[0][1]


def test_the_order_of_bits_travels_with_the_weights():
    state = LookupFreeQuantizer(4).state_dict()
    assert state["_extra_state"].tolist() == [1, 2, 4, 8]
    with pytest.raises(ValueError, match=r"worth \[8, 4, 2, 1\]"):
        LookupFreeQuantizer(4).load_state_dict(state | {"_extra_state": state["_extra_state"].flip(0)})
    with pytest.raises(ValueError, match="worth"):
        LookupFreeQuantizer(5).load_state_dict(state)
    LookupFreeQuantizer(4).load_state_dict({"steps": state["steps"]})  # written before the order was stored


# --- vector


def vector(codebook, **options) -> VectorQuantizer:
    codebook = torch.tensor(codebook)
    quantizer = VectorQuantizer(*codebook.shape, **({"dead_code_usage": 0.0} | options))
    quantizer.codebook.copy_(codebook)
    quantizer.share.fill_(1 / len(codebook))
    quantizer.updates += 1  # started
    return quantizer


def test_the_nearest_vector_by_hand():
    quantized = vector([[0.0, 0.0], [1.0, 1.0]])(torch.tensor([[[0.9], [0.4]]]))
    assert quantized.codes.item() == 1 and quantized.latents.flatten().tolist() == [1.0, 1.0]
    assert quantized.loss.item() == pytest.approx(0.25 * (0.1**2 + 0.6**2) / 2)
    assert quantized.metrics["usage"] == 0.5 and quantized.metrics["perplexity"] == 1


def test_the_moving_average_by_hand():
    """decay 0.9, shares 1/2: code 1 gets all four latents, N = 0.9 * 2 + 0.1 * 4 = 2.2 of 4, mean 3."""
    quantizer = vector([[-5.0], [2.0]], decay=0.9)
    quantizer(torch.tensor([1.0, 2.0, 4.0, 5.0]).reshape(1, 1, 4))
    assert quantizer.share.tolist() == pytest.approx([0.45, 0.55])
    assert quantizer.codebook.flatten().tolist() == pytest.approx([-5.0, 2 + 0.1 * 4 / 2.2 * (3 - 2)])


def test_the_codebook_equals_the_ratio_of_two_moving_averages():
    """VQ-VAE writes e = m / N with averages of sums m and counts N; ours keeps e and N alone."""
    quantizer = vector(torch.randn(5, 3, generator=torch.Generator().manual_seed(0)).tolist())
    counts, sums = torch.full((5,), 1 / 5), quantizer.codebook / 5
    for seed in range(20):
        latents = some(quantizer, seed=seed)
        codes = quantizer(latents).codes.flatten()
        one_hot = torch.nn.functional.one_hot(codes, 5).float()
        counts = 0.99 * counts + 0.01 * one_hot.mean(0)
        sums = 0.99 * sums + 0.01 * one_hot.T @ latents.movedim(1, -1).reshape(-1, 3) / len(codes)
    torch.testing.assert_close(quantizer.codebook, sums / counts[:, None], atol=1e-5, rtol=1e-5)


def test_kmeans_starts_at_means_of_the_first_batch():
    latents = torch.randn(2, 3, 50, generator=torch.Generator().manual_seed(0))
    distances = []
    for steps in (0, 1, 5):
        quantizer = VectorQuantizer(8, 3, kmeans_steps=steps)
        distances.append(quantizer(latents).metrics["commitment"])
    assert distances[0] > 1.05 * distances[1] > 1.05 * distances[2]
    one = VectorQuantizer(1, 3)
    one(latents)
    torch.testing.assert_close(one.codebook[0], latents.mean((0, 2)))


def test_dead_codes_are_reborn_and_stay():
    quantizer = vector([[0.0, 0.0], [500.0, 500.0]], dead_code_usage=0.1)
    quantizer.share.copy_(torch.tensor([0.99, 0.01]))
    latents = torch.randn(2, 2, 50, generator=torch.Generator().manual_seed(0))
    assert quantizer(latents).metrics["reborn"] == 1
    assert quantizer.codebook[1].abs().max() < 10 and quantizer.share[1] == 0.5
    assert quantizer(latents).metrics["reborn"] == 0 and quantizer(latents).metrics["usage"] == 1


def test_more_codes_than_vectors():
    quantizer = VectorQuantizer(64, 2, kmeans_steps=0)
    quantized = quantizer(torch.randn(1, 2, 10, generator=torch.Generator().manual_seed(0)))
    assert quantized.metrics["commitment"] == 0 and quantized.codes.unique().numel() == 10
    assert quantized.metrics["reborn"] == 10  # no more than there are vectors


def test_distances_in_pieces_are_the_same(monkeypatch):
    quantizer = trained(VectorQuantizer(16, 6))
    whole = quantizer(some(quantizer)).codes
    monkeypatch.setattr("videopoet.tokenizers.quantizers.vector.DISTANCES", 50)  # pieces of 3 vectors
    assert torch.equal(quantizer(some(quantizer)).codes, whole)


def test_the_codebook_stays_float32():
    quantizer = VectorQuantizer(8, 6, code_dimension=2).bfloat16()
    assert quantizer.codebook.dtype == quantizer.share.dtype == torch.float32
    assert quantizer.project_in.weight.dtype == torch.bfloat16
    quantized = quantizer(some(quantizer).bfloat16())
    assert quantized.latents.dtype == torch.bfloat16 and quantized.loss.isfinite()


@pytest.mark.parametrize("bad", [{"size": 0}, {"dimension": -1}, {"decay": 1.0}, {"dead_code_usage": 1.0}])
def test_impossible_vector_quantizers_are_refused(bad):
    with pytest.raises(ValueError, match=next(iter(bad))):
        VectorQuantizer(**bad)


def test_usage_and_perplexity_by_hand():
    counts = torch.tensor([2, 2, 0, 0])
    assert code_usage(counts) == 0.5 and code_perplexity(counts).item() == pytest.approx(2.0)


# --- residual


def test_every_level_brings_the_sum_closer_and_pulls_the_encoder():
    """Commitments by hand: level k's is the squared error after k levels, with a gradient for the latent."""
    quantizer = ResidualVectorQuantizer(2, levels=2, size=2, commitment_weight=0.5)
    quantizer(some(quantizer))
    quantizer.layers[0].codebook.copy_(torch.tensor([[0.0, 0.0], [4.0, 0.0]]))
    quantizer.layers[1].codebook.copy_(torch.tensor([[0.0, 0.0], [-1.0, 0.5]]))
    z = torch.tensor([[[2.8], [0.6]]], requires_grad=True)
    quantized = quantizer(z)
    assert quantized.codes.tolist() == [[[1, 1]]] and quantized.latents.flatten().tolist() == [3.0, 0.5]
    first, second = (1.2**2 + 0.6**2) / 2, (0.2**2 + 0.1**2) / 2
    assert quantized.loss.item() == pytest.approx(0.5 * (first + second) / 2)
    quantized.loss.backward()
    expected = 0.5 * torch.tensor([[[-1.2 - 0.2], [0.6 + 0.1]]]) / 2
    torch.testing.assert_close(z.grad, expected)


def test_dropout_draws_by_the_update_alone_and_evenly():
    dropout = QuantizerDropout(levels=(2, 4, 8))
    drawn = [dropout.draw(update, 8) for update in range(600)]
    assert drawn[0] == 8 and drawn == [dropout.draw(update, 8) for update in range(600)]
    assert all(150 < drawn.count(levels) < 250 for levels in (2, 4, 8))
    half = [QuantizerDropout(share=0.5).draw(update, 4) for update in range(600)]
    assert set(half) == {1, 2, 3, 4} and 340 < half.count(4) < 410  # 1/2 + 1/8
    assert {QuantizerDropout(share=0.0).draw(update, 4) for update in range(50)} == {4}
    for bad in ({"levels": ()}, {"levels": (0, 1)}, {"share": 1.5}):
        with pytest.raises(ValueError, match="quantizer dropout needs"):
            QuantizerDropout(**bad)
    with pytest.raises(ValueError, match="draws 4 levels, the quantizer has 3"):
        ResidualVectorQuantizer(2, levels=3, dropout=QuantizerDropout(levels=(2, 4)))


def test_a_dropped_level_learns_nothing_and_is_not_counted():
    quantizer = QUANTIZERS["residual, dropped"]()
    seen = set()
    for step in range(12):
        before = copy.deepcopy(quantizer.state_dict())
        quantized = quantizer(some(quantizer, seed=step))
        levels = int(quantized.metrics["levels"])
        seen.add(levels)
        assert quantized.codes.shape[-1] == levels and f"usage_{levels}" not in quantized.metrics
        for name, value in quantizer.state_dict().items():
            assert torch.equal(value, before[name]) == (int(name.split(".")[1]) >= levels), name
    assert seen == {1, 2, 3}
    assert quantizer.eval()(some(quantizer)).codes.shape[-1] == 3


def test_dead_codes_of_a_level_are_reborn_and_stay():
    quantizer = ResidualVectorQuantizer(2, levels=2, size=8)
    quantizer(some(quantizer))
    layer = quantizer.layers[1]
    layer.codebook[3], layer.share[3] = 50.0, 0.0
    assert quantizer(some(quantizer, seed=1)).metrics["reborn_1"] >= 1
    assert layer.codebook[3].abs().max() < 10 and layer.share[3] == 1 / 8
    quantizer(some(quantizer, seed=2))
    assert layer.codebook[3].abs().max() < 10


def test_the_packages_weights_load_and_give_its_codes():
    from encodec.quantization.core_vq import ResidualVectorQuantization

    theirs = ResidualVectorQuantization(num_quantizers=3, dim=6, codebook_size=8)
    ours = QUANTIZERS["residual"]()
    for seed in range(2):
        theirs(some(ours, seed=seed))
    ours.load_state_dict({f"vq.{name}": value for name, value in theirs.state_dict().items()})
    codes = theirs.eval().encode(some(ours, seed=5))
    assert torch.equal(ours.eval().encode(some(ours, seed=5)), codes.permute(1, 2, 0))
    torch.testing.assert_close(ours.embed(codes.permute(1, 2, 0)), theirs.decode(codes))
    assert all(layer.updates == 1 and layer.share.sum() == pytest.approx(1) for layer in ours.layers)

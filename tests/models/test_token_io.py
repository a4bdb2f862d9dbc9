"""Reading and writing ids: the forms agree with each other and with plain cross-entropy, in little memory."""

import itertools

import pytest
import torch
import torch.nn.functional as F
from conftest import VOCABULARY
from torch.utils._python_dispatch import TorchDispatchMode

from videopoet.models import cross_entropy as chunked
from videopoet.models.cross_entropy import cross_entropy
from videopoet.models.token_io import Factored, Flat, IndependentFactors
from videopoet.sampling.rules import Draw, Place, uniforms
from videopoet.vocabulary import Vocabulary

STARTS = [0, 256, 320, 336]  # control, visual, audio level by level
SIZE, WIDTH, VISUAL = VOCABULARY.size, 32, torch.arange(256, 320)
FACTORED = {"vocabulary_size": SIZE, "width": WIDTH, "visual_start": 256, "visual_size": 64}


def forms():
    for cls, factors, starts in itertools.product((Factored, IndependentFactors), (1, 2, 3), (None, STARTS)):
        kind = "by kind" if starts else "others together"
        yield pytest.param(lambda c=cls, f=factors, s=starts: c(**FACTORED, factors=f, starts=s),
                           id=f"{cls.__name__}-{factors}-{kind}")  # fmt: skip
    yield pytest.param(lambda: Flat(SIZE, WIDTH), id="Flat-tied")
    yield pytest.param(lambda: Flat(SIZE, WIDTH, tied=False), id="Flat-untied")
    yield pytest.param(lambda: Flat(SIZE, WIDTH, starts=STARTS), id="Flat-by kind")


@pytest.fixture(params=forms())
def io(request):
    torch.manual_seed(0)
    io = request.param()
    with torch.no_grad():  # away from uniform, biases too
        for p in io.parameters():
            p.add_(torch.randn_like(p) * 0.3)
    io.check(VOCABULARY)
    return io


def nats(io, hidden, ids):
    return io.loss(hidden.expand(len(ids), -1), ids, torch.ones(len(ids))).each


def test_probabilities_sum_to_one_over_each_kind(io):
    hidden = torch.randn(1, WIDTH)
    if isinstance(io, Flat) and io.ranges is None:
        kinds = [torch.arange(SIZE)]
    elif io.ranges is None:
        kinds = [VISUAL, torch.cat([torch.arange(256), torch.arange(320, SIZE)])]
    else:
        kinds = [torch.arange(*r) for r in io.ranges]
    assert sum(len(kind) for kind in kinds) == SIZE
    for kind in kinds:
        torch.testing.assert_close((-nats(io, hidden, kind)).exp().sum(), torch.tensor(1.0))


def test_sampling_follows_the_loss(io):
    if isinstance(io, Flat) and io.ranges is None:
        pytest.skip("its loss spends probability on other kinds")
    hidden = torch.randn(1, WIDTH)
    drawn = io.sample(hidden.expand(4000, -1), VOCABULARY.visual(), Draw(), Place(0, 1, uniforms(range(4000), 1)[0]))
    share = torch.bincount(drawn - 256, minlength=64) / 4000
    assert (share - (-nats(io, hidden, VISUAL)).exp()).abs().max() < 0.03


def test_the_total_is_weighted_and_its_gradient_is_that_of_each(io):
    hidden = torch.randn(SIZE, WIDTH, dtype=torch.float32).requires_grad_()
    ids, weight = torch.arange(SIZE), torch.rand(SIZE)
    total, each = io.loss(hidden, ids, weight)
    torch.testing.assert_close(total, (each * weight).sum())
    assert not each.requires_grad
    (gradient,) = torch.autograd.grad(total, hidden)
    alone = []
    for i in range(0, SIZE, 37):
        one = hidden[i : i + 1].detach().requires_grad_()
        (g,) = torch.autograd.grad(io.loss(one, ids[i : i + 1], weight[i : i + 1]).total, one)
        alone.append(g)
    torch.testing.assert_close(gradient[::37], torch.cat(alone), rtol=1e-4, atol=1e-5)


def test_factored_and_flat_agree_on_the_same_ids():
    """A flat table whose visual rows are the sums of the factors' gives each id the factors' joint probability."""
    torch.manual_seed(0)
    factored, flat = IndependentFactors(**FACTORED, factors=3, starts=STARTS), Flat(SIZE, WIDTH, starts=STARTS)
    with torch.no_grad():
        for p in factored.parameters():
            p.add_(torch.randn_like(p) * 0.3)
        for bias in (*factored.biases, factored.bias_flat):
            bias.zero_()  # a flat table has none
        codes = factored.split(VISUAL - 256)
        flat.table.weight[:256], flat.table.weight[320:] = factored.flat.weight[:256], factored.flat.weight[256:]
        flat.table.weight[256:320] = sum(t.weight[c] for t, c in zip(factored.tables, codes))
        torch.testing.assert_close(factored.embed(torch.arange(SIZE)), flat.embed(torch.arange(SIZE)))
        hidden, ids = torch.randn(SIZE, WIDTH), torch.arange(SIZE)
        one = factored.loss(hidden, ids, torch.ones(SIZE)).each
        other = flat.loss(factored.states(hidden), ids, torch.ones(SIZE)).each
    torch.testing.assert_close(one, other)
    assert one[VISUAL].std() > 0.1


def test_dependent_factors_become_independent_without_what_was_given():
    torch.manual_seed(0)
    io, hidden = Factored(**FACTORED), torch.randn(1, WIDTH)
    torch.nn.init.normal_(io.given[0].weight)
    joint = (-nats(io, hidden, VISUAL)).exp().reshape(8, 8)
    assert not torch.allclose(joint, joint.sum(0) * joint.sum(1)[:, None], atol=1e-4)
    with torch.no_grad():
        for p in (*io.given.parameters(), *io.mix.parameters()):
            p.zero_()
    joint = (-nats(io, hidden, VISUAL)).exp().reshape(8, 8)
    torch.testing.assert_close(joint, joint.sum(0) * joint.sum(1)[:, None])


def test_two_factors_stored_as_low_and_high_load():
    torch.manual_seed(0)
    io, other = Factored(**FACTORED), Factored(**FACTORED)
    old = {"tables.0": "low", "tables.1": "high", "heads.0": "head_low", "heads.1": "head_high", "given.0": "given_low",
           "mix.0.0": "mix.0"}  # fmt: skip
    state = {}
    for name, value in io.state_dict().items():
        prefix = next((p for p in old if name.startswith(p + ".")), None)
        state[old[prefix] + name.removeprefix(prefix) if prefix else name] = value
    assert "low.weight" in state and "mix.0.bias" in state and "tables.0.weight" not in state
    other.load_state_dict(state)
    for name, value in io.state_dict().items():
        assert torch.equal(other.state_dict()[name], value), name


@pytest.mark.parametrize("cls", [Factored, IndependentFactors])
def test_what_does_not_split_is_refused(cls):
    with pytest.raises(ValueError, match="64 visual codes do not split into 4 equal groups of bits"):
        cls(**FACTORED, factors=4)
    with pytest.raises(ValueError, match="cut through the visual codes"):
        cls(**FACTORED).sample(torch.randn(1, WIDTH), range(250, 270), Draw(), Place())


def test_starts_must_be_those_of_the_vocabulary():
    with pytest.raises(ValueError, match=r"the token shards need \[0, 256, 320, 336\]"):
        Flat(SIZE, WIDTH, starts=[0, 256, 320]).check(VOCABULARY)
    for starts in ([1, 256], [0, 256, 256], [0, SIZE]):
        with pytest.raises(ValueError, match="must begin with 0 and rise"):
            Flat(SIZE, WIDTH, starts=starts)
    with pytest.raises(ValueError, match="vocabulary_size 352, the token shards need 353"):
        Flat(352, WIDTH).check(Vocabulary(visual_size=65, audio_levels=2, audio_codes=16))


@pytest.mark.parametrize("ranges", [None, [(0, 7), (7, 20), (20, 31)]], ids=["all", "ranges"])
@pytest.mark.parametrize("biased", [False, True])
@pytest.mark.parametrize("logits", [1, 64, 2**20])
def test_chunked_cross_entropy_is_plain_cross_entropy(ranges, biased, logits, monkeypatch):
    monkeypatch.setattr(chunked, "LOGITS", logits)
    g = torch.Generator().manual_seed(0)
    hidden, rows = (torch.randn(n, 5, generator=g, dtype=torch.float64) for n in (17, 31))
    bias = torch.randn(31, generator=g, dtype=torch.float64) if biased else None
    targets, weight = torch.randint(0, 31, (17,), generator=g), torch.rand(17, generator=g)
    leaves = [t.float().requires_grad_() for t in (hidden, rows, bias) if t is not None]
    total, each = cross_entropy(leaves[0], leaves[1], targets, weight, ranges, leaves[2] if biased else None)
    scores = leaves[0] @ leaves[1].T + (leaves[2] if biased else 0)
    if ranges:
        outside = [
            torch.tensor([not a <= i < b for i in range(31)]) for t in targets.tolist() for a, b in ranges if a <= t < b
        ]
        scores = scores.masked_fill(torch.stack(outside), -torch.inf)
    plain = F.cross_entropy(scores, targets, reduction="none")
    torch.testing.assert_close(each, plain.detach())
    found = torch.autograd.grad(3 * total, leaves)
    for one, other in zip(found, torch.autograd.grad(3 * (plain * weight).sum(), leaves)):
        torch.testing.assert_close(one, other)
    with pytest.raises(RuntimeError, match="backward"):
        torch.autograd.grad(total, leaves)


def test_cross_entropy_under_autocast_gives_gradients_in_the_dtype_of_the_weights():
    hidden, rows = torch.randn(40, 16, requires_grad=True), torch.randn(100, 16, requires_grad=True)
    targets, weight = torch.randint(0, 100, (40,)), torch.full((40,), 1 / 40)
    exact = torch.autograd.grad(cross_entropy(hidden, rows, targets, weight)[0], (hidden, rows))
    with torch.autocast("cpu", torch.bfloat16):
        total, each = cross_entropy(hidden, rows, targets, weight)
    rounded = torch.autograd.grad(total, (hidden, rows))
    assert each.dtype == torch.float32
    for one, other in zip(exact, rounded):
        assert other.dtype == torch.float32
        torch.testing.assert_close(one, other, rtol=0.05, atol=0.01)
        assert not torch.equal(one, other)


def test_positions_times_vocabulary_never_exists(monkeypatch):
    """No operation in either pass makes a tensor of more elements than the table and a chunk of logits have."""
    monkeypatch.setattr(chunked, "LOGITS", 2**14)
    positions, vocabulary, width = 512, 4096, 8
    largest = 0

    class Watch(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            nonlocal largest
            out = func(*args, **(kwargs or {}))
            for t in out if isinstance(out, tuple | list) else [out]:
                if isinstance(t, torch.Tensor):
                    largest = max(largest, t.untyped_storage().nbytes() // 4)
            return out

    io = Flat(vocabulary, width)
    hidden = torch.randn(positions, width, requires_grad=True)
    with Watch():
        io.loss(hidden, torch.randint(0, vocabulary, (positions,)), torch.ones(positions)).total.backward()
    assert largest == vocabulary * width, "the table's gradient is the largest thing made"
    assert io.table.weight.grad.abs().sum() > 0

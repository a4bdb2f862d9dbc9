"""Several sequences in one row are what they are alone: states, loss and gradients."""

import pytest
import torch
from conftest import FLAT, LAYOUT, lm_spec

from videopoet import component
from videopoet.models.attend import PackedPlan, plan_attention
from videopoet.pipeline import TASKS
from videopoet.sequence import IGNORE, Batch, Sequence
from videopoet.vocabulary import Modality


@pytest.fixture(scope="module")
def model(text_model):
    torch.manual_seed(0)
    return component.instantiate(lm_spec(text_model, FLAT)).eval()


@pytest.fixture
def sequences(example) -> list[Sequence]:
    return [Sequence.of(task.segments(example, LAYOUT)) for task in TASKS.values()]


def gradients(model, loss) -> dict[str, torch.Tensor]:
    found = torch.autograd.grad(loss, [p for p in model.parameters() if p.requires_grad], allow_unused=True)
    return {name: g for (name, p), g in zip(model.named_parameters(), found) if g is not None}


def test_a_packed_row_is_its_sequences(model, sequences):
    packed = Batch.pack([sequences[:3], sequences[3:]])
    assert isinstance(plan_attention(packed), PackedPlan)
    hidden, losses, counts = model.hidden(packed), [], []
    for document, sequence in zip(packed.sight.documents, sequences, strict=True):
        alone = Batch.of([sequence])
        part = hidden[document.row, document.start : document.stop]
        torch.testing.assert_close(part, model.hidden(alone)[0, sequence.shown], rtol=1e-4, atol=1e-5)
        losses.append(model.loss(alone).total)
        counts.append(int((sequence.targets != IGNORE).sum()))
    mean = sum(loss * count for loss, count in zip(losses, counts)) / sum(counts)
    together = model.loss(packed)
    torch.testing.assert_close(together.total, mean)
    assert set(together.by_modality) == {"visual", "audio"}
    one, other = gradients(model, together.total), gradients(model, mean)
    assert one.keys() == other.keys()
    for name in one:
        torch.testing.assert_close(one[name], other[name], rtol=1e-3, atol=1e-6, msg=name)


def test_packing_leaves_out_what_is_hidden_and_counts_documents(sequences):
    batch = Batch.pack([sequences[:2], sequences[2:3]])
    longest = sum(int(s.shown.sum()) for s in sequences[:2])
    assert batch.inputs.shape == (2, longest)
    assert batch.document[0].unique().tolist() == [1, 2]
    assert batch.document[1].sort().values.unique().tolist() == [0, 1], "the shorter row ends in padding"
    assert (batch.targets[batch.document == 0] == IGNORE).all()


def test_modality_of_targets_stops_at_the_end_of_a_document(sequences):
    packed = Batch.pack([sequences])
    following = packed.following()[packed.targets != IGNORE]
    alone = [Batch.of([s]) for s in sequences]
    assert torch.equal(following, torch.cat([b.following()[b.targets != IGNORE] for b in alone]))
    kinds = {int(m) for m in following}
    assert kinds == {Modality.VISUAL, Modality.AUDIO}


def test_a_row_that_does_not_fit_is_refused(sequences):
    with pytest.raises(ValueError, match=r"a row of packed sequences has \d+ positions, the batch 40: pack fewer"):
        Batch.pack([sequences], length=40)


def test_tasks_of_one_length_may_share_a_batch(model, example):
    """Rows whose text stands in other columns, or that have none."""
    video, image = TASKS["text-to-video"], TASKS["image-to-video"]
    rows = [video.segments(example, LAYOUT), image.segments(example, LAYOUT)]
    n = min(len(Sequence.of(row)) for row in rows)
    sequences = [Sequence(**{k: v[:n] for k, v in vars(Sequence.of(row)).items()}) for row in rows]
    batch = Batch.of(sequences)
    for row, sequence in enumerate(sequences):
        alone = model.hidden(Batch.of([sequence]))[0]
        shown = sequence.shown
        torch.testing.assert_close(model.hidden(batch)[row][shown], alone[shown], rtol=1e-4, atol=1e-5)

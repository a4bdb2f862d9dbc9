"""Autoregressive sampling: prefill the condition, then draw each target token from the ids its place allows."""

from collections.abc import Callable
from collections.abc import Sequence as Many

import torch
from torch import Tensor

from videopoet.models.token_lm import TokenLM
from videopoet.sampling.rules import Draw, Place, uniforms
from videopoet.sequence import Batch, Segment, Sequence
from videopoet.vocabulary import Modality, Vocabulary


def num_tokens(template: list[Segment]) -> int:
    """Tokens made per row: those of a target up to the last that is drawn, markers between them included."""
    return int(Sequence.whole(template).targets.ge(0).nonzero().max()) + 1


@torch.inference_mode()
def generate(
    model: TokenLM,
    conditions: Many[list[Segment]],
    unconditioned: Many[list[Segment]],
    template: list[Segment],
    vocabulary: Vocabulary,
    draw: Draw,
    seed: int | Many[int] = 0,
    progress: Callable[[int, int], None] | None = None,
) -> dict[Modality, Tensor]:
    """Draw the tokens of `template` for every condition at once.

    conditions: the condition of each row. unconditioned: the further copies that guidance needs, see
    `sampling.conditions.unconditioned`.
    template: the target with any codes: it says which places are fixed markers and which ids each place allows.
    seed: of each row; a number is that of the first row and counts up from there.
    progress: called with (tokens made, tokens in all).
    Returns ids int64 (b, n) of each generated modality, in order. No token waits for the device to be read.
    """
    if (len(unconditioned) + len(conditions)) != draw.copies * len(conditions):
        raise ValueError(
            f"guidance takes {draw.copies - 1} further copies of {len(conditions)} rows, {len(unconditioned)} were given"
        )
    rows = [*conditions, *unconditioned]
    device = next(model.parameters()).device
    start, total = len(Sequence.whole(conditions[0])), num_tokens(template)
    batch = Batch.of([Sequence.of([*segments, *template]).head(start) for segments in rows]).to(device)
    whole, read = (make([*conditions[0], *template]) for make in (Sequence.whole, Sequence.of))
    places = torch.stack([read.aim, read.position], 1)[start:].to(device)
    seeds = range(seed, seed + len(conditions)) if isinstance(seed, int) else seed
    chance = uniforms(seeds, total, device)
    ids_there = whole.inputs[start:].tolist()
    drawn, modalities = whole.targets[start:].ge(0).tolist(), map(Modality, whole.modality[start:].tolist())
    hidden, cache = model.prefill(batch, start + total)
    made: dict[Modality, list[Tensor]] = {}
    for i, modality in zip(range(total), modalities):
        if drawn[i]:
            ids = model.io.sample(hidden, vocabulary.legal(ids_there[i]), draw, Place(i, total, chance[i]))
            made.setdefault(modality, []).append(ids[: len(conditions)])
        else:
            ids = torch.full((len(rows),), ids_there[i], device=device)
        if i + 1 < total:
            hidden = model.step(ids, modality, places[i], cache)
        if progress:
            progress(i + 1, total)
    return {modality: torch.stack(ids, 1) for modality, ids in made.items()}

"""Autoregressive sampling: prefill the condition, then draw each target token from the ids its place allows."""

from collections.abc import Callable
from collections.abc import Sequence as Many

import torch
from torch import Tensor

from videopoet.models.token_lm import TokenLM
from videopoet.sampling.rules import Draw
from videopoet.sequence import Batch, Segment, Sequence
from videopoet.vocabulary import Modality, Vocabulary


def row_generators(seed: int, rows: int) -> list[torch.Generator]:
    """One generator per row; row i of seed s equals row 0 of seed s + i. Raises ValueError on a seed out of range."""
    if not 0 <= seed < 2**62:
        raise ValueError(f"seed is {seed}: it must lie between 0 and 2^62")
    return [torch.Generator().manual_seed(seed + row) for row in range(rows)]


@torch.inference_mode()
def generate(
    model: TokenLM,
    conditions: Many[list[Segment]],
    unconditioned: Many[list[Segment]],
    template: list[Segment],
    vocabulary: Vocabulary,
    draw: Draw,
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> dict[Modality, Tensor]:
    """Draw the tokens of `template` for every condition at once.

    conditions: the condition of each row. unconditioned: the same without what guidance guides on; used with guidance.
    template: the target with any codes: it says which places are fixed markers and which ids each place allows.
    progress: called with (tokens made, tokens in all).
    Returns ids int64 (b, n) of each generated modality, in order.
    """
    rows = [*conditions, *(unconditioned if draw.guidance else ())]
    device = next(model.parameters()).device
    batch = Batch.of([Sequence.whole(segments) for segments in rows]).to(device)
    whole = Sequence.whole([*conditions[0], *template])
    start, stop = batch.inputs.shape[1], len(whole)
    generators = row_generators(seed, len(conditions))
    hidden, cache = model.prefill(batch, stop)
    made: dict[Modality, list[Tensor]] = {}
    positions, fixed = whole.position.to(device), (whole.targets < 0).tolist()
    last = max(i for i in range(start, stop) if not fixed[i])
    for i in range(start, last + 1):
        modality, id = Modality(int(whole.modality[i])), int(whole.inputs[i])
        if fixed[i]:
            ids = torch.full((len(rows),), id, device=device)
        else:
            ids = model.io.sample(hidden, vocabulary.legal(id), draw, generators)
            made.setdefault(modality, []).append(ids[: len(conditions)])
        if i < last:
            hidden = model.step(ids, modality, positions[i], cache)
        if progress:
            progress(i + 1 - start, last + 1 - start)
    return {modality: torch.stack(ids, 1) for modality, ids in made.items()}

"""Segments in, aligned arrays out: the only place that shifts, masks and numbers tokens.

Example (text-to-video, 2 text tokens, 3 video tokens; `.` = not predicted):

    token     bos  task bot  w0  w1  eot  bov  v0  v1  v2
    causal     0    0    0    0   0   0    0   1   1   1
    => inputs bos  task bot  w0  w1  eot  bov  v0  v1
       target  .    .    .    .   .   .   v0   v1  v2
       block   0    0    0    0   0   0    0   1   2
"""

from collections.abc import Sequence as Many
from dataclasses import dataclass, fields

import torch
from torch import Tensor

from videopoet.vocabulary import Control, Modality

IGNORE = -1  # target of a position that predicts nothing


@dataclass(frozen=True, kw_only=True)
class Segment:
    """A run of tokens with one role.

    ids: int64 (n,), vocabulary ids; SentencePiece ids where `modality` is TEXT.
    position: float (n, 3), time, row and column of each token relative to the segment's origin. Time is in frames.
    predicted: whether the loss falls on these tokens.
    causal: whether each token opens a block of its own (sees only what stands before it) or shares its neighbours'.
    shown: bool (n,), false where the token is padding that no other position may see.
    joined: whether positions count from the origin of the segment before, for streams of several runs, in place of a
        new origin after it.
    """

    ids: Tensor
    modality: Modality
    position: Tensor
    shown: Tensor
    predicted: bool
    causal: bool
    joined: bool = False

    @classmethod
    def given(cls, ids: Tensor, modality: Modality, position: Tensor | None = None, shown: Tensor | None = None):
        """Tokens of the condition: seen by everything, predicted by nothing."""
        return cls._of(ids, modality, position, shown, predicted=False, causal=False)

    @classmethod
    def generated(cls, ids: Tensor, modality: Modality, position: Tensor | None = None):
        """Tokens to be made: each predicted from everything before it."""
        return cls._of(ids, modality, position, None, predicted=True, causal=True)

    @classmethod
    def marker(cls, *controls: Control, generated: bool = False):
        """Control tokens. A generated marker stands among outputs: causal, and never drawn, as the layout fixes it."""
        ids = torch.tensor([int(c) for c in controls])
        return cls._of(ids, Modality.CONTROL, None, None, predicted=False, causal=generated)

    @classmethod
    def _of(cls, ids, modality, position, shown, *, predicted, causal):
        if position is None:
            position = torch.arange(len(ids), dtype=torch.float32)[:, None].expand(-1, 3)
        if shown is None:
            shown = torch.ones(len(ids), dtype=torch.bool)
        if not len(ids) == len(position) == len(shown):
            raise ValueError(f"a segment of {len(ids)} ids has {len(position)} positions and {len(shown)} shown flags")
        return cls(
            ids=ids.long(), modality=modality, position=position, shown=shown, predicted=predicted, causal=causal
        )


@dataclass(frozen=True, kw_only=True)
class Sequence:
    """Aligned arrays of one sample: position i reads `inputs[i]` and predicts `targets[i]`, the token after it.

    i attends to j exactly when `block[j] <= block[i]` and j is shown. All are (n,), `position` is (n, 3).
    """

    inputs: Tensor
    targets: Tensor
    modality: Tensor
    position: Tensor
    block: Tensor
    shown: Tensor

    @classmethod
    def of(cls, segments: Many[Segment]) -> "Sequence":
        """All tokens but the last as inputs, all but the first as targets."""
        tokens = cls.whole(segments)
        return cls(
            inputs=tokens.inputs[:-1],
            targets=tokens.targets[1:],
            **{name: getattr(tokens, name)[:-1] for name in ("modality", "position", "block", "shown")},
        )

    @classmethod
    def whole(cls, segments: Many[Segment]) -> "Sequence":
        """Every token, unshifted: what sampling prefills. `targets[i]` is token i itself where it is predicted."""
        origin, end, positions = 0.0, 0.0, []
        for segment in segments:
            origin = origin if segment.joined else end
            positions.append(segment.position + origin)
            if len(segment.ids):
                end = max(end, float(positions[-1].max()) + 1.0)
        ids = torch.cat([s.ids for s in segments])
        predicted = torch.cat([torch.full_like(s.ids, s.predicted, dtype=torch.bool) for s in segments])
        return cls(
            inputs=ids,
            targets=torch.where(predicted, ids, torch.full_like(ids, IGNORE)),
            modality=torch.cat([torch.full_like(s.ids, s.modality) for s in segments]),
            position=torch.cat(positions),
            block=torch.cat([torch.full_like(s.ids, s.causal) for s in segments]).cumsum(0),
            shown=torch.cat([s.shown for s in segments]),
        )

    def __len__(self) -> int:
        return len(self.inputs)


@dataclass(frozen=True, kw_only=True)
class Batch:
    """Sequences of one length, stacked (b, n). `document` is 0 at padding and 1 at shown positions.

    `task` names what the batch trains on and `step` the training step it was made for.
    """

    inputs: Tensor
    targets: Tensor
    modality: Tensor
    position: Tensor
    block: Tensor
    document: Tensor
    task: str = ""
    step: int = 0

    @classmethod
    def of(cls, sequences: Many[Sequence], task: str = "", step: int = 0) -> "Batch":
        """Raises ValueError where lengths differ: one batch has one length, so that nothing is padded."""
        lengths = sorted({len(s) for s in sequences})
        if len(lengths) != 1:
            raise ValueError(f"a batch has one sequence length, these have {lengths}: group them by task and lattice")
        names = ("inputs", "targets", "modality", "position", "block")
        stacked = {name: torch.stack([getattr(s, name) for s in sequences]) for name in names}
        return cls(document=torch.stack([s.shown for s in sequences]).long(), task=task, step=step, **stacked)

    def attention(self) -> Tensor:
        """bool (b, 1, n, n): may query i (row) see key j (column). Padding sees itself and is seen by nothing else."""
        earlier = self.block[:, None, :] <= self.block[:, :, None]
        same = self.document[:, None, :] == self.document[:, :, None]
        return (earlier & same)[:, None]

    @property
    def padding(self) -> Tensor:
        """Share of the positions that stand for nothing, a scalar: empty text slots, and the ends of packed rows."""
        return (self.document == 0).float().mean()

    def to(self, device, non_blocking: bool = False) -> "Batch":
        """The same batch on a device."""
        moved = {f.name: getattr(self, f.name) for f in fields(self)}
        return Batch(
            **{k: v.to(device, non_blocking=non_blocking) if isinstance(v, Tensor) else v for k, v in moved.items()}
        )

"""Segments in, aligned arrays out: the only place that shifts, masks and numbers tokens.

Example (text-to-video, 2 text tokens, 3 video tokens; `.` = not predicted):

    token     bos  task bot  w0  w1  eot  bov  v0  v1  v2
    causal     0    0    0    0   0   0    0   1   1   1
    => inputs bos  task bot  w0  w1  eot  bov  v0  v1
       target  .    .    .    .   .   .   v0   v1  v2
       block   0    0    0    0   0   0    0   1   2
"""

from collections.abc import Sequence as Many
from dataclasses import dataclass, fields, replace

import torch
from torch import Tensor

from videopoet.vocabulary import Control, Modality

IGNORE = -1  # target of a position that predicts nothing


@dataclass(frozen=True, kw_only=True)
class Segment:
    """A run of tokens with one role.

    ids: int64 (n,), vocabulary ids; SentencePiece ids where `modality` is TEXT.
    position: float (n, 3), time in frames from the start of the clip, row and column of each token. None for tokens that
        stand in no clip, text and markers: the sequence counts them.
    predicted: whether the loss falls on these tokens.
    causal: whether each token opens a block of its own (sees only what stands before it) or shares its neighbours'.
    shown: bool (n,), false where the token is padding that no other position may see.
    """

    ids: Tensor
    modality: Modality
    position: Tensor | None
    shown: Tensor
    predicted: bool
    causal: bool

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
        if shown is None:
            shown = torch.ones(len(ids), dtype=torch.bool)
        positions = len(ids) if position is None else len(position)
        if not len(ids) == positions == len(shown):
            raise ValueError(f"a segment of {len(ids)} ids has {positions} positions and {len(shown)} shown flags")
        return cls(
            ids=ids.long(), modality=modality, position=position, shown=shown, predicted=predicted, causal=causal
        )


@dataclass(frozen=True, kw_only=True)
class Sequence:
    """Aligned arrays of one sample: position i reads `inputs[i]` and predicts `targets[i]`, the token after it.

    i attends to j exactly when `block[j] <= block[i]` and j is shown. All are (n,), `position` and `aim` are (n, 3):
    where token i stands, and where the token stands that it predicts (its own position where it predicts none). `key`
    names the sample it was made of.

    Tokens of a clip stand at their time, row and column in it, given or made, whatever comes before them in the sequence;
    text and markers are counted one after the other and stand at (i, i, i).
    """

    inputs: Tensor
    targets: Tensor
    modality: Tensor
    position: Tensor
    aim: Tensor
    block: Tensor
    shown: Tensor
    key: str = ""

    @classmethod
    def of(cls, segments: Many[Segment], key: str = "") -> "Sequence":
        """All tokens but the last as inputs, all but the first as targets."""
        tokens = cls.whole(segments)
        targets = tokens.targets[1:]
        aim = torch.where((targets != IGNORE)[:, None], tokens.position[1:], tokens.position[:-1])
        return cls(
            inputs=tokens.inputs[:-1],
            targets=targets,
            aim=aim,
            **{name: getattr(tokens, name)[:-1] for name in ("modality", "position", "block", "shown")},
            key=key,
        )

    @classmethod
    def whole(cls, segments: Many[Segment]) -> "Sequence":
        """Every token, unshifted. `targets[i]` is token i itself where it is predicted, and `aim[i]` where it stands."""
        counted, positions = 0, []
        for segment in segments:
            position = segment.position
            if position is None:
                position = torch.arange(counted, counted + len(segment.ids), dtype=torch.float32)[:, None].expand(-1, 3)
                counted += len(segment.ids)
            positions.append(position)
        position = torch.cat(positions)
        ids = torch.cat([s.ids for s in segments])
        predicted = torch.cat([torch.full_like(s.ids, s.predicted, dtype=torch.bool) for s in segments])
        return cls(
            inputs=ids,
            targets=torch.where(predicted, ids, torch.full_like(ids, IGNORE)),
            modality=torch.cat([torch.full_like(s.ids, s.modality) for s in segments]),
            position=position,
            aim=position,
            block=torch.cat([torch.full_like(s.ids, s.causal) for s in segments]).cumsum(0),
            shown=torch.cat([s.shown for s in segments]),
        )

    def at(self, places: Tensor) -> "Sequence":
        """What stands at these places, bool (n,)."""
        arrays = [f.name for f in fields(self) if f.name != "key"]
        return replace(self, **{name: getattr(self, name)[places] for name in arrays})

    def head(self, length: int) -> "Sequence":
        """The first positions: of a training sequence's condition, what sampling prefills."""
        return self.at(torch.arange(len(self)) < length)

    def __len__(self) -> int:
        return len(self.inputs)


@dataclass(frozen=True, kw_only=True)
class Prefix:
    """Every row sees alike: positions below `length` see each other both ways, each later one all that is before it.

    hidden: some position of the prefix is padding that no other sees. Its last position is shown, as all after it are.
    predicts: a position before the last of the prefix predicts something, as masked tokens do.
    """

    length: int
    hidden: bool
    predicts: bool


@dataclass(frozen=True, kw_only=True)
class Document:
    """Positions [start, stop) of one row, which see only each other: `prefix` of them both ways, the rest causally."""

    row: int
    start: int
    prefix: int
    stop: int


@dataclass(frozen=True, kw_only=True)
class Packed:
    """Documents, row by row and in order; positions outside them are padding."""

    documents: tuple[Document, ...]


@dataclass(frozen=True, kw_only=True)
class Batch:
    """Sequences stacked (b, n). `document` is 0 at padding; shown positions have the number, from 1, of their sequence.

    `sight` says in few numbers who sees whom, where that is possible, so that attention can take a fast path; it is
    made on the CPU with the batch, as reading it off tensors on a device would wait for the device. None is always right.
    `task` names what the batch trains on, `step` the training step it was made for, `keys` the samples it was made of;
    `faults` says which samples could not be read and have substitutes.
    """

    inputs: Tensor
    targets: Tensor
    modality: Tensor
    position: Tensor
    aim: Tensor
    block: Tensor
    document: Tensor
    sight: Prefix | Packed | None = None
    task: str = ""
    step: int = 0
    keys: tuple[str, ...] = ()
    faults: tuple = ()

    @classmethod
    def of(cls, sequences: Many[Sequence], task: str = "", step: int = 0) -> "Batch":
        """One sequence per row. Raises ValueError where lengths differ: one batch has one length, so nothing is padded."""
        lengths = sorted({len(s) for s in sequences})
        if len(lengths) != 1:
            raise ValueError(f"a batch has one sequence length, these have {lengths}: group them by task and lattice")
        names = ("inputs", "targets", "modality", "position", "aim", "block")
        stacked = {name: torch.stack([getattr(s, name) for s in sequences]) for name in names}
        shown = torch.stack([s.shown for s in sequences])
        sight = _sight(stacked["block"], shown, stacked["targets"])
        keys = tuple(s.key for s in sequences)
        return cls(document=shown.long(), sight=sight, task=task, step=step, keys=keys, **stacked)

    @classmethod
    def pack(cls, rows: Many[Many[Sequence]], length: int | None = None, task: str = "", step: int = 0) -> "Batch":
        """Several sequences in each row, one after the other, padded at the end to `length` or the longest row.

        Positions that are not shown are left out: nothing sees them and they predict nothing. Each sequence keeps its
        positions. Example, length 8, `-` a text slot that is not shown:

            sequences   bos bot w0  -  eot bov v0   and   bos bov v0
            inputs      bos bot w0 eot bov v0 bos bov v0 -> 9 positions: ValueError; with length 10
            document     1   1   1  1   1   1  2   2   2  0

        Raises ValueError where a row does not fit in `length`.
        """
        rows = [[_shown(s) for s in row] for row in rows]
        longest = max(sum(len(s) for s in row) for row in rows)
        if longest > (length or longest):
            raise ValueError(f"a row of packed sequences has {longest} positions, the batch {length}: pack fewer")
        n, documents, columns = length or longest, [], []
        padding = {"inputs": int(Control.PAD), "targets": IGNORE, "modality": int(Modality.CONTROL)}
        for r, row in enumerate(rows):
            start, number = 0, []
            for i, s in enumerate(row):
                documents.append(_document(s, r, start))
                number.append(torch.full((len(s),), i + 1))
                start += len(s)
            fields_ = {name: [getattr(s, name) for s in row] for name in (*padding, "position", "aim", "block")}
            columns.append({name: _padded(parts, n, padding.get(name, 0)) for name, parts in fields_.items()})
            columns[-1]["document"] = _padded(number, n, 0)
        stacked = {name: torch.stack([c[name] for c in columns]) for name in columns[0]}
        sight = Packed(documents=tuple(documents)) if all(documents) else None
        keys = tuple(s.key for row in rows for s in row)
        return cls(sight=sight, task=task, step=step, keys=keys, **stacked)

    def attention(self) -> Tensor:
        """bool (b, 1, n, n): may query i (row) see key j (column). Padding sees itself and is seen by nothing else."""
        earlier = self.block[:, None, :] <= self.block[:, :, None]
        same = self.document[:, None, :] == self.document[:, :, None]
        return (earlier & same)[:, None]

    @property
    def places(self) -> Tensor:
        """float (b, n, 2, 3): from where each position asks, its `aim`, and where it is found, its `position`."""
        return torch.stack([self.aim, self.position], 2)

    @property
    def padding(self) -> Tensor:
        """Share of the positions that stand for nothing, a scalar: empty text slots, and the ends of packed rows."""
        return (self.document == 0).float().mean()

    def following(self) -> Tensor:
        """Modality int64 (b, n) of the token each position predicts: that of the position after it in its sequence."""
        after = torch.cat([self.modality[:, 1:], self.modality[:, -1:]], 1)
        number = torch.cat([self.document[:, 1:], self.document[:, -1:]], 1)
        return torch.where(number == self.document, after, self.modality)

    def to(self, device, non_blocking: bool = False) -> "Batch":
        """The same batch on a device."""
        moved = {f.name: getattr(self, f.name) for f in fields(self)}
        return Batch(
            **{k: v.to(device, non_blocking=non_blocking) if isinstance(v, Tensor) else v for k, v in moved.items()}
        )


def _prefix_length(block: Tensor) -> int | None:
    """Positions that share the first block (n,), if each later one opens its own; else None."""
    prefix = int((block == block[0]).sum())
    return prefix if torch.equal(block[prefix - 1 :] - block[0], torch.arange(len(block) - prefix + 1)) else None


def _sight(block: Tensor, shown: Tensor, targets: Tensor) -> Prefix | Packed | None:
    """Blocks, shown flags and targets (b, n) in few numbers, if they can be."""
    n = block.shape[1]
    if bool((block == block[:1]).all()):
        prefix = _prefix_length(block[0])
        if prefix is not None and bool(shown[:, prefix - 1 :].all()):
            predicts = bool((targets[:, : prefix - 1] != IGNORE).any())
            return Prefix(length=prefix, hidden=not bool(shown.all()), predicts=predicts)
    if bool(shown.all()):
        prefixes = [_prefix_length(row) for row in block]
        if None not in prefixes:
            return Packed(documents=tuple(Document(row=r, start=0, prefix=p, stop=n) for r, p in enumerate(prefixes)))
    return None


def _shown(sequence: Sequence) -> Sequence:
    """Without the positions that nothing sees."""
    assert (sequence.targets[~sequence.shown] == IGNORE).all(), "a position that is not shown predicts nothing"
    return sequence.at(sequence.shown)


def _document(sequence: Sequence, row: int, start: int) -> Document | None:
    prefix = _prefix_length(sequence.block) if len(sequence) else 0
    return None if prefix is None else Document(row=row, start=start, prefix=prefix, stop=start + len(sequence))


def _padded(parts: list[Tensor], n: int, value: int) -> Tensor:
    """Parts (n_i, ...) one after the other, filled up to (n, ...)."""
    whole = torch.cat(parts)
    return torch.cat([whole, whole.new_full((n - len(whole), *whole.shape[1:]), value)])

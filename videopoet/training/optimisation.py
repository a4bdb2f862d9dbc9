"""How fast each weight learns: one rate for all, or rates by which a wider model needs no other ones."""

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass

from torch import Tensor, nn

from videopoet.models.token_io import Flat, TokenIO
from videopoet.models.token_lm import TokenLM


class Rates(ABC):
    """The rate of every weight as a share of `learning_rate`."""

    @abstractmethod
    def share(self, name: str, weight: nn.Parameter, fan_in: int | None) -> float:
        """Of a weight of the model; fan_in: numbers that each of its outputs sums, None where it sums none."""

    def groups(self, model: TokenLM, learning_rate: float, weight_decay: float) -> list[dict]:
        """Parameter groups for AdamW. Matrices decay, vectors do not, and decay per step is the same at every share."""
        groups: dict[tuple[float, bool], list[nn.Parameter]] = {}
        for name, weight, fan_in in weights_of(model):
            groups.setdefault((self.share(name, weight, fan_in), weight.ndim >= 2), []).append(weight)
        return [
            {
                "params": groups[key],
                "lr": learning_rate * key[0],
                "weight_decay": weight_decay / key[0] if key[1] else 0.0,
            }
            for key in sorted(groups, key=lambda key: not key[1])  # the order that older checkpoints have
        ]


@dataclass(frozen=True, kw_only=True)
class OneRate(Rates):
    """`learning_rate` for every weight."""

    def share(self, name: str, weight: nn.Parameter, fan_in: int | None) -> float:
        return 1.0


@dataclass(frozen=True, kw_only=True)
class PerWidth(Rates):
    """Maximal update rates for Adam (Tensor Programs V, 2203.03466, Table 3): a matrix learns at base_width / fan_in.

    One step of Adam moves each number of a matrix by about its rate, and each output by fan_in times that: with these
    rates outputs move as much at every width, so the best `learning_rate` of a narrow model is near that of a wide one.
    Embeddings and vectors sum nothing and learn at `learning_rate`; a table that is also read as the output head sums.
    Only rates are scaled, not the initialisation, where the paper scales that of the head too: logits of a head that
    begins at 1 / sqrt(width), as `Factored` has, still move by sqrt(width) more.

    Example: base_width 256. In a model of width 1024 the matrix from 1024 to 3072 learns at a quarter of the rate, the
    one from the MLP's 2752 to 1024 at 256 / 2752; in a model of width 256 the former at the whole of it.
    """

    base_width: int = 256

    def __post_init__(self):
        if self.base_width < 1:
            raise ValueError(f"base_width is {self.base_width}: give the width for which learning_rate was found")

    def share(self, name: str, weight: nn.Parameter, fan_in: int | None) -> float:
        return 1.0 if fan_in is None else self.base_width / fan_in


def weights_of(model: TokenLM) -> Iterator[tuple[str, nn.Parameter, int | None]]:
    """Every trained weight with its name and fan-in, in the model's order."""
    embeddings = {id(m.weight) for m in model.modules() if isinstance(m, nn.Embedding)}
    embeddings -= {id(weight) for weight in heads(model.io)}
    for name, weight in model.named_parameters():
        if weight.requires_grad:
            sums = weight.ndim >= 2 and id(weight) not in embeddings
            yield name, weight, weight.shape[1:].numel() if sums else None


def heads(io: TokenIO) -> list[Tensor]:
    """The matrices that logits are read from, tables that are tied to the input included."""
    return [io.rows] if isinstance(io, Flat) else [io.head(i)[0] for i in range(-1, io.factors)]

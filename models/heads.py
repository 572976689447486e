"""Heads: the last layer of a classifier, and how it takes a class score apart into votes. One protocol for all.

Whatever asks for votes (explanations, routes, studies) asks the head, and needs not know which one it is. A new head is
a class here, and an entry of `HEADS` if snapshots are to name it.
"""

import re
from collections.abc import Callable, Iterator
from typing import Any, Protocol, cast, runtime_checkable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.dynamic_k import DynamicKLinear
from util.cli import UserError

DENSE_MARK = "dense"
BLOCK_ELEMENTS = 1 << 21  # votes that are held at one time


@runtime_checkable
class Head(Protocol):
    """What every head has: it maps pooled features (..., N) to scores (..., C), and takes them apart."""

    __call__: Callable[..., Any]

    @property
    def in_features(self) -> int:
        """N, pooled features."""

    @property
    def out_features(self) -> int:
        """C, classes."""

    @property
    def topk(self) -> int:
        """K, how many votes enter each score; N for a dense head."""

    @property
    def weight(self) -> Tensor:
        """(C, N)."""

    @property
    def bias(self) -> Tensor:
        """(C,)."""

    def votes(self, pooled: Tensor, classes: Tensor) -> Tensor:
        """Signed votes for one class per example: pooled (V, N), classes (V,) int64 -> (V, N), without gradients."""

    def chosen(self, pooled: Tensor, classes: Tensor) -> Tensor:
        """Which of `votes` the score of each example's class is the sum of: (V, N) bool."""


class DenseHead(nn.Linear):
    """`nn.Linear`: each score is the sum of all its votes.

    Args:
        in_features: N.
        out_features: C.
        bias: whether to add a learnable bias.
        topk: N, or None; there for the signature that heads share.
    """

    def __init__(self, in_features: int, out_features: int, bias: bool = True, topk: int | None = None):
        if topk not in (None, in_features):
            raise ValueError(f"a dense head sums all of its {in_features} votes, not {topk}")
        super().__init__(in_features, out_features, bias)

    @property
    def topk(self) -> int:
        """N: all votes."""
        return self.in_features

    def votes(self, pooled: Tensor, classes: Tensor) -> Tensor:
        """Pooled (V, N), classes (V,) -> (V, N)."""
        return pooled * self.weight.detach()[classes]

    def chosen(self, pooled: Tensor, classes: Tensor) -> Tensor:
        """All: (V, N) bool."""
        return torch.ones_like(pooled, dtype=torch.bool)

    @classmethod
    def of(cls, weight: Tensor, bias: Tensor) -> "DenseHead":
        """A dense head, in eval mode, with given weight (C, N) and bias (C,)."""
        return fill(cls(weight.shape[1], weight.shape[0]), weight, bias).eval()


class StraightThroughHead(DynamicKLinear):
    """DKA whose gradients are the dense layer's: they reach all votes, not the chosen ones only."""

    def forward(self, input: Tensor) -> Tensor:
        """Map (..., N) to (..., C)."""
        dense = F.linear(input, self.weight, self.bias)
        return dense + (super().forward(input) - dense).detach()


class ByMagnitudeHead(DynamicKLinear):
    """DKA that chooses the K votes of largest absolute value. Stores all votes: for small numbers of classes."""

    def forward(self, input: Tensor) -> Tensor:
        """Map (..., N) to (..., C)."""
        votes = input.float()[..., None, :] * self.weight  # (..., C, N)
        chosen = votes.abs().topk(self.topk, -1).indices  # (..., C, K)
        return votes.gather(-1, chosen).sum(-1) + self.bias

    def chosen(self, pooled: Tensor, classes: Tensor) -> Tensor:
        """The K votes of largest absolute value: (V, N) bool."""
        votes = self.votes(pooled, classes)
        return torch.zeros_like(votes, dtype=torch.bool).scatter_(1, votes.abs().topk(self.topk, 1).indices, True)


class NoBiasHead(DynamicKLinear):
    """DKA whose bias is zero and stays so."""

    def __init__(self, in_features: int, out_features: int, bias: bool = True, topk: int = 5):
        super().__init__(in_features, out_features, bias, topk)
        self.bias.requires_grad_(False).zero_()


class StaticHead(nn.Linear):
    """Static sparsity: each class sums the votes of the same K units for every example, those with its largest weights.

    The choice is made when the head is created (`freeze` makes one of another head's weights) and stays in the buffer
    `mask`, also while the weights are trained.

    Args:
        in_features: N.
        out_features: C.
        bias: whether to add a learnable bias.
        topk: K, weights per class, 1 <= K <= N.

    Raises:
        ValueError: if topk is not in 1..N.
    """

    mask: Tensor

    def __init__(self, in_features: int, out_features: int, bias: bool = True, topk: int = 5):
        if not 1 <= topk <= in_features:
            raise ValueError(f"topk must be an integer from 1 to in_features = {in_features}, not {topk!r}")
        super().__init__(in_features, out_features, bias)
        self.topk = topk
        self.register_buffer("mask", torch.zeros(out_features, in_features, dtype=torch.bool))
        self.choose()

    def rank(self) -> Tensor:
        """By what weights are chosen, the largest first: (C, N). DKA frozen: the signed weights."""
        return self.weight.detach()

    def choose(self) -> None:
        """Choose each class's K weights anew."""
        self.mask.zero_().scatter_(1, self.rank().topk(self.topk, 1).indices, True)

    @classmethod
    def freeze(cls, head: Head, topk: int | None = None) -> "StaticHead":
        """A static head, in eval mode, of another head's weights and bias; K is that head's unless given.

        Of a static head, the weights that it does not keep are zero.
        """
        weight = head.kept_weight if isinstance(head, StaticHead) else head.weight
        return fill(cls(head.in_features, head.out_features, topk=topk or head.topk), weight, head.bias).eval()

    @property
    def kept_weight(self) -> Tensor:
        """The weights that each class keeps, 0 elsewhere: (C, N)."""
        return self.weight * self.mask

    def forward(self, input: Tensor) -> Tensor:
        """Map (..., N) to (..., C)."""
        return F.linear(input, self.kept_weight, self.bias)

    def votes(self, pooled: Tensor, classes: Tensor) -> Tensor:
        """Pooled (V, N), classes (V,) -> (V, N); 0 for what the class does not keep."""
        return pooled * self.kept_weight.detach()[classes]

    def chosen(self, pooled: Tensor, classes: Tensor) -> Tensor:
        """The class's K units: (V, N) bool."""
        return self.mask[classes]


class PrunedHead(StaticHead):
    """Magnitude pruning: each class keeps its K weights of largest absolute value (a dense head, pruned)."""

    def rank(self) -> Tensor:
        """The weights' absolute values: (C, N)."""
        return self.weight.detach().abs()


# By the name under which a snapshot says which head it has. The first two are what an arch has unless told otherwise.
HEADS: dict[str, type[nn.Linear]] = {
    "dense": DenseHead,
    "dynamic_k": DynamicKLinear,
    "straight_through": StraightThroughHead,
    "by_magnitude": ByMagnitudeHead,
    "no_bias": NoBiasHead,
    "static": StaticHead,
    "pruned": PrunedHead,
}


def adopt(linear: nn.Linear, kind: Callable[..., nn.Linear] = DenseHead, topk: int | None = None) -> nn.Linear:
    """A head with a layer's own parameters, in its mode; no random number is drawn.

    Args:
        linear: the layer. If it has no bias, the head's is zero.
        kind: `DenseHead` or `DynamicKLinear`, which have nothing beside weight and bias.
        topk: K; None where the head has none.

    Raises:
        ValueError: if the head cannot have this K.
    """
    with torch.device("meta"):
        head = kind(linear.in_features, linear.out_features, topk=topk)
    head.weight = linear.weight
    head.bias = nn.Parameter(torch.zeros_like(linear.weight[:, 0])) if linear.bias is None else linear.bias
    return head.train(linear.training)


def fill(head: Any, weight: Tensor, bias: Tensor | None) -> Any:
    """Copy a weight (C, N) and a bias (C,) into a head of any kind, which may choose by them, or have no bias."""
    with torch.no_grad():
        head.weight.copy_(weight)
        if bias is not None and head.bias.requires_grad:
            head.bias.copy_(bias)
    if isinstance(head, StaticHead):
        head.choose()
    return head


def head_module_name(model: nn.Module) -> str:
    """The dotted name of a network's head.

    Raises:
        ValueError: if it has none of the heads of this module, or several.
    """
    names = [name for name, module in model.named_modules() if isinstance(module, Head)]
    if len(names) != 1:
        found = f"{len(names)} heads" if names else "no head: `with_dynamic_k` puts one in"
        raise ValueError(f"the network has {found}, expected one")
    return names[0]


def head_of(model: nn.Module) -> Head:
    """The head of a network that `build_model` or `with_dynamic_k` made. Raises ValueError if it has none."""
    return cast(Head, model.get_submodule(head_module_name(model)))


def parse_mark(mark: str) -> int:
    """'t5' -> K = 5. Raises UserError for anything but `t` and a positive number."""
    if not re.fullmatch(r"t[1-9][0-9]{0,8}", mark):
        raise UserError(f"mark {mark!r}: expected `t` and the number of votes K, for example t5")
    return int(mark[1:])


def mark_of(topk: int | None) -> str:
    """K = 5 -> 't5'; None -> 'dense'."""
    return DENSE_MARK if topk is None else f"t{topk}"


# --- over many examples, in blocks --------------------------------------------------------------------------------


@torch.inference_mode()
def predict(head: Head, pooled: Tensor) -> Tensor:
    """Predicted classes (V,) of pooled features (V, N), on the CPU."""
    return torch.cat([head(block).argmax(1).cpu() for (block,) in in_blocks(head, pooled)])


@torch.inference_mode()
def times_voted(head: Head, pooled: Tensor, classes: Tensor) -> Tensor:
    """In how many of V examples each unit takes part in the score: a chosen vote other than zero.

    Its sum over V is the mean number of units per example; a unit with 0 is dead, as far as these examples tell.

    Args:
        head: the head.
        pooled: (V, N) pooled features.
        classes: (V,) int64, the class of each example.

    Returns:
        (N,) int64, on the CPU.
    """
    times = torch.zeros(head.in_features, dtype=torch.int64)
    for features, own in in_blocks(head, pooled, classes):
        times += (head.chosen(features, own) & (head.votes(features, own) != 0)).sum(0).cpu()
    return times


def in_blocks(head: Head, pooled: Tensor, *beside: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """Pooled (V, N), and tensors (V, ...) beside it, block by block on the head's device: memory stays bounded."""
    rows = max(1, BLOCK_ELEMENTS // pooled.shape[1])
    for block in zip(*(tensor.split(rows) for tensor in (pooled, *beside)), strict=True):
        yield tuple(tensor.to(head.weight.device) for tensor in block)

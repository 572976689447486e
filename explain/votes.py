"""The votes behind a class score: which units were chosen, and what each of them gave. Pure tensors."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

BLOCK_ELEMENTS = 1 << 21  # votes that are looked at at one time


@dataclass(frozen=True)
class ClassVotes:
    """All N votes for one class of one example, largest first.

    Attributes:
        unit: (N,) unit numbers from 0; equal votes in the order of their units.
        vote: (N,) float64, signed votes p_n * W_cn.
        percent: (N,) 100 * vote / sum of |vote| over all N units, the authors' figure.
        share: (N,) 100 * vote / sum of |vote| over the chosen K; 0 for the units that were not chosen.
        active: (N,) bool, among the chosen K.
        bias: b_c.
        logit: sum of the chosen votes + bias. Nothing else enters it.
    """

    unit: Tensor
    vote: Tensor
    percent: Tensor
    share: Tensor
    active: Tensor
    bias: float
    logit: float


def ordered_votes(pooled: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    """Votes (..., N) p * W_c, largest first, and their units (..., N) from 0; equal votes in the order of their units.

    The products are those of the layer, in its precision, so that the same votes are chosen.

    Args:
        pooled: (..., N) pooled features p.
        weight: (..., N) the weights W_c of each example's class.
    """
    return (pooled * weight).sort(descending=True, stable=True)


def class_votes(pooled: Tensor, weight: Tensor, bias: float, topk: int) -> ClassVotes:
    """Take a class score apart (paper, Dynamic-K Activation; `percent` as in the authors' figures).

    Args:
        pooled: (N,) pooled features p.
        weight: (N,) the class's weights W_c.
        bias: the class's bias b_c.
        topk: K; N for a dense head, whose score is the sum of all votes.
    """
    vote, unit = ordered_votes(pooled, weight)  # (N,)
    vote = vote.double()  # so that they add up
    active = torch.arange(len(vote)) < topk  # (N,)
    chosen = vote * active
    return ClassVotes(
        unit=unit,
        vote=vote,
        percent=_percent_of(vote, vote.abs().sum()),
        share=_percent_of(chosen, chosen.abs().sum()),
        active=active,
        bias=bias,
        logit=chosen.sum().item() + bias,
    )


def _percent_of(part: Tensor, whole: Tensor) -> Tensor:
    return 100 * part / whole if whole > 0 else torch.zeros_like(part)


@torch.inference_mode()
def predict(head: nn.Linear, pooled: Tensor) -> Tensor:
    """The classes (V,) that a head, dense or DKA, predicts from pooled features (V, N)."""
    blocks = pooled.split(max(1, BLOCK_ELEMENTS // pooled.shape[1]))
    return torch.cat([head(block.to(head.weight.device)).argmax(1).cpu() for block in blocks])


def chosen_votes(pooled: Tensor, weight: Tensor, classes: Tensor, topk: int) -> tuple[Tensor, Tensor]:
    """The units whose votes are chosen, and the votes, largest first; equal votes in the order of their units.

    Args:
        pooled: (V, N) pooled features.
        weight: (C, N) weights of the head.
        classes: (V,) int64, the explained class of each picture.
        topk: K; N for a dense head. Fewer than K for its largest votes only.

    Returns:
        units (V, K) int64, from 0, and votes (V, K). Memory beyond them is bounded.
    """
    rows = max(1, BLOCK_ELEMENTS // pooled.shape[1])
    votes, units = [], []
    for features, explained in zip(pooled.split(rows), classes.split(rows), strict=True):
        vote, unit = ordered_votes(features, weight[explained])  # (v, N)
        votes.append(vote[:, :topk].clone())  # a view would keep all N
        units.append(unit[:, :topk].clone())
    return torch.cat(units), torch.cat(votes)


def times_voted(pooled: Tensor, weight: Tensor, classes: Tensor, topk: int) -> Tensor:
    """(N,) int64: in how many of V pictures a unit has a part, a chosen vote other than zero; as `chosen_votes`.

    Their sum over V is the number of units per example; a unit of 0 is dead, as far as these pictures tell.
    """
    units, votes = chosen_votes(pooled, weight, classes, topk)  # (V, K)
    return units[votes != 0].bincount(minlength=pooled.shape[1])

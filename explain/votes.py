"""The votes behind a class score: which units were chosen, and what each of them gave. Pure tensors."""

from dataclasses import dataclass

import torch
from torch import Tensor


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

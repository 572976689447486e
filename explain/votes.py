"""The votes behind a class score: which units were chosen, and what each of them contributed. Pure tensors."""

from dataclasses import dataclass

import torch
from torch import Tensor

from models.heads import Head, in_blocks


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


@torch.inference_mode()
def class_votes(head: Head, pooled: Tensor, class_: int) -> ClassVotes:
    """Take a class score apart (paper, Dynamic-K Activation; `percent` as in the authors' figures).

    The products are those of the layer, in its precision, so that the same votes are chosen.

    Args:
        head: whose score.
        pooled: (N,) pooled features p.
        class_: the class.
    """
    features, classes = pooled[None].to(head.weight.device), torch.tensor([class_], device=head.weight.device)
    vote, unit = head.votes(features, classes)[0].cpu().sort(descending=True, stable=True)  # (N,)
    active = head.chosen(features, classes)[0].cpu()[unit]  # (N,)
    vote = vote.double()  # so that they add up
    chosen = vote * active
    bias = head.bias[class_].item()
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
def largest_votes(head: Head, pooled: Tensor, classes: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """The units with the largest votes, and these votes, largest first; equal votes in the order of their units.

    Args:
        head: the head.
        pooled: (V, N) pooled features.
        classes: (V,) int64, the explained class of each example.
        count: how many, at most N.

    Returns:
        units (V, count) int64, from 0, and votes (V, count), on the CPU. Memory beyond them is bounded.
    """
    votes, units = [], []
    for features, own in in_blocks(head, pooled, classes):
        vote, unit = head.votes(features, own).cpu().sort(descending=True, stable=True)  # (v, N)
        votes.append(vote[:, :count].clone())  # a view would keep all N
        units.append(unit[:, :count].clone())
    return torch.cat(units), torch.cat(votes)


def spaced(count: int, most: int) -> Tensor:
    """All of `count` places, or `most` of them, evenly spaced: int64, ascending."""
    return torch.linspace(0, count - 1, min(most, count)).round().long()


@torch.inference_mode()
def effective_weight(head: Head) -> Tensor:
    """(C, N) the votes of features that are all 1: the head's weights, 0 where it masks them; on its device."""
    return head.votes(torch.ones_like(head.weight), torch.arange(head.out_features, device=head.weight.device))

"""How sparse is a head, and does it choose? Numbers that can come out against it. Pure computation.

Two statements about a DKA head hold by construction and measure nothing: a score is the sum of K votes and the bias,
and without a unit that was not chosen, it stays the same. What can come out either way is measured here: whether
the head decides otherwise than the same head frozen to K weights per class, and how many weights and votes it needs.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from explain.votes import effective_weight
from models.heads import Head, PrunedHead, StaticHead, in_blocks, predict

CONTRIBUTING = 0.95  # part of a score that NCC asks for


class Frozen(NamedTuple):
    """A head beside the same head frozen: each class keeps its K largest weights, the same for every image.

    Attributes:
        topk: K, weights that each class keeps.
        agreement: share of the images that both predict as the same class, 0 to 1.
        accuracy: of the head, 0 to 1; None where no true class is known.
        frozen_accuracy: of the frozen head.
    """

    topk: int
    agreement: float
    accuracy: float | None
    frozen_accuracy: float | None


def compare_frozen(head: Head, pooled: Tensor, targets: Sequence[int | None], of_dense: int) -> Frozen:
    """Does choosing votes per image matter? A head against its own K largest weights per class.

    For a DKA head with its own K, the frozen head is static sparsity with the same weights: where both agree on all
    images, the routes are static, whatever they look like. A static head is frozen as it is.

    Args:
        head: the head.
        pooled: (V, N) pooled features.
        targets: V true classes, None where unknown.
        of_dense: K for a head that sums all votes; any other keeps its own.
    """
    topk = head.topk if head.topk < head.in_features else of_dense
    static = head if isinstance(head, StaticHead) else StaticHead.freeze(head, topk).to(head.weight.device)
    own, frozen = predict(head, pooled), predict(static, pooled)
    return Frozen(topk, (own == frozen).double().mean().item(), accuracy_of(own, targets), accuracy_of(frozen, targets))


def accuracy_of(predictions: Tensor, targets: Sequence[int | None]) -> float | None:
    """Share of right predictions (V,) among those whose true class is known, 0 to 1; None if none is."""
    pairs = zip(predictions.tolist(), targets, strict=True)
    right = [prediction == target for prediction, target in pairs if target is not None]
    return sum(right) / len(right) if right else None


def accuracy_at(head: Head, pooled: Tensor, targets: Sequence[int | None], weights: int = 5) -> float | None:
    """Accuracy at NEC = `weights`: each class keeps its weights of largest absolute value, and sums all their votes.

    Srivastava, Yan, Weng, VLG-CBM, NeurIPS 2024 (accuracy at NEC = 5) reach the number by the regularisation of a
    sparse fit and prune the rest; here the head's own weights are pruned, without another fit.

    Args:
        head: the head.
        pooled: (V, N) pooled features.
        targets: V true classes, None where unknown.
        weights: that each class keeps; all N of a smaller head.
    """
    pruned = PrunedHead.freeze(head, min(weights, head.in_features)).to(head.weight.device)
    return accuracy_of(predict(pruned, pooled), targets)


def effective_concepts(head: Head) -> float:
    """NEC, the mean number of weights per class that are not zero (Srivastava et al. 2024, section 4).

    Every vote of a DKA head may be chosen, so its NEC is that of a dense head. Its K is the number per decision.
    """
    return (effective_weight(head) != 0).sum(1).double().mean().item()


@torch.inference_mode()
def contributing(head: Head, pooled: Tensor, classes: Tensor, part: float = CONTRIBUTING) -> Tensor:
    """NCC of each image: the fewest votes whose absolute values are `part` of all that enter the explained score.

    De Santis, Tong, Brambilla, Kagal, Learning concept bottleneck models from mechanistic explanations, 2026
    (arXiv 2603.07343). They average over all classes' scores; here it is the explained class's only. Votes that are
    not chosen contribute nothing.

    Args:
        head: the head.
        pooled: (V, N) pooled features.
        classes: (V,) the explained class of each image.
        part: of the sum of absolute votes, 0 to 1.

    Returns:
        (V,) int64, on the CPU; 0 for an image whose votes are all zero.
    """
    found = []
    for features, own in in_blocks(head, pooled, classes):
        size = (head.votes(features, own) * head.chosen(features, own)).abs().double()  # (v, N)
        # A block at a time, the largest K only: the others are zero.
        reached = size.topk(min(head.topk, size.shape[1]), 1).values.cumsum(1)  # (v, K)
        total = reached[:, -1:]
        needed = (reached < part * total * (1 - 1e-12)).sum(1) + 1
        found.append(torch.where(total[:, 0] > 0, needed, 0).cpu())
    return torch.cat(found)

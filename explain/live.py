"""What a page needs to ask a head again without some of its units: its rule, its weights, and the images' features.

A browser can recompute all class scores of an image in milliseconds, so a report carries the head. It may do so only
where it is exact: the rule is not taken from the head's name but tried out, on the images' own features.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from explain.records import ExplanationRecord
from explain.votes import effective_weight, spaced
from models.heads import Head

MOST_WEIGHTS = 1_500_000  # weights that a page carries: 6 MB in float32, 8 MB in base64
TRIED = 16  # images on which a rule is tried, each of them twice: as it is, and with half of its units silent
EXACT = 1e-4  # the greatest error of a score, absolute up to a score of 1 and relative above

# By what a rule ranks votes before it sums the K first of them.
RANKS: dict[str, Callable[[Tensor], Tensor]] = {"largest": lambda votes: votes, "magnitude": torch.abs}


@dataclass(frozen=True)
class LiveHead:
    """A head as a rule that a browser can follow: each score is the sum of K votes `x * W`, and a bias.

    Attributes:
        rule: by what the K votes are chosen, a name in `RANKS`.
        topk: K of the rule, by which the report explains; N: all votes.
        adjustable: whether another K asks a fair question; not of a head whose choice of units is fixed.
        count: C, classes that the network knows.
        classes: R numbers of the classes whose weights are here, ascending.
        weight: (R, N) float32, on the CPU.
        bias: (R,) float32, on the CPU.
        pooled: (V, N) float32, the features of the images, on the CPU.
    """

    rule: str
    topk: int
    adjustable: bool
    count: int
    classes: list[int]
    weight: Tensor
    bias: Tensor
    pooled: Tensor


@torch.inference_mode()
def live_head(
    head: Head, pooled: Tensor, records: Sequence[ExplanationRecord], most_weights: int = MOST_WEIGHTS
) -> LiveHead | None:
    """A head as a rule, with as many classes as fit: all, or those that matter to the first images.

    Args:
        head: the network's.
        pooled: (V, N) features of the explained images.
        records: what the network says of them.
        most_weights: R * N, at most.

    Returns:
        None if no rule gives the head's scores.
    """
    pooled = pooled.cpu().float()
    weight, bias = effective_weight(head).cpu().float(), head.bias.detach().cpu().float()
    found = _rule_of(head, weight, bias, pooled)
    if found is None:
        return None
    rule, topk = found
    classes = _classes_that_fit(records, head.out_features, most_weights // head.in_features)
    kept = torch.tensor(classes, dtype=torch.int64)
    # A head whose classes have no more weights than it sums does not choose.
    fixed = topk < head.in_features and int((weight != 0).sum(1).max()) <= topk
    adjustable = topk == head.topk and not fixed
    return LiveHead(rule, topk, adjustable, head.out_features, classes, weight[kept], bias[kept], pooled)


def rule_scores(weight: Tensor, bias: Tensor, pooled: Tensor, rule: str, topk: int) -> Tensor:
    """Scores (V, C) of features (V, N): the sum of the K votes that a rule ranks first, and the bias."""
    rows = []
    for features in pooled:  # one at a time: C * N votes are enough
        votes = features * weight  # (C, N)
        chosen = RANKS[rule](votes).topk(topk, 1).indices  # (C, K)
        rows.append(votes.gather(1, chosen).sum(1) + bias)
    return torch.stack(rows)


def _rule_of(head: Head, weight: Tensor, bias: Tensor, pooled: Tensor) -> tuple[str, int] | None:
    """The first rule, and its K, that gives the head's scores of some of the images, whole and half silent."""
    tried = pooled[spaced(len(pooled), TRIED)]
    silent = torch.rand(tried.shape, generator=torch.Generator().manual_seed(0)) < 0.5
    tried = torch.cat([tried, tried.masked_fill(silent, 0.0)])
    scores = head(tried.to(head.weight.device, head.weight.dtype)).cpu().float()  # (2 * TRIED, C)
    for rule, topk in [*((rule, head.topk) for rule in RANKS), ("largest", head.in_features)]:
        error = (rule_scores(weight, bias, tried, rule, topk) - scores).abs()
        if (error <= EXACT * scores.abs().clamp(min=1)).all():
            return rule, topk
    return None


def _classes_that_fit(records: Iterable[ExplanationRecord], count: int, most: int) -> list[int]:
    """All classes if they fit, or those that the first images are explained as, are of, or may be taken for."""
    if count <= most:
        return list(range(count))
    kept: set[int] = set()
    for record in records:
        own = {record["explained"], *(guess["class"] for guess in record["ranking"])}
        own |= set() if record["target"] is None else {record["target"]}
        if len(kept | own) <= most:
            kept |= own
    return sorted(kept)

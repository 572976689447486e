"""Routes: which units the predictions of a set of pictures went through. Pure computation.

The route of a picture is the set of the K units whose votes the score of its explained class is the sum of. A dense
head chooses all N units for every picture: all its frequencies and overlaps are 1, and only its mean votes differ.
"""

import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations_with_replacement
from typing import Any, NamedTuple

import numpy as np
import torch
from scipy.spatial.distance import pdist, squareform
from sklearn.cluster import SpectralCoclustering
from sklearn.exceptions import ConvergenceWarning
from torch import Tensor

from explain.pictures import Concept
from explain.votes import BLOCK_ELEMENTS, chosen_votes

PAIR_BLOCK = 1024  # pictures that are compared with as many others at one time


@dataclass(frozen=True)
class Routes:
    """The routes of V pictures, class by class; a picture belongs to the class that it is explained as.

    Attributes:
        topk: K, the units that each picture chooses; N for a dense head.
        count: (C,) pictures of each class.
        frequency: (C, N) float64, share of the class's pictures that chose the unit; 0 without pictures.
        mean_vote: (C, N) float64, the unit's mean vote where it was chosen; 0 where it never was.
        overlap: (C, C) float64, mean Jaccard similarity |A & B| / |A | B| of the routes A, B of two different pictures,
            one of each class; NaN where there are no two such pictures.
        units_per_example: mean number of chosen units whose vote is not zero.
    """

    topk: int
    count: Tensor
    frequency: Tensor
    mean_vote: Tensor
    overlap: Tensor
    units_per_example: float

    @property
    def distinct(self) -> Tensor:
        """(C,) how many different units the pictures of each class chose."""
        return (self.frequency > 0).sum(1)

    @property
    def distinct_units(self) -> int:
        """How many different units were chosen at all."""
        return int((self.frequency > 0).any(0).sum())

    @property
    def overlap_within(self) -> float:
        """Mean Jaccard similarity over all pairs of pictures of the same class; NaN if there are none."""
        return self._mean_overlap(torch.eye(len(self.count), dtype=torch.bool))

    @property
    def overlap_between(self) -> float:
        """Mean Jaccard similarity over all pairs of pictures of different classes; NaN if there are none."""
        return self._mean_overlap(~torch.eye(len(self.count), dtype=torch.bool))

    def _mean_overlap(self, where: Tensor) -> float:
        pairs = _pairs(self.count)[where]
        return ((self.overlap[where].nan_to_num() * pairs).sum() / pairs.sum()).item()


class Use(NamedTuple):
    """That a class goes through a unit: how often (0..1), and the mean vote when it does. Numbers from 0."""

    unit: int
    class_: int
    frequency: float
    mean_vote: float


def routes_of(pooled: Tensor, weight: Tensor, classes: Tensor, topk: int) -> Routes:
    """Collect the routes of V pictures.

    Comparing all pairs of pictures takes V**2 * N multiplications: 0.1 s for 1,000 pictures of a ResNet-18, a minute
    or so for 36,500. Memory: V * N bytes, and blocks of a fixed size.

    Args:
        pooled: (V, N) float32, pooled features of the last layer, on the CPU like all the others.
        weight: (C, N) float32, weights of the head.
        classes: (V,) int64, the explained class of each picture.
        topk: K; N for a dense head.

    Raises:
        ValueError: if there are no pictures, or K is not in 1..N.
    """
    if not len(pooled) or not 1 <= topk <= pooled.shape[1]:
        raise ValueError(f"expected pictures and 1 <= K <= N, got pooled features {tuple(pooled.shape)} and K = {topk}")
    times = torch.zeros(weight.shape, dtype=torch.int64)  # (C, N)
    vote_sum = torch.zeros(weight.shape, dtype=torch.float64)  # (C, N)
    chosen = torch.zeros(pooled.shape, dtype=torch.bool)  # (V, N)
    voting = 0
    rows = max(1, BLOCK_ELEMENTS // pooled.shape[1])
    for start in range(0, len(pooled), rows):
        block = slice(start, start + rows)
        units, votes = chosen_votes(pooled[block], weight, classes[block], topk)  # (v, K)
        where = classes[block, None], units
        times.index_put_(where, torch.tensor(1), accumulate=True)
        vote_sum.index_put_(where, votes.double(), accumulate=True)
        chosen[block].scatter_(1, units, True)
        voting += int(votes.count_nonzero())
    count = classes.bincount(minlength=len(weight))  # (C,)
    return Routes(
        topk=topk,
        count=count,
        frequency=times.double() / count.clamp(min=1)[:, None],
        mean_vote=vote_sum / times.clamp(min=1),
        overlap=_overlap(chosen, classes, topk, count),
        units_per_example=voting / len(pooled),
    )


def _overlap(chosen: Tensor, classes: Tensor, topk: int, count: Tensor) -> Tensor:
    """Chosen (V, N) bool -> (C, C), `Routes.overlap`."""
    sums = torch.zeros(len(count), len(count), dtype=torch.float64)
    used = chosen[:, chosen.any(0)]  # units that nobody chose are in no intersection
    blocks = list(zip(used.split(PAIR_BLOCK), classes.split(PAIR_BLOCK), strict=True))
    for first, second in combinations_with_replacement(range(len(blocks)), 2):
        (a, classes_a), (b, classes_b) = blocks[first], blocks[second]
        shared = (a.float() @ b.float().T).double()  # (a, b) |A & B|: whole numbers, exact in float32
        jaccard = shared / (2 * topk - shared)  # |A| = |B| = K
        by_class = torch.zeros(len(count), len(b), dtype=torch.float64).index_add_(0, classes_a, jaccard)  # (C, b)
        part = torch.zeros_like(sums).index_add_(1, classes_b, by_class)  # (C, C)
        sums += part if first == second else part + part.T
    sums.diagonal().sub_(count)  # each picture met itself
    return sums / _pairs(count)  # 0 / 0 is NaN


def _pairs(count: Tensor) -> Tensor:
    """Count (C,) -> (C, C), ordered pairs of two different pictures, one of each class."""
    return count[:, None] * count - count.diag()


def nearest_classes(routes: Routes, n: int) -> dict[int, list[tuple[int, float]]]:
    """For each class that has pictures, the n other such classes whose routes are most similar to its own.

    Similarity is the weighted Jaccard of the rows f, g of `frequency`: sum of min(f, g) / sum of max(f, g), in 0..1.

    Returns:
        {class: [(other class, similarity), ...]}, most similar first, equal ones in the order of the classes.
    """
    present = routes.count.nonzero().flatten().tolist()
    # With d = sum |f - g| / sum (f + g), the Bray-Curtis distance, it is (1 - d) / (1 + d).
    distance = squareform(pdist(routes.frequency[present].numpy(), "braycurtis"))  # (P, P)
    similarity = (1 - distance) / (1 + distance)
    np.fill_diagonal(similarity, -1)  # no class is its own neighbour
    order = np.argsort(-similarity, axis=1, kind="stable")[:, : min(n, len(present) - 1)]  # (P, n)
    return {
        class_: [(present[other], float(similarity[row, other])) for other in order[row]]
        for row, class_ in enumerate(present)
    }


def units_of_classes(routes: Routes) -> dict[int, list[Use]]:
    """{class: its units}, most frequent first, then by mean vote; classes without pictures are left out."""
    return _uses(routes, by="class_")


def classes_of_units(routes: Routes) -> dict[int, list[Use]]:
    """{unit: the classes it serves}, most frequent first, then by mean vote; units never chosen are left out."""
    return _uses(routes, by="unit")


def _uses(routes: Routes, by: str) -> dict[int, list[Use]]:
    class_, unit = routes.frequency.nonzero(as_tuple=True)
    columns = unit, class_, routes.frequency[class_, unit], routes.mean_vote[class_, unit]
    uses = [Use(*values) for values in zip(*(column.tolist() for column in columns), strict=True)]
    uses.sort(key=lambda use: (getattr(use, by), -use.frequency, -use.mean_vote))
    grouped: dict[int, list[Use]] = {}
    for use in uses:
        grouped.setdefault(getattr(use, by), []).append(use)
    return grouped


def bicluster_order(frequency: Tensor, clusters: int | None = None) -> tuple[list[int], list[int]]:
    """An order of classes and units in which the matrix of route frequencies has its blocks along the diagonal.

    Spectral co-clustering (Dhillon, KDD 2001) puts every class and every unit in one cluster. Within a cluster the
    units follow the classes that use them most. The same matrix always gets the same order.

    Args:
        frequency: (C, N), as in `Routes`.
        clusters: how many at most; the default is the square root of the number of classes with pictures.

    Returns:
        all C classes, those without pictures last, and the units that are used at all.
    """
    used_class, used_unit = (frequency > 0).any(1).numpy(), (frequency > 0).any(0).numpy()
    present, units = np.flatnonzero(used_class), np.flatnonzero(used_unit)
    matrix = frequency.numpy()[np.ix_(present, units)]  # (P, U), no empty row or column
    row_cluster, column_cluster = _clusters(matrix, clusters or round(math.sqrt(len(present))))
    rows = np.argsort(row_cluster, kind="stable")
    strongest = matrix[rows].argmax(0) if len(rows) else units  # (U,) place of the class that uses the unit most
    columns = np.lexsort((-matrix.max(0, initial=0), strongest, column_cluster))
    return [*present[rows].tolist(), *np.flatnonzero(~used_class).tolist()], units[columns].tolist()


def _clusters(matrix: np.ndarray, clusters: int) -> tuple[np.ndarray, np.ndarray]:
    """Matrix (P, U) -> the clusters of its rows (P,) and columns (U,); one cluster where it is too small for more."""
    clusters = min(clusters, *matrix.shape)
    if clusters < 2:
        return np.zeros(matrix.shape[0], int), np.zeros(matrix.shape[1], int)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # with equal rows and columns there are fewer clusters
        model = SpectralCoclustering(clusters, random_state=0).fit(matrix)
    return model.row_labels_, model.column_labels_


def routes_record(
    routes: Routes,
    names: Sequence[str],
    concepts: Mapping[int, Concept],
    pictures: str,
    nearest: int = 5,
    listed: int = 100,
) -> dict[str, Any]:
    """For routes.json: the numbers of dynamic routing, over all and class by class; units are numbered from 1.

    Args:
        routes: of the pictures.
        names: the C class names.
        concepts: what the units respond to, by unit number from 1.
        pictures: which pictures these are, in words.
        nearest: how many classes of similar route are listed per class.
        listed: how many units are listed per class, and classes per unit, at most: a dense head's would be all.
    """

    def about(unit: int) -> dict[str, Any]:
        concept = concepts[unit + 1]
        return {"unit": unit + 1, "label": concept.label, "category": concept.category, "iou": concept.score}

    neighbours = nearest_classes(routes, nearest)
    uses = units_of_classes(routes)
    class_order, unit_order = bicluster_order(routes.frequency)
    return {
        "pictures": pictures,
        "count": int(routes.count.sum()),
        "topk": routes.topk,
        "units_per_example": routes.units_per_example,
        "distinct_units": routes.distinct_units,
        "overlap": {"within": _finite(routes.overlap_within), "between": _finite(routes.overlap_between)},
        "order": {"classes": class_order, "units": [unit + 1 for unit in unit_order]},
        "classes": [
            {
                "class": class_,
                "name": name,
                "pictures": int(routes.count[class_]),
                "distinct_units": int(routes.distinct[class_]),
                "overlap_within": _finite(routes.overlap[class_, class_].item()),
                "nearest": [
                    {"class": other, "name": names[other], "similarity": similarity}
                    for other, similarity in neighbours.get(class_, [])
                ],
                "units": [
                    {**about(use.unit), "frequency": use.frequency, "mean_vote": use.mean_vote}
                    for use in uses.get(class_, [])[:listed]
                ],
            }
            for class_, name in enumerate(names)
        ],
        "units": [
            {
                **about(unit),
                "classes": [
                    {"class": use.class_, "name": names[use.class_], "frequency": use.frequency,
                     "mean_vote": use.mean_vote}
                    for use in served[:listed]
                ],
            }
            for unit, served in sorted(classes_of_units(routes).items())
        ],
    }  # fmt: skip


def class_accuracy(predictions: Tensor, targets: Sequence[int | None], classes: int) -> list[float | None]:
    """Share of each class's own pictures that are predicted as it; None where there are none.

    Args:
        predictions: (V,) predicted classes.
        targets: V true classes, None where unknown.
        classes: C.
    """
    own, right = [0] * classes, [0] * classes
    for target, prediction in zip(targets, predictions.tolist(), strict=True):
        if target is not None:
            own[target] += 1
            right[target] += prediction == target
    return [hits / count if count else None for hits, count in zip(right, own, strict=True)]


def _finite(value: float) -> float | None:
    """A number for JSON, which has no NaN."""
    return value if math.isfinite(value) else None

"""Routes: which units the predictions of a set of images go through. Pure computation.

The route of an image is the set of units whose votes make up the score of its explained class: K of them, or for a
dense head all N, so that all its frequencies and overlaps are 1 and only its mean votes differ.
"""

import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations_with_replacement
from typing import NamedTuple

import numpy as np
import torch
from scipy.spatial.distance import pdist, squareform
from sklearn.cluster import SpectralCoclustering
from sklearn.exceptions import ConvergenceWarning
from torch import Tensor

from explain.naming import Names
from explain.records import ClassRoute, Neighbour, RoutesRecord, RouteUnit, Served, UnitRoutes
from models.heads import Head, in_blocks

PAIR_BLOCK = 1024  # images that are compared with as many others at one time


@dataclass(frozen=True)
class Routes:
    """The routes of V images, by class; an image belongs to the class that it is explained as.

    Attributes:
        topk: K, the units that each image chooses; N for a dense head.
        count: (C,) images of each class.
        frequency: (C, N) float64, share of the class's images that chose the unit; 0 without images.
        mean_vote: (C, N) float64, the unit's mean vote where it was chosen; 0 where it never was.
        overlap: (C, C) float64, as of `overlaps`.
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
        """(C,) how many different units the images of each class chose."""
        return (self.frequency > 0).sum(1)

    @property
    def distinct_units(self) -> int:
        """How many different units were chosen at all."""
        return int((self.frequency > 0).any(0).sum())

    @property
    def overlap_within(self) -> float:
        """Mean Jaccard similarity over all pairs of images of the same class; NaN if there are none."""
        return within_and_between(self.overlap, self.count)[0]

    @property
    def overlap_between(self) -> float:
        """Mean Jaccard similarity over all pairs of images of different classes; NaN if there are none."""
        return within_and_between(self.overlap, self.count)[1]


class Use(NamedTuple):
    """That a class goes through a unit: how often (0..1), and the mean vote when it does. Numbers from 0."""

    unit: int
    class_: int
    frequency: float
    mean_vote: float


@torch.inference_mode()
def routes_of(head: Head, pooled: Tensor, classes: Tensor) -> Routes:
    """Collect the routes of V images.

    Comparing all pairs of images takes V**2 * N multiplications: 0.1 s for 1,000 images of a ResNet-18, about a minute
    for 36,500. Memory: V * N bytes, and blocks of a fixed size.

    Args:
        head: whose votes.
        pooled: (V, N) float32, pooled features of the last layer.
        classes: (V,) int64, the explained class of each image.

    Raises:
        ValueError: if there are no images.
    """
    if not len(pooled):
        raise ValueError("routes of no images: expected at least one")
    times = torch.zeros(head.out_features, head.in_features, dtype=torch.int64)  # (C, N)
    vote_sum = torch.zeros(times.shape, dtype=torch.float64)  # (C, N)
    chosen = torch.zeros(pooled.shape, dtype=torch.bool)  # (V, N)
    voting = done = 0
    for features, own in in_blocks(head, pooled, classes):
        votes, active = head.votes(features, own).cpu(), head.chosen(features, own).cpu()  # (v, N)
        own = own.cpu()
        times.index_add_(0, own, active.long())
        vote_sum.index_add_(0, own, votes.double() * active)
        chosen[done : done + len(own)] = active
        voting += int((active & (votes != 0)).sum())
        done += len(own)
    count = classes.bincount(minlength=head.out_features)  # (C,)
    return Routes(
        topk=head.topk,
        count=count,
        frequency=times.double() / count.clamp(min=1)[:, None],
        mean_vote=vote_sum / times.clamp(min=1),
        overlap=overlaps(chosen, classes, head.out_features),
        units_per_example=voting / len(pooled),
    )


def overlaps(sets: Tensor, classes: Tensor, num_classes: int) -> Tensor:
    """How much the units of different images have in common, by the images' classes.

    Args:
        sets: (V, N) bool, the units of each image.
        classes: (V,) int64.
        num_classes: C.

    Returns:
        (C, C) float64, mean Jaccard similarity |A & B| / |A | B| of the sets A, B of two different images, one of each
        class; NaN where there are no two such images. Two empty sets are equal.
    """
    count = classes.bincount(minlength=num_classes)  # (C,)
    sums = torch.zeros(num_classes, num_classes, dtype=torch.float64)
    used = sets[:, sets.any(0)]  # units that are in no set are in no intersection
    blocks = list(zip(used.split(PAIR_BLOCK), classes.split(PAIR_BLOCK), strict=True))
    for first, second in combinations_with_replacement(range(len(blocks)), 2):
        (a, classes_a), (b, classes_b) = blocks[first], blocks[second]
        shared = (a.float() @ b.float().T).double()  # (a, b) |A & B|: whole numbers, exact in float32
        union = a.sum(1).double()[:, None] + b.sum(1) - shared
        jaccard = torch.where(union > 0, shared / union.clamp(min=1), 1.0)
        by_class = torch.zeros(num_classes, len(b), dtype=torch.float64).index_add_(0, classes_a, jaccard)  # (C, b)
        part = torch.zeros_like(sums).index_add_(1, classes_b, by_class)  # (C, C)
        sums += part if first == second else part + part.T
    sums.diagonal().sub_(count)  # each image met itself
    return sums / _pairs(count)  # 0 / 0 is NaN


def within_and_between(overlap: Tensor, count: Tensor) -> tuple[float, float]:
    """The means of `overlaps` over all pairs of images of one class, and of two classes; NaN if there are none.

    Args:
        overlap: (C, C), as of `overlaps`.
        count: (C,) images of each class.
    """
    pairs, same = _pairs(count), torch.eye(len(count), dtype=torch.bool)
    sums = overlap.nan_to_num() * pairs
    within, between = (sums[where].sum() / pairs[where].sum() for where in (same, ~same))
    return within.item(), between.item()


def _pairs(count: Tensor) -> Tensor:
    """Count (C,) -> (C, C), ordered pairs of two different images, one of each class."""
    return count[:, None] * count - count.diag()


def nearest_classes(routes: Routes, n: int) -> dict[int, list[tuple[int, float]]]:
    """For each class that has images, the n other such classes whose routes are most similar to its own.

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
    """{class: its units}, most frequent first, then by mean vote; classes without images are left out."""
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
        clusters: how many at most; the default is the square root of the number of classes with images.

    Returns:
        all C classes, those without images last, and the units that are used at all.
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


# --- the record ---------------------------------------------------------------------------------------------------

NEAREST = 5  # classes of similar route that are listed per class
LISTED = 100  # units listed per class, and classes per unit, at most: a dense head's would be all


def routes_record(
    routes: Routes, names: Names, images: str, accuracy: Sequence[float | None] | None = None
) -> RoutesRecord:
    """The content of routes.json: the numbers of dynamic routing, over all classes and for each.

    Args:
        routes: of the images.
        names: of classes and units.
        images: which images these are, in words.
        accuracy: of each class, as of `class_accuracy`; None: unknown.
    """
    neighbours, uses = nearest_classes(routes, NEAREST), units_of_classes(routes)
    class_order, unit_order = bicluster_order(routes.frequency)
    return {
        "images": images,
        "count": int(routes.count.sum()),
        "topk": routes.topk,
        "units_per_example": routes.units_per_example,
        "distinct_units": routes.distinct_units,
        "overlap": {"within": _finite(routes.overlap_within), "between": _finite(routes.overlap_between)},
        "order": {"classes": class_order, "units": [unit + 1 for unit in unit_order]},
        "classes": [
            {
                **_class_route(routes, names, class_, neighbours.get(class_, []), uses.get(class_, [])),
                "accuracy": accuracy[class_] if accuracy else None,
            }
            for class_ in range(len(names.classes))
        ],
        "units": [
            _unit_routes(names, unit, served[:LISTED]) for unit, served in sorted(classes_of_units(routes).items())
        ],
    }


def _class_route(
    routes: Routes, names: Names, class_: int, neighbours: Sequence[tuple[int, float]], uses: Sequence[Use]
) -> ClassRoute:
    nearest: list[Neighbour] = [
        {"class": other, "name": names.classes[other], "similarity": similarity} for other, similarity in neighbours
    ]
    units: list[RouteUnit] = [
        {**names.unit(use.unit), "frequency": use.frequency, "mean_vote": use.mean_vote} for use in uses[:LISTED]
    ]
    return {
        "class": class_,
        "name": names.classes[class_],
        "images": int(routes.count[class_]),
        "distinct_units": int(routes.distinct[class_]),
        "overlap_within": _finite(routes.overlap[class_, class_].item()),
        "nearest": nearest,
        "units": units,
        "accuracy": None,
    }


def _unit_routes(names: Names, unit: int, served: Sequence[Use]) -> UnitRoutes:
    classes: list[Served] = [
        {
            "class": use.class_,
            "name": names.classes[use.class_],
            "frequency": use.frequency,
            "mean_vote": use.mean_vote,
        }
        for use in served
    ]
    return {**names.unit(unit), "classes": classes}


def class_accuracy(predictions: Tensor, targets: Sequence[int | None], classes: int) -> list[float | None]:
    """Share of each class's own images that are predicted as it; None where there are none.

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

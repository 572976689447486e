"""How different are the units of a route from each other, and what do they respond to? Pure computation.

Five units of equal features are one reason, told five times. So beside the number of units in a route stands how many
different ones they are worth, over many images.
"""

from collections.abc import Sequence
from statistics import NormalDist
from typing import NamedTuple

import torch
from scipy.cluster.hierarchy import fcluster, linkage
from scipy.spatial.distance import squareform
from torch import Tensor

DUPLICATES = 0.9  # correlation from which two units are near-duplicates
BLOCK = 4096  # routes that are looked at at one time
FIT_STEPS = 200  # of the mixtures' expectation maximisation, at most
FIT_DONE = 1e-5  # gain in mean log likelihood below which a fit has ended
LEAST_VARIANCE = 1e-6  # of a mixture's component, the unit's own variance being 1


class Variety(NamedTuple):
    """How different the units of each of V routes are.

    Attributes:
        units: (V,) int64, those that are counted.
        effective: (V,) float64, how many different ones they are worth, 1 to `units`; 0 for no units.
        correlation: (V,) float64, mean over pairs of them; NaN for fewer than two.
        groups: (V,) int64, of near-duplicates, each unit on its own being one.
    """

    units: Tensor
    effective: Tensor
    correlation: Tensor
    groups: Tensor


def correlations(pooled: Tensor) -> Tensor:
    """Pearson correlation of all pairs of units over images: pooled (V, N) -> (N, N) float32, in -1..1.

    A unit whose feature is the same in all images correlates with itself (1) and with no other unit (0).
    """
    centred = pooled - pooled.mean(0, dtype=torch.float64).to(pooled.dtype)
    spread = torch.linalg.vector_norm(centred, dim=0, dtype=torch.float64)  # (N,)
    varies = (pooled != pooled[0]).any(0) & (spread > 0)
    scaled = torch.where(varies, centred / spread.to(pooled.dtype), 0)
    return (scaled.T @ scaled).clamp(-1, 1).fill_diagonal_(1)


def effective_number(correlation: Tensor) -> float:
    """How many different units n units are worth: their participation ratio, 1 to n.

    (sum of l)^2 / sum of l^2 of the eigenvalues l of their correlation matrix (Bretherton et al., J. Climate 1999; Gao
    et al. 2017): n for units that do not correlate, 1 for copies. The eigenvalues sum to n, and their squares to the
    sum of all squared correlations, so none is computed.

    Args:
        correlation: (n, n), as of `correlations`.
    """
    return len(correlation) ** 2 / correlation.double().square().sum().item()


def near_duplicates(correlation: Tensor, threshold: float = DUPLICATES) -> list[list[int]]:
    """Groups of units such that every two of a group correlate at `threshold` or more.

    Agglomerative clustering by complete linkage (Sorensen 1948), cut there: unlike connected components, a chain of
    similar pairs whose ends differ is no group.

    Args:
        correlation: (n, n), as of `correlations`.
        threshold: at most 1.

    Returns:
        every unit 0..n-1 in one group, alone or with others; in the order of their first units.
    """
    count = len(correlation)
    if count < 2:
        return [[unit] for unit in range(count)]
    distance = squareform(1 - correlation.double().numpy(), checks=False).clip(0)
    cluster = fcluster(linkage(distance, "complete"), 1 - threshold + 1e-6, "distance").tolist()
    groups: dict[int, list[int]] = {}
    for unit, own in enumerate(cluster):
        groups.setdefault(own, []).append(unit)
    return list(groups.values())


def route_variety(correlation: Tensor, units: Tensor, counted: Tensor, threshold: float = DUPLICATES) -> Variety:
    """How different the units of V routes are.

    Args:
        correlation: (N, N) of all units, as of `correlations`.
        units: (V, S) int64, the units of each route, from 0.
        counted: (V, S) bool, which of them are meant; others are there to fill the row.
        threshold: of near-duplicates.
    """
    effective, mean = [], []
    for own, meant in zip(units.split(BLOCK), counted.split(BLOCK), strict=True):
        pairs = meant[:, :, None] & meant[:, None, :]  # (v, S, S)
        between = correlation[own[:, :, None], own[:, None, :]].double() * pairs
        count = meant.sum(1).double()
        effective.append(count.square() / between.square().sum((1, 2)).clamp(min=1))  # no unit: 0 / 1
        mean.append((between.sum((1, 2)) - count) / (count.square() - count))  # 0 / 0 is NaN
    return Variety(
        counted.sum(1), torch.cat(effective), torch.cat(mean), _count_groups(correlation, units, counted, threshold)
    )


def _count_groups(correlation: Tensor, units: Tensor, counted: Tensor, threshold: float) -> Tensor:
    """(V,) groups of near-duplicates in each route; every different route is clustered once."""
    routes = [tuple(sorted(own[meant].tolist())) for own, meant in zip(units, counted, strict=True)]
    found = {}
    for route in set(routes):
        index = torch.tensor(route, dtype=torch.int64)
        found[route] = len(near_duplicates(correlation[index][:, index], threshold))
    return torch.tensor([found[route] for route in routes])


# --- metrics of sparse heads in the literature --------------------------------------------------------------------


def class_independence(pooled: Tensor, targets: Tensor) -> float:
    """Do units respond to many classes? 0: each to a single one; 1 - 1 / C: to all alike.

    1 - the mean over units of the largest part of a unit's feature that falls to one class, features counted from
    the unit's least value: Norrenbrock et al., QPM, ICLR 2025, there on training images. A unit of constant feature
    falls to no class and counts as 1. Classes are taken as they come: with unequal numbers of images the largest class
    gets more.

    Args:
        pooled: (V, n) features of the units in question; without any, it is NaN.
        targets: (V,) int64, classes of the images.
    """
    above = (pooled - pooled.min(0).values).double()  # (V, n)
    by_class = torch.zeros(int(targets.max()) + 1, pooled.shape[1], dtype=torch.float64).index_add_(0, targets, above)
    part = by_class / above.sum(0).clamp(min=1e-8)  # (C, n)
    return 1 - part.max(0).values.mean().item()


def contrastiveness(pooled: Tensor) -> float:
    """Are units on or off? Near 1: every unit's features form two separate clusters; lower: they overlap.

    1 - the mean over units of the overlap (common area) of the two normal densities that are fitted to a unit's
    features as a mixture: Norrenbrock et al., QPM, ICLR 2025. They are fitted here by expectation maximisation from
    the clusters of two means, as there, for all units at one time; a unit of constant feature overlaps wholly.

    Args:
        pooled: (V, n) features of the units in question; without any, it is NaN.
    """
    if not pooled.shape[1]:
        return float("nan")
    mean, variance, varies = _mixtures(pooled)
    overlaps = [
        NormalDist(low, low_spread).overlap(NormalDist(high, high_spread)) if own else 1.0
        for (low, high), (low_spread, high_spread), own in zip(
            mean.T.tolist(), variance.sqrt().T.tolist(), varies.tolist(), strict=True
        )
    ]
    return 1 - sum(overlaps) / len(overlaps)


def _mixtures(pooled: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Two normal components per unit: means (2, n), variances (2, n), and which units vary at all (n,)."""
    spread, middle = torch.std_mean(pooled.double(), 0, correction=0)
    varies = spread > 0
    x = (pooled.double() - middle) / torch.where(varies, spread, 1)  # (V, n)
    part = _two_means(x)  # (2, V, n) responsibilities
    last = -torch.inf
    for _ in range(FIT_STEPS):
        weight = part.sum(1).clamp(min=1e-10)  # (2, n)
        mean = (part * x).sum(1) / weight
        variance = (part * (x - mean[:, None]).square()).sum(1) / weight + LEAST_VARIANCE
        log_density = -0.5 * ((x - mean[:, None]).square() / variance[:, None] + variance.log()[:, None])
        joint = log_density + (weight / len(x)).log()[:, None]  # (2, V, n), but for a constant
        evidence = joint.logsumexp(0)  # (V, n)
        part = (joint - evidence).exp()
        likelihood = evidence.mean().item()
        if likelihood - last < FIT_DONE:
            break
        last = likelihood
    return mean, variance, varies


def _two_means(x: Tensor) -> Tensor:
    """The clusters of two means of each column (V, n), from its least and its largest value: (2, V, n) of 0 and 1."""
    centre = torch.stack([x.min(0).values, x.max(0).values])  # (2, n)
    for _ in range(FIT_STEPS):
        upper = (x > centre.mean(0)).double()  # (V, n)
        part = torch.stack([1 - upper, upper])
        moved = (part * x).sum(1) / part.sum(1).clamp(min=1)
        if torch.equal(moved, centre):
            break
        centre = moved
    return part


def spatial_diversity(maps: Tensor) -> Tensor:
    """SID@k: do the k units of an explanation look at different places? 1 / k: all at the same; 1: at different ones.

    Each map is turned into a distribution over positions (softmax); SID is the sum over positions of the largest of
    the k values, divided by k: Norrenbrock, Rudolph, Rosenhahn, Take 5 (SLDD-Model), 2022, and Q-SENN, AAAI 2024. There
    the k units are those of the predicted class's largest weights, here those of the largest votes: with a choice per
    image, these are its reasons.

    Args:
        maps: (V, k, h, w) feature maps of the k units of each image.

    Returns:
        (V,) between 1 / k and 1.
    """
    places = maps.double().flatten(2).softmax(2)  # (V, k, h * w)
    return places.max(1).values.sum(1) / maps.shape[1]


def mean_where(values: Tensor) -> float | None:
    """The mean of the values that are numbers; None if there are none."""
    known = values[~values.isnan()]
    return known.mean().item() if len(known) else None


def group_units(correlation: Tensor, units: Sequence[int], threshold: float = DUPLICATES) -> list[list[int]]:
    """Units, from 0, in groups of near-duplicates, each group in their order."""
    index = torch.tensor(units, dtype=torch.int64)
    groups = near_duplicates(correlation[index][:, index], threshold)
    return [[units[place] for place in group] for group in groups]

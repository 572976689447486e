"""The tally: each unit's best labels by IoU. `explain.tally` reads and writes the file."""

import numpy as np

from explain.tally import CategoryScore, TallyRow, interpretable, read_tally, unique_detectors, write_tally
from netdissect.broden import Broden
from netdissect.counting import Counts

__all__ = [
    "CategoryScore",
    "TallyRow",
    "best_scores",
    "interpretable",
    "iou",
    "read_tally",
    "tally_rows",
    "unique_detectors",
    "write_tally",
]


def iou(counts: Counts, primary: np.ndarray) -> np.ndarray:
    """(U, L) float64: IoU[u, l] = I[u, l] / (A[u, cat(l)] + T[l] - I[u, l] + 1e-10), with cat(l) = primary[l]."""
    return counts.intersect / (counts.activation[:, primary] + counts.truth - counts.intersect + 1e-10)


def best_scores(counts: Counts, broden: Broden) -> tuple[np.ndarray, np.ndarray]:
    """The best label of every unit in every category, and its IoU: (U, K) each.

    A label competes in its primary category only; the lowest number wins a tie.
    """
    scores = iou(counts, broden.primary)  # (U, L)
    best = np.zeros((len(scores), len(broden.categories)), int)
    for category in range(len(broden.categories)):
        members = np.flatnonzero(broden.primary == category)
        if len(members):
            best[:, category] = members[scores[:, members].argmax(1)]
    values = np.take_along_axis(scores, best, 1)
    # A category without labels has no score, whatever label 0 stands for.
    return best, np.where(broden.primary[best] == np.arange(len(broden.categories)), values, 0.0)


def tally_rows(counts: Counts, broden: Broden) -> list[TallyRow]:
    """The rows of tally.csv: by score, descending, then by unit. The last category wins a tie."""
    best, scores = best_scores(counts, broden)
    rows = []
    for unit, (labels, values) in enumerate(zip(best, scores, strict=True)):
        by_category = {
            name: _category_score(counts, broden, unit, category, labels[category], values[category])
            for category, name in enumerate(broden.categories)
        }
        winner = broden.categories[len(values) - 1 - values[::-1].argmax()]
        rows.append(TallyRow(unit + 1, winner, by_category[winner].label, by_category[winner].iou, by_category))
    return sorted(rows, key=lambda row: (-row.score, row.unit))


def _category_score(
    counts: Counts, broden: Broden, unit: int, category: int, label: int, score: float
) -> CategoryScore:
    if score == 0:
        return CategoryScore("", 0, 0, 0, 0.0)
    return CategoryScore(
        label=broden.names[label],
        truth=int(counts.truth[label]),
        activation=int(counts.activation[unit, category]),
        intersect=int(counts.intersect[unit, label]),
        iou=float(score),
    )

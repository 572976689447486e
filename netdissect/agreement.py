"""How units and labels agree, beyond the tally's IoU. `explain.agreement` defines, reads and writes the file.

AUROC needs no mask and no threshold: it takes a unit's largest activation in an image for a score of whether the image
has a label, as INVERT (Bykov, Kopf, Nakajima, Kloft, Höhne, NeurIPS 2023) does to name units.
"""

from collections.abc import Iterator, Sequence

import numpy as np
from scipy.sparse import csr_array
from scipy.stats import rankdata

from explain.agreement import AgreementRow, read_agreement, write_agreement
from netdissect.broden import Broden
from netdissect.counting import Counts
from netdissect.tally import TallyRow, best_scores

__all__ = ["MIN_IMAGES", "AgreementRow", "agreement_rows", "auroc", "read_agreement", "write_agreement"]

MIN_IMAGES = 5  # that must have a label, and that must not: of fewer an AUROC says little
RANKS_AT_A_TIME = 2**22  # of units in images: 32 MB


def auroc(peaks: np.ndarray, presence: csr_array) -> np.ndarray:
    """How well units tell the images that have a label from those that have it not.

    The probability that a unit's peak is greater in an image with the label than in one without; a tie counts half. It
    is U / (n m) of Mann and Whitney, from the sum of the ranks of the n images with the label among all n + m. Ranks
    are multiples of 1/2, and their sums are exact in float64: equal AUROCs compare equal.

    Args:
        peaks: (U, N) float32, each unit's largest activation in every image.
        presence: (N, L) sparse bool, the labels of every image.

    Returns:
        (U, L) float64; NaN where fewer than `MIN_IMAGES` images have the label, or have it not.
    """
    having = np.asarray(presence.sum(0)).ravel().astype(np.float64)  # (L,)
    lacking = presence.shape[0] - having
    counted = np.minimum(having, lacking) >= MIN_IMAGES
    chosen = presence[:, counted].T.astype(np.float64).tocsr()  # (l, N)
    having, lacking = having[counted], lacking[counted]
    found = np.full((len(peaks), presence.shape[1]), np.nan)
    for first, ranks in _ranks(peaks):
        sums = (chosen @ ranks.T).T  # (u, l)
        found[first : first + len(ranks), counted] = (sums - having * (having + 1) / 2) / (having * lacking)
    return found


def _ranks(peaks: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
    """The ranks (u, N) of each unit's peaks, from 1, ties averaged; of some units at a time, with the first's place."""
    at_a_time = max(1, RANKS_AT_A_TIME // peaks.shape[1])
    for first in range(0, len(peaks), at_a_time):
        yield first, rankdata(np.asarray(peaks[first : first + at_a_time]), axis=1)


def agreement_rows(
    rows: Sequence[TallyRow], counts: Counts, peaks: np.ndarray, presence: csr_array, broden: Broden
) -> list[AgreementRow]:
    """The rows of agreement.csv, in the tally's order.

    Args:
        rows: the tally.
        counts: that it was made of.
        peaks: (U, N) as of `auroc`.
        presence: (N, L) as of `auroc`.
        broden: the labels.
    """
    numbers = best_scores(counts, broden)[0]  # (U, K)
    found = auroc(peaks, presence)  # (U, L)
    named = np.array([bool(name) for name in broden.names])
    agreement = []
    for row in rows:
        unit = row.unit - 1
        own = found[unit, numbers[unit, broden.categories.index(row.category)]]
        best = np.where(named & ~np.isnan(found[unit]), found[unit], -1)  # (L,)
        agreement.append(_row(row, float(own), best, broden))
    return agreement


def _row(row: TallyRow, own: float, best: np.ndarray, broden: Broden) -> AgreementRow:
    """A unit's row, from the AUROC with its own label, and with every label (L,), -1 where it cannot be the best."""
    winner = int(best.argmax())  # the lowest number of equal ones
    wins = best[winner] >= 0
    overlap = row.categories[row.category]
    sizes = overlap.activation, overlap.truth
    return AgreementRow(
        unit=row.unit,
        label=row.label,
        category=row.category,
        iou=row.score,
        ceiling=_share(min(sizes), max(sizes)),
        precision=_share(overlap.intersect, overlap.activation),
        recall=_share(overlap.intersect, overlap.truth),
        auroc=own if row.label and not np.isnan(own) else None,
        auroc_label=broden.names[winner] if wins else "",
        auroc_category=broden.categories[broden.primary[winner]] if wins else "",
        auroc_best=float(best[winner]) if wins else None,
    )


def _share(part: int, whole: int) -> float:
    """A part of a whole; 0 where there is nothing to divide."""
    return part / whole if whole else 0.0


def describe(rows: Sequence[AgreementRow]) -> str:
    """A layer's agreement in one line."""
    named = _median([row.auroc for row in rows])
    best = _median([row.auroc_best for row in rows])
    return f"median AUROC of the tally's labels: {named}; of those of greatest AUROC: {best}"


def _median(values: Sequence[float | None]) -> str:
    known = [value for value in values if value is not None]
    return f"{np.median(known):.3f} ({len(known)} units)" if known else "none"

"""The chance level: the scores that units reach when their masks meet the labels of other images."""

import json
import os
from collections.abc import Sequence

import numpy as np

from explain.records import ChanceRecord
from netdissect.broden import Broden
from netdissect.counting import Counts
from netdissect.tally import TallyRow, best_scores, interpretable
from util.files import atomic_write


def pairings(images: int, rounds: int, seed: int = 0) -> np.ndarray:
    """With which image's labels the masks of each of N images are compared.

    Returns:
        (1 + rounds, N) image numbers: first each image with itself, then in every round each with another image,
        drawn at random. A single image has no other: no rounds.
    """
    generator = np.random.default_rng(seed)
    partners = [np.arange(images)]
    for _ in range(rounds if images > 1 else 0):
        order = generator.permutation(images)
        partner = np.empty_like(order)
        partner[order] = np.roll(order, -1)  # one cycle through all images: none is its own partner
        partners.append(partner)
    return np.stack(partners)


def chance_scores(random_counts: Sequence[Counts], broden: Broden) -> np.ndarray:
    """The null scores (rounds, U): each unit's best IoU when its masks meet the labels of other images."""
    return np.array([best_scores(counts, broden)[1].max(1) for counts in random_counts])


def chance_summary(rows: Sequence[TallyRow], null_scores: np.ndarray, threshold: float) -> ChanceRecord:
    """Compare a layer's scores with the null scores.

    Args:
        rows: the tally.
        null_scores: (rounds, U), of `chance_scores`.
        threshold: IoU from which a unit counts as interpretable.
    """
    null = np.sort(null_scores.ravel())
    limit = float(np.quantile(null, 0.95))
    reached = {row.unit: float(1 - np.searchsorted(null, row.score, side="left") / len(null)) for row in rows}
    return {
        "rounds": len(null_scores),
        "null_95": limit,
        "units_above_95": sum(row.score > limit for row in rows),
        "units_above_threshold": len(interpretable(rows, threshold)),
        "units": [{"unit": row.unit, "score": row.score, "chance": reached[row.unit]} for row in rows],
    }


def write_chance(path: str | os.PathLike, chance: ChanceRecord) -> None:
    """Write chance.json."""
    with atomic_write(path) as temporary:
        temporary.write_text(json.dumps(chance, indent=1), encoding="utf-8")

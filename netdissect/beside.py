"""What lies beside a tally and says what its units are: agreement, chance, thresholds, images of largest activation."""

import csv
import math
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from explain.agreement import AgreementRow, ceiling_binds, read_agreement
from explain.records import UnitEvidence
from explain.tally import read_tally
from explain.unit_table import Cells, check_units, read_cells
from netdissect.thresholds import read_thresholds
from util.cli import UserError, parse_int
from util.files import atomic_write, read_json

THRESHOLDS, TOP_IMAGES = "quantile.npy", "top_images.csv"  # beside tally.csv
_MOST_IMAGES = 1000  # of a unit in top_images.csv
_MOST_BYTES = 1 << 28  # of chance.json
_Read = TypeVar("_Read")


@dataclass(frozen=True)
class Beside:
    """What is known of a tally's units beyond it; empty, or None, where a file is missing.

    Attributes:
        agreement: rows of agreement.csv, by unit number from 1.
        chance: of chance.json, by unit: share of the null scores that reach its IoU.
        thresholds: (U,) above which a unit is on; None if there is no quantile.npy.
        top_images: by unit, the numbers of the images of its largest activations.
        faults: why a file that is there is not used, in sentences.
    """

    agreement: Mapping[int, AgreementRow] = field(default_factory=dict)
    chance: Mapping[int, float] = field(default_factory=dict)
    thresholds: np.ndarray | None = None
    top_images: Mapping[int, Sequence[int]] = field(default_factory=dict)
    faults: Sequence[str] = ()

    def limit(self, unit: int) -> float | None:
        """The threshold of a unit, numbered from 1; None if it is unknown."""
        return None if self.thresholds is None else float(self.thresholds[unit - 1])

    def record(self, unit: int, threshold: float) -> UnitEvidence:
        """All of it for one unit, numbered from 1.

        Args:
            unit: its number.
            threshold: IoU from which a unit counts as interpretable, for the warning.
        """
        row = self.agreement.get(unit)
        known = row is not None and bool(row.label)
        return {
            "unit": unit,
            "ceiling": row.ceiling if row and known else None,
            "binds": bool(row and ceiling_binds(row, threshold)),
            "auroc": row.auroc if row and known else None,
            "chance": self.chance.get(unit),
            "threshold": self.limit(unit),
            "strip": None,
            "tiles": 0,
        }


def read_beside(tally: Path) -> Beside:
    """Read what lies beside a tally. A file that cannot be read, or is another tally's, counts as missing: `faults`."""
    rows = read_tally(tally)
    faults: list[str] = []

    def read(name: str, reader: Callable[[Path], _Read]) -> _Read | None:
        path = tally.parent / name
        if not os.path.lexists(path):
            return None
        try:
            return reader(path)
        except UserError as error:
            faults.append(f"not used: {error}")
            return None

    agreement = read("agreement.csv", lambda path: read_agreement(path, rows))
    chance = read("chance.json", lambda path: _read_chance(path, {row.unit: row.score for row in rows}))
    thresholds = read(THRESHOLDS, lambda path: read_thresholds(path, len(rows)))
    top_images = read(TOP_IMAGES, lambda path: read_top_images(path, len(rows)))
    return Beside({row.unit: row for row in agreement or ()}, chance or {}, thresholds, top_images or {}, faults)


def _read_chance(path: Path, scores: Mapping[int, float]) -> dict[int, float]:
    """By unit, what chance.json says of it. Raises UserError if it is no such file, or that of other scores."""
    found: dict[int, float] = {}
    units = read_json(path, "chance", _MOST_BYTES).get("units")
    for entry in units if isinstance(units, list) else []:
        known: Any = entry if isinstance(entry, dict) else {}
        unit, score, chance = (known.get(name) for name in ("unit", "score", "chance"))
        if type(unit) is not int or type(chance) not in (int, float) or not 0 <= chance <= 1:
            raise UserError(f"chance {path}: {str(entry)[:60]}, expected a unit, its score and a chance from 0 to 1")
        if unit not in scores or type(score) is not float or not math.isclose(score, scores[unit], abs_tol=1e-9):
            raise UserError(f"chance {path}: unit {unit} is not as in the tally: it was made with another one")
        found[unit] = float(chance)
    return found


# --- top_images.csv -------------------------------------------------------------------------------------------------


def write_top_images(path: str | os.PathLike, images: np.ndarray) -> None:
    """Write top_images.csv: `unit`, and `images`, the numbers of its rows of index.csv with any label, joined by ;.

    Args:
        path: the file.
        images: (topn, U) of `LayerSummary.top_images`, the largest activation first.
    """
    with atomic_write(path) as temporary, open(temporary, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(("unit", "images"))
        writer.writerows((unit, ";".join(map(str, own))) for unit, own in enumerate(images.T.tolist(), start=1))


def read_top_images(path: str | os.PathLike, units: int) -> dict[int, list[int]]:
    """Read top_images.csv: {unit: numbers of images}. Raises UserError, naming file and line, for what is wrong."""
    rows = [(cells.whole("unit"), _images(cells)) for cells in read_cells(path, "top images", ("unit", "images"))]
    check_units([unit for unit, _ in rows], units, f"top images {os.fspath(path)}")
    return dict(rows)


def _images(cells: Cells) -> list[int]:
    parts = cells.text("images").split(";")
    found = [number for part in parts if (number := parse_int(part)) is not None and number >= 0]
    if len(found) != len(parts) or len(found) > _MOST_IMAGES:
        raise cells.error("images", "numbers from 0, joined by ;")
    return found

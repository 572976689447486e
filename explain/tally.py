"""tally.csv, in which Network Dissection says what each unit responds to: the only reader and writer of the file."""

import csv
import os
from collections.abc import Sequence
from dataclasses import astuple, dataclass, fields
from itertools import chain
from pathlib import Path

from explain.unit_table import Cells, check_units, read_cells
from util.cli import UserError
from util.files import atomic_write
from util.made_of import MadeOf, fingerprint, read_companion

_COLUMNS = ("unit", "category", "label", "score")


@dataclass(frozen=True)
class CategoryScore:
    """A unit's best label in one category; the fields are in the order of tally.csv's columns.

    Attributes:
        label: its name; '' where the unit has none, with zeros in the other fields.
        truth: T, pixels of the label.
        activation: A, mask pixels of the unit in the images that count for the category.
        intersect: I, mask pixels that carry the label.
        iou: from 0 to 1.
    """

    label: str
    truth: int
    activation: int
    intersect: int
    iou: float


@dataclass(frozen=True)
class TallyRow:
    """One row of tally.csv.

    Attributes:
        unit: number from 1.
        category, label, score: of the best category.
        categories: the best label of each category, by the category's name; empty if the file lacks these columns.
    """

    unit: int
    category: str
    label: str
    score: float
    categories: dict[str, CategoryScore]


def write_tally(path: str | os.PathLike, rows: Sequence[TallyRow]) -> None:
    """Write tally.csv, in the authors' columns."""
    categories = list(rows[0].categories)
    with atomic_write(path) as temporary, open(temporary, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(_header(categories))
        for row in rows:
            scores = [astuple(row.categories[category]) for category in categories]
            writer.writerow([row.unit, row.category, row.label, row.score, *chain.from_iterable(scores)])


def _header(categories: Sequence[str]) -> list[str]:
    return [*_COLUMNS, *(f"{category}-{field.name}" for category in categories for field in fields(CategoryScore))]


def read_tally(path: str | os.PathLike, units: int | None = None) -> list[TallyRow]:
    """Read a tally.csv.

    Args:
        path: the file; one that the authors' code wrote will do, as will one with the first four columns only.
        units: number of the model's units: the file must have each of 1..units once. None: not checked.

    Raises:
        UserError: naming the file, and the line and column that are wrong.
    """
    rows = [_parse_row(cells) for cells in read_cells(path, "tally", _COLUMNS)]
    check_units([row.unit for row in rows], units, f"tally {os.fspath(path)}")
    return rows


def _parse_row(cells: Cells) -> TallyRow:
    categories = [column.removesuffix("-truth") for column in cells.columns if column.endswith("-truth")]
    scores = {
        category: CategoryScore(
            cells.text(f"{category}-label"),
            cells.whole(f"{category}-truth"),
            cells.whole(f"{category}-activation"),
            cells.whole(f"{category}-intersect"),
            cells.share(f"{category}-iou", "an IoU"),
        )
        for category in categories
    }
    unit, score = cells.whole("unit"), cells.share("score", "an IoU")
    return TallyRow(unit, cells.text("category"), cells.text("label"), score, scores)


def interpretable(rows: Sequence[TallyRow], threshold: float) -> list[TallyRow]:
    """The rows whose score reaches the threshold."""
    return [row for row in rows if row.score >= threshold]


def unique_detectors(rows: Sequence[TallyRow]) -> list[str]:
    """The distinct labels of the given rows (usually those of the interpretable units), sorted."""
    return sorted({row.label for row in rows})


# --- the record beside it -------------------------------------------------------------------------------------------


def tally_fingerprint(path: str | os.PathLike) -> str:
    """SHA-256 of a tally.csv, in which line ends do not count: it ties the record to the file."""
    return fingerprint(Path(path).read_bytes().replace(b"\r\n", b"\n"))


def read_made_of(path: str | os.PathLike) -> MadeOf | None:
    """The record of the tally `path`; None if its origin is unknown, as of the authors' files.

    Raises:
        UserError: if the record is not readable, or is that of another tally.
    """
    made_of = read_companion(path)
    if made_of is not None and made_of.get("tally") != tally_fingerprint(path):
        raise UserError(f"tally {path}: the record beside it is of another tally; remove it, or dissect again")
    return made_of

"""The tally: each unit's best labels by IoU. The only reader and writer of tally.csv."""

import csv
import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import astuple, dataclass, fields
from itertools import chain

import numpy as np

from netdissect.broden import Broden
from netdissect.broden.reader import check_header
from netdissect.counting import Counts
from util.cli import UserError, parse_float
from util.files import atomic_write, regular_file

MOST_BYTES = 1 << 28  # of a tally.csv: one of 512 units and six categories has 160 kB
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


def interpretable(rows: Sequence[TallyRow], threshold: float) -> list[TallyRow]:
    """The rows whose score reaches the threshold."""
    return [row for row in rows if row.score >= threshold]


def unique_detectors(rows: Sequence[TallyRow]) -> list[str]:
    """The distinct labels of the given rows (usually those of the interpretable units), sorted."""
    return sorted({row.label for row in rows})


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
    regular_file(path, "tally", MOST_BYTES)
    try:
        with open(path, newline="", encoding="utf-8-sig") as file:
            table = csv.DictReader(file)
            header = table.fieldnames or []
            missing = [column for column in _COLUMNS if column not in header]
            if missing:
                raise UserError(f"tally {path}: no column {', '.join(missing)}; expected {','.join(_COLUMNS)},...")
            check_header(header, f"tally {path}")
            categories = [column.removesuffix("-truth") for column in header if column.endswith("-truth")]
            missing = [column for column in _header(categories) if column not in header]
            if missing:
                raise UserError(f"tally {path}: no column {', '.join(missing)}")
            rows = [_parse_row(row, categories, f"tally {path}, line {table.line_num}") for row in table]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"tally {path}: unreadable ({error})") from error
    _check_units([row.unit for row in rows], units, path)
    return rows


def _parse_row(row: dict[str, str], categories: list[str], place: str) -> TallyRow:
    if None in row.values():
        raise UserError(f"{place}: fewer cells than the header")

    def number(column: str) -> float:
        value = parse_float(row[column])
        if value is None:
            raise UserError(f"{place}: {column} {row[column]!r}, expected a number")
        return value

    def whole(column: str) -> int:
        value = number(column)
        if value != int(value) or value < 0:
            raise UserError(f"{place}: {column} {row[column]!r}, expected a whole number")
        return int(value)

    def score(column: str) -> float:
        value = number(column)
        if not 0 <= value <= 1:
            raise UserError(f"{place}: {column} {row[column]!r}, expected an IoU from 0 to 1")
        return value

    scores = {
        category: CategoryScore(
            row[f"{category}-label"] or "",
            whole(f"{category}-truth"),
            whole(f"{category}-activation"),
            whole(f"{category}-intersect"),
            score(f"{category}-iou"),
        )
        for category in categories
    }
    return TallyRow(whole("unit"), row["category"] or "", row["label"] or "", score("score"), scores)


def _check_units(found: list[int], units: int | None, path: str | os.PathLike) -> None:
    twice = [unit for unit, rows in Counter(found).items() if rows > 1]
    if twice:
        raise UserError(f"tally {path}: unit {twice[0]} has more than one row")
    if units is not None and set(found) != set(range(1, units + 1)):
        span = f"{min(found)} to {max(found)}" if found else "none"
        raise UserError(
            f"tally {path}: it has {len(found)} units ({span}), the model's are 1 to {units}: "
            "it was made of another model or layer"
        )

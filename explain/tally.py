"""tally.csv, in which Network Dissection says what each unit responds to: the only reader and writer of the file."""

import csv
import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import astuple, dataclass, fields
from itertools import chain
from pathlib import Path

from util.cli import UserError, parse_float
from util.files import atomic_write, check_header, regular_file
from util.made_of import MadeOf, fingerprint, read_companion

MOST_BYTES = 1 << 28  # of a tally.csv: one of 512 units and six categories has 160 kB
MOST_PIXELS = 2**53  # that can be counted: larger numbers are not exact
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
        if value > MOST_PIXELS:
            raise UserError(f"{place}: {column} {row[column][:30]!r}, expected at most {MOST_PIXELS:,}")
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

"""Reading of the tables that have a row per unit, tally.csv and agreement.csv: what is checked of both."""

import os
from collections import Counter
from collections.abc import Iterator, Sequence

from util.cli import UserError, parse_float
from util.tables import read_table

MOST_BYTES = 1 << 28  # of a table: a tally.csv of 512 units and six categories has 160 kB
MOST_PIXELS = 2**53  # that can be counted: larger numbers are not exact


class Cells:
    """The cells of one row, by column.

    Args:
        row: as `csv.DictReader` gives it.
        place: of the row, 'tally X, line n', for messages.

    Raises:
        UserError: by any method, naming place and column, for a cell that is missing or not what it should be.
    """

    def __init__(self, row: dict[str, str], place: str):
        self.columns = [column for column in row if column is not None]  # None: beyond the header
        self._row, self._place = row, place

    def text(self, column: str) -> str:
        """Any text."""
        if column not in self._row:
            raise UserError(f"{self._place}: no column {column}")
        return self._row[column]

    def number(self, column: str) -> float:
        """A finite number."""
        value = parse_float(self.text(column))
        if value is None:
            raise self.error(column, "a number")
        return value

    def whole(self, column: str) -> int:
        """A whole number from 0."""
        value = self.number(column)
        if value != int(value) or value < 0:
            raise self.error(column, "a whole number")
        if value > MOST_PIXELS:
            raise self.error(column, f"at most {MOST_PIXELS:,}")
        return int(value)

    def ratio(self, column: str) -> float:
        """A number from 0."""
        value = self.number(column)
        if value < 0:
            raise self.error(column, "a number from 0")
        return value

    def share(self, column: str, what: str) -> float:
        """A number from 0 to 1; what it is, for the message."""
        value = self.number(column)
        if not 0 <= value <= 1:
            raise self.error(column, f"{what} from 0 to 1")
        return value

    def error(self, column: str, expected: str) -> UserError:
        """What to raise for a cell that is not what was expected."""
        return UserError(f"{self._place}: {column} {self.text(column)[:30]!r}, expected {expected}")


def read_cells(path: str | os.PathLike, what: str, columns: Sequence[str]) -> Iterator[Cells]:
    """Yield the rows of a table of units. Arguments and errors as of `util.tables.read_table`; a row may not be cut."""
    for place, row in read_table(path, columns, what, MOST_BYTES):
        if None in row.values():
            raise UserError(f"{place}: fewer cells than the header")
        yield Cells(row, place)


def check_units(found: Sequence[int], units: int | None, file: str) -> None:
    """Raise UserError, naming the file, if a unit has two rows, or the units are not 1 to `units`, unless None."""
    twice = [unit for unit, rows in Counter(found).items() if rows > 1]
    if twice:
        raise UserError(f"{file}: unit {twice[0]} has more than one row")
    if units is not None and set(found) != set(range(1, units + 1)):
        span = f"{min(found)} to {max(found)}" if found else "none"
        raise UserError(
            f"{file}: it has {len(found)} units ({span}), the model's are 1 to {units}: "
            "it was made of another model or layer"
        )

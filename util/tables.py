"""CSV files by the names of their columns: rows with their places, and what is wrong with a file in one line."""

import csv
import os
from collections.abc import Iterator, Sequence

from util.cli import UserError
from util.files import check_header, regular_file

MOST_BYTES = 1 << 30  # of a table: Broden's index has 20 MB


def read_table(
    path: str | os.PathLike, columns: Sequence[str], what: str = "", most_bytes: int = MOST_BYTES
) -> Iterator[tuple[str, dict[str, str]]]:
    """Yield the rows of a CSV file by header name, each with its place, 'file, line n', for messages.

    Args:
        path: the file.
        columns: that it must have; it may have more.
        what: the file is, with which messages begin: 'tally'; '': they begin with the path.
        most_bytes: its greatest size.

    Raises:
        UserError: if the file is missing, unreadable, too large, lacks one of `columns` or has a column twice.
    """
    regular_file(path, what, most_bytes)
    named = f"{what} {os.fspath(path)}".lstrip()
    try:
        with open(path, newline="", encoding="utf-8-sig") as file:
            table = csv.DictReader(file)
            header = table.fieldnames or []
            missing = [column for column in columns if column not in header]
            if missing:
                raise UserError(f"{named}: no column {', '.join(missing)}; expected {', '.join(columns)}")
            check_header(header, named)
            for row in table:
                place = f"{named}, line {table.line_num}"
                if any(row[column] is None for column in columns):
                    raise UserError(f"{place}: fewer cells than the header")
                yield place, row
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{named}: unreadable ({error})") from error

"""Tables of names, and the labels that they make together: one number per name."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from loader.broden_format import spelled
from netdissect.broden.label_maps import COLOURS, INTEGERS, Kind
from netdissect.broden.reader import MOST_LABELS, check_category, check_name
from util.cli import UserError, parse_int
from util.tables import read_table


@dataclass
class NamesTable:
    """What the pixels of label maps stand for, in one category.

    Attributes:
        file: the table.
        kind: of the label maps: integers, or colours.
        names: label names by a pixel's code, as of `label_maps.read_codes`.
        numbers: the label numbers that the table gives, by code; a table of colours may have none.
    """

    file: Path
    kind: Kind
    names: dict[int, str] = field(default_factory=dict)
    numbers: dict[int, int] = field(default_factory=dict)


def read_names(path: Path, category: str | None, lowest: int = 0) -> dict[str, NamesTable]:
    """Read a table of names: a CSV with the columns `number,name` or, for maps of colours, `name,r,g,b`.

    Args:
        path: the file.
        category: of all its names; None: they have a column `category`.
        lowest: the least number that may have a name.

    Returns:
        By category, in the order of the table.

    Raises:
        UserError: naming the file, and the row, that is missing or breaks the format.
    """
    tables: dict[str, NamesTable] = {}
    named: dict[int, str] = {}
    for place, row in read_table(path, ["name"] if category else ["name", "category"]):
        if category and "category" in row:
            raise UserError(f"{path}: has a column category, and the recipe {category!r}; expected one of the two")
        own = category or row["category"]
        check_category(own, place)
        name = row["name"].strip()
        check_name(name, place)
        if not name:
            raise UserError(f"{place}: no name")
        kind, code, number = _code_of(row, place, lowest)
        table = tables.setdefault(own, NamesTable(path, kind))
        if code in table.names or named.setdefault(code, name) != name:
            raise UserError(f"{place}: {_shown(kind, code)} is {named[code]!r} already")
        table.names[code] = name
        if number is not None:
            table.numbers[code] = number
    if not tables:
        raise UserError(f"{path}: no names in it")
    return tables


def _code_of(row: Mapping[str, str], place: str, lowest: int) -> tuple[Kind, int, int | None]:
    """Kind of the label maps, code of a name's pixels, and the label number that the table gives."""
    number = parse_int(row.get("number"))
    if "number" in row and (number is None or not lowest <= number <= MOST_LABELS):
        raise UserError(f"{place}: number {row['number']!r}, expected {lowest} to {MOST_LABELS}")
    channels = [channel for channel in "rgb" if channel in row]
    if not channels:
        if number is None:
            raise UserError(f"{place}: no column number; expected number,name or name,r,g,b")
        return INTEGERS, number, number
    code = 0
    for channel in "rgb":
        value = parse_int(row.get(channel))
        if value is None or value > 255:
            raise UserError(f"{place}: {channel} {row.get(channel)!r}, expected 0 to 255")
        code = code * 256 + value
    return COLOURS, code, number


def _shown(kind: Kind, code: int) -> str:
    return f"number {code}" if kind is INTEGERS else f"colour {code >> 16}, {code >> 8 & 255}, {code & 255}"


@dataclass(frozen=True)
class Translation:
    """From the codes of label maps to label numbers.

    Attributes:
        table: in which the codes have names.
        codes: (L,) in ascending order.
        numbers: (L,) the label number of each.
    """

    table: NamesTable
    codes: np.ndarray
    numbers: np.ndarray

    def __call__(self, codes: np.ndarray) -> np.ndarray:
        """Label numbers (h, w) int32 of codes (h, w); 0 for those that are void."""
        return np.where(self.knows(codes), self.numbers[self._places(codes)], 0).astype(np.int32)

    def knows(self, codes: np.ndarray) -> np.ndarray:
        """Which codes have a name: (h, w) bool."""
        return self.codes[self._places(codes)] == codes

    def _places(self, codes: np.ndarray) -> np.ndarray:
        return np.searchsorted(self.codes, codes).clip(max=len(self.codes) - 1)


class Vocabulary:
    """The labels of a folder: names that are equal but for case, or synonyms, are one label, with one number.

    A label is called as the recipe's synonyms call it, else as where it is first named. It keeps the number that it is
    given there, if that is not 0 and no earlier label has it; otherwise it gets the least free one.

    Attributes:
        names: category -> label number -> name, as Broden spells it.

    Args:
        synonyms: name -> its other names.
    """

    def __init__(self, synonyms: Mapping[str, Sequence[str]]):
        self.names: dict[str, dict[int, str]] = {}
        self._others = synonyms
        self._mains = {other.casefold(): name for name, others in synonyms.items() for other in (name, *others)}
        self._numbers: dict[str, int] = {}  # by name, case folded
        self._taken: dict[int, str] = {}  # names by number
        self._synonyms: dict[str, str] = {}
        self._free = 1  # no lower number is free

    def number(self, category: str, name: str, given: int | None = None) -> int:
        """The number of a label in a category, which gets the label if it lacks it.

        Raises:
            UserError: if there are more labels than a label map has numbers.
        """
        main = self._mains.get(name.casefold(), name)
        label = spelled(category, main)
        number = self._numbers.setdefault(label.casefold(), 0) or self._new_number(given)
        self._numbers[label.casefold()] = number
        label = self._taken.setdefault(number, label)
        self.names.setdefault(category, {})[number] = label
        if main in self._others:
            self._synonyms[label] = ";".join(spelled(category, other) for other in self._others[main])
        return number

    def _new_number(self, given: int | None) -> int:
        if given and given not in self._taken:
            return given
        while self._free in self._taken:
            self._free += 1
        if self._free > MOST_LABELS:
            raise UserError(f"more than {MOST_LABELS:,} labels, expected at most as many as a label map has numbers")
        return self._free

    def translation(self, category: str, table: NamesTable) -> Translation:
        """Number a table's labels. Raises UserError as `number`."""
        codes = sorted(table.names)
        numbers = [self.number(category, table.names[code], table.numbers.get(code)) for code in codes]
        return Translation(table, np.array(codes, np.int64), np.array(numbers, np.int64))

    @property
    def synonyms(self) -> dict[str, str]:
        """The other names of labels, as column `syns` of label.csv has them: by label, joined by `;`."""
        return self._synonyms

"""Small text tables that come with data sets: names one a line, and pairs of names."""

import re
from collections import Counter
from collections.abc import Collection, Iterator
from pathlib import Path

from util.cli import UserError
from util.files import regular_file
from util.text import printable

MOST_BYTES = 1 << 26  # of a table; the largest that is read, WordNet's words, has 3 million


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    """The lines of a text file that are not empty, with their numbers from 1. Raises UserError naming the file."""
    try:
        text = regular_file(path, "", MOST_BYTES).read_text(encoding="utf-8-sig")
    except OSError as error:
        raise UserError(f"{path}: unreadable ({error.strerror})") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not a text in UTF-8 (byte {error.start})") from error
    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip():
            yield number, line.rstrip("\r")


def read_names(path: Path, pattern: str, expected: str) -> list[str]:
    """The names in a file, one a line.

    Args:
        path: the file.
        pattern: that each must match.
        expected: what that is, in words.

    Raises:
        UserError: naming the file and the line, for another line, a name that is there twice, or no name at all.
    """
    names: list[str] = []
    seen: set[str] = set()
    for number, line in _lines(path):
        name = line.strip()
        if not re.fullmatch(pattern, name):
            raise UserError(f"{path}, line {number}: {name[:80]!r}, expected {expected}")
        if name in seen:
            raise UserError(f"{path}, line {number}: {name} is there twice")
        seen.add(name)
        names.append(name)
    if not names:
        raise UserError(f"{path}: empty, expected lines of {expected}")
    return names


def read_pairs(path: Path, values: Collection[str], expected: str) -> dict[str, str]:
    """A table of file names: its first two columns, parted by tabs; the others are left out.

    Args:
        path: the file.
        values: that the second column may have.
        expected: what these are, in words.

    Raises:
        UserError: naming the file and the line, for a line of fewer columns, a name that leads into a folder or is
            there twice, or another value.
    """
    pairs: dict[str, str] = {}
    for number, line in _lines(path):
        name, value = [*line.split("\t"), "", ""][:2]
        if not value or not re.fullmatch(r"[^/\\\x00]+", name) or name in (".", ".."):
            raise UserError(f"{path}, line {number}: {line[:80]!r}, expected a file's name, a tab and a class")
        if value not in values:
            raise UserError(f"{path}, line {number}: class {value[:80]!r} is not {expected}")
        if name in pairs:
            raise UserError(f"{path}, line {number}: {name[:80]} is there twice")
        pairs[name] = value
    return pairs


def by_first_synonym(path: Path, keys: list[str]) -> list[str]:
    """The first synonym of each key, from a table of lines `key<tab>synonym, synonym, ...`.

    Where several keys have one, the key is added to each: names must tell classes apart.

    Raises:
        UserError: naming the file and the key, if it has no line, no synonym, or two lines that differ.
    """
    wanted = set(keys)
    found: dict[str, str] = {}
    for number, line in _lines(path):
        key, _, synonyms = line.partition("\t")
        if key not in wanted:
            continue
        name = printable(synonyms.split(",")[0].strip())
        if not name:
            raise UserError(f"{path}, line {number}: no name for {key}")
        if found.setdefault(key, name) != name:
            raise UserError(f"{path}, line {number}: another name for {key}")
    for key in keys:
        if key not in found:
            raise UserError(f"{path}: no name for {key}")
    times = Counter(found.values())
    return [found[key] if times[found[key]] == 1 else f"{found[key]} ({key})" for key in keys]

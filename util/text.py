"""Text that strangers wrote (names of files, classes, concepts), made safe for terminals, files and plots."""

import logging
import re
import reprlib
import sys
from typing import IO

# Control characters (C0, DEL, C1), line and paragraph separators, marks that reverse the direction of text, the byte
# order mark, on which matplotlib fails, and surrogates, which stand for bytes of a name that is not UTF-8.
_UNPRINTABLE = re.compile(r"[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ufeff\ud800-\udfff]")


def printable(text: object) -> str:
    r"""One line for a terminal: what would move the cursor, change colours or cannot be encoded is shown as `\x1b`."""
    return _UNPRINTABLE.sub(lambda match: match[0].encode("unicode_escape").decode("ascii"), str(text))


def plain_math(text: str) -> str:
    """Text for matplotlib, in which `$` would begin a formula."""
    return printable(text).replace("$", r"\$")


def abridged(text: str, length: int) -> str:
    """A text of at most so many characters: of a longer one, its beginning and its end."""
    return text if len(text) <= length else f"{text[: length // 2]}…{text[len(text) - (length - 1) // 2 :]}"


def counted(count: int, noun: str) -> str:
    """A number and a noun: 1 vote, 5 votes."""
    return f"{count} {noun}{'' if count == 1 else 's'}"


def say(text: object, file: IO[str] | None = None) -> None:
    """Print a line, made printable, on stdout or another stream."""
    print(printable(text), file=file or sys.stdout)


def shown(value: object) -> str:
    """A value of any type, from a file or a setting, for a message: a large one is abridged."""
    try:
        return _SHORT.repr(value)
    except Exception:  # a whole number of thousands of digits, or an object whose own text fails
        return f"a value of type {type(value).__name__}"


_SHORT = reprlib.Repr()
_SHORT.maxstring = _SHORT.maxother = 80


class PrintableFormatter(logging.Formatter):
    """A formatter of log lines whose messages are made printable; tracebacks stay as they are."""

    def formatMessage(self, record: logging.LogRecord) -> str:
        """The line without a traceback."""
        return printable(super().formatMessage(record))

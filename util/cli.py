"""Command lines: parsing, checking, and how a run ends: a user's mistake is one line on stderr and exit code 2."""

import argparse
import errno
import io
import math
import re
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NoReturn

# The system's refusals to read or write: not a defect of the program, and the message says everything.
REFUSALS = {errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.ENOTDIR}
REFUSALS |= {errno.EISDIR, errno.ENAMETOOLONG, errno.EMFILE}
EXIT_USAGE = 2
EXIT_INTERRUPTED = 130  # 128 + SIGINT, as shells report it
EXIT_TERMINATED = 143  # 128 + SIGTERM


class UserError(ValueError):
    """A mistake that the user can correct; the message names the file or value and says what is accepted."""

    def __init__(self, message: str):
        # A DataLoader re-raises a worker's exception with the worker's whole traceback as its message:
        # only the last line is for the user.
        if message.startswith("Caught UserError"):
            message = message.strip().rsplit("UserError: ", 1)[-1]
        super().__init__(message)


class Terminated(Exception):
    """The process received SIGTERM and saved its state; the message says where."""


@contextmanager
def catch_sigterm() -> Iterator[Callable[[], bool]]:
    """Within the block SIGTERM does not end the process: the yielded function tells whether it was received."""
    received = []
    before = signal.signal(signal.SIGTERM, lambda *_: received.append(True))
    try:
        yield lambda: bool(received)
    finally:
        signal.signal(signal.SIGTERM, before)


def parse_int(text: str | None) -> int | None:
    """A whole number of up to 18 digits; None for any other text."""
    return int(text) if text and re.fullmatch(r"[0-9]{1,18}", text.strip()) else None


def parse_float(text: str) -> float | None:
    """A finite number; None for any other text, NaN and infinity."""
    try:
        number = float(text)
    except ValueError:
        return None
    return number if math.isfinite(number) else None


def check_ranges(args: object, ranges: dict[str, tuple[int, int]]) -> None:
    """Raises UserError for a flag outside its range, lowest to highest inclusive; None is a flag that was not given."""
    for name, (lowest, highest) in ranges.items():
        value = getattr(args, name)
        if value is not None and not lowest <= value <= highest:
            raise UserError(f"--{name} {value}: expected {lowest} to {highest}")


class ArgumentParser(argparse.ArgumentParser):
    """argparse's parser, with a module's docstring as help, no abbreviations, and mistakes as UserError."""

    def __init__(self, description: str):
        super().__init__(
            description=description, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
        )

    def error(self, message: str) -> NoReturn:
        """Raise UserError instead of printing the usage."""
        raise UserError(message)


def run(entry: Callable[[], None], name: str) -> None:
    """Call `entry`; a UserError ends the process with `name: error: ...` and exit code 2, Ctrl-C with 130, SIGTERM 143.

    An OSError by which the system refuses to read or write is treated as a UserError. Characters that the terminal's
    encoding lacks are printed as escapes.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    try:
        entry()
    except (UserError, OSError) as error:
        if isinstance(error, OSError):
            if error.errno not in REFUSALS:
                raise
            error = UserError(f"{error.filename or 'output'}: {error.strerror}")
        print(f"{name}: error: {' '.join(str(error).split())}", file=sys.stderr)
        sys.exit(EXIT_USAGE)
    except KeyboardInterrupt:
        print(f"{name}: interrupted", file=sys.stderr)
        sys.exit(EXIT_INTERRUPTED)
    except Terminated as terminated:
        print(f"{name}: terminated: {terminated}", file=sys.stderr)
        sys.exit(EXIT_TERMINATED)

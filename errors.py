"""How a run ends early: a user's mistake is one line on stderr and exit code 2, never a traceback; and signals."""

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

# What a disk or its owner refuses: no defect of the program, and its message says all.
REFUSALS = frozenset({errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.ENOTDIR,
                      errno.EISDIR, errno.ENAMETOOLONG, errno.EMFILE})  # fmt: skip
EXIT_USAGE = 2
EXIT_INTERRUPTED = 130  # 128 + SIGINT, as shells report it
EXIT_TERMINATED = 143  # 128 + SIGTERM


class UserError(ValueError):
    """A mistake that the user can mend; its message names the file or value and says what is accepted."""

    def __init__(self, message: str):
        # A DataLoader re-raises a worker's exception with the worker's whole traceback as message:
        # only the last line, which is ours, is for the user.
        if message.startswith("Caught UserError"):
            message = message.strip().rsplit("UserError: ", 1)[-1]
        super().__init__(message)


class Terminated(Exception):
    """SIGTERM came, and what was to be saved is; the message says where."""


@contextmanager
def noting_sigterm() -> Iterator[Callable[[], bool]]:
    """Within the block SIGTERM does not end the process: the yielded function says whether one has come."""
    came = []
    before = signal.signal(signal.SIGTERM, lambda *_: came.append(True))
    try:
        yield lambda: bool(came)
    finally:
        signal.signal(signal.SIGTERM, before)


def whole_number(text: str | None) -> int | None:
    """The number that a user's text writes, with up to 18 digits and nothing else; None for any other text."""
    return int(text) if text and re.fullmatch(r"[0-9]{1,18}", text.strip()) else None


def finite_number(text: str) -> float | None:
    """The number that a user's text writes; None for any other text, NaN and infinity."""
    try:
        number = float(text)
    except ValueError:
        return None
    return number if math.isfinite(number) else None


def check_ranges(args: argparse.Namespace, ranges: dict[str, tuple[int, int]]) -> None:
    """Raises UserError for a flag out of its range, from lowest to highest; None is a flag that was not given."""
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
        """Raise UserError, in place of printing the usage."""
        raise UserError(message)


def run(entry: Callable[[], None], name: str) -> None:
    """Call `entry`; a UserError ends the process with `name: error: ...` and code 2, Ctrl-C 130, SIGTERM 143.

    So does an OSError that says what a disk or its owner refuses. What the terminal's encoding lacks is written as an
    escape: a name is no reason to end a run.
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

"""Command lines: parsing, checking, and how a run ends: a user's mistake is one line on stderr and exit code 2."""

import argparse
import errno
import io
import math
import os
import re
import signal
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, NoReturn, TextIO, cast

from util.text import say

# The system's refusals to read or write: not a defect of the program, and the message says everything.
REFUSALS = {errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.ENOTDIR}
REFUSALS |= {errno.EISDIR, errno.ENAMETOOLONG, errno.EMFILE, errno.ENFILE, errno.EIO, errno.ESTALE, errno.ELOOP}
REFUSALS |= {errno.ENOENT, errno.EEXIST, errno.ENXIO, errno.EBUSY}  # what others did to files and folders meanwhile
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


def describe(error: BaseException) -> str:
    """An exception's type and the first line of what it says."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0][:300]}" if lines else type(error).__name__


class Terminated(BaseException):
    """The process received SIGTERM or SIGHUP; the message says what was saved.

    Like KeyboardInterrupt it is no Exception: what answers a library's errors must not answer it.
    """


@contextmanager
def catch_sigterm() -> Iterator[Callable[[], bool]]:
    """Within the block SIGTERM and SIGHUP do not end the process: the yielded function tells whether one was received.

    From then on Ctrl-C is ignored, so that the state that is being saved is saved. In threads nothing changes.
    """
    received = []

    def note(*_: object) -> None:
        received.append(True)
        signal.signal(signal.SIGINT, signal.SIG_IGN)

    with _handled_by(note):
        interrupt = signal.getsignal(signal.SIGINT)
        try:
            yield lambda: bool(received)
        finally:
            if received and interrupt is not None:
                signal.signal(signal.SIGINT, interrupt)


@contextmanager
def _handled_by(handler: Callable[[int, Any], object]) -> Iterator[None]:
    """Within the block `handler` gets SIGTERM and SIGHUP, in the main thread and in this process only."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    process = os.getpid()

    def handle(number: int, frame: Any) -> None:
        if os.getpid() == process:
            handler(number, frame)
        elif number == signal.SIGTERM:  # a worker, forked from it; a terminal's SIGHUP goes to all, and is not for it
            os._exit(EXIT_TERMINATED)

    before = {number: signal.signal(number, handle) for number in _ending_signals()}
    try:
        yield
    finally:
        for number, earlier in before.items():
            signal.signal(number, signal.SIG_DFL if earlier is None else earlier)


def _ending_signals() -> list[signal.Signals]:
    """The signals by which a system ends a process, but for those it was started to ignore, as by nohup."""
    known = [signal.Signals[name] for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name)]  # no SIGHUP on Windows
    return [number for number in known if signal.getsignal(number) is not signal.SIG_IGN]


def default_workers() -> int:
    """Loading processes: up to eight per process, and no more than the machine has cores for all of them."""
    return max(1, min(8, (os.cpu_count() or 1) // int(os.environ.get("LOCAL_WORLD_SIZE", 1))))


def parse_int(text: str | None) -> int | None:
    """A whole number of up to 18 digits, with spaces and line ends around it or not; None for any other text."""
    return int(text) if text and re.fullmatch(r"[ \t\r\n]*[0-9]{1,18}[ \t\r\n]*", text) else None


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

    def __init__(self, description: str = "", **options: Any):
        options.setdefault("formatter_class", argparse.RawDescriptionHelpFormatter)
        super().__init__(description=description, allow_abbrev=False, **options)

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """As argparse's, but `--flag=--` is a mistake: some versions of it drop the value, and give an empty list."""
        for word in sys.argv[1:] if args is None else args:
            if word == "--":
                break
            flag, _, value = word.partition("=")
            if value == "--" and flag.startswith("-"):
                self.error(f"argument {flag}: expected a value, not '--'")
        return super().parse_known_args(args, namespace)

    def error(self, message: str) -> NoReturn:
        """Raise UserError instead of printing the usage."""
        raise UserError(message)


def add_dataset_flags(group: argparse._ArgumentGroup, names: Iterable[str], default: str) -> None:
    """Add --dataset and --data, which mean the same to all scripts.

    Args:
        group: of the parser.
        names: of the data sets.
        default: what holds without --dataset, in words.
    """
    group.add_argument(
        "--dataset",
        metavar="NAME|DIR",
        help=f"{', '.join(names)}, or a folder with train/ and val/ (default: {default})",
    )
    group.add_argument(
        "--data", metavar="DIR", help="folder that holds the data sets, or the data set's own (default: data/)"
    )


def run(entry: Callable[[], object], name: str) -> None:
    """Call `entry`; a UserError ends the process with `name: error: ...` and exit code 2, Ctrl-C with 130.

    SIGTERM and SIGHUP raise `Terminated`, so that locks and temporary files are removed; the exit code is 143. An
    OSError by which the system refuses to read or write is treated as a UserError. Output that nobody reads, or that
    the disk does not take, is dropped: it does not stop the work.
    """
    with _resilient_streams(), _raising_terminated():
        try:
            entry()
        except (UserError, OSError) as error:
            if isinstance(error, OSError):
                if error.errno not in REFUSALS:
                    raise
                error = UserError(f"{error.filename or 'output'}: {error.strerror}")
            say(f"{name}: error: {' '.join(str(error).split())}", sys.stderr)
            sys.exit(EXIT_USAGE)
        except KeyboardInterrupt:
            say(f"{name}: interrupted", sys.stderr)
            sys.exit(EXIT_INTERRUPTED)
        except Terminated as terminated:
            say(f"{name}: terminated: {terminated}", sys.stderr)
            sys.exit(EXIT_TERMINATED)


@contextmanager
def _raising_terminated() -> Iterator[None]:
    """Within the block, SIGTERM and SIGHUP raise `Terminated`; those that follow, and Ctrl-C, are ignored."""

    def end(number: int, _: object) -> NoReturn:
        for other in (*_ending_signals(), signal.SIGINT):
            signal.signal(other, signal.SIG_IGN)
        raise Terminated(f"received {signal.Signals(number).name}; nothing was left half-written")

    with _handled_by(end):
        yield


class _Resilient:
    """A stream whose failures end its output, not the program: from the first one on, it writes to nowhere."""

    def __init__(self, stream: io.TextIOWrapper):
        self._stream = stream
        stream.reconfigure(errors="backslashreplace")  # what the terminal's encoding lacks is printed as escapes

    def write(self, text: str) -> int:
        """Write, or drop."""
        try:
            return self._stream.write(text)
        except (OSError, ValueError):  # ValueError: it was closed
            self._give_up()
            return len(text)

    def flush(self) -> None:
        """Flush, or drop."""
        try:
            self._stream.flush()
        except (OSError, ValueError):
            self._give_up()

    def writelines(self, lines: Iterable[str]) -> None:
        """Write, or drop, each."""
        for line in lines:
            self.write(line)

    def _give_up(self) -> None:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        with suppress(OSError, ValueError):
            os.dup2(nowhere, self._stream.fileno())
        os.close(nowhere)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


@contextmanager
def _resilient_streams() -> Iterator[None]:
    """Within the block stdout and stderr survive a closed pipe, a full disk, and being closed."""
    for descriptor in (0, 1, 2):  # of one that is closed, the next file that is opened would get the number
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)
    before = sys.stdout, sys.stderr
    sys.stdout, sys.stderr = (_resilient(stream) for stream in before)
    try:
        yield
    finally:
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
        sys.stdout, sys.stderr = before


def _resilient(stream: TextIO | None) -> TextIO:
    if stream is None:  # Python's name for one that was closed when it started; libraries expect a stream
        return open(os.devnull, "w", encoding="utf-8")
    return cast(TextIO, _Resilient(stream)) if isinstance(stream, io.TextIOWrapper) else stream

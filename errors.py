"""How a user's mistake is reported: one line on stderr and exit code 2, never a traceback."""

import argparse
import sys
from collections.abc import Callable

EXIT_USAGE = 2
EXIT_INTERRUPTED = 130  # 128 + SIGINT, as shells report it


class UserError(ValueError):
    """A mistake that the user can mend; its message names the file or value and says what is accepted."""

    def __init__(self, message: str):
        # A DataLoader re-raises a worker's exception with the worker's whole traceback as message:
        # only the last line, which is ours, is for the user.
        if message.startswith("Caught UserError"):
            message = message.strip().rsplit("UserError: ", 1)[-1]
        super().__init__(message)


class ArgumentParser(argparse.ArgumentParser):
    """argparse's parser, with a module's docstring as help, no abbreviations, and mistakes as UserError."""

    def __init__(self, description: str):
        super().__init__(
            description=description, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
        )

    def error(self, message: str):
        """Raise UserError, in place of printing the usage."""
        raise UserError(message)


def run(entry: Callable[[], None], name: str) -> None:
    """Call `entry`; a UserError ends the process with `name: error: ...` and code 2, Ctrl-C with code 130."""
    try:
        entry()
    except UserError as error:
        print(f"{name}: error: {' '.join(str(error).split())}", file=sys.stderr)
        sys.exit(EXIT_USAGE)
    except KeyboardInterrupt:
        print(f"{name}: interrupted", file=sys.stderr)
        sys.exit(EXIT_INTERRUPTED)

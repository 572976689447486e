"""Progress bars."""

import sys
from collections.abc import Iterable
from typing import Any

from tqdm import tqdm

from util import distributed


def progress(iterable: Iterable | None = None, **options: Any) -> tqdm:
    """A progress bar on stderr; silent if that is closed or not a terminal, and in all processes but the main one."""
    shown = distributed.is_main_process() and sys.stderr is not None
    quiet = None if shown else True  # None: quiet unless stderr is a terminal
    return tqdm(iterable, disable=quiet, file=sys.stderr, dynamic_ncols=True, leave=False, **options)

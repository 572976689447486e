"""The files of a dissected layer, put in place together: never some of one run beside some of another."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from netdissect.cache import kept
from util.cli import UserError
from util.files import writing

# What a run writes into a layer's folder; the record of the tally, which has its fingerprint, last.
RESULTS = ("quantile.npy", "top_images.csv", "chance.json", "html", "agreement.csv", "tally.csv", "tally.made_of.json")
_MARK = "mark"  # a file that disappears with its folder
_NEW, _OLD = ".netdissect-new-", ".netdissect-old-"


@contextmanager
def swapped_in(folder: Path) -> Iterator[Path]:
    """Yield a temporary folder for `RESULTS`; they replace those in `folder` if the block succeeds.

    Of an earlier run nothing is left then, not even a file that this one does not write. If the block fails, or one of
    them cannot be put in place, the earlier results are as they were.

    Args:
        folder: of the layer; one process at a time may write to it.

    Raises:
        UserError: if the disk is full, or the folder is not writable or is removed meanwhile.
    """
    with writing(folder), kept(folder):
        folder.mkdir(parents=True, exist_ok=True)
        for left in (path for kind in (_NEW, _OLD) for path in folder.glob(f"{kind}*")):  # by a run that was killed
            shutil.rmtree(left, ignore_errors=True)
        new, old = (Path(tempfile.mkdtemp(prefix=kind, dir=folder)) for kind in (_NEW, _OLD))
        try:
            (new / _MARK).touch()
            yield new
            os.stat(new / _MARK)  # writers make a folder again that was removed
            _swap(new, folder, old)
        except UserError as error:  # names files by the place that they were meant for
            raise UserError(str(error).replace(str(new), str(folder))) from error
        finally:
            shutil.rmtree(new, ignore_errors=True)
            shutil.rmtree(old, ignore_errors=True)


def _swap(new: Path, folder: Path, old: Path) -> None:
    """Move the results in `folder` to `old` and those in `new` to `folder`, or nothing."""
    moves = [(folder / name, old / name) for name in reversed(RESULTS)]  # the record first
    moves += [(new / name, folder / name) for name in RESULTS]  # and last
    done: list[tuple[Path, Path]] = []
    try:
        for source, target in moves:
            if os.path.lexists(source):
                done.append((source, target))
                os.rename(source, target)
    except BaseException:
        for source, target in reversed(done):
            if os.path.lexists(target) and not os.path.lexists(source):
                os.rename(target, source)
        raise

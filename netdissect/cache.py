"""Layer summaries kept for later runs, with the key of the arguments that made them."""

import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from netdissect.activity import SUMMARY_FILES, ActiveMaps, LayerSummary, StoredMaps
from util import distributed
from util.cli import Terminated, UserError
from util.files import regular_file, writing
from util.made_of import MOST_BYTES, MadeOf, differences

_FORMAT = 6  # raised when the stored content changes
_KEY = "key.json"  # written last


def check_place(folder: Path) -> None:
    """Raise UserError unless a cache may be stored as `folder`: it replaces all that is there."""
    if folder.is_symlink() or (folder.exists() and not folder.is_dir()):
        raise UserError(f"{folder}: expected no file or link of this name: the cache is stored there")
    try:
        foreign = sorted({path.name for path in folder.iterdir()} - {_KEY, *SUMMARY_FILES}) if folder.exists() else []
    except OSError as error:
        raise UserError(f"{folder}: unreadable ({error.strerror})") from error
    if foreign:
        names = ", ".join(foreign[:3]) + (", ..." if len(foreign) > 3 else "")
        raise UserError(f"{folder}: it has files of other origin ({names}), and a cache would replace them; move them")


def load(folder: Path, key: MadeOf, units: int, images: int) -> tuple[LayerSummary[StoredMaps] | None, str | None]:
    """Load the summary that was stored under `key`.

    Args:
        folder: of the cache.
        key: all that the summary depends on; with `compiled` only if one kind, compiled or not, will do.
        units: of the layer.
        images: of the data.

    Returns:
        The summary and None; or None and why the stored one cannot be used, a clause such as 'is damaged'; or None
        and None where nothing is stored.
    """
    if not folder.is_dir():
        return None, None
    try:
        stored = json.loads(regular_file(folder / _KEY, "key", MOST_BYTES).read_text(encoding="utf-8"))
        if not isinstance(stored, dict):
            raise ValueError(f"{_KEY} is not a JSON object")
        other = differences(stored, {"format": _FORMAT, **key})
        if other:
            return None, f"differs in {', '.join(other)}"
        summary = LayerSummary.load(folder)
        summary.check(units, images)
        return summary, None
    except Terminated:
        raise
    except Exception as error:  # damaged files can fail anywhere in NumPy's and Python's readers
        return None, f"is damaged ({error})"


def store(folder: Path, key: MadeOf, summary: LayerSummary[ActiveMaps]) -> LayerSummary[StoredMaps]:
    """Store the summary of one pass; under torchrun, each process passes the maps of its own images.

    Returns:
        The complete summary, read from the folder, which all processes must be able to see.

    Raises:
        UserError: if the folder cannot be written, or is removed meanwhile.
    """
    parts = folder.with_name(f".{folder.name}-parts")
    with kept(folder.parent):
        if distributed.is_main_process():
            shutil.rmtree(parts, ignore_errors=True)
        distributed.barrier()
        if not distributed.is_main_process():
            part = parts / str(distributed.rank())
            part.mkdir(parents=True)
            summary.maps.save(part)
        distributed.barrier()
        if distributed.is_main_process():
            for other in range(1, distributed.world_size()):
                summary.maps.absorb(StoredMaps(parts / str(other)))
            _save(folder, key, summary)
            shutil.rmtree(parts, ignore_errors=True)
        distributed.barrier()
        return LayerSummary.load(folder)


@contextmanager
def kept(folder: Path) -> Iterator[None]:
    """Within the block, a file that is missing in `folder` was removed by somebody: a UserError, not a defect."""
    try:
        yield
    except FileNotFoundError as error:
        if error.filename is None or not Path(os.fsdecode(error.filename)).is_relative_to(folder):
            raise
        raise UserError(f"{folder}: removed, or changed, while the run was writing to it") from error


def _save(folder: Path, key: MadeOf, summary: LayerSummary[ActiveMaps]) -> None:
    """Store a summary in place of any other; the folder appears only when complete."""
    with writing(folder):
        folder.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
        try:
            summary.save(temporary)
            made_of = {"format": _FORMAT, **key, "compiled": summary.compiled}
            (temporary / _KEY).write_text(json.dumps(made_of, indent=1), encoding="utf-8")
            shutil.rmtree(folder, ignore_errors=True)
            os.replace(temporary, folder)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)

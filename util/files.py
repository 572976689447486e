"""Files that appear whole or not at all, folders for one process at a time, and how paths are shown."""

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from util.cli import REFUSALS, UserError

try:
    import fcntl
except ImportError:
    fcntl = None  # type: ignore[assignment]


_LOCK = ".lock"


@contextmanager
def atomic_write(path: str | os.PathLike) -> Iterator[Path]:
    """Yield a temporary path beside `path`; it is renamed to `path` if the block succeeds, and removed if it fails.

    Raises:
        UserError: if the disk is full or the folder is not writable.
    """
    path = Path(path)
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        # The suffix stays, since writers choose a format by it.
        descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.stem}-", suffix=path.suffix)
        os.close(descriptor)
        os.chmod(name, 0o666 & ~_umask())
        temporary = Path(name)
        try:
            yield temporary
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)


@contextmanager
def writing(path: str | os.PathLike) -> Iterator[None]:
    """Turn the system's refusal to write, within the block, into an error that names the file: a failed write does not.

    Raises:
        UserError: if the disk is full or the file is not writable.
    """
    try:
        yield
    except OSError as error:
        # An error that names a file in another folder concerns what is read meanwhile.
        elsewhere = error.filename is not None and Path(path).parent not in (
            Path(error.filename),
            *Path(error.filename).parents,
        )
        if error.errno not in REFUSALS or elsewhere:
            raise
        raise UserError(f"{path}: cannot be written ({error.strerror})") from error


@contextmanager
def lock_folder(folder: str | os.PathLike, wait: bool = False) -> Iterator[None]:
    """Hold a folder for one process within the block; the system releases it when the process dies.

    A folder that was created for the lock and is still empty when an error is raised is removed again.

    Args:
        folder: created if it does not exist.
        wait: wait for the process that holds it, instead of raising.

    Raises:
        UserError: if another process holds it and `wait` is false, or it is not writable.
    """
    folder = Path(folder)
    made = [place for place in (folder, *folder.parents) if not place.exists()]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = open(folder / _LOCK, "w")  # noqa: SIM115 - closed below
    except OSError as error:
        raise UserError(f"{folder}: cannot be written ({error.strerror})") from error
    with lock:
        if fcntl is not None:  # not on Windows
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
            except BlockingIOError as error:
                raise UserError(f"{folder}: another run is writing to it; wait, or name another folder") from error
        try:
            yield
        except BaseException:
            with suppress(OSError):  # stops at the first that is not empty
                if made and os.listdir(folder) == [_LOCK]:
                    (folder / _LOCK).unlink()
                for place in made:
                    place.rmdir()
            raise


def display_path(path: str | os.PathLike) -> str:
    """A path for people and reports: relative to the current folder if it lies below it."""
    path = Path(path)
    return str(path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path)


def last_name(path: str | os.PathLike) -> str:
    """A folder's last name as the user writes it: for a symbolic link the link's, not its target's."""
    return os.path.basename(os.path.abspath(path))


def _umask() -> int:
    umask = os.umask(0)
    os.umask(umask)
    return umask

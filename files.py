"""Files that appear whole or not at all, and how their paths are shown."""

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from errors import REFUSALS, UserError

try:
    import fcntl
except ImportError:
    fcntl = None  # type: ignore[assignment]


_LOCK = ".lock"


@contextmanager
def whole_file(path: str | os.PathLike) -> Iterator[Path]:
    """Yield a temporary path beside `path`, renamed to it when the block ends well and removed when it does not.

    Raises:
        UserError: if the disk is full or the folder cannot be written.
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
    """Name the file in what the system says when it refuses that the block writes it: a failed write names none.

    Raises:
        UserError: if the disk is full or the file cannot be written.
    """
    try:
        yield
    except OSError as error:
        # An error that names a file in another folder is about what is read meanwhile.
        elsewhere = error.filename is not None and Path(path).parent not in (
            Path(error.filename),
            *Path(error.filename).parents,
        )
        if error.errno not in REFUSALS or elsewhere:
            raise
        raise UserError(f"{path}: cannot be written ({error.strerror})") from error


@contextmanager
def alone_in(folder: str | os.PathLike, wait: bool = False) -> Iterator[None]:
    """Hold a folder for one process: a second one is told so, and stops, or with `wait` waits for the first to end.

    The system lets go when a process dies.

    A folder that was made for it and is empty when an error comes goes again.

    Raises:
        UserError: if another process holds it and `wait` is false, or it cannot be written.
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
            with suppress(OSError):  # as soon as one is not empty
                if made and os.listdir(folder) == [_LOCK]:
                    (folder / _LOCK).unlink()
                for place in made:
                    place.rmdir()
            raise


def shown(path: str | os.PathLike) -> str:
    """A path for people and reports: relative to the current folder if it is below it."""
    path = Path(path)
    return str(path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path)


def _umask() -> int:
    umask = os.umask(0)
    os.umask(umask)
    return umask

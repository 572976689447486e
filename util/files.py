"""Files that appear whole or not at all, folders for one process at a time, and how paths are shown."""

import json
import os
import re
import shutil
import stat
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from util.cli import REFUSALS, UserError
from util.text import say

try:
    import fcntl
except ImportError:
    fcntl = None  # type: ignore[assignment]


NO_FOLLOW = getattr(os, "O_NOFOLLOW", 0)  # how a file is opened unless it is a symbolic link; not on Windows
_LOCK = ".lock"
_STAGING = ".staged-"  # how the names of temporary folders begin


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
        descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.stem[:40]}-", suffix=path.suffix)
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
        # A file in a temporary folder is named as what it would have become.
        named = Path(*(part for part in Path(path).parts if not part.startswith(_STAGING)))
        raise UserError(f"{named}: cannot be written ({error.strerror})") from error


@contextmanager
def staged(folder: str | os.PathLike, replaceable: str = "") -> Iterator[Path]:
    """Yield a temporary folder inside `folder`; if the block succeeds, its entries replace those of the same names.

    They appear together: if the block or a replacement fails, `folder` is as it was. Its other entries stay. A symbolic
    link of such a name is replaced, never followed. Temporary folders that killed processes left behind are removed,
    so only the process that holds `folder` (see `lock_folder`) may call this.

    Args:
        folder: an existing folder.
        replaceable: a pattern of paths relative to `folder`. Where a folder replaces one, what lies directly in the old
            one and does not match moves to the new one.

    Raises:
        UserError: if `folder` is not writable, or an entry of the same name is a folder where a file must be, or a file
            where a folder must be.
    """
    folder = Path(folder)
    for left in folder.glob(f"{_STAGING}*"):
        if not left.is_symlink():
            shutil.rmtree(left, ignore_errors=True)
    with _refusals_of(folder):
        staging = Path(tempfile.mkdtemp(dir=folder, prefix=_STAGING))
    replaced = None
    try:
        yield staging
        with _refusals_of(folder):
            replaced = Path(tempfile.mkdtemp(dir=folder, prefix=_STAGING))
            _replace_entries(staging, folder, replaced, replaceable)
    finally:
        for temporary in (staging, replaced):
            if temporary is not None:
                shutil.rmtree(temporary, ignore_errors=True)


@contextmanager
def _refusals_of(folder: Path) -> Iterator[None]:
    """Turn any error of the system within the block into one that names the folder."""
    try:
        yield
    except OSError as error:
        raise UserError(f"{folder}: cannot be written ({error.strerror})") from error


def _replace_entries(staging: Path, folder: Path, replaced: Path, replaceable: str) -> None:
    """Move the entries of `staging` into `folder`, and those in their places into `replaced`; all of them or none."""
    moves: list[tuple[Path, Path]] = []

    def move(source: Path, target: Path) -> None:
        moves.append((source, target))  # before it is done: an interrupt may come in between
        os.rename(source, target)

    try:
        for entry in sorted(staging.iterdir()):
            target = folder / entry.name
            if target.is_dir() and not target.is_symlink():
                if not entry.is_dir():
                    raise UserError(f"{target}: a folder, where a file is to be written")
                for child in sorted(target.iterdir()):
                    own = re.fullmatch(replaceable, f"{entry.name}/{child.name}")
                    if not own and not os.path.lexists(entry / child.name):
                        move(child, entry / child.name)
            elif os.path.lexists(target) and not target.is_symlink() and entry.is_dir():
                raise UserError(f"{target}: a file, where a folder is to be written")
            if os.path.lexists(target):
                move(target, replaced / entry.name)
            move(entry, target)
    except BaseException:
        for source, target in reversed(moves):
            if not os.path.lexists(source):
                os.rename(target, source)
        raise


@contextmanager
def lock_folder(folder: str | os.PathLike, wait: bool = False, name: str = _LOCK) -> Iterator[None]:
    """Hold a folder for one process within the block; the system releases it when the process dies.

    A folder that was created for the lock and is still empty when an error is raised is removed again.

    Args:
        folder: created if it does not exist.
        wait: wait for the process that holds it, instead of raising.
        name: of the lock file: processes that use different names do not exclude each other.

    Raises:
        UserError: if another process holds it and `wait` is false, or it is not writable.
    """
    folder = Path(folder)
    made = [place for place in (folder, *folder.parents) if not place.exists()]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        # Neither through a symbolic link, which may lead anywhere, nor truncating what is there.
        descriptor = os.open(folder / name, os.O_RDWR | os.O_CREAT | NO_FOLLOW, 0o666)
    except OSError as error:
        raise UserError(f"{folder}: cannot be written ({error.strerror})") from error
    with open(descriptor, "rb+", buffering=0) as lock:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise UserError(f"{folder / name}: not a regular file, expected a lock file")
        if fcntl is not None:  # not on Windows
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
            except BlockingIOError as error:
                raise UserError(f"{folder}: another run is writing to it; wait, or name another folder") from error
            except OSError as error:  # some network file systems have no locks
                say(
                    f"{folder}: its file system has no locks ({error.strerror}): let no other run write to it",
                    sys.stderr,
                )
        try:
            yield
        except BaseException:
            with suppress(OSError):  # stops at the first that is not empty
                if made and os.listdir(folder) == [name]:
                    (folder / name).unlink()
                for place in made:
                    place.rmdir()
            raise


def regular_file(path: str | os.PathLike, what: str, most_bytes: int | None = None) -> Path:
    """A file that a user names, checked before it is opened: opening a FIFO or a device could wait for ever.

    Args:
        path: of the file; symbolic links to regular files are fine.
        what: it is, for messages: 'snapshot', 'tally'; '': they begin with the path.
        most_bytes: its greatest size; None: any.

    Raises:
        UserError: if there is no such file, it is not a regular one, or it is too large.
    """
    named = f"{what} {os.fspath(path)}" if what else os.fspath(path)
    try:
        about = os.stat(path)
    except (OSError, ValueError) as error:  # ValueError: a name that no file can have
        missing = isinstance(error, (FileNotFoundError, NotADirectoryError, ValueError))
        reason = "no such file" if missing else f"unreadable ({getattr(error, 'strerror', error)})"
        raise UserError(f"{named}: {reason}") from error
    if not stat.S_ISREG(about.st_mode):
        kind = "a folder" if stat.S_ISDIR(about.st_mode) else "not a regular file"
        raise UserError(f"{named}: {kind}, expected a file")
    if most_bytes is not None and about.st_size > most_bytes:
        raise UserError(f"{named}: {about.st_size:,} bytes, expected at most {most_bytes:,}")
    return Path(path)


def read_json(path: str | os.PathLike, what: str, most_bytes: int) -> dict[str, Any]:
    """Read a file of one JSON object, whose values may be of any type.

    Args:
        path: of the file.
        what: it is, for messages.
        most_bytes: its greatest size.

    Raises:
        UserError: naming the file, if it is missing, unreadable, too large or no JSON object, or has a key twice.
    """
    file = regular_file(path, what, most_bytes)
    try:
        values = json.loads(file.read_text(encoding="utf-8-sig"), object_pairs_hook=_unrepeated)
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{what} {file}: unreadable ({error})") from error
    if not isinstance(values, dict):
        raise UserError(f"{what} {file}: expected a JSON object")
    return values


def _unrepeated(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object of JSON; of a key that is there twice, Python's reader would take the last value."""
    values: dict[str, Any] = {}
    for key, value in pairs:
        if key in values:
            raise ValueError(f"key {key[:80]!r} is there twice")
        values[key] = value
    return values


def check_header(header: Sequence[str], place: str) -> None:
    """Raise UserError for a column that is there twice: a reader by name would take the last one."""
    named = [column for column in header if column]
    twice = sorted({column for column in named if named.count(column) > 1}) if len(set(named)) < len(named) else []
    if twice:
        raise UserError(f"{place}: column {', '.join(map(repr, twice))} is there twice, expected it once")


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

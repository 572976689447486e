"""Image files below a folder: each real file once, whatever links lead to it."""

import os
import sys
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from functools import cache

from loader.images import EXTENSIONS
from util import distributed
from util.files import regular_file
from util.text import printable, say

# Files that nobody expects to be images: skipped without a notice, as hidden files are.
_OTHER_FILES = {".txt", ".md", ".csv", ".tsv", ".json", ".xml", ".html", ".yaml", ".yml", ".log", ".db", ".ini"}

TYPES_READ = ", ".join(EXTENSIONS)


@dataclass
class ImageFiles:
    """The image files of a folder.

    Attributes:
        paths: of each image, by its real path. Where several lead to a file, one without links.
        skipped: number of files that look like images of types that are not read, by their extension.
        files: number of all files.
        linked: whether any file or folder below the folder is a symbolic link.
    """

    paths: dict[str, str] = field(default_factory=dict)
    skipped: Counter[str] = field(default_factory=Counter)
    files: int = 0
    linked: bool = False


def is_image(name: str) -> bool:
    """Whether a file has one of the extensions that are read, in any case."""
    return name.lower().endswith(tuple(EXTENSIONS))


def contains(folder: str, path: str) -> bool:
    """Whether a real path is that of a folder, or below it."""
    return path == folder or path.startswith(os.path.join(folder, ""))


def folders_below(top: str, enter: Callable[[str, str], bool]) -> Iterator[tuple[str, str, list[os.DirEntry[str]]]]:
    """Each real folder below `top` once, `top` first: its path, its real path, and the entries that are no folders.

    Links to folders are followed after all else, so that a folder has a path without links if there is one.

    Args:
        top: a folder.
        enter: asked for the path and the real path of each folder below it; false skips the folder.

    Raises:
        OSError: for a folder that cannot be read.
    """
    folders = deque([(top, os.path.realpath(top))])
    links: deque[str] = deque()
    seen = set()
    while folders or links:
        path, real = folders.popleft() if folders else (links[0], os.path.realpath(links.popleft()))
        if real in seen or (path != top and not enter(path, real)):
            continue
        seen.add(real)
        files = []
        with os.scandir(path) as entries:
            for entry in sorted(entries, key=lambda entry: entry.name):
                if entry.is_symlink() and os.path.isdir(entry.path):
                    links.append(entry.path)
                elif not entry.is_symlink() and entry.is_dir():
                    folders.append((entry.path, os.path.join(real, entry.name)))
                else:
                    files.append(entry)
        yield path, real, files


def image_files(top: str, follow: Callable[[str, str], object]) -> ImageFiles:
    """Find the image files below a folder.

    Args:
        top: the folder.
        follow: called with the path and the real path of each link that is followed; it may raise.

    Raises:
        UserError: for an image that is not a regular file, or a link to nothing.
        OSError: for a folder that cannot be read.
    """
    found = ImageFiles()

    def enter(path: str, real: str) -> bool:
        if os.path.islink(path):
            found.linked = True
            follow(path, real)
        return True

    for _, folder, files in folders_below(top, enter):
        found.skipped.update(other_types(entry.name for entry in files))
        found.files += len(files)
        for entry in files:
            if not is_image(entry.name):
                continue
            if entry.is_symlink():
                regular_file(entry.path, "image")
                real = os.path.realpath(entry.path)
                found.linked = True
                follow(entry.path, real)
                found.paths.setdefault(real, entry.path)
            else:
                if not entry.is_file():
                    regular_file(entry.path, "image")
                found.paths[os.path.join(folder, entry.name)] = entry.path
    return found


def other_types(names: Iterable[str]) -> Counter[str]:
    """Number of files that may be images of types that are not read, by their extension."""
    types: Counter[str] = Counter()
    for name in names:
        extension = os.path.splitext(name)[1].lower()
        if not (is_image(name) or name.startswith(".") or extension in _OTHER_FILES):
            types[extension] += 1
    return types


def note_skipped(folder: str | os.PathLike, skipped: Counter[str]) -> None:
    """Say once on stderr how many files of a folder were skipped, by type."""
    if skipped and distributed.is_main_process():
        kinds = ", ".join(f"{number:,} {kind or 'without extension'}" for kind, number in sorted(skipped.items()))
        count = sum(skipped.values())
        what = "1 file" if count == 1 else f"{count:,} files"
        say_once(f"{os.fspath(folder)}: skipped {what} ({kinds}); types read: {TYPES_READ}")


@cache
def say_once(text: str) -> None:
    """Print a line on stderr, unless this process has printed it before."""
    say(text, sys.stderr)


def display_name(name: str | os.PathLike) -> str:
    """A file's name or path for people, pages and snapshots: the same in every locale, and encodable."""
    return printable(os.fsencode(name).decode("utf-8", "surrogateescape"))

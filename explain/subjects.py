"""The images to explain: validation images and a user's own files, read one at a time."""

import glob
import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import cast

import numpy as np
from PIL import Image
from torch import Tensor

import settings
from explain.records import Unreadable
from loader.folders import TYPES_READ, contains, display_name, folders_below, is_image, note_skipped, other_types
from loader.images import Sizes, explain_transform, read_image
from loader.splits import Images
from util.cli import UserError
from util.files import display_path
from util.text import printable

ENOUGH_PIXELS = 2048  # side of a user's image above which a JPEG is not decoded in full: so many are never shown


@dataclass(frozen=True)
class Subject:
    """An image to explain.

    Attributes:
        file: its path, for people.
        index: its place in the validation set; None for a user's own file.
        target: its true class; None if unknown.
        image: (3, H, W) as the network sees it.
        square: (S, S, 3) uint8, as the page shows it; S as of `shown_size`.
    """

    file: str
    index: int | None
    target: int | None
    image: Tensor
    square: np.ndarray


@dataclass(frozen=True)
class Selection:
    """Which images to explain.

    Attributes:
        val_set: the validation set; None if only a user's files are explained.
        indices: of validation images.
        files: paths of a user's own.
    """

    val_set: Images | None
    indices: list[int]
    files: list[str]

    def __len__(self) -> int:
        return len(self.indices) + len(self.files)

    def read(self, sizes: Sizes, side: int, unreadable: list[Unreadable]) -> Iterator[Subject]:
        """Read the images one at a time; those that cannot be read are added to `unreadable` instead.

        Args:
            sizes: of the network's input.
            side: of the images on the page, pixels.
            unreadable: gets the files that are left out.
        """
        transform = explain_transform(sizes)
        val_set = cast(Images, self.val_set)  # there are no indices without one
        places: list[tuple[int | None, str]] = [(index, val_set.file(index)) for index in self.indices]
        for index, path in [*places, *((None, file) for file in self.files)]:
            file = display_name(path if index is None else display_path(path))
            try:
                image = read_own(path) if index is None else val_set.image(index)
            except UserError as error:
                unreadable.append({"file": file, "reason": printable(error)})
                continue
            target = None if index is None else int(val_set.targets[index])
            yield Subject(file, index, target, transform(image), square_of(image, side))


def shown_size(size: int, tiles: int = 1) -> int:
    """Side of an explained image on the page, pixels: `IMAGE_SIZE` of settings.py, or more if the network sees more.

    Args:
        size: side of the network's input, pixels.
        tiles: images in a row of one file, which must not be wider than `settings.MOST_WIDTH`.
    """
    return min(max(settings.IMAGE_SIZE, size), settings.MOST_WIDTH // tiles)


def square_of(image: Image.Image, side: int) -> np.ndarray:
    """An image as the page shows it, squeezed to a square as for the network: (side, side, 3) uint8."""
    return np.asarray(image.resize((side, side), Image.Resampling.BILINEAR))


def read_own(file: str) -> Image.Image:
    """A user's own image, upright, RGB. Raises UserError as `read_image`."""
    return read_image(file, upright=True, enough=ENOUGH_PIXELS)


def find_files(patterns: Iterable[str]) -> list[str]:
    """The files that --image names: files as they are, the images below folders, the matches of patterns.

    Each real file counts once, by the first path that leads to it. Links to folders are followed by `**`, once each,
    and not below a folder that is named.

    Raises:
        UserError: for a pattern, or a folder, without images.
    """
    files: dict[str, str] = {}
    for pattern in patterns:
        if not pattern:
            found: list[str] = []
        elif os.path.isdir(pattern):
            found = _images_in(Path(pattern))
        elif not os.path.lexists(pattern) and glob.has_magic(pattern):
            found = sorted(file for file in _matches(pattern.replace(os.sep, "/")) if not os.path.isdir(file))
        else:
            found = [pattern]
        if not found:
            raise UserError(f"--image {pattern}: no image there ({TYPES_READ})")
        for file in found:
            files.setdefault(os.path.realpath(file), file)
    return list(files.values())


def _images_in(folder: Path) -> list[str]:
    """The images below a folder, in the order of their paths; notes how many files of other types there are."""
    files = [file for file in folder.rglob("*") if not file.is_dir()]  # rglob follows no links
    note_skipped(folder, other_types(file.name for file in files if file.is_file()))
    return sorted(str(file) for file in files if is_image(file.name))


def _matches(pattern: str) -> Iterator[str]:
    """The files and folders that a pattern matches, as glob.glob does, but without following links in circles."""
    head, *tails = re.split(r"(?:^|(?<=/))(?:\*\*/+)*\*\*(?:/+|$)", pattern, maxsplit=1)
    if not tails or pattern.endswith("/"):
        yield from glob.glob(pattern)
        return
    tail = tails[0] or "*"
    tops = glob.glob(head) if glob.has_magic(head) else [head or "."]
    for top in filter(os.path.isdir, tops):
        real = os.path.realpath(top)

        def enter(path: str, target: str, real: str = real) -> bool:
            hidden = os.path.basename(path).startswith(".")
            return not hidden and not (os.path.islink(path) and contains(target, real))

        for path, _, _ in folders_below(top, enter):
            start = "" if head == "" and path == "." else os.path.join(glob.escape(path), "")
            yield from _matches((start if head else start.removeprefix("./")) + tail)


def batched(subjects: Iterable[Subject], size: int) -> Iterator[list[Subject]]:
    """Lists of `size` subjects, the last one shorter."""
    iterator = iter(subjects)
    while batch := list(islice(iterator, size)):
        yield batch

"""The images to explain: validation images and a user's own files, read one at a time."""

import glob
import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import cast

import numpy as np
from PIL import Image
from torch import Tensor
from torchvision.datasets.folder import IMG_EXTENSIONS

from explain.records import Unreadable
from loader.images import read_image
from loader.splits import Images
from util.cli import UserError
from util.files import display_path

IMAGE_SIZE = 224  # side of an explained image on the page, pixels
ENOUGH_PIXELS = 2048  # side of a user's image above which a JPEG is not decoded in full: 224 are shown


@dataclass(frozen=True)
class Subject:
    """An image to explain.

    Attributes:
        file: its path, for people.
        index: its place in the validation set; None for a user's own file.
        target: its true class; None if unknown.
        image: (3, H, W) as the network sees it.
        square: (224, 224, 3) uint8, as the page shows it.
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

    def read(self, transform: Callable, unreadable: list[Unreadable]) -> Iterator[Subject]:
        """Read the images one at a time; those that cannot be read are added to `unreadable` instead.

        Args:
            transform: PIL image -> (3, H, W), as the network sees it.
            unreadable: gets the files that are left out.
        """
        val_set = cast(Images, self.val_set)  # there are no indices without one
        places: list[tuple[int | None, str]] = [(index, display_path(val_set.file(index))) for index in self.indices]
        for index, file in [*places, *((None, file) for file in self.files)]:
            try:
                image = read_own(file) if index is None else val_set.image(index)
            except UserError as error:
                unreadable.append({"file": file, "reason": str(error)})
                continue
            square = np.asarray(image.resize((IMAGE_SIZE, IMAGE_SIZE), Image.Resampling.BILINEAR))
            target = None if index is None else int(val_set.targets[index])
            yield Subject(file, index, target, transform(image), square)


def read_own(file: str) -> Image.Image:
    """A user's own image, upright, RGB. Raises UserError as `read_image`."""
    return read_image(file, upright=True, enough=ENOUGH_PIXELS)


def find_files(patterns: Iterable[str]) -> list[str]:
    """The files that --image names: files as they are, the images below folders, the matches of patterns.

    Raises:
        UserError: for a pattern, or a folder, without images.
    """
    files: list[str] = []
    for pattern in patterns:
        path = Path(pattern)
        if not pattern:
            found: list[str] = []
        elif path.is_dir():
            found = sorted(str(file) for file in path.rglob("*") if file.suffix.lower() in IMG_EXTENSIONS)
        elif not path.exists() and glob.has_magic(pattern):
            found = sorted(file for file in glob.glob(pattern, recursive=True) if os.path.isfile(file))
        else:
            found = [pattern]
        if not found:
            raise UserError(f"--image {pattern}: no image there ({', '.join(IMG_EXTENSIONS)})")
        files += found
    return list(dict.fromkeys(files))


def batched(subjects: Iterable[Subject], size: int) -> Iterator[list[Subject]]:
    """Lists of `size` subjects, the last one shorter."""
    iterator = iter(subjects)
    while batch := list(islice(iterator, size)):
        yield batch

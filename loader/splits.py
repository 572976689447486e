"""The images of one split of a data set: of a tree of folders, and of Fashion-MNIST's files."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

from PIL import Image
from torchvision.datasets import FashionMNIST, ImageFolder

from loader.images import read_image
from util.cli import UserError


class Images(Protocol):
    """The images of one split.

    Attributes:
        targets: class number of each image: a list or a tensor.
        transform: applied to each image that is indexed; None leaves it a PIL image.
    """

    targets: Any
    transform: Callable | None

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Any:
        """(transformed image, class number)."""

    def image(self, index: int) -> Image.Image:
        """One image as it is stored, RGB."""

    def file(self, index: int) -> str:
        """The path of one image, for people."""


class ImageTree(ImageFolder):
    """`<root>/<class>/*.jpg` with the class numbers of `categories`, whether or not each class has images here."""

    def __init__(self, root: Path, categories: list[str], transform: Callable | None = None):
        self._categories = categories
        super().__init__(str(root), transform, loader=read_image, allow_empty=True)

    def find_classes(self, directory: str) -> tuple[list[str], dict[str, int]]:
        """The given classes; a folder of another name, or an unreadable one, is an error: it must not go unnoticed."""
        known = self._categories
        found = subfolders(Path(directory))
        unknown = sorted(set(found) - set(known))
        if unknown:
            raise UserError(f"{directory}: category folder {unknown[0]!r} is not among the {len(known)} of train/")
        for name in found:
            os.scandir(os.path.join(directory, name)).close()  # raises, where os.walk would find no images
        return known, {name: index for index, name in enumerate(known)}

    def image(self, index: int) -> Image.Image:
        """The image of one sample, RGB, as it is on disk."""
        return read_image(self.samples[index][0])

    def file(self, index: int) -> str:
        """Path of one sample."""
        return self.samples[index][0]


def subfolders(folder: Path) -> list[str]:
    """The names of the folders in a folder, in alphabetical order; hidden ones are left out."""
    return sorted(entry.name for entry in folder.iterdir() if entry.is_dir() and not entry.name.startswith("."))


class FashionMNISTFiles(FashionMNIST):
    """torchvision's Fashion-MNIST, reading the idx files from the folder they are in."""

    def __init__(self, folder: Path, train: bool, transform: Callable | None = None):
        self._folder = str(folder)
        super().__init__(str(folder), train=train, transform=transform)

    @property
    def raw_folder(self) -> str:
        """The folder of the idx files."""
        return self._folder

    def __getitem__(self, index: int) -> tuple[Any, int]:
        image = self.image(index)
        return (self.transform(image) if self.transform else image), int(self.targets[index])

    def image(self, index: int) -> Image.Image:
        """One image, 28x28, as RGB."""
        return Image.fromarray(self.data[index].numpy()).convert("RGB")

    def file(self, index: int) -> str:
        """A name for one sample, which has no file of its own."""
        return f"{'train' if self.train else 't10k'}-images-idx3-ubyte#{index}"

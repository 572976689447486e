"""The images of one split of a data set: of a tree of folders, and of Fashion-MNIST's files."""

import os
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from PIL import Image
from torchvision.datasets import FashionMNIST

from loader.folders import TYPES_READ, ImageFiles, contains, image_files, note_skipped, say_once
from loader.images import read_image
from util import distributed
from util.cli import Terminated, UserError
from util.files import regular_file

FASHION_CLASSES = FashionMNIST.classes
MOST_IDX_BYTES = 1 << 26  # of one of Fashion-MNIST's files, unpacked: the largest has 47 million


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


class _Files:
    """The images of a list of files."""

    samples: list[tuple[str, int]]
    targets: list[int]
    transform: Callable | None

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> tuple[Any, int]:
        image = self.image(index)
        return (self.transform(image) if self.transform else image), self.targets[index]

    def image(self, index: int) -> Image.Image:
        """The image of one sample, RGB, as it is on disk."""
        return read_image(self.samples[index][0])

    def file(self, index: int) -> str:
        """Path of one sample."""
        return self.samples[index][0]


class ImageTree(_Files):
    """`<root>/<class>/*.jpg` with the class numbers of `categories`, whether or not each class has images here.

    Images are ordered as torchvision's ImageFolder orders them. Symbolic links are followed, and each real file counts
    once; links that bring an image into two classes, or into both splits, are errors.

    Attributes:
        samples: (path, class number) of each image.
        targets: class number of each image.
        transform: applied to each image that is indexed; None leaves it a PIL image.

    Args:
        root: the split's folder.
        categories: folder names of the classes, in alphabetical order.
        transform: as the attribute.
        other: folder of the other split.
        filled: whether a class folder whose files are all of types that are not read is an error.

    Raises:
        UserError: for a folder of another name than the classes', a link that leads where it must not, or an image that
            is not a regular file.
        OSError: for a folder that cannot be read.
    """

    def __init__(
        self,
        root: Path,
        categories: list[str],
        transform: Callable | None = None,
        other: Path | None = None,
        filled: bool = False,
    ):
        self.transform = transform
        names = subfolders(root)
        unknown = sorted(set(names) - set(categories))
        if unknown:
            raise UserError(f"{root}: category folder {unknown[0]!r} is not among the {len(categories)} of train/")
        borders = _Borders(root, other)
        found = {name: borders.class_images(name) for name in names}
        _check_counted_once(found)
        if other is not None and any(images.linked for images in found.values()):
            _check_apart(found, {name: _Borders(other, root).class_images(name) for name in subfolders(other)})
        note_skipped(root, sum((images.skipped for images in found.values()), Counter()))
        if filled:
            _check_filled(root, found)
        numbers = {name: number for number, name in enumerate(categories)}
        self.samples = [
            (path, numbers[name])
            for name in names
            for path in sorted(found[name].paths.values(), key=os.path.split)  # by folder, then by name
        ]
        self.targets = [target for _, target in self.samples]


class AnnotatedImages(_Files):
    """`<root>/images/*`, whose classes a table has. Ordered by class, then by name, as an `ImageTree` is.

    Attributes:
        samples: (path, class number) of each image.
        targets: class number of each image.
        transform: applied to each image that is indexed; None leaves it a PIL image.

    Args:
        root: the split's folder.
        table: the file of the table, for messages.
        classes: class number by file name, as the table has them.
        transform: as the attribute.
        other: folder of the other split.

    Raises:
        UserError: for an image that is not in the table, an entry without an image, a link that leads where it must
            not, an image that is not a regular file, or no image at all.
        OSError: for a folder that cannot be read.
    """

    def __init__(self, root: Path, table: Path, classes: dict[str, int], transform: Callable | None, other: Path):
        self.transform = transform
        folder = root / "images"
        found = {"images": _Borders(root, other).class_images("images")}
        if found["images"].linked:
            _check_apart(found, {name: _Borders(other, root).class_images(name) for name in subfolders(other)})
        paths = {os.path.relpath(path, folder): path for path in found["images"].paths.values()}
        for name in paths:
            if name not in classes:
                raise UserError(f"{folder / name}: not in {table}")
        for name in classes:
            if name not in paths:
                there = os.path.isfile(folder / name)
                problem = "is the same file as another line's" if there else f"is not in {folder}"
                raise UserError(f"{table}: image {name[:80]!r} {problem}")
        if not paths:
            raise UserError(f"{folder}: no images ({TYPES_READ}) in it")
        note_skipped(folder, found["images"].skipped)
        self.samples = [(paths[name], classes[name]) for name in sorted(paths, key=lambda name: (classes[name], name))]
        self.targets = [target for _, target in self.samples]


@dataclass(frozen=True)
class _Borders:
    """What a split's links must not cross.

    Attributes:
        split: the split's folder.
        other: the other split's; None if there is none.
    """

    split: Path
    other: Path | None

    def class_images(self, name: str) -> ImageFiles:
        """The image files of a class folder. Raises UserError for a link that leads where it must not."""
        folder = os.path.join(self.split, name)
        split, real = os.path.realpath(self.split), os.path.realpath(folder)
        other = None if self.other is None else os.path.realpath(self.other)
        if other is not None and (contains(other, split) or contains(split, other)):
            raise UserError(f"{self.split} and {self.other} have the same images: an image must not be in both splits")

        def follow(link: str, target: str) -> None:
            if other is not None and contains(other, target):
                raise UserError(f"{link}: a link into {self.other}: an image must not be in both splits")
            around = [place for place in (split, other) if place is not None and contains(target, place)]
            if around or (target != real and contains(target, real)):
                raise UserError(f"{link}: a link to {target}, a folder around this class's")

        if os.path.islink(folder):
            follow(folder, real)
        images = image_files(folder, follow)
        images.linked |= os.path.islink(folder)
        return images


def _check_counted_once(found: dict[str, ImageFiles]) -> None:
    """Raises UserError for a file that links bring into two classes."""
    if not any(images.linked for images in found.values()):
        return
    seen: dict[str, str] = {}
    for images in found.values():
        for real, path in images.paths.items():
            if real in seen:
                raise UserError(f"{seen[real]} and {path} are one file: an image must have one class")
            seen[real] = path


def _check_apart(found: dict[str, ImageFiles], others: dict[str, ImageFiles]) -> None:
    """Raises UserError for a file that links bring into both splits."""
    seen = {real: path for images in others.values() for real, path in images.paths.items()}
    for images in found.values():
        for real, path in images.paths.items():
            if real in seen:
                raise UserError(f"{path} and {seen[real]} are one file: an image must not be in both splits")


def _check_filled(root: Path, found: dict[str, ImageFiles]) -> None:
    """Raises UserError for a class folder with files in it, none of them an image that is read; notes empty ones."""
    empty = [name for name, images in found.items() if not images.paths]
    for name in empty:
        if found[name].files:
            raise UserError(f"{root / name}: no images in it of the types that are read ({TYPES_READ})")
    if empty and len(empty) < len(found) and distributed.is_main_process():
        say_once(f"{root}: {len(empty)} of {len(found)} category folders are empty: {', '.join(empty[:5])}")


def subfolders(folder: Path) -> list[str]:
    """The names of the folders in a folder, in alphabetical order; hidden ones are left out.

    Raises:
        UserError: for a link to nothing: a class would be missing.
        OSError: if the folder cannot be read.
    """
    visible = [entry for entry in folder.iterdir() if not entry.name.startswith(".")]
    for entry in visible:
        if entry.is_symlink() and not entry.exists():
            raise UserError(f"{entry}: a link to nothing")
    return sorted(entry.name for entry in visible if entry.is_dir())


class FashionMNISTFiles(FashionMNIST):
    """torchvision's Fashion-MNIST, reading the idx files from the folder they are in."""

    def __init__(self, folder: Path, train: bool, transform: Callable | None = None):
        self._folder = str(folder)
        part = folder / ("train" if train else "t10k")
        for kind in ("images-idx3", "labels-idx1"):
            regular_file(f"{part}-{kind}-ubyte", "file", MOST_IDX_BYTES)
        try:
            super().__init__(str(folder), train=train, transform=transform)
        except Terminated:
            raise
        except Exception as error:  # torchvision's reader checks the files by assertions
            raise UserError(f"{part}-*-ubyte: not Fashion-MNIST's files ({error or type(error).__name__})") from error
        images, labels = tuple(self.data.shape), self.targets
        if (
            images != (len(labels), 28, 28)
            or not len(labels)
            or not 0 <= labels.min() <= labels.max() < len(FASHION_CLASSES)
        ):
            raise UserError(f"{part}-*-ubyte: expected images of 28 x 28 pixels, and as many labels from 0 to 9")

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

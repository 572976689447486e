"""Data sets: one entry each, which says where it is found, what its classes are, and how networks are trained on it.

To add a data set, `register` a `DataSpec`. One that lies in Places365's layout, train/<class>/ and val/<class>/, needs
nothing else; another layout is a class with the methods of `Layout`.
"""

import gzip
import os
import sys
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

from torchvision.datasets import FashionMNIST
from torchvision.models import ResNet18_Weights

import settings
from loader.folders import TYPES_READ, display_name
from loader.materials import DRAWN, PHOTOGRAPHED
from loader.mini_places import CLASSES as MINI_PLACES_CLASSES
from loader.mini_places import ensure_mini_places
from loader.splits import MOST_IDX_BYTES, AnnotatedImages, FashionMNISTFiles, Images, ImageTree, subfolders
from loader.tables import by_first_synonym, read_names, read_pairs
from util.cli import UserError
from util.files import atomic_write, last_name
from util.text import say

# One line per category, in Places365's own order and spelled as the easyformat folders are.
# Source: categories_places365.txt of github.com/CSAILVision/places365.
CATEGORIES_FILE = Path(__file__).with_name("categories_places365.txt")

FASHION_MNIST_STEMS = [f"{part}-{kind}-ubyte" for part in ("train", "t10k") for kind in ("images-idx3", "labels-idx1")]


# --- what a data set is -------------------------------------------------------------------------------------------


class Layout(Protocol):
    """How a data set lies on disk."""

    def find(self, home: Path, spec: "DataSpec") -> Path | None:
        """The data set's folder in `home`, the folder of data sets; None if it is not there."""

    def open(self, name: str, folder: Path, spec: "DataSpec") -> "DataSource":
        """The data set in a folder that `find` found. Raises UserError if it is not laid out as expected."""

    def images(self, source: "DataSource", split: str, transform: Callable | None) -> Images:
        """The images of 'train' or 'val'. Raises UserError if there are none."""


# --- Places365's layout -------------------------------------------------------------------------------------------


class ImageTreeLayout:
    """train/<category>/ and val/<category>/; the categories are train's folders in alphabetical order."""

    def find(self, home: Path, spec: "DataSpec") -> Path | None:
        """The folder of the spec's name, if it has train/ and val/."""
        folder = home / spec.folder
        return folder if is_tree(folder) else None

    def open(self, name: str, folder: Path, spec: "DataSpec") -> "DataSource":
        """The data set in `folder`; if its number of categories is not the spec's, it is used and noted on stderr."""
        try:
            categories = subfolders(folder / "train")
        except OSError as error:
            raise UserError(f"{folder / 'train'}: unreadable ({error.strerror})") from error
        if not categories:
            raise UserError(f"{folder / 'train'}: no category folders in it, expected {folder}/train/<category>/*.jpg")
        found = len(categories)
        if spec.num_classes in (None, found):
            return DataSource(name, folder, self.display_names(spec, categories), categories, spec)
        text = f"{folder / 'train'} has {found} category folders, {name} has {spec.num_classes}: using those {found}"
        say(text, sys.stderr)
        return DataSource(name, folder, [display_name(category) for category in categories], categories, spec)

    def images(self, source: "DataSource", split: str, transform: Callable | None) -> Images:
        """The images below the split's category folders."""
        root = source.folder / split
        try:
            other = source.folder / ("val" if split == "train" else "train")
            tree = ImageTree(root, source.categories, transform, other, filled=split == "train")
        except OSError as error:
            raise UserError(f"{error.filename or root}: unreadable ({error.strerror})") from error
        if not tree.samples:
            raise UserError(f"{root}: no images ({TYPES_READ}) in its category folders")
        return tree

    def display_names(self, spec: "DataSpec", categories: list[str]) -> list[str]:
        """The class names for people: the folders' names."""
        return [display_name(category) for category in categories]


IMAGE_TREE = ImageTreeLayout()


class WordNetTreeLayout(ImageTreeLayout):
    """The same with folders named by WordNet number, which sort in the order of the spec's readable class names."""

    def display_names(self, spec: "DataSpec", categories: list[str]) -> list[str]:
        """The spec's class names."""
        return spec.class_names() if spec.class_names else super().display_names(spec, categories)


class EmbeddedLayout(ImageTreeLayout):
    """mini_places, which is rendered on first use."""

    def find(self, home: Path, spec: "DataSpec") -> Path | None:
        """The rendered folder."""
        return ensure_mini_places(home)[0]


def is_tree(folder: Path) -> bool:
    """Whether a folder has train/ and val/ in it."""
    return (folder / "train").is_dir() and (folder / "val").is_dir()


# --- Tiny-ImageNet ------------------------------------------------------------------------------------------------


class TinyImageNetLayout(ImageTreeLayout):
    """Tiny-ImageNet as published: the validation images lie in one folder, and a table has their classes.

    `wnids.txt`, the WordNet numbers of the classes, one a line; `words.txt`, their synonyms; `train/<wnid>/images/`;
    `val/images/` and `val/val_annotations.txt`, each line of which begins with a file's name and its class's number.
    Classes are numbered in the order of the sorted numbers, as torchvision's ImageFolder does: in the published
    wnids.txt they are in no order. A class's name is its first synonym.
    """

    def find(self, home: Path, spec: "DataSpec") -> Path | None:
        """The folder of the spec's name, if it has the layout."""
        folder = home / spec.folder
        return folder if self.is_laid_out(folder) else None

    def is_laid_out(self, folder: Path) -> bool:
        """Whether a folder has what other layouts have not: the list of classes, and the table of validation images."""
        return is_tree(folder) and all((folder / name).is_file() for name in (WNIDS, ANNOTATIONS))

    def open(self, name: str, folder: Path, spec: "DataSpec") -> "DataSource":
        """The data set in `folder`; if its number of classes is not the spec's, it is used and noted on stderr."""
        wnids = sorted(read_names(folder / WNIDS, "n[0-9]{8}", "a WordNet number such as n01443537"))
        try:
            folders = set(subfolders(folder / "train"))
        except OSError as error:
            raise UserError(f"{folder / 'train'}: unreadable ({error.strerror})") from error
        for wnid in sorted(folders.symmetric_difference(wnids)):
            problem = f"not in {WNIDS}" if wnid in folders else f"no such folder, but {WNIDS} has the class"
            raise UserError(f"{folder / 'train' / wnid}: {problem}")
        if spec.num_classes not in (None, len(wnids)):
            text = f"{folder / WNIDS} has {len(wnids)} classes, {name} has {spec.num_classes}: using those {len(wnids)}"
            say(text, sys.stderr)
        return DataSource(name, folder, by_first_synonym(folder / WORDS, wnids), wnids, spec)

    def images(self, source: "DataSource", split: str, transform: Callable | None) -> Images:
        """The images below train's class folders, or those of val that the table lists."""
        if split == "train":
            return super().images(source, split, transform)
        classes = {wnid: number for number, wnid in enumerate(source.categories)}
        pairs = read_pairs(source.folder / ANNOTATIONS, set(classes), f"among the {len(classes)} of {WNIDS}")
        root = source.folder / "val"
        try:
            targets = {name: classes[wnid] for name, wnid in pairs.items()}
            return AnnotatedImages(root, source.folder / ANNOTATIONS, targets, transform, source.folder / "train")
        except OSError as error:
            raise UserError(f"{error.filename or root}: unreadable ({error.strerror})") from error


WNIDS, WORDS, ANNOTATIONS = "wnids.txt", "words.txt", "val/val_annotations.txt"
TINY_IMAGENET = TinyImageNetLayout()


# --- Fashion-MNIST ------------------------------------------------------------------------------------------------


class IdxLayout:
    """Fashion-MNIST's four idx files, plain or .gz, in `data/fashion_mnist/` or where Debian's package puts them."""

    def find(self, home: Path, spec: "DataSpec") -> Path | None:
        """The first folder with all four idx files; .gz files are unpacked once, to the data set's own folder."""
        places = [home / spec.folder, home, Path(settings.FASHION_MNIST_SYSTEM)]
        candidates = [place for folder in places for place in (folder, folder / "FashionMNIST" / "raw")]
        for folder in candidates:
            if all((folder / stem).is_file() for stem in FASHION_MNIST_STEMS):
                return folder
        for folder in candidates:
            if all((folder / f"{stem}.gz").is_file() for stem in FASHION_MNIST_STEMS):
                return _unpack(folder, home / spec.folder)
        return None

    def open(self, name: str, folder: Path, spec: "DataSpec") -> "DataSource":
        """The data set in `folder`."""
        return DataSource(name, folder, list(FashionMNIST.classes), [], spec)

    def images(self, source: "DataSource", split: str, transform: Callable | None) -> Images:
        """The images of the split's two files; 'val' is what Fashion-MNIST calls t10k."""
        return FashionMNISTFiles(source.folder, train=split == "train", transform=transform)


def _unpack(folder: Path, target: Path) -> Path:
    for stem in FASHION_MNIST_STEMS:
        with (
            gzip.open(folder / f"{stem}.gz") as packed,
            atomic_write(target / stem) as unpacked,
            open(unpacked, "wb") as file,
        ):
            try:
                content = packed.read(MOST_IDX_BYTES + 1)
            except (OSError, EOFError, zlib.error) as error:
                raise UserError(f"{packed.name}: not a readable gzip file ({error})") from error
            if len(content) > MOST_IDX_BYTES:
                raise UserError(f"{packed.name}: more than {MOST_IDX_BYTES:,} bytes unpacked")
            file.write(content)
    return target


# --- one data set -------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Schedule:
    """How networks are trained on a data set; the defaults are the paper's (section 5).

    Attributes:
        epochs: passes over the training images.
        batch_size: images per step.
        lr: largest learning rate.
        schedule: 'step': a tenth every third of the run; 'one_cycle': linear warm-up and cosine decay.
        momentum: of SGD.
        weight_decay: of SGD.
        small_share: share of the epochs, from the first, that see images of half the size, at a quarter of the cost.
    """

    epochs: int = 90
    batch_size: int = 256
    lr: float = 0.1
    schedule: str = "step"
    momentum: float = 0.9
    weight_decay: float = 1e-4
    small_share: float = 0.0


@dataclass(frozen=True)
class DataSpec:
    """One data set.

    Attributes:
        name: on the command line, in run folders and reports.
        folder: where it is expected in the folder of data sets.
        num_classes: C; None for any number.
        size, resize, crop_scale: of the transforms, as `loader.images.Sizes`.
        training: how networks are trained on it.
        frozen: the attributes of this and of `training` that differ where layers of a pretrained network stay as they
            are.
        layout: how it lies on disk.
        class_names: the C class names in the order of their numbers; None if they are the folders' names.
        download: what to download and where to put it, for the message that it is missing; `{folder}` is that place.
        material: of its images, one of `loader.materials.IMAGES`; None if it is unknown.
    """

    name: str
    folder: str
    num_classes: int | None = None
    size: int = 224
    resize: int = 256
    crop_scale: tuple[float, float] = (0.08, 1.0)
    training: Schedule = Schedule()
    frozen: Mapping[str, Any] = field(default_factory=dict)
    layout: Layout = IMAGE_TREE
    class_names: Callable[[], list[str]] | None = None
    download: str = "arrange it as {folder}/{{train,val}}/<class>/*.jpg"
    material: str | None = None

    def at_size(self, size: int | None) -> "DataSpec":
        """The same for a network whose input has that many pixels a side; None: the data set's own.

        Validation crops the same share of an image as at the data set's own size.
        """
        return self if size is None else replace(self, size=size, resize=round(size * self.resize / self.size))

    def behind_frozen(self) -> "DataSpec":
        """The same for training what follows the frozen layers of a network."""
        schedule = {name: value for name, value in self.frozen.items() if name in Schedule.__dataclass_fields__}
        return replace(self.at_size(self.frozen.get("size")), training=replace(self.training, **schedule))


@dataclass(frozen=True)
class DataSource:
    """A data set that was found.

    Attributes:
        name: as in run folders and reports.
        folder: where it is.
        classes: the C class names, for people.
        categories: the C folder names below train/ and val/ in the order of the class numbers; empty if it has none.
        spec: sizes and schedule.
    """

    name: str
    folder: Path
    classes: list[str]
    categories: list[str]
    spec: DataSpec

    def dataset(self, split: str, transform: Callable | None = None) -> Images:
        """The images of 'train' or 'val'. Raises UserError if there are none."""
        return self.spec.layout.images(self, split, transform)

    def at_size(self, size: int | None) -> "DataSource":
        """The same for a network whose input has that many pixels a side; None: the data set's own."""
        return self if size is None else replace(self, spec=self.spec.at_size(size))

    def behind_frozen(self) -> "DataSource":
        """The same for training what follows the frozen layers of a network."""
        return replace(self, spec=self.spec.behind_frozen())


# --- the data sets ------------------------------------------------------------------------------------------------

_SPECS: dict[str, DataSpec] = {}


def register(spec: DataSpec) -> DataSpec:
    """Make a data set known by its name. Raises ValueError if the name is taken."""
    if spec.name in _SPECS:
        raise ValueError(f"data set {spec.name!r} is registered already")
    _SPECS[spec.name] = spec
    return spec


def _from_settings(name: str, **own: Any) -> DataSpec:
    """A spec with the numbers that `settings.DATASETS` has for it."""
    values = dict(settings.DATASETS[name])
    training = Schedule(**{key: values.pop(key) for key in list(values) if key in Schedule.__dataclass_fields__})
    return DataSpec(name=name, training=training, **{**values, **own})


register(
    _from_settings(
        "places365",
        class_names=lambda: CATEGORIES_FILE.read_text(encoding="utf-8").split(),
        download="download places365standard_easyformat.tar (21 GB) from http://places2.csail.mit.edu/download.html "
        "and unpack or link it there as {folder}/{{train,val}}/<category>/*.jpg",
        material=PHOTOGRAPHED,
    )
)
register(
    _from_settings(
        "imagenet",
        layout=WordNetTreeLayout(),
        class_names=lambda: list(ResNet18_Weights.IMAGENET1K_V1.meta["categories"]),
        download="get ILSVRC2012 from https://image-net.org and arrange it as {folder}/{{train,val}}/<wnid>/*.JPEG",
        material=PHOTOGRAPHED,
    )
)
register(
    _from_settings(
        "mini_places", layout=EmbeddedLayout(), class_names=lambda: list(MINI_PLACES_CLASSES), material=DRAWN
    )
)
register(
    _from_settings(
        "fashion_mnist",
        layout=IdxLayout(),
        class_names=lambda: list(FashionMNIST.classes),
        download="put the four idx files (plain or .gz) of https://github.com/zalandoresearch/fashion-mnist there, "
        "or install Debian's package dataset-fashion-mnist",
        material=PHOTOGRAPHED,
    )
)
register(
    _from_settings(
        "tiny_imagenet",
        layout=TINY_IMAGENET,
        download="get tiny-imagenet-200.zip from http://cs231n.stanford.edu and unpack it there, as it is",
        material=PHOTOGRAPHED,
    )
)


def dataset_names() -> list[str]:
    """The names of all data sets, in the order in which they were registered."""
    return list(_SPECS)


def spec_of(dataset: str) -> DataSpec:
    """The spec of a data set by name; any other name is a tree of the user's, which is treated like Places365."""
    places = _SPECS["places365"]
    return _SPECS.get(dataset) or replace(places, name=dataset, num_classes=None, class_names=None, material=None)


def fitting_datasets(count: int) -> str:
    """What to say of a number of classes that does not fit: ': --dataset imagenet has 1000, and fits', or a folder."""
    fitting = [f"--dataset {name}" for name in dataset_names() if spec_of(name).num_classes == count]
    named = f"{' or '.join(fitting)} has {count}, and fits" if fitting else f"none by name has {count}"
    return f": {named}" if fitting else f": {named}; --dataset takes a folder with train/ and val/ of its classes"


def class_names(dataset: str) -> list[str]:
    """The class names of a named data set, without its files. Raises UserError for a name that has none."""
    spec = _SPECS.get(dataset)
    if spec is not None and spec.layout is TINY_IMAGENET:
        raise UserError(f"data set {dataset!r}: its class names are in its files, {spec.folder}/{WORDS}")
    if spec is None or spec.class_names is None:
        raise UserError(f"data set {dataset!r}: expected {', '.join(dataset_names())} or a folder with train/ and val/")
    return spec.class_names()


def find_dataset(dataset: str | None = None, data: str | None = None, root: Path = Path(".")) -> DataSource:
    """Find a data set on disk; the embedded one is rendered on first use.

    Args:
        dataset: the name of a data set, or the path of a folder with train/ and val/; None takes Places365 if it is
            there and mini_places otherwise, and says so on stderr.
        data: the folder that holds the data sets, or the data set's own folder; None is `data/`.
        root: what the default data folder is relative to: the repository.

    Raises:
        UserError: if it is not there, saying what to download and where to put it.
    """
    home = Path(data) if data is not None else root / settings.DATA_ROOT
    if data is not None and not home.is_dir() and dataset not in _SPECS:
        raise UserError(f"--data {data}: no such folder")
    own_folder = data is not None and is_tree(home)
    if dataset is not None and dataset not in _SPECS:
        return _open_tree(dataset, display_name(last_name(dataset)))
    if own_folder:
        return _open_tree(home, dataset or display_name(last_name(home)))
    spec = _SPECS[dataset or _default_dataset(home)]
    folder = spec.layout.find(home, spec)
    if folder is None:
        expected = home / spec.folder
        raise UserError(f"data set {spec.name} is not in {expected}: {spec.download.format(folder=expected)}")
    return spec.layout.open(spec.name, folder, spec)


def _default_dataset(home: Path) -> str:
    places = home / _SPECS["places365"].folder
    if is_tree(places):
        return "places365"
    say(f"{places} is not there: using the embedded data set mini_places", sys.stderr)
    return "mini_places"


def _open_tree(folder: str | Path, name: str) -> DataSource:
    """A user's own folder with train/ and val/."""
    if not os.path.isdir(folder):
        raise UserError(
            f"data set {str(folder)!r}: expected {', '.join(dataset_names())} or a folder with train/ and val/"
        )
    if not is_tree(Path(folder)):
        raise UserError(f"data set {folder}: expected a folder with train/ and val/ in it")
    spec = spec_of(name)
    if TINY_IMAGENET.is_laid_out(Path(folder)):
        spec = replace(spec, layout=TINY_IMAGENET)
    elif not isinstance(spec.layout, ImageTreeLayout) or spec.layout is TINY_IMAGENET:
        spec = replace(spec, layout=IMAGE_TREE)
    return spec.layout.open(name, Path(folder), spec)

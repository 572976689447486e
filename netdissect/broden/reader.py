"""Reader of Broden-format folders (Bau et al. 2017)."""

import os
import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from loader.broden_format import INDEX_COLUMNS
from loader.images import image_size, read_image
from netdissect.broden.label_maps import MOST_AREA, RGB, open_label_map
from util.cli import UserError, parse_float, parse_int
from util.tables import read_table

TEST_SAMPLE = 64  # images of TEST_MODE
MOST_PIXELS = 8192  # of a label map's side: Broden's have 112
MOST_LABELS = 255 + 256 * 255  # the greatest number that a label map can have


@dataclass(frozen=True)
class BrodenRow:
    """One image of index.csv.

    Attributes:
        file: path of the image.
        height, width: size of its label maps (sh, sw).
        scalars: whole-image labels as (category number, label number), in the order of the categories.
        maps: label maps as (category number, path of the PNG).
        line: its line in index.csv.
        image: (height, width) of the image as index.csv states it (ih, iw); None if it does not.
    """

    file: Path
    height: int
    width: int
    scalars: tuple[tuple[int, int], ...]
    maps: tuple[tuple[int, Path], ...]
    line: int
    image: tuple[int, int] | None


@dataclass(frozen=True)
class Labels:
    """The labels of one image.

    Attributes:
        pixels: (M, sh, sw) int32 label numbers of its M label maps, 0 = no label.
        pixel_categories: (M,) category number of each map.
        scalars: (S,) whole-image label numbers.
        scalar_categories: (S,) their category numbers.
    """

    pixels: np.ndarray
    pixel_categories: np.ndarray
    scalars: np.ndarray
    scalar_categories: np.ndarray


class Broden:
    """A Broden-format folder.

    Attributes:
        categories: K names, in the order of category.csv.
        rows: the N images that have any label in these categories.
        names: (L,) label names by number; '' for numbers that no label has, and for 0.
        primary: (L,) the number of each label's primary category, in which its coverage is greatest; ties and label 0
            go to the later category.

    Args:
        directory: the folder.
        index_file: name of the index in it.
        categories: keep these only; None keeps all.
        sample: keep this many images, evenly spaced; None keeps all.
        check_files: check at once that every image and label map exists.

    Raises:
        UserError: naming the file, and the row, that is missing or breaks the format.
    """

    def __init__(
        self,
        directory: str | Path,
        index_file: str = "index.csv",
        categories: list[str] | None = None,
        sample: int | None = None,
        check_files: bool = True,
    ):
        self.directory = Path(directory)
        if not self.directory.is_dir():
            raise UserError(f"data directory {self.directory}: no such folder")
        self.categories = self._read_categories(categories)
        self.names = self._read_names()
        self.primary = self._read_primary()
        self.rows = self._read_index(index_file, check_files)
        if sample is not None and sample < len(self.rows):
            self.rows = [self.rows[i] for i in np.linspace(0, len(self.rows) - 1, sample).round().astype(int)]

    def __len__(self) -> int:
        return len(self.rows)

    def image(self, index: int) -> Image.Image:
        """One image, RGB, at its own size."""
        return read_image(self.rows[index].file)

    def largest_image(self) -> tuple[int, int]:
        """The greatest height and the greatest width of any image, from the files' headers."""
        sizes = np.array([image_size(row.file) for row in self.rows])  # (N, 2)
        return int(sizes[:, 0].max()), int(sizes[:, 1].max())

    def labels(self, index: int) -> Labels:
        """Decode the labels of one image."""
        row = self.rows[index]
        pixels = np.zeros((len(row.maps), row.height, row.width), np.int32)
        for layer, (_, path) in enumerate(row.maps):
            pixels[layer] = self.label_map(path, row)
        return Labels(
            pixels=pixels,
            pixel_categories=np.array([category for category, _ in row.maps], int),
            scalars=np.array([number for _, number in row.scalars], int),
            scalar_categories=np.array([category for category, _ in row.scalars], int),
        )

    def label_map(self, path: Path, row: BrodenRow) -> np.ndarray:
        """Read one label map of an image: (sh, sw) int32 label numbers.

        Raises:
            UserError: if it is not readable, of another size than `row` says, or has a label that label.csv lacks.
        """
        with open_label_map(path, RGB) as image:
            if image.size != (row.width, row.height):  # before the pixels are decoded
                width, height = image.size
                raise UserError(f"label map {path}: {width} x {height} pixels, index says {row.width} x {row.height}")
            numbers = decode_labels(np.asarray(image))
        if numbers.size and numbers.max() >= len(self.names):
            raise UserError(f"label map {path}: label {numbers.max()} is not in {self.directory / 'label.csv'}")
        return numbers

    def _read_categories(self, wanted: list[str] | None) -> list[str]:
        known = []
        for place, row in read_table(self.directory / "category.csv", ["name"]):
            check_category(row["name"], place)
            if row["name"] in known:
                raise UserError(f"{place}: category {row['name']!r} is there already")
            known.append(row["name"])
        if not known:
            raise UserError(f"{self.directory / 'category.csv'}: no categories in it")
        unknown = [name for name in wanted or [] if name not in known]
        if unknown:
            raise UserError(f"category {unknown[0]!r}: {self.directory / 'category.csv'} has {', '.join(known)}")
        return [name for name in known if wanted is None or name in wanted]

    def _read_names(self) -> list[str]:
        names: dict[int, str] = {}
        for place, row in read_table(self.directory / "label.csv", ["number", "name"]):
            number = _integer(row["number"], place, "number")
            if number > MOST_LABELS:
                raise UserError(f"{place}: number {number}, expected at most {MOST_LABELS} (R + 256 * G)")
            check_name(row["name"], place)
            if names.setdefault(number, row["name"]) != row["name"]:
                raise UserError(f"{place}: number {number} is {names[number]!r} already")
        return [names.get(number, "") if number else "" for number in range(max(names, default=0) + 1)]

    def _read_primary(self) -> np.ndarray:
        coverage = np.zeros((len(self.categories), len(self.names)))
        for category, name in enumerate(self.categories):
            listed = set()
            for place, row in read_table(self.directory / f"c_{name}.csv", ["number", "coverage"]):
                number = _integer(row["number"], place, "number")
                if number in listed:
                    raise UserError(f"{place}: label {number} is there already")
                listed.add(number)
                if number >= len(self.names):
                    raise UserError(f"{place}: label {number} is not in {self.directory / 'label.csv'}")
                covered = parse_float(row["coverage"])
                if covered is None:
                    raise UserError(f"{place}: coverage {row['coverage']!r}, expected a number")
                coverage[category, number] = covered
        coverage[:, 0] = 0
        return len(self.categories) - 1 - coverage[::-1].argmax(0)  # the last of equal ones

    def _read_index(self, index_file: str, check_files: bool) -> list[BrodenRow]:
        path = self.directory / index_file
        rows = []
        lines: dict[str, int] = {}  # by image
        for place, row in read_table(path, ["image", "sh", "sw", *self.categories]):
            line = int(place.rsplit(" ", 1)[1])
            first = lines.setdefault(os.path.normpath(row["image"]), line)
            if first != line:
                raise UserError(f"{path}, lines {first} and {line}: the same image {row['image']!r}, expected it once")
            scalars, maps = self._parse_cells(row, place)
            if not maps and not any(number for _, number in scalars):
                continue
            height, width = (_integer(row[column], place, column) for column in ("sh", "sw"))
            check_size(height, width, len(maps), place)
            file = self._image_path(row["image"], place)
            for needed in (file, *(map_path for _, map_path in maps)):
                if check_files and not os.path.isfile(needed):  # False too for a name that no file can have
                    raise UserError(f"{place}: {needed} is missing")
            height_stated, width_stated = (parse_int(row.get(column)) for column in ("ih", "iw"))
            image = None if height_stated is None or width_stated is None else (height_stated, width_stated)
            rows.append(BrodenRow(file, height, width, scalars, maps, line, image))
        if not rows:
            raise UserError(f"{path}: no image has a label of {', '.join(self.categories)}")
        return rows

    def _parse_cells(
        self, row: dict[str, str], place: str
    ) -> tuple[tuple[tuple[int, int], ...], tuple[tuple[int, Path], ...]]:
        """The whole-image labels and the label maps of a row, as in `BrodenRow`."""
        scalars: list[tuple[int, int]] = []
        maps: list[tuple[int, Path]] = []
        for category, name in enumerate(self.categories):
            known: set[int | Path] = set()
            for entry in filter(None, (part.strip() for part in row[name].split(";"))):
                number = parse_int(entry)
                if number is not None and number >= len(self.names):
                    raise UserError(f"{place}: label {entry} is not in {self.directory / 'label.csv'}")
                found = self._image_path(entry, place) if number is None else number
                if found in known and number != 0:  # a cell may have several 0, which are no labels
                    raise UserError(f"{place}: {name} has {entry!r} twice, expected it once")
                known.add(found)
                if isinstance(found, Path):
                    maps.append((category, found))
                else:
                    scalars.append((category, found))
        return tuple(scalars), tuple(maps)

    def _image_path(self, name: str, place: str) -> Path:
        if Path(name).is_absolute() or ".." in Path(name).parts:
            raise UserError(f"{place}: {name!r}, expected a file in {self.directory / 'images'}")
        return self.directory / "images" / name


def check_size(height: int, width: int, maps: int, place: str) -> None:
    """Raise UserError, naming the place, for label maps that are too large to be counted in memory."""
    if not (1 <= height <= MOST_PIXELS and 1 <= width <= MOST_PIXELS):
        raise UserError(f"{place}: sh {height}, sw {width}, expected 1 to {MOST_PIXELS}")
    if height * width > MOST_AREA:
        raise UserError(f"{place}: sh {height}, sw {width}, expected at most {MOST_AREA:,} pixels together")
    if maps * height * width > 2 * MOST_AREA:
        pixels = f"{maps} label maps of {width} x {height} pixels"
        raise UserError(f"{place}: {pixels}, expected at most {2 * MOST_AREA:,} pixels together")


def decode_labels(pixels: np.ndarray) -> np.ndarray:
    """(sh, sw, 3 or 4) uint8 RGB or RGBA -> (sh, sw) int32 label numbers, R + 256 * G: `encode_labels` undone."""
    wide = pixels.astype(np.int32)  # 256 * G overflows a byte
    return wide[..., 0] + 256 * wide[..., 1]


def check_name(name: str, place: str) -> None:
    """Raise UserError, naming the place, for a label's name that no table can hold, or no terminal show."""
    if re.search(r"[\x00-\x1f\x7f\ud800-\udfff]", name):
        raise UserError(f"{place}: name {name!r}, expected no control characters")


def check_category(name: str, place: str) -> None:
    """Raise UserError, naming the place, for a category that cannot be part of a file name or a column of its own."""
    if not re.fullmatch(r"[\w -]{1,64}", name):
        raise UserError(f"{place}: category {name!r}, expected letters, digits, spaces, - and _")
    if name in INDEX_COLUMNS:
        raise UserError(f"{place}: category {name!r}, expected none of {', '.join(INDEX_COLUMNS)}: index.csv has them")


def _integer(text: str, place: str, column: str) -> int:
    number = parse_int(text)
    if number is None:
        raise UserError(f"{place}: {column} {text!r}, expected a whole number")
    return number

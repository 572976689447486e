"""Building a Broden-format folder from images, label maps and names."""

from pathlib import Path

import numpy as np

from netdissect.broden.label_maps import INTEGERS, open_label_map
from netdissect.broden.reader import MOST_AREA, MOST_LABELS, check_category, read_table
from netdissect.broden.writer import BrodenWriter
from util.cli import UserError, parse_int
from util.progress import progress

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png")


def build(images: Path, labels: Path, names: Path, output: Path) -> int:
    """Build a Broden-format folder.

    Args:
        images: folder of images.
        labels: label maps as PNGs of integers (8 or 16 bit, grey or palette), each with the stem of its image as its
            name: in this folder if there is one category, else in a subfolder of each category. 0 = no label.
        names: CSV with the columns number, name and category.
        output: the folder to make; it must not exist.

    Returns:
        The number of images.

    Raises:
        UserError: naming the file that is missing, unreadable or does not fit.
    """
    by_category = _read_names(names)
    files = sorted(path for path in images.glob("*") if path.suffix.lower() in IMAGE_SUFFIXES)
    if not files:
        raise UserError(f"{images}: no images ({', '.join(IMAGE_SUFFIXES)}) in it")
    with BrodenWriter(output, by_category) as writer:
        for file in progress(files, desc="build", unit="img"):
            maps = _read_maps(labels, file.stem, by_category, names)
            if not maps:
                raise UserError(f"{file}: no label map named {file.stem}.png in {labels}")
            height, width = next(iter(maps.values())).shape
            writer.add(file, file.name, (height, width), maps)
    return len(files)


def _read_names(path: Path) -> dict[str, dict[int, str]]:
    """Category -> label number -> name, of a table of names."""
    by_category: dict[str, dict[int, str]] = {}
    names: dict[int, str] = {}
    for place, row in read_table(path, ["number", "name", "category"]):
        number = parse_int(row["number"])
        if number is None or not 1 <= number <= MOST_LABELS:
            raise UserError(f"{place}: number {row['number']!r}, expected 1 to {MOST_LABELS}")
        check_category(row["category"], place)
        if names.setdefault(number, row["name"]) != row["name"]:
            raise UserError(f"{place}: number {number} is {names[number]!r} already")
        by_category.setdefault(row["category"], {})[number] = row["name"]
    if not by_category:
        raise UserError(f"{path}: no names in it")
    return by_category


def _read_maps(labels: Path, stem: str, by_category: dict[str, dict[int, str]], names: Path) -> dict[str, np.ndarray]:
    """The label maps (sh, sw) of an image, by category, of those that it has."""
    maps: dict[str, np.ndarray] = {}
    for category, known in by_category.items():
        places = [labels / category / f"{stem}.png"] + ([labels / f"{stem}.png"] if len(by_category) == 1 else [])
        path = next((place for place in places if place.is_file()), None)
        if path is None:
            continue
        numbers = _read_integers(path)
        unknown = numbers[(numbers > 0) & ~np.isin(numbers, list(known))]
        if unknown.size:
            raise UserError(f"{path}: label {unknown.min()} is not among the names of {category} in {names}")
        for other in maps.values():
            if numbers.shape != other.shape:
                (height, width), (other_height, other_width) = numbers.shape, other.shape
                sizes = f"{width} x {height} pixels, another category's map has {other_width} x {other_height}"
                raise UserError(f"{path}: {sizes}")
        maps[category] = numbers
    return maps


def _read_integers(path: Path) -> np.ndarray:
    with open_label_map(path, INTEGERS) as image:
        width, height = image.size
        if width * height > MOST_AREA:
            raise UserError(f"{path}: {width} x {height} pixels, expected at most {MOST_AREA:,} together")
        return np.asarray(image).astype(np.int64)

"""Broden-format folders of one's own: checking one, and building one from pictures and label maps.

python3 -m netdissect.broden check DIR
python3 -m netdissect.broden build --images DIR --labels DIR --names names.csv --output DIR
"""

import argparse
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image

from engine import progress
from errors import ArgumentParser, UserError, finite_number, whole_number
from loader.broden_format import LabelCounts, encode_labels, label_shares, write_tables
from loader.places365 import opened, picture_size
from netdissect.broden import MOST_LABELS, Broden, check_category, read_table

_TOLERANCE = 0.01  # by which a stated coverage, in pictures, may differ from the maps, beside one per cent of it


def check(directory: Path) -> list[str]:
    """Every fault of a Broden-format folder, one line each, with the file and the row.

    Looks for missing and unreadable files, pictures and maps of another size than index.csv says, label numbers that
    label.csv does not have, and coverages and frequencies that disagree with the maps.

    Raises:
        UserError: if a table is missing or not as the format says: then nothing else can be checked.
    """
    broden = Broden(directory, check_files=False)
    faults: list[str] = []
    counts = LabelCounts(broden.categories)
    for index in progress(range(len(broden)), desc="check", unit="img"):
        row = broden.rows[index]
        place = f"{directory / 'index.csv'}, line {row.line}"
        try:
            found = picture_size(row.file)
            if row.picture and found != row.picture:
                faults.append(f"{place}: {row.file} is {found[1]} x {found[0]}, ih and iw say {row.picture[::-1]}")
        except UserError as error:
            faults.append(f"{place}: {error}")
        shares: dict[str, dict[int, float]] = {category: {} for category in broden.categories}
        for category, number in row.scalars:
            shares[broden.categories[category]][number] = 1.0
        for category, path in row.maps:
            try:
                covered = label_shares(broden.label_map(path, row))
            except UserError as error:
                faults.append(f"{place}: {error}")
                continue
            own = shares[broden.categories[category]]
            own.update({number: own.get(number, 0.0) + share for number, share in covered.items()})
        counts.add(shares)
    return faults + list(_wrong_tables(directory, broden, counts))


def _wrong_tables(directory: Path, broden: Broden, counts: LabelCounts) -> Iterator[str]:
    for category in broden.categories:
        listed = set()
        for place, row in read_table(directory / f"c_{category}.csv", ["number", "name", "frequency", "coverage"]):
            number = int(row["number"])
            listed.add(number)
            if row["name"] != broden.names[number]:
                yield f"{place}: label {number} is called {row['name']!r}, in label.csv {broden.names[number]!r}"
            pictures, covered = counts.pictures[category][number], counts.coverage[category][number]
            if finite_number(row["frequency"]) != pictures:
                yield f"{place}: frequency {row['frequency']}, the maps have it in {pictures} pictures"
            if abs(float(row["coverage"]) - covered) > _TOLERANCE * max(1.0, covered):
                yield f"{place}: coverage {row['coverage']}, the maps have {covered:.4f}"
        for number in sorted(set(counts.pictures[category]) - listed - {0}):
            yield f"{directory / f'c_{category}.csv'}: label {number} ({broden.names[number]}) is not listed"


def build(images: Path, labels: Path, names: Path, output: Path) -> int:
    """Make a Broden-format folder.

    Args:
        images: folder of pictures.
        labels: label maps as PNGs of integers (8 or 16 bit, grey or palette), each named as its picture: in this
            folder for one category, else in a folder of each category below it. 0 = no label.
        names: CSV with the columns number, name and category.
        output: the folder to make; it must not be there yet.

    Returns:
        The number of pictures.

    Raises:
        UserError: naming the file that is missing, unreadable or does not fit.
    """
    if output.exists():
        raise UserError(f"{output}: is there already; name a new folder")
    by_category = _read_names(names)
    files = sorted(path for path in images.glob("*") if path.suffix.lower() in (".jpg", ".jpeg", ".png"))
    if not files:
        raise UserError(f"{images}: no pictures (.jpg, .jpeg, .png) in it")
    output.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f".{output.name}-", dir=output.parent))
    try:
        (temporary / "images").mkdir()
        counts = LabelCounts(list(by_category))
        rows = []
        for file in progress(files, desc="build", unit="img"):
            shutil.copyfile(file, temporary / "images" / file.name)
            cells, size, shares = [], None, {}
            for category, known in by_category.items():
                path = _map_of(labels, category, file.stem, len(by_category))
                if path is None:
                    cells.append("")
                    continue
                numbers = _read_integers(path)
                shares[category] = label_shares(numbers)
                unknown = set(shares[category]) - set(known)
                if unknown:
                    raise UserError(f"{path}: label {min(unknown)} is not among the names of {category} in {names}")
                if size not in (None, numbers.shape):
                    raise UserError(f"{path}: {numbers.shape[::-1]} pixels, another category's map has {size[::-1]}")
                size = numbers.shape
                cells.append(f"{file.stem}_{category}.png")
                Image.fromarray(encode_labels(numbers)).save(temporary / "images" / cells[-1])
            if size is None:
                raise UserError(f"{file}: no label map named {file.stem}.png in {labels}")
            counts.add(shares)
            rows.append([file.name, "train", *picture_size(file), *size, *cells])
        write_tables(temporary, by_category, rows, counts)
        temporary.chmod(0o755)
        temporary.rename(output)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return len(files)


def _read_names(path: Path) -> dict[str, dict[int, str]]:
    by_category: dict[str, dict[int, str]] = {}
    names: dict[int, str] = {}
    for place, row in read_table(path, ["number", "name", "category"]):
        number = whole_number(row["number"])
        if number is None or not 1 <= number <= MOST_LABELS:
            raise UserError(f"{place}: number {row['number']!r}, expected 1 to {MOST_LABELS}")
        check_category(row["category"], place)
        if names.setdefault(number, row["name"]) != row["name"]:
            raise UserError(f"{place}: number {number} is {names[number]!r} already")
        by_category.setdefault(row["category"], {})[number] = row["name"]
    if not by_category:
        raise UserError(f"{path}: no names in it")
    return by_category


def _map_of(labels: Path, category: str, stem: str, categories: int) -> Path | None:
    places = [labels / category / f"{stem}.png"] + ([labels / f"{stem}.png"] if categories == 1 else [])
    return next((path for path in places if path.is_file()), None)


def _read_integers(path: Path) -> np.ndarray:
    with opened(path, "label map") as image:
        if image.mode not in ("L", "P", "1") and not image.mode.startswith("I"):
            raise UserError(f"{path}: mode {image.mode}, expected a PNG of integers (8 or 16 bit, grey or palette)")
        return np.asarray(image).astype(np.int64)


def main(arguments: list[str] | None = None) -> None:
    """Parse the command line; `check` ends with code 1 if there are faults."""
    parser = ArgumentParser(__doc__)
    commands = parser.add_subparsers(dest="command", required=True, parser_class=argparse.ArgumentParser)
    checking = commands.add_parser("check", help="list the faults of a Broden-format folder")
    checking.add_argument("directory", type=Path)
    building = commands.add_parser("build", help="make one from pictures, label maps and names")
    for name, what in (("images", "folder of pictures"), ("labels", "folder of label maps, PNGs of integers"),
                       ("names", "CSV: number,name,category"), ("output", "folder to make")):  # fmt: skip
        building.add_argument(f"--{name}", type=Path, required=True, help=what)
    args = parser.parse_args(arguments)
    if args.command == "build":
        count = build(args.images, args.labels, args.names, args.output)
        print(f"{args.output}: {count} pictures")
        return
    faults = check(args.directory)
    print("\n".join(faults) if faults else f"{args.directory}: no faults")
    sys.exit(1 if faults else 0)

"""Checking a Broden-format folder against its own tables."""

from collections.abc import Iterator
from pathlib import Path

from loader.broden_format import LabelCounts, label_shares
from loader.images import image_size
from netdissect.broden.reader import Broden
from util.cli import UserError, parse_float
from util.progress import progress
from util.tables import read_table

_TOLERANCE = 0.01  # by which a stated coverage may differ from the maps: in images, or as a share of it if greater


def check(directory: Path) -> list[str]:
    """List the faults of a Broden-format folder, one line each, with the file and the row.

    Looks for missing and unreadable files, images and maps of another size than index.csv states, label numbers that
    label.csv lacks, and coverages and frequencies that disagree with the maps.

    Raises:
        UserError: if a table is missing or breaks the format, so that nothing else can be checked.
    """
    broden = Broden(directory, check_files=False)
    faults: list[str] = []
    counts = LabelCounts(broden.categories)
    for index in progress(range(len(broden)), desc="check", unit="img"):
        row = broden.rows[index]
        place = f"{directory / 'index.csv'}, line {row.line}"
        try:
            found = image_size(row.file)
            if row.image and found != row.image:
                (height, width), (ih, iw) = found, row.image
                faults.append(f"{place}: {row.file} is {width} x {height}, ih and iw say {iw} x {ih}")
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
    """The faults of the c_<category>.csv, given what the maps and whole-image labels have."""
    for category in broden.categories:
        listed = set()
        for place, row in read_table(directory / f"c_{category}.csv", ["number", "name", "frequency", "coverage"]):
            number = int(row["number"])
            listed.add(number)
            if row["name"] != broden.names[number]:
                yield f"{place}: label {number} is called {row['name']!r}, in label.csv {broden.names[number]!r}"
            images, covered = counts.images[category][number], counts.coverage[category][number]
            if parse_float(row["frequency"]) != images:
                yield f"{place}: frequency {row['frequency']}, the maps have it in {images} images"
            if abs(float(row["coverage"]) - covered) > _TOLERANCE * max(1.0, covered):
                yield f"{place}: coverage {row['coverage']}, the maps have {covered:.4f}"
        for number in sorted(set(counts.images[category]) - listed - {0}):
            yield f"{directory / f'c_{category}.csv'}: label {number} ({broden.names[number]}) is not listed"

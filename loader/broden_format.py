"""Writing the Broden format (Bau et al. 2017): label maps as RGB images, and the tables that describe them."""

import csv
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import chain
from pathlib import Path

import numpy as np

INDEX_COLUMNS = ("image", "split", "ih", "iw", "sh", "sw")  # of index.csv, before those of the categories
SUFFIXES = {"color": "-c", "scene": "-s"}  # with which Broden ends the labels of a category; those of others: nothing


def spelled(category: str, name: str) -> str:
    """A label as Broden spells it: `blue-c`, `park-s`, `tree`."""
    suffix = SUFFIXES.get(category, "")
    return name if name.endswith(suffix) else name + suffix


def encode_labels(numbers: np.ndarray) -> np.ndarray:
    """Encode (sh, sw) label numbers below 65,536 as (sh, sw, 3) uint8 RGB: number = R + 256 * G."""
    return np.stack([numbers % 256, numbers // 256, np.zeros_like(numbers)], -1).astype(np.uint8)


class LabelCounts:
    """How often each label occurs in a folder of images, by category.

    Attributes:
        images: category -> label number -> number of images that have the label.
        coverage: category -> label number -> the share of an image's pixels with the label, summed over all images.
    """

    def __init__(self, categories: Sequence[str]):
        self.images: dict[str, Counter] = {category: Counter() for category in categories}
        self.coverage: dict[str, dict[int, float]] = {category: defaultdict(float) for category in categories}
        self._any: Counter = Counter()  # label number -> number of images that have it in any category

    def add(self, image: Mapping[str, Mapping[int, float]]) -> None:
        """Count one image: category -> label number -> share of its pixels (1 for a whole-image label)."""
        for category, shares in image.items():
            for number, share in shares.items():
                self.images[category][number] += 1
                self.coverage[category][number] += share
        self._any.update(set(chain.from_iterable(image.values())))

    def images_with(self, number: int) -> int:
        """Return how many images have a label, in any category."""
        return self._any[number]


def label_shares(numbers: np.ndarray) -> dict[int, float]:
    """Return the share of a label map (sh, sw) that each label covers; 0 (no label) is left out."""
    counted = np.bincount(numbers.ravel())
    return {int(number): int(counted[number]) / numbers.size for number in np.flatnonzero(counted) if number}


def write_tables(
    folder: Path,
    names: Mapping[str, Mapping[int, str]],
    rows: Sequence[Sequence],
    counts: LabelCounts,
    synonyms: Mapping[str, str] | None = None,
) -> None:
    """Write index.csv, category.csv, label.csv and a c_<category>.csv for each category.

    Args:
        folder: the folder that gets the tables.
        names: category -> label number -> name, for the labels that occur; a name in several categories has one
            number.
        rows: the rows of index.csv: `INDEX_COLUMNS`, then one cell per category in the order of `names`.
        counts: the labels of all images.
        synonyms: name -> other names, joined by `;`.
    """
    _write_table(folder / "index.csv", [*INDEX_COLUMNS, *names], rows)
    labelled = {c: sum(bool(row[len(INDEX_COLUMNS) + place]) for row in rows) for place, c in enumerate(names)}
    _write_table(
        folder / "category.csv",
        ["name", "first", "last", "count", "frequency"],
        [[c, min(known, default=0), max(known, default=0), len(known), labelled[c]] for c, known in names.items()],
    )
    for category, known in names.items():
        images, coverage = counts.images[category], counts.coverage[category]
        _write_table(
            folder / f"c_{category}.csv",
            ["code", "number", "name", "frequency", "coverage"],
            [
                [code, number, known[number], images[number], f"{coverage[number]:.6f}"]
                for code, number in enumerate(sorted(known), start=1)
            ],
        )
    header = ["number", "name", "category", "frequency", "coverage", "syns"]
    _write_table(folder / "label.csv", header, _label_rows(names, counts, synonyms or {}))


def _write_table(file: Path, header: Sequence[str], rows: Iterable[Sequence]) -> None:
    with open(file, "w", newline="", encoding="utf-8") as opened:
        csv.writer(opened, lineterminator="\n").writerows([header, *rows])


def _label_rows(
    names: Mapping[str, Mapping[int, str]], counts: LabelCounts, synonyms: Mapping[str, str]
) -> Iterator[list]:
    """Yield the rows of label.csv; a label's categories stand in the order of how many images have it in them."""
    homes: dict[int, list[str]] = defaultdict(list)
    for category, known in names.items():
        for number in known:
            homes[number].append(category)
    for number in sorted(homes):
        own = sorted(homes[number], key=lambda category: -counts.images[category][number])
        cell = ";".join(f"{category}({counts.images[category][number]})" for category in own)
        covered = sum(counts.coverage[category][number] for category in own)
        name = names[own[0]][number]
        yield [number, name, cell, counts.images_with(number), f"{covered:.6f}", synonyms.get(name, "")]

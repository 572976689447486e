"""Writing Broden's format (Bau et al. 2017): label maps as RGB, and the tables that say what they have."""

import csv
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from itertools import chain
from pathlib import Path

import numpy as np

INDEX_COLUMNS = ("image", "split", "ih", "iw", "sh", "sw")  # of index.csv, before those of the categories


def encode_labels(numbers: np.ndarray) -> np.ndarray:
    """(sh, sw) label numbers below 65,536 -> (sh, sw, 3) uint8 RGB: R + 256 * G."""
    return np.stack([numbers % 256, numbers // 256, np.zeros_like(numbers)], -1).astype(np.uint8)


class LabelCounts:
    """What the labels of a folder's pictures come to, by category.

    Attributes:
        pictures: category -> label number -> pictures that have it.
        coverage: category -> label number -> sum over the pictures of the share of their pixels.
    """

    def __init__(self, categories: Sequence[str]):
        self.pictures: dict[str, Counter] = {category: Counter() for category in categories}
        self.coverage: dict[str, dict[int, float]] = {category: defaultdict(float) for category in categories}
        self._any: Counter = Counter()  # label number -> pictures, whatever the category

    def add(self, picture: Mapping[str, Mapping[int, float]]) -> None:
        """Take in one picture: by category and label number, the share of its pixels (1 for a whole-image label)."""
        for category, shares in picture.items():
            for number, share in shares.items():
                self.pictures[category][number] += 1
                self.coverage[category][number] += share
        self._any.update(set(chain.from_iterable(picture.values())))

    def pictures_with(self, number: int) -> int:
        """How many pictures have a label in any category."""
        return self._any[number]


def label_shares(numbers: np.ndarray) -> dict[int, float]:
    """The share of a label map (sh, sw) that each label has; 0, no label, is left out."""
    found, counted = np.unique(numbers[numbers > 0], return_counts=True)
    return {number: count / numbers.size for number, count in zip(found.tolist(), counted.tolist(), strict=True)}


def write_tables(
    folder: Path,
    names: Mapping[str, Mapping[int, str]],
    rows: Sequence[Sequence],
    counts: LabelCounts,
    synonyms: Mapping[str, str] | None = None,
) -> None:
    """Write index.csv, category.csv, label.csv and a c_<category>.csv for each category.

    Args:
        folder: where.
        names: category -> label number -> name, of the labels that occur; a name of several categories has one number.
        rows: of index.csv: `INDEX_COLUMNS`, then a cell for each category in the order of `names`.
        counts: of all pictures.
        synonyms: by name, other names joined by `;`.
    """

    def table(name: str, header: Sequence[str], content: Sequence[Sequence]) -> None:
        with open(folder / name, "w", newline="", encoding="utf-8") as file:
            csv.writer(file, lineterminator="\n").writerows([header, *content])

    table("index.csv", [*INDEX_COLUMNS, *names], rows)
    with_any = {c: sum(bool(row[len(INDEX_COLUMNS) + place]) for row in rows) for place, c in enumerate(names)}
    table(
        "category.csv",
        ["name", "first", "last", "count", "frequency"],
        [[c, min(known, default=0), max(known, default=0), len(known), with_any[c]] for c, known in names.items()],
    )
    homes: dict[int, list[str]] = defaultdict(list)
    for category, known in names.items():
        for number in known:
            homes[number].append(category)
        pictures, coverage = counts.pictures[category], counts.coverage[category]
        table(
            f"c_{category}.csv",
            ["code", "number", "name", "frequency", "coverage"],
            [
                [code, number, known[number], pictures[number], f"{coverage[number]:.6f}"]
                for code, number in enumerate(sorted(known), start=1)
            ],
        )
    labels = []
    for number in sorted(homes):
        own = sorted(homes[number], key=lambda category: -counts.pictures[category][number])
        cell = ";".join(f"{category}({counts.pictures[category][number]})" for category in own)
        covered = sum(counts.coverage[category][number] for category in own)
        name = names[own[0]][number]
        frequency = counts.pictures_with(number)
        labels.append([number, name, cell, frequency, f"{covered:.6f}", (synonyms or {}).get(name, "")])
    table("label.csv", ["number", "name", "category", "frequency", "coverage", "syns"], labels)

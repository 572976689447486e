"""What a unit is called: the concept that Network Dissection found for it, for people and in every JSON file."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from explain.records import UnitRecord
from loader.broden_format import SUFFIXES

_SUFFIX = re.compile(f"({'|'.join(map(re.escape, SUFFIXES.values()))})$")


class Concept(Protocol):
    """What Network Dissection found about a unit: one row of tally.csv."""

    @property
    def label(self) -> str:
        """The best concept's label; '' if there is none."""

    @property
    def category(self) -> str:
        """Its category."""

    @property
    def score(self) -> float:
        """Its IoU."""


@dataclass(frozen=True)
class Unnamed:
    """A unit of which nothing is known."""

    label: str = ""
    category: str = ""
    score: float = 0.0


@dataclass(frozen=True)
class Names:
    """What classes and units are called.

    Attributes:
        classes: the C class names.
        concepts: what each unit responds to, by unit number from 1; units that are absent are unnamed.
    """

    classes: Sequence[str]
    concepts: Mapping[int, Concept]

    def unit(self, index: int) -> UnitRecord:
        """Number, label, category and IoU of a unit, given its index from 0."""
        concept = self.concepts.get(index + 1, Unnamed())
        return {
            "unit": index + 1,
            "label": plain_label(concept.label),
            "category": concept.category,
            "iou": concept.score,
        }


def plain_label(label: str) -> str:
    """A Broden label for people: `bakery_shop-s` and `blue-c` (scenes, colours) lose that suffix, nothing else."""
    return _SUFFIX.sub("", label)


def unit_name(unit: UnitRecord) -> str:
    """The unit's concept in running text, or 'unit 111' if it has none."""
    return class_name(unit["label"]) or f"unit {unit['unit']}"


def unit_title(unit: UnitRecord) -> str:
    """'windmill (unit 44)', or 'unit 44' if it has no concept."""
    number = f"unit {unit['unit']}"
    return f"{class_name(unit['label'])} ({number})" if unit["label"] else number


def class_name(name: str) -> str:
    """A class's or a concept's name in running text: underscores become spaces."""
    return name.replace("_", " ")

"""Counting agreement between units and concepts: IoU, best labels, and the only reader and writer of tally.csv."""

import csv
import math
import os
from collections.abc import Sequence
from dataclasses import astuple, dataclass, fields
from itertools import chain

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from engine import progress
from errors import UserError
from files import whole_file
from netdissect.activity import ActiveMaps
from netdissect.broden import Broden, Labels
from report.overlays import upsample

IOU_MODES = ("lite", "original")
_COLUMNS = ("unit", "category", "label", "score")


@dataclass
class Counts:
    """Pixel counts over all pictures.

    Attributes:
        truth: (L,) T, pixels of each label, all maps summed; a whole-image label counts sh * sw.
        intersect: (U, L) I, mask pixels of each unit that carry the label; for a whole-image label the whole mask.
        activation: (U, K) A, mask pixels of each unit in the pictures that count for the category.
    """

    truth: np.ndarray
    intersect: np.ndarray
    activation: np.ndarray

    @classmethod
    def zeros(cls, units: int, labels: int, categories: int) -> "Counts":
        """No pictures yet."""
        shapes = (labels,), (units, labels), (units, categories)
        return cls(*(np.zeros(shape, np.int64) for shape in shapes))


@dataclass(frozen=True)
class CategoryScore:
    """A unit's best label in one category, in the order of tally.csv's columns; label '' and zeros if it has none."""

    label: str
    truth: int
    activation: int
    intersect: int
    iou: float


@dataclass(frozen=True)
class TallyRow:
    """One row of tally.csv.

    Attributes:
        unit: number from 1.
        category, label, score: of the best category.
        categories: the best label of each category, by its name; empty where only the concept was read.
    """

    unit: int
    category: str
    label: str
    score: float
    categories: dict[str, CategoryScore]


class _LabelReader(Dataset):
    """The labels of each picture, for worker processes."""

    def __init__(self, broden: Broden):
        self._broden = broden

    def __len__(self) -> int:
        return len(self._broden)

    def __getitem__(self, index: int) -> tuple[int, Labels]:
        return index, self._broden.labels(index)


def count(
    active: ActiveMaps,
    thresholds: np.ndarray,
    broden: Broden,
    iou_mode: str = "lite",
    batch_size: int = 16,
    workers: int = 0,
    pairing: np.ndarray | None = None,
) -> Counts:
    """Count mask and label pixels over all pictures (Bau et al. 2017, section 2.3).

    A unit's map is upsampled to the label maps' size (bilinear, half-pixel centres); its mask is where it exceeds the
    unit's threshold.

    Args:
        active: the maps (u, h, w), per picture, of at least the units that exceed their threshold somewhere in it.
        thresholds: (U,).
        broden: the labels.
        iou_mode: which pictures count for a category in `activation`. 'lite': those where a pixel under the mask has a
            label whose primary category it is, or that have such a whole-image label; the integer 0 in a cell is a
            label of its own. 'original': those that have any label of the category; label 0 never counts.
        batch_size: pictures whose labels are read at one time.
        workers: processes that read labels.
        pairing: (N,) take the masks of picture pairing[i] with the labels of picture i; None pairs each with its own.
    """
    counts = Counts.zeros(len(thresholds), len(broden.names), len(broden.categories))
    limits = torch.from_numpy(thresholds.astype(np.float32))
    loader = DataLoader(_LabelReader(broden), batch_size, num_workers=workers, collate_fn=list)
    with progress(total=len(broden), desc="tally", unit="img") as bar:
        for batch in loader:
            for index, labels in batch:
                row = broden.rows[index]
                units, maps = active.get(index if pairing is None else int(pairing[index]))  # (u,), (u, h, w)
                # A bilinear map nowhere exceeds its own maximum: only these units can have a mask here.
                on = maps.amax((1, 2)) > limits[units]
                units, maps = units[on], maps[on]
                masks = upsample(maps, row.height, row.width) > limits[units, None, None]  # (u, sh, sw)
                _count_picture(counts, units.numpy(), masks.flatten(1), labels, broden, iou_mode)
            bar.update(len(batch))
    return counts


def _count_picture(
    counts: Counts, units: np.ndarray, masks: torch.Tensor, labels: Labels, broden: Broden, iou_mode: str
) -> None:
    """Add one picture: masks (u, P) of the units (u,) that are on somewhere in its P pixels."""
    pixels = masks.shape[1]
    present, position = np.unique(labels.pixels, return_inverse=True)  # (l,) label numbers
    # carries[p, l]: how many of the M maps give label l to pixel p. Counts stay far below 2 ** 24: exact in float32.
    carries = torch.zeros(pixels, len(present))
    for layer in position.reshape(len(labels.pixels), pixels):  # M times (P,)
        carries[torch.arange(pixels), torch.from_numpy(layer)] += 1
    under = (masks.float() @ carries).long().numpy()  # (u, l)
    truth = carries.sum(0).long().numpy()  # (l,)
    real = present != 0  # 0 in a map: no label
    present, under, truth = present[real], under[:, real], truth[real]
    area = masks.sum(1).numpy()  # (u,)

    scalars, scalar_categories = labels.scalars, labels.scalar_categories
    if iou_mode == "original":
        named = scalars != 0
        scalars, scalar_categories = scalars[named], scalar_categories[named]

    counts.truth[present] += truth
    np.add.at(counts.truth, scalars, pixels)
    counts.intersect[units[:, None], present] += under
    np.add.at(counts.intersect, (units[:, None], scalars), area[:, None])

    categories = np.arange(len(broden.categories))
    if iou_mode == "lite":
        primary = broden.primary[present][:, None] == categories  # (l, K)
        counted = (under > 0) @ primary | np.isin(categories, broden.primary[scalars])  # (u, K)
    else:
        labelled = labels.pixel_categories[labels.pixels.any((1, 2))]
        counted = np.isin(categories, np.concatenate([labelled, scalar_categories]))[None]  # (1, K)
    counts.activation[units] += area[:, None] * counted


def iou(counts: Counts, primary: np.ndarray) -> np.ndarray:
    """IoU[u, l] = I[u, l] / (A[u, cat(l)] + T[l] - I[u, l] + 1e-10), (U, L) float64, with cat(l) = primary[l]."""
    return counts.intersect / (counts.activation[:, primary] + counts.truth - counts.intersect + 1e-10)


def best_scores(counts: Counts, broden: Broden) -> tuple[np.ndarray, np.ndarray]:
    """The best label of every unit in every category, and its IoU: (U, K) each.

    A label competes in its primary category; the lowest number wins among equal ones.
    """
    scores = iou(counts, broden.primary)  # (U, L)
    best = np.zeros((len(scores), len(broden.categories)), int)
    for category in range(len(broden.categories)):
        members = np.flatnonzero(broden.primary == category)
        if len(members):
            best[:, category] = members[scores[:, members].argmax(1)]
    values = np.take_along_axis(scores, best, 1)
    # A category without labels has no score, whatever label 0 stands for.
    return best, np.where(broden.primary[best] == np.arange(len(broden.categories)), values, 0.0)


def tally_rows(counts: Counts, broden: Broden) -> list[TallyRow]:
    """The rows of tally.csv: by score, descending, then by unit. The last of equally good categories is a unit's."""
    best, scores = best_scores(counts, broden)
    rows = []
    for unit, (labels, values) in enumerate(zip(best, scores, strict=True)):
        by_category = {
            name: _category_score(counts, broden, unit, category, labels[category], values[category])
            for category, name in enumerate(broden.categories)
        }
        winner = broden.categories[len(values) - 1 - values[::-1].argmax()]
        rows.append(TallyRow(unit + 1, winner, by_category[winner].label, by_category[winner].iou, by_category))
    return sorted(rows, key=lambda row: (-row.score, row.unit))


def _category_score(
    counts: Counts, broden: Broden, unit: int, category: int, label: int, score: float
) -> CategoryScore:
    if score == 0:
        return CategoryScore("", 0, 0, 0, 0.0)
    return CategoryScore(
        label=broden.names[label],
        truth=int(counts.truth[label]),
        activation=int(counts.activation[unit, category]),
        intersect=int(counts.intersect[unit, label]),
        iou=float(score),
    )


def chance_scores(
    active: ActiveMaps,
    thresholds: np.ndarray,
    broden: Broden,
    rounds: int,
    iou_mode: str = "lite",
    batch_size: int = 16,
    workers: int = 0,
    seed: int = 0,
) -> np.ndarray:
    """Best IoU of every unit when masks meet the labels of other pictures, (rounds, U): the level of chance."""
    generator = np.random.default_rng(seed)
    scores = []
    for _ in range(rounds):
        order = generator.permutation(len(broden))
        pairing = np.empty_like(order)
        pairing[order] = np.roll(order, 1)  # one cycle through all pictures: none meets itself
        counts = count(active, thresholds, broden, iou_mode, batch_size, workers, pairing)
        scores.append(best_scores(counts, broden)[1].max(1))
    return np.array(scores)


def interpretable(rows: Sequence[TallyRow], threshold: float) -> list[TallyRow]:
    """The rows whose score reaches the threshold; their distinct labels are the unique detectors."""
    return [row for row in rows if row.score >= threshold]


def write_tally(path: str | os.PathLike, rows: Sequence[TallyRow]) -> None:
    """Write tally.csv, in the authors' columns."""
    categories = list(rows[0].categories)
    with whole_file(path) as temporary, open(temporary, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(_header(categories))
        for row in rows:
            scores = [astuple(row.categories[category]) for category in categories]
            writer.writerow([row.unit, row.category, row.label, row.score, *chain.from_iterable(scores)])


def _header(categories: Sequence[str]) -> list[str]:
    return [*_COLUMNS, *(f"{category}-{field.name}" for category in categories for field in fields(CategoryScore))]


def read_tally(path: str | os.PathLike, units: int | None = None) -> list[TallyRow]:
    """Read a tally.csv.

    Args:
        path: the file; one that the authors' code wrote will do, as will one with the first four columns only.
        units: number of the model's units: the file must have each of 1..units once. None: not checked.

    Raises:
        UserError: naming the file, and the line and column that are wrong.
    """
    try:
        with open(path, newline="", encoding="utf-8-sig") as file:
            table = csv.DictReader(file)
            header = table.fieldnames or []
            missing = [column for column in _COLUMNS if column not in header]
            if missing:
                raise UserError(f"tally {path}: no column {', '.join(missing)}; expected {','.join(_COLUMNS)},...")
            categories = [column.removesuffix("-truth") for column in header if column.endswith("-truth")]
            missing = [column for column in _header(categories) if column not in header]
            if missing:
                raise UserError(f"tally {path}: no column {', '.join(missing)}")
            rows = [_parse_row(row, categories, f"tally {path}, line {table.line_num}") for row in table]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        reason = "no such file" if isinstance(error, FileNotFoundError) else f"unreadable ({error})"
        raise UserError(f"tally {path}: {reason}") from error
    _check_units([row.unit for row in rows], units, path)
    return rows


def _parse_row(row: dict[str, str], categories: list[str], place: str) -> TallyRow:
    def number(column: str) -> float:
        try:
            value = float(row[column])
        except (TypeError, ValueError):
            value = math.nan
        if not math.isfinite(value):
            raise UserError(f"{place}: {column} {row[column]!r}, expected a number")
        return value

    def whole(column: str) -> int:
        value = number(column)
        if value != int(value):
            raise UserError(f"{place}: {column} {row[column]!r}, expected a whole number")
        return int(value)

    scores = {
        category: CategoryScore(
            row[f"{category}-label"] or "",
            whole(f"{category}-truth"),
            whole(f"{category}-activation"),
            whole(f"{category}-intersect"),
            number(f"{category}-iou"),
        )
        for category in categories
    }
    return TallyRow(whole("unit"), row["category"] or "", row["label"] or "", number("score"), scores)


def _check_units(found: list[int], units: int | None, path: str | os.PathLike) -> None:
    if len(set(found)) != len(found):
        twice = next(unit for unit in found if found.count(unit) > 1)
        raise UserError(f"tally {path}: unit {twice} has more than one row")
    if units is not None and set(found) != set(range(1, units + 1)):
        span = f"{min(found)} to {max(found)}" if found else "none"
        raise UserError(
            f"tally {path}: it has {len(found)} units ({span}), the model's are 1 to {units}: "
            "it was made of another model or layer"
        )

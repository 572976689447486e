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

import distributed
from engine import progress
from errors import UserError, finite_number
from files import whole_file
from netdissect.activity import ActiveMaps, StoredMaps
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

    def add(self, picture: "_PictureCounts") -> None:
        """Add one picture's counts."""
        units, area = picture.units[:, None], picture.area[:, None]
        self.truth[picture.present] += picture.truth
        self.intersect[units, picture.present] += picture.under
        np.add.at(self.truth, picture.scalars, picture.pixels)  # a number can be there twice, in two categories
        np.add.at(self.intersect, (units, picture.scalars), area)
        self.activation[picture.units] += area * picture.counted


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


@dataclass(frozen=True)
class _PictureLabels:
    """The labels of one picture, ready to be counted.

    Attributes:
        size: (sh, sw), with P pixels.
        present: (l,) the label numbers in any of its M maps, first of all 0, for no label.
        position: (M, P) where in `present` each pixel's label stands.
        truth: (l,) pixels of each label, all maps summed.
        categories: the categories that have any pixel of a label.
        scalars: (S,) whole-image labels.
        scalar_categories: (S,) their categories.
    """

    size: tuple[int, int]
    present: np.ndarray
    position: np.ndarray
    truth: np.ndarray
    categories: np.ndarray
    scalars: np.ndarray
    scalar_categories: np.ndarray

    @classmethod
    def of(cls, labels: Labels) -> "_PictureLabels":
        maps, height, width = labels.pixels.shape
        pixels_of = np.bincount(labels.pixels.ravel(), minlength=1)
        present = np.union1d([0], np.flatnonzero(pixels_of))
        place = np.zeros(len(pixels_of), int)
        place[present] = np.arange(len(present))
        return cls(
            size=(height, width),
            present=present,
            position=place[labels.pixels].reshape(maps, height * width),
            truth=pixels_of[present],
            categories=labels.pixel_categories[labels.pixels.any((1, 2))],
            scalars=labels.scalars,
            scalar_categories=labels.scalar_categories,
        )


@dataclass(frozen=True)
class _Masks:
    """The masks of the u units that are on somewhere in a picture of P pixels.

    Attributes:
        units: (u,) their numbers.
        row, pixel: (n,) the mask pixels, few: which of the units, and where.
        area: (u,) mask pixels of each.
    """

    units: np.ndarray
    row: np.ndarray
    pixel: np.ndarray
    area: np.ndarray

    @classmethod
    def of(cls, units: torch.Tensor, maps: torch.Tensor, limits: torch.Tensor, size: tuple[int, int]) -> "_Masks":
        """Upsample the maps (u, h, w) of the units (u,), and take what exceeds their limits (u,)."""
        masks = upsample(maps, *size).flatten(1) > limits[:, None]  # (u, P)
        row, pixel = np.divmod(np.flatnonzero(masks.numpy()), math.prod(size))  # much faster than a 2-d nonzero
        return cls(units.numpy(), row, pixel, np.bincount(row, minlength=len(units)))


@dataclass(frozen=True)
class _PictureCounts:
    """What one picture adds to `Counts`: small, for it comes from a worker process.

    Attributes:
        units: (u,) those that are on somewhere in it.
        area: (u,) pixels of their masks.
        present: (l,) label numbers in its maps.
        truth: (l,) pixels of these labels.
        under: (u, l) mask pixels that carry them.
        scalars: (S,) whole-image labels that count.
        pixels: sh * sw.
        counted: (u, K) or (1, K) bool, whether its mask pixels count for the category.
    """

    units: np.ndarray
    area: np.ndarray
    present: np.ndarray
    truth: np.ndarray
    under: np.ndarray
    scalars: np.ndarray
    pixels: int
    counted: np.ndarray


class _PictureCounter(Dataset):
    """Counts picture by picture, for worker processes: a `_PictureCounts` per pairing. Arguments as of `count`."""

    def __init__(
        self,
        active: ActiveMaps | StoredMaps,
        thresholds: np.ndarray,
        broden: Broden,
        iou_mode: str,
        partners: np.ndarray,
        pictures: Sequence[int],
    ):
        self._active, self._broden, self._iou_mode = active, broden, iou_mode
        self._limits = torch.from_numpy(thresholds.astype(np.float32))
        self._partners, self._pictures = partners, pictures
        self._last: dict[int, _PictureLabels] = {}

    def __len__(self) -> int:
        return len(self._pictures)

    def __getitem__(self, i: int) -> list[_PictureCounts]:
        picture = self._pictures[i]
        units, maps = self._active.get(picture)  # (u,), (u, h, w)
        # A bilinear map nowhere exceeds its own maximum: only these units can have a mask here.
        on = maps.amax((1, 2)) > self._limits[units]
        units, maps = units[on], maps[on]
        counts: list[_PictureCounts] = []
        masks: dict[tuple[int, int], _Masks] = {}
        for labels in self._labels(picture):
            if labels.size not in masks:
                masks = {labels.size: _Masks.of(units, maps, self._limits[units], labels.size)}
            counts.append(_count_picture(masks[labels.size], labels, self._broden, self._iou_mode))
        return counts

    def _labels(self, picture: int) -> list[_PictureLabels]:
        """The labels of the picture's partner in each pairing."""
        partners = self._partners[:, picture].tolist()
        # Along a chain of partners, what was the next picture's is now the picture's own: no need to decode it again.
        self._last = {
            partner: self._last.get(partner) or _PictureLabels.of(self._broden.labels(partner)) for partner in partners
        }
        return [self._last[partner] for partner in partners]


def pairings(pictures: int, rounds: int, seed: int = 0) -> np.ndarray:
    """With which pictures' labels the masks of N pictures are compared: (1 + rounds, N) picture numbers.

    First each with its own labels, then `rounds` times with those of another picture at random: the level of chance.
    One picture alone has no other: no rounds.
    """
    generator = np.random.default_rng(seed)
    partners = [np.arange(pictures)]
    for _ in range(rounds if pictures > 1 else 0):
        order = generator.permutation(pictures)
        partner = np.empty_like(order)
        partner[order] = np.roll(order, -1)  # one cycle through all pictures: none meets itself
        partners.append(partner)
    return np.stack(partners)


def count(
    active: ActiveMaps | StoredMaps,
    thresholds: np.ndarray,
    broden: Broden,
    iou_mode: str = "lite",
    batch_size: int = 16,
    workers: int = 0,
    partners: np.ndarray | None = None,
) -> list[Counts]:
    """Count mask and label pixels over all pictures (Bau et al. 2017, section 2.3).

    A unit's map is upsampled to the label maps' size (bilinear, half-pixel centres); its mask is where it exceeds the
    unit's threshold. Under torchrun each process counts its share of the pictures; all get the sums.

    Args:
        active: the maps (u, h, w), per picture, of at least the units that exceed their threshold somewhere in it.
        thresholds: (U,).
        broden: the labels.
        iou_mode: which pictures count for a category in `activation`. 'lite': those where a pixel under the mask has a
            label whose primary category it is, or that have such a whole-image label; the integer 0 in a cell is a
            label of its own. 'original': those that have any label of the category; label 0 never counts.
        batch_size: pictures that a worker process counts at one time.
        workers: processes that count; 0: this one.
        partners: (R, N) as `pairings` gives them; None pairs each picture with its own labels only.

    Returns:
        R counts, one per pairing.
    """
    partners = pairings(len(broden), 0) if partners is None else partners
    counts = [Counts.zeros(len(thresholds), len(broden.names), len(broden.categories)) for _ in partners]
    own = np.array_split(_chain(partners), distributed.world())[distributed.rank()].tolist()
    counter = _PictureCounter(active, thresholds, broden, iou_mode, partners, own)
    loader = DataLoader(counter, batch_size, num_workers=workers, collate_fn=list)
    with progress(total=len(own), desc="tally", unit="img") as bar:
        for batch in loader:
            for of_picture in batch:
                for pairing, added in zip(counts, of_picture, strict=True):
                    pairing.add(added)
            bar.update(len(batch))
    for pairing in counts:
        distributed.add_up(pairing.truth, pairing.intersect, pairing.activation)
    return counts


def _chain(partners: np.ndarray) -> np.ndarray:
    """All N pictures, each followed by its partner in the second pairing, where there is one."""
    if len(partners) == 1:
        return np.arange(partners.shape[1])
    chain = [0]
    while len(chain) < partners.shape[1]:
        chain.append(partners[1, chain[-1]])
    return np.array(chain)


def _count_picture(masks: _Masks, labels: _PictureLabels, broden: Broden, iou_mode: str) -> _PictureCounts:
    """One picture's counts."""
    units, kinds = len(masks.units), len(labels.present)
    code = masks.row * kinds + labels.position[:, masks.pixel]  # (M, n) which unit meets which label
    under = np.bincount(code.ravel(), minlength=units * kinds).reshape(units, kinds)[:, 1:]  # (u, l), without label 0
    present = labels.present[1:]
    scalars, scalar_categories = labels.scalars, labels.scalar_categories
    if iou_mode == "original":
        named = scalars != 0
        scalars, scalar_categories = scalars[named], scalar_categories[named]
    categories = np.arange(len(broden.categories))
    if iou_mode == "lite":
        primary = broden.primary[present][:, None] == categories  # (l, K)
        counted = (under > 0) @ primary | np.isin(categories, broden.primary[scalars])  # (u, K)
    else:
        counted = np.isin(categories, np.concatenate([labels.categories, scalar_categories]))[None]  # (1, K)
    return _PictureCounts(
        units=masks.units,
        area=masks.area,
        present=present,
        truth=labels.truth[1:],
        under=under,
        scalars=scalars,
        pixels=math.prod(labels.size),
        counted=counted,
    )


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


def chance_scores(random_counts: Sequence[Counts], broden: Broden) -> np.ndarray:
    """Best IoU of every unit when its masks meet the labels of other pictures, (rounds, U): the level of chance."""
    return np.array([best_scores(counts, broden)[1].max(1) for counts in random_counts])


def interpretable(rows: Sequence[TallyRow], threshold: float) -> list[TallyRow]:
    """The rows whose score reaches the threshold."""
    return [row for row in rows if row.score >= threshold]


def unique_detectors(rows: Sequence[TallyRow]) -> list[str]:
    """The distinct labels of the given rows, usually those of the interpretable units; in order."""
    return sorted({row.label for row in rows})


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
    if None in row.values():
        raise UserError(f"{place}: fewer cells than the header")

    def number(column: str) -> float:
        value = finite_number(row[column])
        if value is None:
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

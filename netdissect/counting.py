"""Counting the pixels that units' masks and images' labels have in common (Bau et al. 2017, section 2.3)."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import torch
from scipy.sparse import csr_array
from torch.utils.data import Dataset

from loader.batches import Loader
from netdissect.activity import LayerSummary
from netdissect.broden import Broden, Labels
from netdissect.masks import unit_masks
from util import distributed
from util.progress import progress

MASK_PIXELS = 2**25  # of all masks that are computed at a time, unless a single one has more


@dataclass
class Counts:
    """Pixel counts over all images, of U units, L label numbers and K categories.

    Attributes:
        truth: (L,) T, pixels of each label, all maps summed; a whole-image label counts sh * sw.
        intersect: (U, L) I, mask pixels of each unit that carry the label; for a whole-image label the whole mask.
        activation: (U, K) A, mask pixels of each unit in the images that count for the category.
    """

    truth: np.ndarray
    intersect: np.ndarray
    activation: np.ndarray

    @classmethod
    def zeros(cls, units: int, labels: int, categories: int) -> "Counts":
        """The counts of no images."""
        shapes = (labels,), (units, labels), (units, categories)
        return cls(*(np.zeros(shape, np.int64) for shape in shapes))

    def add(self, image: "_ImageCounts") -> None:
        """Add one image's counts."""
        units, area = image.units[:, None], image.area[:, None]
        self.truth[image.present] += image.truth
        self.intersect[units, image.present] += image.under
        np.add.at(self.truth, image.scalars, image.pixels)  # a number can occur twice, in two categories
        np.add.at(self.intersect, (units, image.scalars), area)
        self.activation[image.units] += area * image.counted


def count(
    summary: LayerSummary,
    broden: Broden,
    iou_mode: str = "lite",
    batch_size: int = 16,
    workers: int = 0,
    partners: np.ndarray | None = None,
) -> tuple[list[Counts], csr_array]:
    """Count mask and label pixels over all images.

    A unit's mask is computed at the size of the label maps. Under torchrun each process counts its share of the
    images; all processes get the sums.

    Args:
        summary: of the layer: its thresholds, and the maps that exceed them somewhere.
        broden: the labels.
        iou_mode: which images count for a category in `activation`. 'lite': those where a pixel under the mask has a
            label whose primary category it is, or that have such a whole-image label; the integer 0 in a cell is a
            label of its own. 'original': those that have any label of the category; label 0 never counts.
        batch_size: images that a worker process counts at a time.
        workers: processes that count; 0: this one.
        partners: (R, N), of `chance.pairings`: the image whose labels each image meets, in the first row its own. None:
            that row only.

    Returns:
        R counts, one per pairing; and (N, L) sparse bool, which labels each image has: in a pixel, or as a whole.
        Label 0 is none.
    """
    partners = np.arange(len(broden))[None] if partners is None else partners
    counts = [Counts.zeros(len(summary.thresholds), len(broden.names), len(broden.categories)) for _ in partners]
    own = np.array_split(_chain(partners), distributed.world_size())[distributed.rank()].tolist()
    counter = _ImageCounter(summary, broden, iou_mode, partners, own)
    loader = Loader(counter, batch_size, num_workers=workers, collate_fn=list)
    carried = []  # of each image of `own`, its labels
    with progress(total=len(own), desc="tally", unit="img") as bar:
        for batch in loader:
            for of_image in batch:
                carried.append(of_image[0].labels())
                for pairing, added in zip(counts, of_image, strict=True):
                    pairing.add(added)
            bar.update(len(batch))
    for pairing in counts:
        distributed.all_reduce(pairing.truth, pairing.intersect, pairing.activation)
    return counts, _presence(own, carried, (len(broden), len(broden.names)))


def _presence(images: Sequence[int], carried: Sequence[np.ndarray], shape: tuple[int, int]) -> csr_array:
    """Which of N images carry which of L labels, (N, L) sparse bool, from the labels of each process's images."""
    row = np.repeat(np.array(images, np.int32), [len(labels) for labels in carried])
    column = np.concatenate([np.zeros(0, np.int32), *carried])
    rows, columns = (np.concatenate(parts) for parts in zip(*distributed.all_gather((row, column)), strict=True))
    return csr_array((np.ones(len(rows), bool), (rows, columns)), shape)


def _chain(partners: np.ndarray) -> np.ndarray:
    """All N images, each followed by its partner in the second pairing, if there is one."""
    if len(partners) == 1:
        return np.arange(partners.shape[1])
    chain = [0]
    while len(chain) < partners.shape[1]:
        chain.append(partners[1, chain[-1]])
    return np.array(chain)


# --- one image ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _ImageLabels:
    """The labels of one image, ready to be counted.

    Attributes:
        size: (sh, sw), with P pixels.
        present: (l,) the label numbers in any of its M maps, the first of them 0, no label.
        position: (M, P) where in `present` each pixel's label is.
        truth: (l,) pixels of each label, all maps summed.
        categories: the categories that have a pixel of any label.
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
    def of(cls, labels: Labels) -> "_ImageLabels":
        maps, height, width = labels.pixels.shape
        pixels_of = np.zeros(1 + int(labels.pixels.max(initial=0)), int)
        for layer in labels.pixels:  # bincount converts to int64, twice the size: one map at a time
            pixels_of += np.bincount(layer.ravel(), minlength=len(pixels_of))
        present = np.union1d([0], np.flatnonzero(pixels_of))
        place = np.zeros(len(pixels_of), np.int32)
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
class _MaskPixels:
    """The masks of u units in an image of P pixels, as lists of pixels: few are set.

    Attributes:
        units: (u,) their numbers.
        row, pixel: (n,) the set pixels: in the mask of which of the u units, and where.
        area: (u,) set pixels of each.
    """

    units: np.ndarray
    row: np.ndarray
    pixel: np.ndarray
    area: np.ndarray

    @classmethod
    def of(cls, units: torch.Tensor, masks: torch.Tensor) -> "_MaskPixels":
        """From the units (u,) and their masks (u, sh, sw) bool."""
        place = np.flatnonzero(masks.numpy())  # much faster than a nonzero of several dimensions
        row, pixel = np.divmod(place, math.prod(masks.shape[1:]))
        return cls(units.numpy(), row, pixel, np.bincount(row, minlength=len(units)))


@dataclass(frozen=True)
class _ImageCounts:
    """What one image adds to `Counts`, kept small because a worker process sends it.

    Attributes:
        units: (u,) those with a mask in the image.
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

    def labels(self) -> np.ndarray:
        """The image's labels, each once, int32: in a pixel, or as a whole; never 0."""
        return np.setdiff1d(np.concatenate([self.present, self.scalars]), [0]).astype(np.int32)

    @classmethod
    def joined(cls, parts: Sequence["_ImageCounts"]) -> "_ImageCounts":
        """The counts of all units from those of some units each, in the same image."""
        if len(parts) == 1:
            return parts[0]
        kinds = parts[0].counted.shape[1]
        return replace(
            parts[0],
            units=np.concatenate([part.units for part in parts]),
            area=np.concatenate([part.area for part in parts]),
            under=np.concatenate([part.under for part in parts]),
            # In IOU_MODE 'original' one row stands for all units.
            counted=np.concatenate([np.broadcast_to(part.counted, (len(part.units), kinds)) for part in parts]),
        )


def _units_at_a_time(size: tuple[int, int]) -> int:
    return max(1, MASK_PIXELS // math.prod(size))


class _ImageCounter(Dataset):
    """Counts the given images one by one, for worker processes: an `_ImageCounts` per pairing."""

    def __init__(
        self, summary: LayerSummary, broden: Broden, iou_mode: str, partners: np.ndarray, images: Sequence[int]
    ):
        self._maps, self._limits = summary.maps, summary.limits
        self._broden, self._iou_mode = broden, iou_mode
        self._partners, self._images = partners, images
        self._last: dict[int, _ImageLabels] = {}

    def __len__(self) -> int:
        return len(self._images)

    def __getitem__(self, i: int) -> list[_ImageCounts]:
        image = self._images[i]
        units, maps = self._maps.get(image)  # (u,), (u, h, w)
        # A bilinear map nowhere exceeds its own maximum: only these units can have a mask here.
        on = maps.amax((1, 2)) > self._limits[units]
        units, maps = units[on], maps[on]
        counts: list[_ImageCounts] = []
        masks: dict[tuple[int, int], list[_MaskPixels]] = {}  # of the last size; kept if they are in one part
        for labels in self._labels(image):
            parts = masks.get(labels.size) or self._masks(units, maps, labels.size)
            count_part = partial(_count_image, labels=labels, broden=self._broden, iou_mode=self._iou_mode)
            if len(units) <= _units_at_a_time(labels.size):
                masks = {labels.size: list(parts)}
                parts = masks[labels.size]
            counts.append(_ImageCounts.joined([count_part(part) for part in parts]))
        return counts

    def _masks(self, units: torch.Tensor, maps: torch.Tensor, size: tuple[int, int]) -> Iterator[_MaskPixels]:
        """The masks of the units (u,) with these maps (u, h, w), as many units at a time as fit into memory."""
        at_a_time = _units_at_a_time(size)
        for own, own_maps in zip(units.split(at_a_time), maps.split(at_a_time), strict=True):
            yield _MaskPixels.of(own, unit_masks(own_maps, self._limits[own], *size))

    def _labels(self, image: int) -> list[_ImageLabels]:
        """The labels of the image's partner in each pairing."""
        partners = self._partners[:, image].tolist()
        # Along a chain of partners, the labels that the last image met are this image's own: no need to decode again.
        self._last = {
            partner: self._last.get(partner) or _ImageLabels.of(self._broden.labels(partner)) for partner in partners
        }
        return [self._last[partner] for partner in partners]


def _count_image(masks: _MaskPixels, labels: _ImageLabels, broden: Broden, iou_mode: str) -> _ImageCounts:
    """One image's counts."""
    units, kinds = len(masks.units), len(labels.present)
    first = masks.row * kinds  # (n,) of a unit's counts
    under = np.zeros(units * kinds, int)
    for position in labels.position:  # of a map; a row may have many
        under += np.bincount(first + position[masks.pixel], minlength=units * kinds)
    under = under.reshape(units, kinds)[:, 1:]  # (u, l), without label 0
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
    return _ImageCounts(
        units=masks.units,
        area=masks.area,
        present=present,
        truth=labels.truth[1:],
        under=under,
        scalars=scalars,
        pixels=math.prod(labels.size),
        counted=counted,
    )

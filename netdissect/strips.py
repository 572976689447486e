"""Strips: the images that a unit fires at most, side by side, darkened outside its mask, whose edge is drawn."""

import copy
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from loader.images import read_image
from netdissect.activity import ActiveMaps
from netdissect.beside import THRESHOLDS, TOP_IMAGES, Beside
from netdissect.broden import Broden
from netdissect.features import PREPROCESS, stream_features
from netdissect.layout import find_layouts
from netdissect.made_of import data_fingerprint
from netdissect.masks import upsample
from report.overlays import darken_outside, write_strip
from report.vote_maps import contours, draw_contours
from util.cli import UserError
from util.files import display_path, last_name
from util.made_of import MadeOf
from util.progress import progress

TILE = 144  # side of an image on the dissection's page, pixels
SMALL, SHOWN = 96, 5  # the same in an explanation, and how many images


class Maps(Protocol):
    """Maps of (image, unit) pairs."""

    def get(self, index: int, /) -> tuple[Tensor, Tensor]:
        """The units (u,), from 0, and the maps (u, h, w) kept for an image."""


@dataclass(frozen=True)
class Strips:
    """What strips are drawn of.

    Attributes:
        broden: the images.
        maps: of the units in these.
        limits: (U,) float32, the units' thresholds.
        images: by unit, from 0, the numbers of its images.
    """

    broden: Broden
    maps: Maps
    limits: Tensor
    images: Mapping[int, Sequence[int]]

    def draw(self, side: int) -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
        """Yield each unit, from 0, and its T images (T, side, side, 3): darkened outside its mask, and as they are.

        On both a line runs where the upsampled map crosses the threshold.
        """

        @lru_cache(maxsize=4096)
        def tile(index: int) -> np.ndarray:
            return np.asarray(self.broden.image(index).resize((side, side), Image.Resampling.BILINEAR))

        for unit, indices in self.images.items():
            tiles = np.stack([tile(index) for index in indices])  # (T, side, side, 3)
            large = np.stack([self._map(unit, index, side) for index in indices])  # (T, side, side)
            limit = float(self.limits[unit])
            lines = [contours(map_, limit) for map_ in large]
            dark = darken_outside(tiles, large > limit, divisor=4 if side == TILE else 2)
            dark, plain = (np.stack([*map(draw_contours, shown, lines)]) for shown in (dark, tiles))
            yield unit, dark, plain

    def _map(self, unit: int, index: int, side: int) -> np.ndarray:
        """A unit's map of an image (side, side); the threshold everywhere where it is off in the whole image."""
        units, maps = self.maps.get(index)
        own = maps[units == unit]
        if not len(own):
            return np.full((side, side), self.limits[unit].item(), np.float32)
        return upsample(own, side, side)[0].numpy()


def write_strips(folder: Path, strips: Strips) -> None:
    """Write unit-<n>.jpg, darkened outside the mask, and unit-<n>-outline.jpg of each unit, n from 1, into a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    for unit, dark, plain in progress(strips.draw(TILE), total=len(strips.images), desc="images", unit="unit"):
        write_strip(folder / f"unit-{unit + 1}.jpg", dark)
        write_strip(folder / f"unit-{unit + 1}-outline.jpg", plain)


# --- for an explanation ---------------------------------------------------------------------------------------------


def _shrink(source: Path, folder: Path, units: Sequence[int]) -> dict[int, int]:
    """Copy the strips of a dissection's page, smaller, into a folder: {unit: images}, units from 1.

    Args:
        source: the folder that `write_strips` wrote; units whose file is missing or damaged are left out.
        folder: gets unit-<n>.jpg.
        units: which.
    """
    made = {}
    for unit in units:
        try:
            strip = read_image(source / f"unit-{unit}.jpg")
        except UserError:
            continue
        count = min(SHOWN, max(1, round(strip.width / strip.height)))
        part = strip.crop((0, 0, min(strip.width, count * strip.height), strip.height))
        small = part.resize((count * SMALL, SMALL), Image.Resampling.LANCZOS)
        write_strip(folder / f"unit-{unit}.jpg", [np.asarray(small)])
        made[unit] = count
    return made


@dataclass(frozen=True)
class StripSource:
    """What strips of an explanation are made from.

    Attributes:
        tally: the file that names the units.
        layer: whose units they are; None if the network has no maps.
        made_of: the tally's record; None if it has none.
        beside: what else lies beside the tally.
    """

    tally: Path
    layer: str | None
    made_of: MadeOf | None
    beside: Beside


def report_strips(
    model: nn.Module, source: StripSource, data: Sequence[Path], folder: Path, units: Sequence[int]
) -> dict[int, int]:
    """Write unit-<n>.jpg of units into a folder: {unit: images}, units from 1.

    They are copied from the dissection's page, if it lies beside the tally. Otherwise the network is run on the images
    of which the tally was made.

    Args:
        model: in eval mode.
        source: tally and what belongs to it.
        data: folders in which, or as which, the images may lie.
        folder: gets the files.
        units: which.

    Raises:
        UserError: if neither is possible, with the reason.
    """
    page = source.tally.parent / "html" / str(source.layer)
    if source.layer and page.is_dir():
        return _shrink(page, folder, units)
    if source.made_of is None or source.layer is None:
        raise UserError("it is unknown of which images the tally was made")
    name = last_name(str(source.made_of.get("data", "")))
    places = [place / name for place in data]
    found = next((place for place in places if name and place.is_dir()), None)
    if found is None:
        raise UserError(f"they are made from {display_path(places[-1])}, which is not there")
    return _make(model, source, found, folder, units)


def _make(model: nn.Module, source: StripSource, data: Path, folder: Path, units: Sequence[int]) -> dict[int, int]:
    """Run a network on the images of its units' largest activations, and write their strips: {unit: images}.

    Raises:
        UserError: if the folder is not the one of which the tally was made, or thresholds or images are unknown.
    """
    beside, made_of = source.beside, source.made_of or {}
    if beside.thresholds is None or not beside.top_images:
        raise UserError(f"{THRESHOLDS} and {TOP_IMAGES} do not lie beside the tally: dissect again")
    categories = made_of.get("categories")
    broden = Broden(data, categories=categories if isinstance(categories, list) else None, check_files=False)
    if data_fingerprint(broden) != made_of.get("data_fingerprint") or made_of.get("preprocess") not in PREPROCESS:
        raise UserError(f"{display_path(data)} has other images than the tally was made of")
    wanted = {unit - 1: list(beside.top_images[unit])[:SHOWN] for unit in units}
    indices = sorted({index for own in wanted.values() for index in own})
    if indices and indices[-1] >= len(broden):
        raise UserError(f"{TOP_IMAGES} names image {indices[-1]}, {display_path(data)} has {len(broden)}")
    maps = _maps_of(model, made_of, broden, indices, sorted(wanted))
    limits = torch.from_numpy(beside.thresholds).float()  # as maps are compared with them
    for unit, dark, _ in Strips(broden, maps, limits, wanted).draw(SMALL):
        write_strip(folder / f"unit-{unit + 1}.jpg", dark)
    return {unit + 1: len(own) for unit, own in wanted.items()}


def _maps_of(
    model: nn.Module, made_of: MadeOf, broden: Broden, indices: Sequence[int], units: Sequence[int]
) -> ActiveMaps:
    """The maps of units, from 0, in some images."""
    few = copy.copy(broden)
    few.rows = [broden.rows[index] for index in indices]
    layer = made_of["layer"]
    layouts = find_layouts(model, [layer], *few.largest_image())
    kept, own = ActiveMaps(), torch.tensor(units)
    for places, maps in stream_features(model, layouts, few, made_of["preprocess"]):
        for place, of_image in zip(places, maps[layer], strict=True):
            kept.put(indices[place], own, of_image[own])
    return kept

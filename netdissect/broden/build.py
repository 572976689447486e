"""Building a Broden-format folder from images, label maps, folders of images, and names."""

import io
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from loader.images import FORMATS, decoding, read_image
from netdissect.broden.colours import CATEGORY, NAMES, name_colours, resize_mean
from netdissect.broden.label_maps import read_codes, resize_nearest
from netdissect.broden.plan import Entry, Plan
from netdissect.broden.reader import check_size
from netdissect.broden.recipe import Recipe, single_source
from netdissect.broden.vocabulary import Translation, Vocabulary
from netdissect.broden.writer import BrodenWriter
from util.cli import UserError
from util.progress import progress
from util.text import say

_JPEGS = ("JPEG", "MPO")  # MPO: a JPEG with further images behind it
_COPIED = {".jpg": _JPEGS, ".jpeg": _JPEGS, ".png": ("PNG",)}  # by suffix, the formats of files that are copied
_QUALITY = {"quality": 95, "subsampling": 0}  # of a JPEG that is not copied
_LISTED = 5  # labels that a notice lists

Size = tuple[int, int]  # (height, width)


def build(images: Path, labels: Path, names: Path, output: Path) -> int:
    """Build a Broden-format folder from one source.

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
    return build_recipe(single_source(images, labels, names), output)


def build_recipe(recipe: Recipe, output: Path) -> int:
    """Build a Broden-format folder from a recipe; two builds of the same are equal to the byte.

    JPEG and PNG files are copied, unless `size` asks for another size. Images of other types become PNG; a JPEG that is
    resized becomes a JPEG of quality 95. As everywhere in a dissection, an image is what its file stores, whatever its
    EXIF orientation says; only one whose label maps fit it upright alone is turned.
    Copies are named after their place below the deepest folder that is around all sources. Images without any label
    are left out.

    Args:
        recipe: of `read_recipe`.
        output: the folder to make; it must not exist.

    Returns:
        The number of images.

    Raises:
        UserError: naming the file that is missing, unreadable or does not fit.
    """
    vocabulary = Vocabulary(recipe.synonyms)
    if recipe.colors:
        vocabulary.names[CATEGORY] = {}  # first, as in Broden
    entries = Plan(recipe, vocabulary).entries
    colours = np.array([0, *(vocabulary.number(CATEGORY, name) for name in NAMES)]) if recipe.colors else None
    count = 0
    with BrodenWriter(output, vocabulary.names, vocabulary.synonyms) as writer:
        for entry in progress(entries, desc="build", unit="img"):
            count += _add(writer, entry, recipe, colours)
        if not count:
            raise UserError(f"{recipe.place}: none of {len(entries):,} images has a label; do the names fit the maps?")
    if count < len(entries):
        say(f"left out {len(entries) - count:,} images without any label", sys.stderr)
    _note_unused(vocabulary, writer)
    return count


def _note_unused(vocabulary: Vocabulary, writer: BrodenWriter) -> None:
    """Say which labels no image has: their numbers may be wrong."""
    tables = [(known, writer.counts.images[c]) for c, known in vocabulary.names.items() if c != CATEGORY]
    unused = [label for known, images in tables for number, label in known.items() if not images[number]]
    if unused:
        more = ", ..." if len(unused) > _LISTED else ""
        say(f"labels that no image has: {len(unused)} ({', '.join(unused[:_LISTED])}{more})", sys.stderr)


def _add(writer: BrodenWriter, entry: Entry, recipe: Recipe, colours: np.ndarray | None) -> bool:
    """Add an image to the folder, unless it has no label.

    Args:
        writer: of the folder.
        entry: the image.
        recipe: of the folder.
        colours: (12,) label numbers of the codes of `name_colours`; None: colours are not named.

    Returns:
        Whether it has a label.
    """
    if not entry.maps and not entry.scalars:
        return False
    layers = [_read_numbers(path, category, translation, recipe.exact) for category, path, translation in entry.maps]
    image = _Stored.of(entry, recipe, [_size_of(layer) for layer in layers])
    height, width = _map_size(entry, layers) if recipe.exact else ((side + 1) // 2 for side in image.size)
    check_size(height, width, len(layers) + recipe.colors, f"image {entry.file}")
    maps: dict[str, list[np.ndarray]] = {}
    for (category, _, _), layer in zip(entry.maps, layers, strict=True):
        _add_layer(maps, category, resize_nearest(layer, (height, width)))
    if not maps and not entry.scalars:
        return False
    if colours is not None:
        _add_layer(maps, CATEGORY, colours[name_colours(resize_mean(image.pixels(), (height, width)))])
    stacked = {category: np.stack(own) for category, own in maps.items()}
    writer.add(image.content, entry.stem + image.suffix, (height, width), stacked, entry.scalars)
    return True


def _read_numbers(path: Path, category: str, translation: Translation, exact: bool) -> np.ndarray:
    """Label numbers (h, w) of a label map; if it is to be exact, all of its integers must have names."""
    table = translation.table
    codes = read_codes(path, table.kind)
    unknown = codes[(codes > 0) & ~translation.knows(codes)] if exact else np.empty(0)
    if unknown.size:
        raise UserError(f"{path}: label {unknown.min()} is not among the names of {category} in {table.file}")
    return translation(codes)


def _map_size(entry: Entry, layers: Sequence[np.ndarray]) -> Size:
    """The size of all label maps of an image. Raises UserError if they have several."""
    first = _size_of(layers[0])
    for (_, path, _), layer in zip(entry.maps, layers, strict=True):
        if layer.shape != first:
            sizes = f"{_shown(_size_of(layer))} pixels, another category's map has {_shown(first)}"
            raise UserError(f"{path}: {sizes}")
    return first


def _add_layer(maps: dict[str, list[np.ndarray]], category: str, numbers: np.ndarray) -> None:
    """Add a label map to those of a category, without what they say already: no pixel counts twice for a label."""
    for earlier in maps.get(category, []):
        numbers = np.where(numbers == earlier, 0, numbers)
    if numbers.any():
        maps.setdefault(category, []).append(numbers)


@dataclass
class _Stored:
    """An image as it is stored in the folder.

    Attributes:
        content: the file that is copied, or what the copy contains.
        suffix: of the copy's name.
        size: (height, width).
    """

    content: Path | bytes
    suffix: str
    size: Size

    @classmethod
    def of(cls, entry: Entry, recipe: Recipe, maps: Sequence[Size]) -> "_Stored":
        """Read the image that goes with label maps of these sizes.

        Raises:
            UserError: if it is unreadable, or has other proportions than a label map.
        """
        with decoding(entry.file, "image", FORMATS) as opened:
            format_, stored = opened.format, (opened.height, opened.width)
        upright = _is_upright(entry, stored, maps, recipe.exact)
        suffix = entry.file.suffix
        if not upright and recipe.size in (None, stored) and format_ in _COPIED.get(suffix.lower(), ()):
            return cls(entry.file, suffix, stored)
        image = read_image(entry.file, upright)
        if recipe.size is not None:
            image = image.resize(recipe.size[::-1], Image.Resampling.BILINEAR)
        suffix, kind, options = (".jpg", "JPEG", _QUALITY) if format_ in _JPEGS else (".png", "PNG", {})
        content = io.BytesIO()
        image.save(content, kind, **options)
        return cls(content.getvalue(), suffix, (image.height, image.width))

    def pixels(self) -> np.ndarray:
        """The image (H, W, 3) uint8."""
        if isinstance(self.content, Path):
            return np.asarray(read_image(self.content))
        with Image.open(io.BytesIO(self.content)) as image:
            return np.asarray(image.convert("RGB"))


def _is_upright(entry: Entry, stored: Size, maps: Sequence[Size], exact: bool) -> bool:
    """Whether an image's label maps fit it only when it is turned by its EXIF orientation.

    Raises:
        UserError: if they fit neither; for a recipe that is `exact`, they need not.
    """
    misfits = [(path, size) for (_, path, _), size in zip(entry.maps, maps, strict=True) if not _fits(size, stored)]
    if not misfits:
        return False
    turned = read_image(entry.file, upright=True)
    if all(_fits(size, (turned.height, turned.width)) for size in maps):
        return True
    if not exact:
        path, size = misfits[0]
        other = f"its image {entry.file} has {_shown(stored)}, expected the same proportions"
        raise UserError(f"label map {path}: {_shown(size)} pixels, {other}")
    return False


def _fits(size: Size, image: Size) -> bool:
    """Whether a label map has the proportions of an image, to one pixel of rounding."""
    return abs(size[0] * image[1] - size[1] * image[0]) <= max(image)


def _size_of(layer: np.ndarray) -> Size:
    height, width = layer.shape
    return height, width


def _shown(size: Size) -> str:
    return f"{size[1]} x {size[0]}"

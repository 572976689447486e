"""Label maps: PNG files of numbers, refused where a decoder would turn them into other numbers."""

import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from loader.images import LABEL_FORMATS, decoding
from util.cli import UserError

_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_HEADER = struct.Struct(">8sI4sIIBB")  # signature, length and type of the first chunk, width, height, depth, colour

MOST_AREA = 2**25  # pixels of a label map: what fits into memory


class Kind(NamedTuple):
    """What is accepted as a label map.

    Attributes:
        types: pairs of PNG's colour type (0 grey, 2 RGB, 3 palette, 6 RGBA) and bits per channel. Pillow reads a 16-bit
            channel as 8 bit, and scales grey of 2 and 4 bits.
        expected: the same in words.
    """

    types: frozenset[tuple[int, int]]
    expected: str


_COLOURED = frozenset({(2, 8), (6, 8)})
RGB = Kind(_COLOURED, "RGB (label = R + 256 * G)")
COLOURS = Kind(_COLOURED, "RGB, as its table of names has columns r, g and b")
INTEGERS = Kind(
    frozenset({(0, 1), (0, 8), (0, 16), (3, 1), (3, 2), (3, 4), (3, 8)}),
    "a PNG of integers (8 or 16 bit, grey or palette)",
)


@contextmanager
def open_label_map(path: Path, kind: Kind) -> Iterator[Image.Image]:
    """Open a label map, whose content must be PNG, whatever its name.

    Args:
        path: the file.
        kind: what is accepted: `RGB`, `COLOURS` or `INTEGERS`.

    Raises:
        UserError: naming the file, if it is missing, unreadable, above Pillow's limit of pixels, or of another kind.
    """
    with decoding(path, "label map", LABEL_FORMATS) as image:
        with open(path, "rb") as file:
            header = file.read(_HEADER.size)
        _check_kind(path, header, kind, image)
        yield image


def read_codes(path: Path, kind: Kind) -> np.ndarray:
    """Read the code of each pixel of a label map, (h, w) int64: its integer, or of `COLOURS` 65,536 R + 256 G + B.

    Raises:
        UserError: as `open_label_map`, and above `MOST_AREA` pixels.
    """
    with open_label_map(path, kind) as image:
        width, height = image.size
        if width * height > MOST_AREA:
            raise UserError(f"{path}: {width} x {height} pixels, expected at most {MOST_AREA:,} together")
        pixels = np.asarray(image).astype(np.int64)
    return pixels if kind is INTEGERS else pixels[..., :3] @ [65_536, 256, 1]


def resize_nearest(pixels: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Resize (h, w) to `size`: each pixel of the result is the one of `pixels` in which its centre lies.

    A centre on the border of two pixels takes the later one, as at exactly half the size: rows 1, 3, 5 ... of 0, 1, 2.
    """
    rows, columns = ((2 * np.arange(to) + 1) * from_ // (2 * to) for from_, to in zip(pixels.shape, size, strict=True))
    return pixels[rows[:, None], columns]


def _check_kind(path: Path, header: bytes, kind: Kind, image: Image.Image) -> None:
    signature, _, chunk, *size, depth, colour = _HEADER.unpack(header.ljust(_HEADER.size))
    if signature != _SIGNATURE or chunk != b"IHDR" or tuple(size) != image.size:
        raise UserError(f"{path}: not a readable label map (its header is not a PNG's)")
    if (colour, depth) not in kind.types:
        bits = f" of {depth} bits" if depth != 8 and image.mode in ("RGB", "RGBA", "L", "LA") else ""
        raise UserError(f"label map {path}: mode {image.mode}{bits}, expected {kind.expected}")

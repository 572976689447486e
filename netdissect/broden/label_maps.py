"""Label maps: PNG files of numbers, refused where a decoder would turn them into other numbers."""

import struct
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from PIL import Image

from loader.images import LABEL_FORMATS, decoding
from util.cli import UserError

_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_HEADER = struct.Struct(">8sI4sIIBB")  # signature, length and type of the first chunk, width, height, depth, colour

# As (colour type, bits per channel); the types are 0 grey, 2 RGB, 3 palette, 6 RGBA.
# Pillow reads a 16-bit channel as 8 bit, and scales grey of 2 and 4 bits.
RGB = [(2, 8), (6, 8)]
INTEGERS = [(0, 1), (0, 8), (0, 16), (3, 1), (3, 2), (3, 4), (3, 8)]


@contextmanager
def open_label_map(path: Path, kinds: Sequence[tuple[int, int]]) -> Iterator[Image.Image]:
    """Open a label map, whose content must be PNG, whatever its name.

    Args:
        path: the file.
        kinds: the colour types and depths that are accepted, `RGB` or `INTEGERS`.

    Raises:
        UserError: naming the file, if it is missing, unreadable, above Pillow's limit of pixels, or of another kind.
    """
    with decoding(path, "label map", LABEL_FORMATS) as image:
        with open(path, "rb") as file:
            header = file.read(_HEADER.size)
        _check_kind(path, header, kinds, image)
        yield image


def _check_kind(path: Path, header: bytes, kinds: Sequence[tuple[int, int]], image: Image.Image) -> None:
    signature, _, chunk, *size, depth, colour = _HEADER.unpack(header.ljust(_HEADER.size))
    if signature != _SIGNATURE or chunk != b"IHDR" or tuple(size) != image.size:
        raise UserError(f"{path}: not a readable label map (its header is not a PNG's)")
    if (colour, depth) not in kinds:
        expected = "RGB (label = R + 256 * G)" if kinds is RGB else "a PNG of integers (8 or 16 bit, grey or palette)"
        bits = f" of {depth} bits" if depth != 8 and image.mode in ("RGB", "RGBA", "L", "LA") else ""
        raise UserError(f"label map {path}: mode {image.mode}{bits}, expected {expected}")

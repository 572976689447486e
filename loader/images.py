"""Images: decoding them, and the one set of transforms that turns them into a network's input."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

import torch
from PIL import Image, ImageOps
from torchvision.transforms import InterpolationMode, v2

import settings
from util.cli import UserError


class Sizes(Protocol):
    """What the transforms need to know of a data set."""

    @property
    def size(self) -> int:
        """Side of the square that the network sees, pixels."""

    @property
    def resize(self) -> int:
        """Shorter side before the centre crop of validation, pixels."""

    @property
    def crop_scale(self) -> tuple[float, float]:
        """Smallest and largest share of an image's area that a random training crop covers."""


def _normalized() -> list[v2.Transform]:
    return [v2.PILToTensor(), v2.ToDtype(torch.float32, scale=True), v2.Normalize(settings.MEAN, settings.STD)]


def train_transform(sizes: Sizes, half: bool = False) -> v2.Compose:
    """PIL -> (3, size, size): a random resized crop and a horizontal flip, normalised; `half`: of half the size."""
    crop = v2.RandomResizedCrop(sizes.size // 2 if half else sizes.size, scale=tuple(sizes.crop_scale))
    return v2.Compose([crop, v2.RandomHorizontalFlip(), *_normalized()])


def val_transform(sizes: Sizes) -> v2.Compose:
    """PIL -> (3, size, size): the shorter side to `resize` pixels, the centre cropped, normalised."""
    return v2.Compose([v2.Resize(sizes.resize), v2.CenterCrop(sizes.size), *_normalized()])


def explain_transform(sizes: Sizes) -> v2.Compose:
    """PIL -> (3, size, size): the whole image, squeezed to a square so that a heat map covers all of it."""
    return v2.Compose([v2.Resize((sizes.size, sizes.size), InterpolationMode.BILINEAR), *_normalized()])


def read_image(path: str | os.PathLike, upright: bool = False, enough: int | None = None) -> Image.Image:
    """Read an image of any mode as RGB.

    Args:
        path: the file.
        upright: apply its EXIF orientation.
        enough: a JPEG whose sides are more than twice this many pixels is decoded at a half, quarter or eighth of its
            size, which takes less memory accordingly.

    Raises:
        UserError: naming the file, if it is missing or not a readable image.
    """
    with open_image(path) as image:
        if enough:
            image.draft("RGB", (enough, enough))
        image = ImageOps.exif_transpose(image) if upright else image
        if image.mode.startswith("I"):  # 16 and 32 bit: to 8 bit by the range that 16-bit files use
            image = image.point(lambda value: value / 256).convert("L")
        elif image.mode in ("P", "LA", "PA", "RGBA"):  # transparency is shown on white
            image = image.convert("RGBA")
            image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
        return image.convert("RGB")


@contextmanager
def open_image(path: str | os.PathLike, kind: str = "image") -> Iterator[Image.Image]:
    """Open a file of pixels; `kind` names it in messages.

    Raises:
        UserError: naming the file, if it is missing, unreadable, or above Pillow's limit of pixels.
    """
    try:
        with Image.open(path) as image:
            yield image
    except UserError:
        raise
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        reason = "no such file" if isinstance(error, FileNotFoundError) else f"not a readable {kind} ({error})"
        raise UserError(f"{os.fspath(path)}: {reason}") from error


def image_size(path: str | os.PathLike) -> tuple[int, int]:
    """(height, width) in pixels, from the file's header. Raises UserError as `read_image`."""
    with open_image(path) as image:
        return image.height, image.width

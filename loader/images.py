"""Images: decoding them, and the one set of transforms that turns them into a network's input."""

import importlib.util
import os
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import Protocol

import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from torchvision.transforms import InterpolationMode, v2

import settings
from util.cli import Terminated, UserError
from util.files import regular_file

# The types of image files that are read, by extension, with Pillow's name of the format. A file's content may be of
# another of these formats than its name says, but of no other one: among the rest of what Pillow opens are formats
# that start programs (EPS: Ghostscript) and decoders that are hardly used or tested. JPEG 2000 is left out: data sets
# do not use it, and its decoder (OpenJPEG) has a long record of memory faults.
EXTENSIONS = {
    ".jpg": "JPEG",
    ".jpeg": "JPEG",
    ".png": "PNG",
    ".ppm": "PPM",
    ".bmp": "BMP",
    ".pgm": "PPM",
    ".tif": "TIFF",
    ".tiff": "TIFF",
    ".webp": "WEBP",
    ".gif": "GIF",
    ".jfif": "JPEG",
    ".pbm": "PPM",
    **({".avif": "AVIF"} if importlib.util.find_spec("PIL._avif") else {}),  # where Pillow was built with it
}
FORMATS = tuple(dict.fromkeys(EXTENSIONS.values()))
LABEL_FORMATS = ("PNG",)  # of label maps: a lossy format changes the numbers

MOST_BYTES = 1 << 30  # of a file; some decoders read all of it. Pillow's limit, 179 million pixels, takes less as PNG
MOST_SIDE = 65_535  # pixels, as of a JPEG: the rows of a narrower image take more memory than its pixels
MOST_ASPECT = 64  # of an image that is resized by its shorter side


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
    return v2.Compose([crop_extreme, v2.Resize(sizes.resize), v2.CenterCrop(sizes.size), *_normalized()])


def crop_extreme(image: Image.Image) -> Image.Image:
    """The middle of an image whose longer side is more than `MOST_ASPECT` times the shorter; others stay as they are.

    Resizing such an image by its shorter side would take gigabytes, of which a centre crop keeps a square.
    """
    most = MOST_ASPECT * min(image.size)
    if max(image.size) <= most:
        return image
    left, top = (max(0, (side - most) // 2) for side in image.size)
    return image.crop((left, top, min(image.width, left + most), min(image.height, top + most)))


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
    with decoding(path, "image", FORMATS) as image:
        if enough:
            image.draft("RGB", (enough, enough))
        return upright_rgb(image) if upright else _rgb(image)


def upright_rgb(image: Image.Image) -> Image.Image:
    """An image of any mode as RGB, by its EXIF orientation. Raises whatever Pillow does if it cannot be decoded."""
    return _rgb(ImageOps.exif_transpose(image))


def _rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I"):  # 16 and 32 bit: to 8 bit by the range that 16-bit files use
        image = image.point(lambda value: value / 256).convert("L")
    elif image.mode in ("P", "LA", "PA", "RGBA"):  # transparency is shown on white
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image.convert("RGB")


def open_image(path: str | os.PathLike, kind: str = "image", formats: Sequence[str] = FORMATS) -> Image.Image:
    """Read a file of pixels in its own mode; of an animation, the first frame.

    Args:
        path: the file.
        kind: names it in messages.
        formats: that it may have: Pillow's names, some of `FORMATS`.

    Returns:
        The image, decoded. It may be used as a context manager.

    Raises:
        UserError: naming the file, if it is missing, unreadable, not a regular file, or too large to be decoded.
    """
    with decoding(path, kind, formats) as image:
        image.load()
        return image


def image_size(path: str | os.PathLike) -> tuple[int, int]:
    """(height, width) in pixels, from the file's header. Raises UserError as `read_image`."""
    with decoding(path, "image", FORMATS) as image:
        return image.height, image.width


@contextmanager
def decoding(path: str | os.PathLike, kind: str, formats: Sequence[str]) -> Iterator[Image.Image]:
    """Open an image, and turn whatever its decoder raises within the block into an error that names the file.

    Decoders raise all kinds of exceptions on malformed files, so all are caught: only Pillow belongs in the block.
    Arguments and errors as of `open_image`.
    """
    regular_file(path, kind, MOST_BYTES)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # on metadata: what matters is raised
            with Image.open(path, formats=tuple(formats)) as image:
                if max(image.size) > MOST_SIDE or not min(image.size):
                    raise ValueError(f"{image.width} x {image.height} pixels, expected sides of 1 to {MOST_SIDE}")
                with _silenced_stderr() if image.format == "TIFF" else nullcontext():
                    yield image
    except (UserError, Terminated):  # by a signal's handler
        raise
    except Exception as error:
        reason = str(error) or type(error).__name__
        if isinstance(error, UnidentifiedImageError):
            reason += f", expected {', '.join(formats)}"
        raise UserError(f"{os.fspath(path)}: not a readable {kind} ({reason})") from error


@contextmanager
def _silenced_stderr() -> Iterator[None]:
    """Within the block nothing is written to the process's stderr: libtiff writes there beside what Pillow raises."""
    stderr, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 2)
        yield
    finally:
        os.dup2(stderr, 2)
        os.close(stderr)
        os.close(nowhere)

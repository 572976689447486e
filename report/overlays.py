"""Masks on images, and strips of images. Images are uint8 RGB arrays (H, W, 3)."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from util.files import atomic_write

JPEG_QUALITY = 88


def darken_outside(images: np.ndarray, masks: np.ndarray, divisor: int = 4) -> np.ndarray:
    """Images (T, H, W, 3), their values divided outside of bool masks (T, H, W): Network Dissection's way to show."""
    shown = images // divisor
    shown[masks] = images[masks]
    return shown


def write_strip(path: Path, tiles: Sequence[np.ndarray] | np.ndarray) -> None:
    """Write equal tiles (H, W, 3) side by side as a JPEG: a row of images, of which a page shows one at a time."""
    with atomic_write(path) as temporary:
        Image.fromarray(np.concatenate(tiles, axis=1)).save(temporary, quality=JPEG_QUALITY)

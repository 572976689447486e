"""Heat maps and masks on images. Images are uint8 RGB arrays (H, W, 3)."""

from collections.abc import Sequence
from pathlib import Path

import matplotlib
import numpy as np
import torch
from PIL import Image
from torch.nn import functional as F

from explain.images import Explanation
from explain.subjects import IMAGE_SIZE
from util.files import atomic_write

MOST_TILES = 65_500 // IMAGE_SIZE  # of a strip, with tiles of this size at most: a JPEG cannot be wider
JPEG_QUALITY = 88

_IMAGE_WEIGHT = 0.5
_HEAT_WEIGHT = 0.45
_YELLOW = (255, 220, 40)


def overlay_tiles(square: np.ndarray, explanation: Explanation) -> list[np.ndarray]:
    """An explained image and the heat maps of its listed units, each as strong as its vote.

    Args:
        square: (H, W, 3) uint8 the image.
        explanation: of the image.

    Returns:
        the image and R overlays, all (H, W, 3) uint8; the image alone if there are no maps.
    """
    if explanation.maps is None:
        return [square]
    percents = [unit["percent"] for unit in explanation.record["units"]]
    strongest = max(percents)
    strengths = [percent / strongest if strongest > 0 else 0.0 for percent in percents]
    return [square, *heat_overlays(square, explanation.maps, strengths)]


def heat_overlays(image: np.ndarray, maps: torch.Tensor, strengths: list[float]) -> list[np.ndarray]:
    """One image per unit: its map in the colours of `jet` over the darkened image.

    Each map is upsampled to the image and scaled from its minimum to its maximum; the authors' blend is
    0.5 * image + 0.45 * strength * jet(map).

    Args:
        image: (H, W, 3) uint8.
        maps: (U, h, w) the units' maps.
        strengths: U numbers, percent / largest percent; negative ones count as 0.
    """
    height, width, _ = image.shape
    overlays = []
    darkened, jet = _IMAGE_WEIGHT * image, matplotlib.colormaps["jet"](np.arange(256))[:, :3] * 255  # (256, 3)
    for heat, strength in zip(_enlarged(maps, height, width), strengths, strict=True):
        spread = heat.max() - heat.min()
        scaled = (heat - heat.min()) / spread if spread > 0 else np.zeros_like(heat)
        heats = _HEAT_WEIGHT * max(0.0, strength) * jet  # (256, 3)
        blend = darkened + heats[np.minimum((scaled * 256).astype(np.uint16), 255)]
        overlays.append(blend.round().clip(0, 255).astype(np.uint8))
    return overlays


def _enlarged(maps: torch.Tensor, height: int, width: int) -> np.ndarray:
    """Maps (R, h, w) -> (R, height, width): bilinear, half-pixel centres."""
    return F.interpolate(maps[None], size=(height, width), mode="bilinear", align_corners=False)[0].numpy()


def darken_outside(images: np.ndarray, masks: np.ndarray) -> np.ndarray:
    """Images (T, H, W, 3), a quarter as bright outside of bool masks (T, H, W): Network Dissection's way to show."""
    shown = images // 4
    shown[masks] = images[masks]
    return shown


def outline(images: np.ndarray, masks: np.ndarray) -> np.ndarray:
    """Images (T, H, W, 3) with a yellow line, two pixels wide, along the edges of bool masks (T, H, W)."""
    edges = np.zeros_like(masks)
    for axis in (1, 2):  # pixels whose neighbour is on the other side
        pixels, own = np.moveaxis(edges, axis, 0), np.moveaxis(masks, axis, 0)
        differ = own[1:] != own[:-1]
        pixels[1:] |= differ
        pixels[:-1] |= differ
    drawn = images.copy()
    drawn[edges] = _YELLOW
    return drawn


def write_strip(path: Path, tiles: Sequence[np.ndarray] | np.ndarray) -> None:
    """Write equal tiles (H, W, 3) side by side as a JPEG: a row of images, of which a page shows one at a time."""
    with atomic_write(path) as temporary:
        Image.fromarray(np.concatenate(tiles, axis=1)).save(temporary, quality=JPEG_QUALITY)

"""Heat maps and masks on pictures. Pictures are uint8 RGB arrays (H, W, 3)."""

from collections.abc import Sequence
from pathlib import Path

import matplotlib
import numpy as np
import torch
from PIL import Image
from torch.nn import functional as F

from files import whole_file

PICTURE_SIZE = 224  # side of an explained picture, pixels
MOST_TILES = 65_500 // PICTURE_SIZE  # of a strip, with tiles of this size at most: a JPEG cannot be wider
JPEG_QUALITY = 88

_PICTURE_WEIGHT = 0.5
_HEAT_WEIGHT = 0.45
_YELLOW = (255, 220, 40)


def upsample(maps: torch.Tensor, height: int, width: int) -> torch.Tensor:
    """Maps (U, h, w) -> (U, height, width): bilinear, half-pixel centres."""
    if not len(maps):  # interpolate refuses
        return maps.new_empty(0, height, width)
    return F.interpolate(maps[None], size=(height, width), mode="bilinear", align_corners=False)[0]


def heat_overlays(picture: np.ndarray, maps: torch.Tensor, strengths: list[float]) -> list[np.ndarray]:
    """One picture per unit: its map in the colours of `jet` over the darkened picture.

    Each map is upsampled to the picture and scaled from its minimum to its maximum; the authors' blend is
    0.5 * picture + 0.45 * strength * jet(map).

    Args:
        picture: (H, W, 3) uint8.
        maps: (U, h, w) the units' maps.
        strengths: U numbers, percent / largest percent; negative ones count as 0.
    """
    height, width, _ = picture.shape
    overlays = []
    for heat, strength in zip(upsample(maps, height, width).numpy(), strengths, strict=True):
        spread = heat.max() - heat.min()
        scaled = (heat - heat.min()) / spread if spread > 0 else np.zeros_like(heat)
        jet = matplotlib.colormaps["jet"](scaled)[..., :3] * 255  # (H, W, 3)
        blend = _PICTURE_WEIGHT * picture + _HEAT_WEIGHT * max(0.0, strength) * jet
        overlays.append(blend.round().clip(0, 255).astype(np.uint8))
    return overlays


def darken_outside(pictures: np.ndarray, masks: np.ndarray) -> np.ndarray:
    """Pictures (T, H, W, 3), a quarter as bright outside of bool masks (T, H, W): Network Dissection's way to show."""
    shown = pictures // 4
    shown[masks] = pictures[masks]
    return shown


def outline(pictures: np.ndarray, masks: np.ndarray) -> np.ndarray:
    """Pictures (T, H, W, 3) with a yellow line, two pixels wide, along the edges of bool masks (T, H, W)."""
    edges = np.zeros_like(masks)
    for axis in (1, 2):  # pixels whose neighbour is on the other side
        pixels, own = np.moveaxis(edges, axis, 0), np.moveaxis(masks, axis, 0)
        differ = own[1:] != own[:-1]
        pixels[1:] |= differ
        pixels[:-1] |= differ
    drawn = pictures.copy()
    drawn[edges] = _YELLOW
    return drawn


def write_strip(path: Path, tiles: Sequence[np.ndarray] | np.ndarray) -> None:
    """Write equal tiles (H, W, 3) side by side as a JPEG: a row of pictures, of which a page shows one at a time."""
    with whole_file(path) as temporary:
        Image.fromarray(np.concatenate(tiles, axis=1)).save(temporary, quality=JPEG_QUALITY)

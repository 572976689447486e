"""The masks of units: where their upsampled maps exceed their thresholds (Bau et al. 2017, section 2.3)."""

from torch import Tensor
from torch.nn import functional as F


def upsample(maps: Tensor, height: int, width: int) -> Tensor:
    """Maps (u, h, w) -> (u, height, width): bilinear, half-pixel centres."""
    if not len(maps):  # interpolate refuses
        return maps.new_empty(0, height, width)
    return F.interpolate(maps[None], size=(height, width), mode="bilinear", align_corners=False)[0]


def unit_masks(maps: Tensor, limits: Tensor, height: int, width: int) -> Tensor:
    """The masks of u units in one image.

    Args:
        maps: (u, h, w) float32.
        limits: (u,) float32, the units' thresholds.
        height: of the masks, pixels.
        width: of the masks, pixels.

    Returns:
        (u, height, width) bool: whether the upsampled map is greater than the limit, strictly.
    """
    return upsample(maps, height, width) > limits[:, None, None]

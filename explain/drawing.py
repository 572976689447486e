"""Drawing explained images: heat maps on them, and a figure. Images are uint8 RGB arrays (H, W, 3)."""

from collections.abc import Sequence

import matplotlib
import numpy as np
import torch
from matplotlib.figure import Figure
from torch.nn import functional as F

from explain.images import Answer
from explain.naming import class_name, unit_title
from explain.records import ExplanationRecord, UnitVote
from explain.terms import terms_of
from util.text import printable

_IMAGE_WEIGHT = 0.5
_HEAT_WEIGHT = 0.45
MOST_UNITS = 12  # of an image in a figure: nobody reads more, and drawing hundreds takes minutes


def overlay_tiles(square: np.ndarray, answer: Answer) -> list[np.ndarray]:
    """An explained image and the heat maps of its listed units, each as strong as its vote.

    Args:
        square: (H, W, 3) uint8 the image.
        answer: to it.

    Returns:
        the image and R overlays, all (H, W, 3) uint8; the image alone if there are no maps.
    """
    if answer.maps is None:
        return [square]
    percents = [unit["percent"] for unit in answer.record["units"]]
    strongest = max(percents)
    strengths = [percent / strongest if strongest > 0 else 0.0 for percent in percents]
    return [square, *heat_overlays(square, answer.maps, strengths)]


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
    for heat, strength in zip(enlarged(maps, height, width), strengths, strict=True):
        spread = heat.max() - heat.min()
        scaled = (heat - heat.min()) / spread if spread > 0 else np.zeros_like(heat)
        heats = _HEAT_WEIGHT * max(0.0, strength) * jet  # (256, 3)
        blend = darkened + heats[np.minimum((scaled * 256).astype(np.uint16), 255)]
        overlays.append(blend.round().clip(0, 255).astype(np.uint8))
    return overlays


def enlarged(maps: torch.Tensor, height: int, width: int) -> np.ndarray:
    """Maps (R, h, w) -> (R, height, width): bilinear, half-pixel centres."""
    return F.interpolate(maps[None], size=(height, width), mode="bilinear", align_corners=False)[0].numpy()


def draw_images(explained: Sequence[tuple[ExplanationRecord, Sequence[np.ndarray]]], across: bool = False) -> Figure:
    """Images side by side, above each the equation of its score, below it the overlays of its first 12 units at most.

    Args:
        explained: usually four explained images, each with its tiles, as of `overlay_tiles`.
        across: the overlays beside their image, and the images one below the other.
    """
    rows, columns = max(len(tiles[: 1 + MOST_UNITS]) for _, tiles in explained), len(explained)
    shape = (columns, rows) if across else (rows, columns)
    figure = Figure(figsize=(2.5 * shape[1] + 0.2, 2.75 * shape[0]), layout="constrained", dpi=150)
    axes = figure.subplots(*shape, squeeze=False)
    axes = axes.T if across else axes  # (rows, columns)
    for axis in axes.flat:
        axis.set_axis_off()
    for column, (record, tiles) in enumerate(explained):
        axes[0, column].imshow(tiles[0])
        axes[0, column].set_title(equation(record), fontsize=8.5, parse_math=False)
        for row, (unit, tile) in enumerate(zip(record["units"][: rows - 1], tiles[1:rows], strict=True), start=1):
            axes[row, column].imshow(tile)
            axes[row, column].set_title(_unit_title(unit), fontsize=8, parse_math=False)
    return figure


def equation(record: ExplanationRecord) -> str:
    """Two lines: what is explained, and its score as a sum."""
    total = " ".join(f"{value:+.2f}" for value in terms_of(record).values).removeprefix("+")
    return f"{printable(class_name(record['explained_name']))}  {record['logit']:.2f}\n= {total}"


def _unit_title(unit: UnitVote) -> str:
    part = f"{unit['vote']:+.2f}, {unit['share']:.0f} % of the chosen" if unit["active"] else "not chosen"
    return f"{printable(unit_title(unit))}\n{part}"

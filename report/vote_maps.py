"""Vote maps: how much each position of an image adds to a unit's vote, drawn on the image, on one scale for a card.

Per position it is W_cu * A_u / (h * w), so that a map sums to its vote where the head's input is the mean of the map
(`explain.images.Answer.vote_maps`). Images are uint8 RGB arrays (S, S, 3).
"""

from collections.abc import Sequence

import matplotlib
import numpy as np
from PIL import Image, ImageDraw
from skimage.measure import find_contours
from torch import Tensor
from torch.nn import functional as F

from explain.drawing import enlarged
from explain.images import Answer
from explain.records import MapScale

# Perceptually uniform, and told apart by colour-blind readers: votes for the class; and where some are against it.
PALETTES = {"votes": "viridis", "signed": "PuOr"}
_STOPS = 9  # of a legend's gradient
_COLOUR, _GREY = 0.68, 0.32  # shares of a position's colour and of the image in grey below it
_LUMA = np.array([0.299, 0.587, 0.114])
_LINE, _EDGE = (255, 255, 255), (0, 0, 0)
_THICK = 2 / 224  # of a line, for an image of width 1
_FINER = 2  # contours are drawn at so many times the size, and shrunk: smooth lines


def vote_tiles(square: np.ndarray, answer: Answer, limits: Sequence[float | None]) -> list[np.ndarray]:
    """An explained image and the vote maps of its listed units.

    Args:
        square: (S, S, 3) uint8 the image.
        answer: to it.
        limits: R thresholds, above which a line is drawn around a unit's activation; None: no line.

    Returns:
        the image and R maps, all (S, S, 3) uint8; the image alone if there are no maps.
    """
    scale = answer.record["map_scale"]
    if scale is None or answer.maps is None or answer.vote_maps is None:
        return [square]
    side = square.shape[0]
    tiles = [_coloured(square, smooth, scale) for smooth in _smooth(answer.vote_maps, side)]
    maps = enlarged(answer.maps, side, side)
    drawn = [
        tile if limit is None else draw_contours(tile, contours(map_, limit))
        for tile, map_, limit in zip(tiles, maps, limits, strict=True)
    ]
    return [square, *drawn]


def contours(map_: np.ndarray, limit: float) -> list[np.ndarray]:
    """The lines along which a map (h, w) crosses a limit, each (P, 2) rows and columns; open where it leaves the map.

    (Marching squares: Lorensen and Cline 1987, as in scikit-image.)
    """
    return find_contours(map_, limit) if min(map_.shape) > 1 else []


def draw_contours(image: np.ndarray, lines: Sequence[np.ndarray]) -> np.ndarray:
    """An image (H, W, 3) with lines (P, 2), white with a black edge, so that they show on any ground."""
    if not lines:
        return image
    height, width = image.shape[:2]
    size = (width * _FINER, height * _FINER)
    drawn = Image.fromarray(image)
    for colour, thick in ((_EDGE, _THICK * 2), (_LINE, _THICK)):
        mask = Image.new("L", size)
        pen = ImageDraw.Draw(mask)
        for line in lines:
            points = [((x + 0.5) * _FINER, (y + 0.5) * _FINER) for y, x in line]
            pen.line(points, 255, max(1, round(thick * width * _FINER)), "curve")
        drawn.paste(colour, mask=mask.resize((width, height), Image.Resampling.BOX))
    return np.asarray(drawn)


def gradient(palette: str) -> str:
    """A palette as the colour stops of a CSS gradient, from its lowest value to its highest."""
    colours = matplotlib.colormaps[PALETTES[palette]](np.linspace(0, 1, _STOPS))
    return ", ".join(matplotlib.colors.to_hex(colour) for colour in colours)


def _coloured(square: np.ndarray, values: np.ndarray, scale: MapScale) -> np.ndarray:
    """Values (S, S) in the scale's colours, on the image in grey."""
    share = values / scale["largest"] if scale["largest"] > 0 else np.zeros_like(values)
    place = (share + 1) / 2 if scale["palette"] == "signed" else share
    colours = matplotlib.colormaps[PALETTES[scale["palette"]]](place)[..., :3] * 255
    grey = (square @ _LUMA)[..., None]
    return (_COLOUR * colours + _GREY * grey).round().clip(0, 255).astype(np.uint8)


def _smooth(maps: Tensor, side: int) -> np.ndarray:
    """Maps (R, h, w) -> (R, side, side): bicubic, but never beyond a map's own least and greatest value."""
    low, high = maps.amin((1, 2), keepdim=True), maps.amax((1, 2), keepdim=True)
    large = F.interpolate(maps[None], size=(side, side), mode="bicubic", align_corners=False)[0]
    return large.clamp(low, high).numpy()

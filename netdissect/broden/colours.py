"""Naming the colours of photographs: a pixel gets the basic colour term whose prototype is nearest in CIE L*a*b*."""

from functools import lru_cache

import numpy as np
from matplotlib.colors import XKCD_COLORS, to_rgb
from PIL import Image
from scipy.spatial import cKDTree

from util.cielab import lab

CATEGORY = "color"  # as Broden spells it
# The basic colour terms of English: Berlin & Kay, Basic Color Terms, 1969.
NAMES = ("black", "blue", "brown", "green", "grey", "orange", "pink", "purple", "red", "white", "yellow")


def resize_mean(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Resize (H, W, 3) to (h, w, 3) float32: each pixel is the mean of those that it covers, without rounding."""
    channels = (Image.fromarray(image[..., channel].astype(np.float32)) for channel in range(3))
    return np.stack([np.asarray(channel.resize(size[::-1], Image.Resampling.BOX)) for channel in channels], axis=-1)


def name_colours(image: np.ndarray) -> np.ndarray:
    """Name the colours of an image.

    Args:
        image: (H, W, 3) sRGB, 0 to 255.

    Returns:
        (H, W) uint8: c stands for the c-th of `NAMES`, from 1.
    """
    tree, owners = _prototypes()
    _, nearest = tree.query(lab(image / 255))  # (H, W)
    return owners[nearest]


@lru_cache(maxsize=1)
def _prototypes() -> tuple[cKDTree, np.ndarray]:
    """The prototypes (P, 3) in L*a*b*, and for each the code of its name (P,).

    They are the 558 colours of xkcd's colour survey (R. Munroe, 2010, xkcd.com/color/rgb.txt, CC0) whose names end in a
    basic term: `sky blue` and `dark blue` are prototypes of blue. Each is the colour that people most often called so,
    of millions that they named on their own screens; matplotlib comes with the table. With one prototype for each term,
    the survey's or CSS's, nearly no pixel of a photograph is blue, and grass is grey and brown.
    """
    terms = {name.removeprefix("xkcd:"): colour for name, colour in XKCD_COLORS.items()}
    ends = {name: name.split()[-1] for name in terms}
    kept = [name for name in terms if ends[name] in NAMES]
    rgb = np.array([to_rgb(terms[name]) for name in kept])
    return cKDTree(lab(rgb)), np.array([NAMES.index(ends[name]) + 1 for name in kept], np.uint8)

"""Naming of colours: every pixel gets the basic colour whose prototype is nearest in CIE L*a*b*."""

from functools import lru_cache

import numpy as np

from scenes.concepts import COLOURS
from scenes.palette import family
from util.cielab import lab

_STEPS = 32
_PROTOTYPES = {
    "black": ("0c0c0e", "1c1c22"),
    "blue": ("1f3fa8", "4f8fd6", "2a5f9a", "14224a", "8fc0ea", "3f8fa6"),
    "brown": ("6b4226", "8a5a34", "4a3020", "a37848"),
    "green": ("2f7a2f", "5fa040", "2a4a2a", "8fb050", "4a6a3a"),
    "grey": ("4a4b4e", "7f8084", "a8a9ac", "62666c"),
    "orange": ("e8822a", "f0a050", "c8641e"),
    "pink": ("f0a0b8", "d87898", "e8b8b8"),
    "purple": ("6a3a8a", "8a6aa0", "4a2f5a", "a890c0"),
    "red": ("c02a2a", "e04a3a", "8a2020", "a84838"),
    "white": ("f6f6f6", "e4e6e8", "f2eee2"),
    "yellow": ("f0d830", "e8c850", "d8b83a", "f0e090"),
}


def name_colours(image: np.ndarray) -> np.ndarray:
    """Map a (..., 3) uint8 RGB image to uint8 codes: c stands for the c-th name (from 1) of `concepts.COLOURS`."""
    at = image // (256 // _STEPS)
    return _table()[at[..., 0], at[..., 1], at[..., 2]]


@lru_cache(maxsize=1)
def _table() -> np.ndarray:
    """Return the code of every colour on a coarse RGB cube."""
    levels = (np.arange(_STEPS) + 0.5) / _STEPS
    cube = np.stack(np.meshgrid(levels, levels, levels, indexing="ij"), axis=-1)
    owners = [code for code, name in enumerate(COLOURS, 1) for _ in _PROTOTYPES[name]]
    prototypes = lab(np.concatenate([family(*_PROTOTYPES[name]) for name in COLOURS]))
    distances = ((lab(cube)[..., None, :] - prototypes) ** 2).sum(axis=-1)
    return np.array(owners, np.uint8)[distances.argmin(axis=-1)]

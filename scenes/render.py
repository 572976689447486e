"""Rendering one scene from its class and a seed."""

import zlib
from dataclasses import dataclass

import numpy as np

from scenes.compositions import COMPOSITIONS
from scenes.concepts import LAYERS, unpack
from scenes.finish import develop


@dataclass(frozen=True)
class Scene:
    """A rendered scene.

    Attributes:
        class_name: the scene's class.
        image: (size, size, 3) uint8 image.
        labels: layer name (object, part, material, texture) to a (size, size) uint8 map; 0 means no label, and
            code c means the c-th name (from 1) of `concepts.LAYERS[layer]`.
    """

    class_name: str
    image: np.ndarray
    labels: dict[str, np.ndarray]


def render(class_name: str, seed: int, size: int = 224) -> Scene:
    """Render the scene of a class and a seed, `size` (at most 512) pixels a side.

    The same arguments give the same pixels.
    """
    rng = np.random.default_rng((seed, zlib.crc32(class_name.encode())))
    canvas = COMPOSITIONS[class_name](size, rng)
    image, codes = develop(canvas), canvas.codes
    if rng.random() < 0.5:
        image, codes = np.ascontiguousarray(image[:, ::-1]), np.ascontiguousarray(codes[:, ::-1])
    return Scene(class_name, image, {layer: unpack(codes, layer) for layer in LAYERS})

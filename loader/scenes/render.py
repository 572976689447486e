"""Rendering of one scene from its class and a seed."""

import zlib
from dataclasses import dataclass

import numpy as np

from loader.scenes import indoors, outdoors
from loader.scenes.concepts import LAYERS, unpack
from loader.scenes.finish import develop

COMPOSITIONS = {**outdoors.COMPOSITIONS, **indoors.COMPOSITIONS}


@dataclass(frozen=True)
class Scene:
    """A rendered scene.

    Attributes:
        class_name: what the scene is.
        image: (size, size, 3) uint8 picture.
        labels: layer name (object, part, material, texture) to a (size, size) uint8 map; 0 means no label, and
            code c means the c-th name (from 1) of ``concepts.LAYERS[layer]``.
    """

    class_name: str
    image: np.ndarray
    labels: dict[str, np.ndarray]


def render(class_name: str, seed: int, size: int = 224) -> Scene:
    """Render the scene that a class and a seed determine, ``size`` (at most 512) pixels a side."""
    rng = np.random.default_rng((seed, zlib.crc32(class_name.encode())))
    canvas = COMPOSITIONS[class_name](size, rng)
    image, codes = develop(canvas), canvas.codes
    if rng.random() < 0.5:
        image, codes = np.ascontiguousarray(image[:, ::-1]), np.ascontiguousarray(codes[:, ::-1])
    return Scene(class_name, image, {layer: unpack(codes, layer) for layer in LAYERS})

"""The canvas: an image together with one packed layer of labels.

Painting a shape writes its colour and, where it covers more than half of a pixel, replaces all labels of the pixel by
those of the shape. Light effects (shadows, glow) change colours only.
"""

from dataclasses import dataclass
from functools import cache

import numpy as np
from PIL import Image, ImageDraw

from scenes import noise
from scenes.camera import Camera, clip_polygon
from scenes.concepts import pack
from scenes.palette import Light
from scenes.skins import Skin

_FINE, _COARSE, _LARGE = 4, 2, 90  # supersampling of small and large shapes; above how many pixels one is large
_BEYOND = 1e5  # distance in metres assigned to a plane that a ray never meets
_REACH = 4.0  # how far shapes may reach beyond the image, in image widths

Metres = float | np.floating | np.ndarray  # of one thing, or of each pixel


@dataclass
class Mask:
    """The part of an image that a shape covers: `alpha` (h, w) float32 in 0..1 at rows and columns `box`."""

    box: tuple[slice, slice]
    alpha: np.ndarray


@dataclass(frozen=True)
class Plane:
    """The plane `axis` = `value` in metres (axis 0, 1, 2 for X, Y, Z) that a flat surface lies in."""

    axis: int
    value: float


class Canvas:
    """A square image seen through a camera, under a light.

    Attributes:
        size: side of the image in pixels.
        rgb: (size, size, 3) float32 colours, nominally in 0..1.
        codes: (size, size) uint32 packed labels, see `concepts`.
        camera, light, rng: viewpoint, light and source of randomness for everything drawn.
    """

    def __init__(self, size: int, camera: Camera, light: Light, rng: np.random.Generator):
        """Make an empty canvas of `size` pixels a side."""
        self.size = size
        self.camera = camera
        self.light = light
        self.rng = rng
        self.rgb = np.zeros((size, size, 3), np.float32)
        self.codes = np.zeros((size, size), np.uint32)
        self.rays = camera.rays(size)

    def mask(self, *polygons: np.ndarray) -> Mask | None:
        """Rasterise the union of (n, 2) image polygons with soft edges; None if it is out of view."""
        scaled = [_within_reach(polygon) * self.size for polygon in polygons]
        scaled = [polygon for polygon in scaled if len(polygon) > 2]
        if not scaled:
            return None
        corners = scaled[0] if len(scaled) == 1 else np.concatenate(scaled)
        left, top = np.clip(np.floor(corners.min(axis=0)), 0, self.size).astype(int).tolist()
        right, bottom = np.clip(np.ceil(corners.max(axis=0)), 0, self.size).astype(int).tolist()
        if right <= left or bottom <= top:
            return None
        factor = _COARSE if max(right - left, bottom - top) > _LARGE else _FINE
        image = Image.new("L", ((right - left) * factor, (bottom - top) * factor))
        draw = ImageDraw.Draw(image)
        for polygon in scaled:
            outline = (polygon - (left, top)) * factor - 0.5
            draw.polygon(outline.ravel().tolist(), fill=255)
        alpha = np.asarray(image.reduce(factor), np.float32) * np.float32(1 / 255)
        return Mask((slice(top, bottom), slice(left, right)), alpha)

    def coordinates(self, plane: Plane, box: tuple[slice, slice]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return where the pixels of a box see a plane: two coordinates in the plane and the distance, in metres."""
        eye = (0.0, self.camera.height, 0.0)
        rays = [ray[box] for ray in self.rays]
        along = rays[plane.axis]
        along = np.where(np.abs(along) < 1e-4, np.float32(1e-4), along)
        distance = (plane.value - eye[plane.axis]) / along
        distance = np.where(distance < 0.0, _BEYOND, np.minimum(distance, _BEYOND)).astype(np.float32)
        first, second = ((2, 1), (0, 2), (0, 1))[plane.axis]
        return rays[first] * distance + eye[first], rays[second] * distance + eye[second], distance

    def paint(self, mask: Mask | None, skin: Skin, plane: Plane, item: str | None, part: str | None = None) -> None:
        """Paint a surface that lies in `plane` and label it as (a part of) the object `item`."""
        if mask is None:
            return
        colour = self._shaded(mask, skin, plane)
        region = self.rgb[mask.box]
        region += mask.alpha[..., None] * (colour - region)
        texture = skin.pattern.texture if skin.pattern else None
        code = pack(object=item, part=part, material=skin.material, texture=texture)
        np.copyto(self.codes[mask.box], np.uint32(code), where=mask.alpha > 0.5)

    def paint_field(self, mask: Mask | None, colours: np.ndarray, item: str, material: str) -> None:
        """Paint the colours (size, size, 3) or (h, w, 3) of a whole field, such as the sea, inside a mask."""
        if mask is None:
            return
        region = self.rgb[mask.box]
        region += mask.alpha[..., None] * (colours - region)
        np.copyto(self.codes[mask.box], np.uint32(pack(object=item, material=material)), where=mask.alpha > 0.5)

    def darken(self, mask: Mask | None, strength: float) -> None:
        """Multiply the colours under a mask by 1 - `strength`."""
        if mask is not None:
            self.rgb[mask.box] *= 1.0 - np.float32(strength) * mask.alpha[..., None]

    def brighten(self, mask: Mask | None, colour: np.ndarray, strength: float) -> None:
        """Add light of a colour under a mask."""
        if mask is not None:
            region = self.rgb[mask.box]
            region += mask.alpha[..., None] * (colour * np.float32(strength)) * (1.15 - np.minimum(region, 1.0))

    def spot(self, x: float, y: float, rx: float, ry: float, power: float = 1.0) -> Mask | None:
        """Make a mask of a soft ellipse around an image point, with radii in image widths."""
        size = self.size
        left, right = (int(min(max(edge * size, 0), size)) for edge in (x - rx, x + rx + 1.0 / size))
        top, bottom = (int(min(max(edge * size, 0), size)) for edge in (y - ry, y + ry + 1.0 / size))
        if right <= left or bottom <= top:
            return None
        across = ((np.arange(left, right, dtype=np.float32) + 0.5) / size - x) / rx
        down = ((np.arange(top, bottom, dtype=np.float32) + 0.5) / size - y) / ry
        alpha = np.maximum(1.0 - (across * across)[None, :] - (down * down)[:, None], 0.0)
        return Mask((slice(top, bottom), slice(left, right)), alpha if power == 1.0 else alpha**power)

    def haze_share(self, distance: Metres) -> Metres:
        """Return how much of a thing at `distance` metres the air hides, in 0..1."""
        return 1.0 - np.exp(distance * np.float32(-1.0 / self.light.visibility))

    def in_air(self, colour: np.ndarray, distance: Metres) -> np.ndarray:
        """Blend lit colours (..., 3) with the haze at `distance` metres (a number or an array over the pixels)."""
        share = self.haze_share(distance)
        share = share[..., None] if isinstance(share, np.ndarray) and share.ndim else share
        return colour + (self.light.haze - colour) * share

    def _shaded(self, mask: Mask, skin: Skin, plane: Plane) -> np.ndarray:
        """Return the colour of a surface over a mask's box: pattern, shading, grain, light and air."""
        height, width = mask.alpha.shape
        ambient = self.light.ambient + (1.0 - self.light.ambient) * np.float32(skin.glow)
        base = skin.colour * ambient
        slope = np.float32(skin.shade * self.light.side)
        factor = (1.0 + slope * _ramp(width))[None, :] - (np.float32(0.5 * skin.shade) * _ramp(height))[:, None]
        if skin.grain:
            factor += np.float32(skin.grain) * noise.crop(skin.noise, self.rng, (height, width))
        distance: Metres = plane.value
        if skin.pattern is not None or plane.axis != 2:
            u, v, distance = self.coordinates(plane, mask.box)
        if skin.pattern is None:
            colour = factor[..., None] * base
        else:
            second = skin.pattern.colour * ambient
            colour = factor[..., None] * (base + skin.pattern.weight(u, v)[..., None] * (second - base))
        return self.in_air(colour, distance)


@cache
def _ramp(length: int) -> np.ndarray:
    """Return values that rise evenly from -1 to 1."""
    return np.linspace(-1.0, 1.0, length, dtype=np.float32)


def _within_reach(polygon: np.ndarray) -> np.ndarray:
    """Cut away what lies so far outside the image that it would overflow the rasteriser."""
    if len(polygon) == 0 or np.abs(polygon).max() < _REACH:
        return polygon
    for axis in (0, 1):
        for sign in (1.0, -1.0):
            polygon = clip_polygon(polygon, _REACH - sign * polygon[:, axis])
            if len(polygon) == 0:
                return polygon
    return polygon

"""A pen draws one object at a place in the world, in metres relative to the object's base."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import ArrayLike

from scenes.canvas import Canvas, Mask, Plane
from scenes.palette import Light
from scenes.skins import Skin

_TURN = np.linspace(0.0, 2.0 * np.pi, 25)[:-1]
_CIRCLE = np.stack([np.cos(_TURN), np.sin(_TURN)], axis=1)
_SMALL_CIRCLE = _CIRCLE[::2]

Point = tuple[float, float]  # two of X, Y and Z in metres
Range = tuple[float, float]  # from, to


@dataclass(frozen=True)
class Size:
    """Outer dimensions of a thing in metres; the height of a house is that of its eaves."""

    width: float
    depth: float
    height: float


def disc(x: float, y: float, rx: float, ry: float | None = None) -> np.ndarray:
    """Return an ellipse as an (n, 2) polygon."""
    return _SMALL_CIRCLE * (rx, rx if ry is None else ry) + (x, y)


def rectangle(x0: float, x1: float, y0: float, y1: float) -> np.ndarray:
    """Return an upright rectangle as a (4, 2) polygon."""
    return np.array([(x0, y0), (x1, y0), (x1, y1), (x0, y1)])


def bar(x0: float, y0: float, x1: float, y1: float, width: float, end_width: float | None = None) -> np.ndarray:
    """Return a straight bar between two points, possibly tapering, as a (4, 2) polygon."""
    return strut(np.array([x0, y0]), np.array([x1, y1]), width, end_width)


def strut(one: np.ndarray, other: np.ndarray, width: float, end_width: float | None = None) -> np.ndarray:
    """Return a `bar` between two points, (2,) each."""
    along = other - one
    normal = np.array([-along[1], along[0]]) / max(float(np.hypot(*along)), 1e-6) * 0.5
    start, end = normal * width, normal * (width if end_width is None else end_width)
    return np.array([one + start, other + end, other - end, one - start])


@dataclass(frozen=True)
class Pen:
    """Draws the shapes of one object.

    Attributes:
        canvas: where to draw.
        item: name of the object, written as a label with every shape.
        x, z, y: world position of the object's base in metres.
        scale: factor on all lengths.
    """

    canvas: Canvas
    item: str | None
    x: float
    z: float
    y: float = 0.0
    scale: float = 1.0

    @cached_property
    def origin(self) -> np.ndarray:
        """The world position (X, Y, Z) of the object's base in metres."""
        return np.array([self.x, self.y, self.z])

    @property
    def rng(self) -> np.random.Generator:
        """The canvas's source of randomness."""
        return self.canvas.rng

    @property
    def light(self) -> Light:
        """The canvas's light."""
        return self.canvas.light

    def moved(self, x: float = 0.0, y: float = 0.0, z: float = 0.0, item: str | None = None) -> "Pen":
        """Return a pen at an offset, for another object or the same."""
        place = self.origin + np.array([x, y, z]) * self.scale
        return Pen(self.canvas, item or self.item, place[0], place[2], place[1], self.scale)

    def draw(self, skin: Skin, *shapes: np.ndarray, part: str | None = None, dz: float = 0.0) -> None:
        """Paint the union of (n, 2) shapes that face the viewer, `dz` metres behind the base."""
        depth = float(self.origin[2] + dz * self.scale)
        self.canvas.paint(self.outline(*shapes, dz=dz), skin, Plane(2, depth), self.item, part)

    def outline(self, *shapes: np.ndarray, dz: float = 0.0) -> Mask | None:
        """Return the mask of shapes that face the viewer."""
        ends = np.cumsum([len(shape) for shape in shapes])
        points = np.concatenate(shapes)
        placed = self._project(points[:, 0], points[:, 1], np.full(len(points), dz))
        if len(placed) != len(points):
            return None
        return self.canvas.mask(*np.split(placed, ends[:-1]))

    def pixels(self, length: float) -> float:
        """Return how many pixels, roughly, a length in metres takes at the base."""
        canvas = self.canvas
        return length * self.scale * canvas.camera.focal / max(float(self.origin[2]), 0.5) * canvas.size

    def level(self, skin: Skin, shape: np.ndarray, height: float = 0.0, part: str | None = None) -> None:
        """Paint a horizontal (n, 2) shape in X and Z, `height` metres above the base."""
        mask = self.canvas.mask(self._project(shape[:, 0], np.full(len(shape), height), shape[:, 1]))
        self.canvas.paint(mask, skin, Plane(1, float(self.origin[1] + height * self.scale)), self.item, part)

    def side(self, skin: Skin, at: float, *shapes: np.ndarray, part: str | None = None) -> None:
        """Paint upright (n, 2) shapes in Z and Y that face sideways, `at` metres to the right of the base."""
        placed = [self._project(np.full(len(shape), at), shape[:, 1], shape[:, 0]) for shape in shapes]
        plane = Plane(0, float(self.origin[0] + at * self.scale))
        self.canvas.paint(self.canvas.mask(*placed), skin, plane, self.item, part)

    def slab(self, skin: Skin, *polygons: ArrayLike, part: str | None = None) -> None:
        """Paint slanted (n, 3) polygons; their pattern is laid as if they faced the viewer."""
        faces = [np.asarray(polygon, float) for polygon in polygons]
        mask = self.canvas.mask(*(self._project(*face.T) for face in faces))
        depth = float(self.origin[2] + faces[0][:, 2].mean() * self.scale)
        self.canvas.paint(mask, skin, Plane(2, max(depth, 0.1)), self.item, part)

    # The three ranges make seven parameters; one object for them would only lengthen every call.
    def box(self, skin: Skin, x: Range, y: Range, z: Range, part: str | None = None, top: Skin | None = None) -> None:
        """Paint the visible faces of a box, given by its ranges of X, Y and Z relative to the base."""
        (x0, x1), (y0, y1), (z0, z1) = x, y, z
        left, right = self.origin[0] + x0 * self.scale, self.origin[0] + x1 * self.scale
        if left > 0.0 or right < 0.0:
            turned = -1 if left > 0.0 else 1
            lit = 0.92 if turned == self.light.side else 0.70
            self.side(skin.times(lit), x0 if left > 0.0 else x1, rectangle(z0, z1, y0, y1), part=part)
        if self.origin[1] + y1 * self.scale < self.canvas.camera.height:
            self.level((top or skin).times(1.10), rectangle(x0, x1, z0, z1), y1, part)
        self.draw(skin, rectangle(x0, x1, y0, y1), part=part, dz=z0)

    def shadow(self, rx: float, rz: float, dz: float = 0.0, strength: float = 1.0) -> None:
        """Lay a soft shadow of radii `rx` and `rz` metres on the ground, stretched away from the light."""
        away = -self.light.side * 0.5 * rx
        ground = self._project(*np.array([(away, 0, dz), (away + rx, 0, dz), (away, 0, dz + rz)]).T)
        if len(ground) != 3:
            return
        (x, y), (edge, _), (_, far) = ground.tolist()
        spot = self.canvas.spot(x, y, max(abs(edge - x), 0.004), max(abs(far - y), 0.003))
        clear = 1.0 - float(self.canvas.haze_share(float(self.origin[2])))
        self.canvas.darken(spot, min(0.9, 1.6 * self.light.shadow * strength) * clear)

    def shine(self, x: float, y: float, radius: float, colour: np.ndarray, strength: float) -> None:
        """Add a round glow of `radius` metres around a point of the object."""
        points = self._project(np.array([x, x + radius]), np.array([y, y]), np.zeros(2))
        if len(points) == 2:
            reach = float(np.hypot(*(points[1] - points[0])))
            across, down = points[0].tolist()
            self.canvas.brighten(self.canvas.spot(across, down, reach, reach, 2.0), colour, strength)

    def _project(self, x: np.ndarray, y: np.ndarray, z: np.ndarray) -> np.ndarray:
        points = np.empty((len(x), 3))
        points[:, 0], points[:, 1], points[:, 2] = x, y, z
        points *= self.scale
        points += self.origin
        return self.canvas.camera.project(points)

"""A stage collects the things of a scene and paints them from back to front; here canvases get a viewpoint, too."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any, SupportsIndex

import numpy as np

from scenes.camera import Camera
from scenes.canvas import Canvas
from scenes.palette import WHITE, draw_light, hexa, mix
from scenes.pen import Range

Draw = Callable[..., None]  # paints a thing; called with the canvas, then the arguments of `Stage.add`


def outdoor_canvas(
    size: int,
    rng: np.random.Generator,
    height: Range = (1.7, 5.0),
    horizon: Range = (0.36, 0.62),
    yaw: float = 0.12,
) -> Canvas:
    """Make a canvas under the open sky, its viewpoint drawn at random.

    Focal length, optical axis and tilt have ranges of their own.

    Args:
        size: side of the image in pixels.
        rng: source of randomness.
        height: range of the eye's height above the ground, metres.
        horizon: range of the horizon's y, in image heights from the top.
        yaw: largest turn to either side, radians.
    """
    camera = Camera(
        height=rng.uniform(*height),
        horizon=rng.uniform(*horizon),
        centre=rng.uniform(0.35, 0.65),
        focal=rng.uniform(0.8, 1.35),
        yaw=rng.uniform(-yaw, yaw),
        tilt=float(np.clip(rng.normal(0.0, 0.018), -0.05, 0.05)),
    )
    return Canvas(size, camera, draw_light(rng), rng)


def indoor_canvas(size: int, rng: np.random.Generator) -> Canvas:
    """Make a canvas in a room: the air is clear, and lamps make up for a dark sky."""
    camera = Camera(
        height=rng.uniform(1.25, 1.8),
        horizon=rng.uniform(0.34, 0.52),
        centre=rng.uniform(0.42, 0.58),
        focal=rng.uniform(0.68, 1.05),
        yaw=rng.uniform(-0.38, 0.38),
        tilt=float(np.clip(rng.normal(0.0, 0.012), -0.03, 0.03)),
    )
    light = draw_light(rng)
    ambient = mix(light.ambient, hexa("ffe6c0") if light.lamps else WHITE, 0.62) * np.float32(rng.uniform(0.86, 1.02))
    return Canvas(size, camera, replace(light, ambient=ambient, visibility=1e6, shadow=0.3), rng)


class Stage:
    """The things that will be painted on a canvas."""

    def __init__(self, canvas: Canvas):
        """Start with an empty stage."""
        self.canvas = canvas
        self.rng = canvas.rng
        self._things: list[tuple[float, Draw, tuple[Any, ...], dict[str, Any]]] = []

    def chance(self, share: float) -> bool:
        """Return True with probability `share`."""
        return bool(self.rng.random() < share)

    def across(self, share: float, z: float) -> float:
        """Return the X at which a thing `z` metres away appears at `share` of the image (-1: left edge, 1: right)."""
        camera = self.canvas.camera
        along = (0.5 + 0.5 * share - camera.centre) / camera.focal
        cos, sin = np.cos(camera.yaw), np.sin(camera.yaw)
        return float(z * (cos * along + sin) / (cos - sin * along))

    def add(self, z: float, draw: Draw, *args: Any, **kwargs: Any) -> None:
        """Add something `z` metres away, to be painted by `draw(canvas, *args, **kwargs)`."""
        self._things.append((z, draw, args, kwargs))

    def put(self, draw: Draw, share: float, z: float, *args: Any, **kwargs: Any) -> None:
        """Add a thing drawn by `draw(canvas, x, z, ...)` at `share` of the image (see `across`)."""
        self.add(z, draw, self.across(share, z), z, *args, **kwargs)

    def scatter(
        self, draw: Draw, count: SupportsIndex, near: float, far: float, *args: Any, spread: float = 1.1, **kwargs: Any
    ) -> None:
        """Add `count` things at random places between `near` and `far` metres, denser in the distance."""
        for _ in range(count):
            z = near + (far - near) * self.rng.random() ** 0.8
            self.put(draw, self.rng.uniform(-spread, spread), z, *args, **kwargs)

    def paint(self) -> None:
        """Paint everything from back to front, and empty the stage."""
        for _, draw, args, kwargs in sorted(self._things, key=lambda thing: -thing[0]):
            draw(self.canvas, *args, **kwargs)
        self._things.clear()

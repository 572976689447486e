"""Rooms: floor, walls and ceiling, and the windows, doors and decoration of the back wall."""

from dataclasses import dataclass

import numpy as np

from scenes import palette, skins
from scenes.canvas import Canvas, Mask, Plane
from scenes.palette import BLACK, WHITE, mix, pick
from scenes.pen import Pen, Range, bar, disc, rectangle
from scenes.skins import Skin, fabric, metal, painted, wood
from scenes.things.materials import floor_skin, wall_skin


@dataclass(frozen=True)
class Room:
    """A room around the viewer: walls at X = `left` and `right` and at Z = `depth`, in metres."""

    left: float
    right: float
    depth: float
    height: float


def room(canvas: Canvas, tiled: float) -> Room:
    """Draw floor, walls and ceiling of an empty room; `tiled` is the probability of a tiled floor."""
    rng = canvas.rng
    shape = Room(-rng.uniform(1.8, 3.0), rng.uniform(1.8, 3.0), rng.uniform(3.4, 5.2), rng.uniform(2.5, 2.9))
    wall = wall_skin(rng)
    pen = Pen(canvas, "ceiling", 0.0, 0.0)
    x0, x1, deep, high = shape.left, shape.right, shape.depth, shape.height
    pen.level(painted(palette.WALLS[2] * rng.uniform(0.9, 1.0)), rectangle(x0, x1, 0.0, deep), high)
    pen.moved(item="floor").level(floor_skin(rng, tiled), rectangle(x0, x1, 0.0, deep), 0.0)
    pen = pen.moved(item="wall")
    accent = wall if rng.random() < 0.7 else painted(pick(rng, palette.DEEP))
    for at, lit in ((x0, -1), (x1, 1)):
        pen.side(wall.times(0.96 if lit != canvas.light.side else 0.84), at, rectangle(0.0, deep, 0.0, high))
    pen.draw(accent, rectangle(x0, x1, 0.0, high), dz=deep)
    if rng.random() < 0.7:
        pen.draw(painted(palette.WALLS[2]), rectangle(x0, x1, 0.0, 0.11), dz=deep)
    _soften_corners(canvas, shape)
    return shape


def _soften_corners(canvas: Canvas, shape: Room) -> None:
    """Darken the room towards its edges, which less light reaches."""
    whole = (slice(None), slice(None))
    u, v, _ = canvas.coordinates(Plane(2, shape.depth), whole)
    on_back = (u > shape.left) & (u < shape.right) & (v > 0.0) & (v < shape.height)
    nearest = np.minimum(np.minimum(u - shape.left, shape.right - u), np.minimum(v, shape.height - v))
    ahead = canvas.rays[2] > 0.05
    alpha = np.where(on_back & ahead, np.exp(-np.maximum(nearest, 0.0) / 0.45), 0.0)
    canvas.darken(Mask(whole, alpha.astype(np.float32)), 0.22)
    others = np.where(on_back, 0.0, np.exp(-np.abs(np.minimum(nearest, 0.0)) / (0.8 * shape.depth)))
    canvas.darken(Mask(whole, others.astype(np.float32)), 0.16)


def window(canvas: Canvas, x: float, z: float, width: float, y: Range, curtains: bool) -> None:
    """Draw a window in the back wall with a view of the sky and often of hills, daylight, and curtains or none."""
    rng, light = canvas.rng, canvas.light
    pen = Pen(canvas, "window", x, z - 0.01)
    half, (low, high) = width / 2, y
    frame = painted(WHITE * 0.95) if rng.random() < 0.7 else wood(pick(rng, palette.WOODS))
    pen.draw(frame, rectangle(-half - 0.09, half + 0.09, low - 0.09, high + 0.09), part="frame")
    pane = rectangle(-half, half, low, high)
    pen.draw(Skin(mix(light.low, light.zenith, 0.4), "glass", grain=0.02, glow=1.0), pane, part="pane")
    if rng.random() < 0.8:
        _hills_outside(pen, half, low, high)
    bars = [rectangle(a - 0.025, a + 0.025, low, high) for a in np.linspace(-half, half, 2 + round(width / 0.7))[1:-1]]
    crossbar = low + 0.6 * (high - low)
    pen.draw(frame, *bars, rectangle(-half, half, crossbar - 0.02, crossbar + 0.02), part="frame")
    if not light.lamps:
        pen.shine(0.0, (low + high) / 2, 1.6 * width, mix(light.low, WHITE, 0.5), 0.22)
    if curtains:
        _curtains(pen.moved(item="curtain"), half, low, high)


def _hills_outside(pen: Pen, half: float, low: float, high: float) -> None:
    """Draw green hills in the lower part of a pane from -`half` to `half` across."""
    rng, light = pen.rng, pen.light
    u = np.linspace(-half, half, 12)
    waves = 0.28 + 0.12 * np.sin(u * rng.uniform(2, 5) + rng.uniform(0, 6)) + rng.uniform(0, 0.05, 12)
    crest = low + (high - low) * waves
    outside = {"night": 0.15, "dusk": 0.5}.get(light.name, 0.9)
    green = mix(pick(rng, palette.FOLIAGE), light.low, 0.3) * outside
    hills = np.concatenate([np.stack([u, crest], axis=1), [(half, low), (-half, low)]])
    pen.draw(Skin(green, "glass", grain=0.1, noise="leafy", glow=1.0), hills, part="pane")


def _curtains(pen: Pen, half: float, low: float, high: float) -> None:
    """Hang curtains from a rod at both sides of a window, down to the floor or to just below the window."""
    rng = pen.rng
    hanging = fabric(pick(rng, palette.FABRICS))
    hanging = hanging.with_pattern(skins.pleats(hanging.colour * 0.78, 0.14))
    reach, hem = rng.uniform(0.25, 0.45), 0.08 if rng.random() < 0.6 else low - 0.15
    right = [(half + 0.28, hem), (half - reach, hem), (half - reach * 0.8, high + 0.16), (half + 0.22, high + 0.16)]
    pen.draw(hanging, *[np.array(right) * (side, 1) for side in (-1, 1)])
    pen.draw(metal(palette.METALS[3]), rectangle(-half - 0.4, half + 0.4, high + 0.14, high + 0.18), part="post")


def doorway(canvas: Canvas, x: float, z: float) -> None:
    """Draw a panelled door in the back wall."""
    pen = Pen(canvas, "door", x, z - 0.01)
    leaf = painted(WHITE * 0.92) if canvas.rng.random() < 0.5 else wood(pick(canvas.rng, palette.WOODS))
    pen.draw(leaf.times(0.9), rectangle(-0.52, 0.52, 0, 2.12), part="frame")
    pen.draw(leaf, rectangle(-0.43, 0.43, 0, 2.03))
    panels = [rectangle(a, a + 0.3, low, low + tall) for a in (-0.36, 0.06) for low, tall in ((0.2, 0.7), (1.05, 0.8))]
    pen.draw(leaf.times(0.86), *panels)
    pen.draw(metal(palette.METALS[2]), disc(0.36, 0.98, 0.04), part="handle")


def painting(canvas: Canvas, x: float, y: float, z: float, width: float, height: float) -> None:
    """Hang a framed painting: a small landscape or plain shapes."""
    rng = canvas.rng
    pen = Pen(canvas, "painting", x, z - 0.02, y)
    a, b = width / 2, height / 2
    pen.draw(wood(pick(rng, palette.WOODS)), rectangle(-a - 0.05, a + 0.05, -b - 0.05, b + 0.05), part="frame")
    pen.draw(Skin(pick(rng, palette.PASTELS), "paper"), rectangle(-a, a, -b, b))
    if rng.random() < 0.6:
        across = np.linspace(-a, a, 9)
        for share, colours in ((0.25, palette.DEEP), (-0.15, palette.FOLIAGE)):
            ridge = b * np.clip(share + rng.normal(0, 0.18, 9), -0.8, 0.9)
            shape = np.concatenate([np.stack([across, ridge], axis=1), [(a, -b), (-a, -b)]])
            pen.draw(Skin(pick(rng, colours), "paper"), shape)
    else:
        for _ in range(3):
            skin = Skin(pick(rng, palette.PAINTS), "paper")
            px, py = rng.uniform((-a, -b), (a, b)) * 0.55
            pen.draw(skin, disc(px, py, 0.4 * min(a, b)))


def mirror(canvas: Canvas, x: float, y: float, z: float, radius: float) -> None:
    """Hang a round mirror."""
    pen = Pen(canvas, "mirror", x, z - 0.02, y)
    pen.draw(metal(palette.hexa("b08a4a")), disc(0, 0, radius + 0.04), part="frame")
    pen.draw(Skin(mix(palette.PASTELS[2], canvas.light.low, 0.3), "glass", shade=0.2), disc(0, 0, radius))


def clock(canvas: Canvas, x: float, y: float, z: float) -> None:
    """Hang a round clock."""
    pen = Pen(canvas, "clock", x, z - 0.02, y)
    pen.draw(wood(pick(canvas.rng, palette.WOODS)), disc(0, 0, 0.19), part="frame")
    pen.draw(Skin(WHITE * 0.95, "paper"), disc(0, 0, 0.155))
    turn = canvas.rng.uniform(0, 6.3)
    hands = (bar(0, 0, 0.11 * np.cos(turn), 0.11 * np.sin(turn), 0.022), bar(0, 0, 0, 0.13, 0.018))
    pen.draw(Skin(BLACK, "metal"), *hands, part="handle")

"""Kitchens: counters and cupboards, stoves, refrigerators, sinks."""

from itertools import pairwise

import numpy as np

from scenes import palette, skins
from scenes.canvas import Canvas
from scenes.palette import BLACK, WHITE, pick
from scenes.pen import Pen, disc, rectangle
from scenes.skins import Skin, metal, painted, wood


def counter(canvas: Canvas, x0: float, x1: float, z: float) -> None:
    """Draw a kitchen counter from `x0` to `x1`: cupboards under a worktop."""
    rng = canvas.rng
    front = (
        painted(pick(rng, palette.WALLS if rng.random() < 0.6 else palette.DEEP))
        if rng.random() < 0.6
        else wood(pick(rng, palette.WOODS))
    )
    pen = Pen(canvas, "cabinet", 0.0, z)
    pen.box(front.times(0.9), (x0, x1), (0.0, 0.86), (0.0, 0.6))
    count = max(1, round((x1 - x0) / 0.55))
    edges = np.linspace(x0, x1, count + 1)
    doors = [rectangle(a + 0.02, b - 0.02, 0.1, 0.82) for a, b in pairwise(edges)]
    pen.draw(front, *doors, part="door", dz=-0.01)
    pen.draw(
        metal(palette.METALS[2]), *[rectangle(b - 0.1, b - 0.07, 0.6, 0.76) for b in edges[1:]], part="handle", dz=-0.02
    )
    colour = pick(rng, palette.ROCK if rng.random() < 0.5 else palette.WOODS)
    top = skins.stone(colour) if rng.random() < 0.5 else wood(colour)
    pen.box(top, (x0 - 0.02, x1 + 0.02), (0.86, 0.9), (-0.03, 0.6), part="top")


def wall_cupboards(canvas: Canvas, x0: float, x1: float, z: float) -> None:
    """Hang a row of cupboards on the back wall, their fronts at `z`."""
    rng, low, high = canvas.rng, 1.5, 2.2
    front = painted(pick(rng, palette.WALLS)) if rng.random() < 0.6 else wood(pick(rng, palette.WOODS))
    pen = Pen(canvas, "cabinet", 0.0, z)
    pen.box(front.times(0.9), (x0, x1), (low, high), (0.0, 0.35))
    edges = np.linspace(x0, x1, max(1, round((x1 - x0) / 0.5)) + 1)
    doors = [rectangle(a + 0.02, b - 0.02, low + 0.03, high - 0.03) for a, b in pairwise(edges)]
    pen.draw(front, *doors, part="door", dz=-0.01)
    pen.draw(metal(palette.METALS[2]), *[disc(b - 0.08, low + 0.1, 0.022) for b in edges[1:]], part="handle", dz=-0.02)


def backsplash(canvas: Canvas, x0: float, x1: float, z: float) -> None:
    """Tile the back wall above a worktop."""
    colour = pick(canvas.rng, palette.PASTELS)
    tiles = Skin(colour, "tile", skins.grid(colour * 0.72, 0.16, 0.12), shade=0.06)
    Pen(canvas, "wall", 0.0, z - 0.005).draw(tiles, rectangle(x0, x1, 0.9, 1.5))


def stove(canvas: Canvas, x: float, z: float) -> None:
    """Draw a stove with an oven, four burners and perhaps a pot."""
    rng = canvas.rng
    pen = Pen(canvas, "stove", x, z)
    body = metal(palette.METALS[rng.integers(4)]) if rng.random() < 0.6 else painted(WHITE * 0.93)
    pen.box(body, (-0.32, 0.32), (0.0, 0.91), (-0.03, 0.6), part="body", top=metal(palette.METALS[3]))
    pen.draw(Skin(BLACK * 1.4, "glass", shade=0.25), rectangle(-0.25, 0.25, 0.22, 0.58), part="door", dz=-0.04)
    pen.draw(metal(palette.METALS[2]), rectangle(-0.26, 0.26, 0.63, 0.66), part="handle", dz=-0.05)
    pen.draw(
        Skin(BLACK, "plastic"), *[disc(a, 0.79, 0.035) for a in (-0.21, -0.07, 0.07, 0.21)], part="handle", dz=-0.05
    )
    for a in (-0.15, 0.15):
        for deep in (0.14, 0.42):
            pen.level(Skin(BLACK, "metal"), disc(a, deep, 0.095), 0.915, part="burner")
    if rng.random() < 0.5:
        pot = pen.moved(x=0.15, y=0.92, z=0.4, item="bowl")
        pot.draw(metal(pick(rng, palette.PAINTS)), rectangle(-0.12, 0.12, 0, 0.16), rectangle(-0.17, 0.17, 0.11, 0.14))


def refrigerator(canvas: Canvas, x: float, z: float) -> None:
    """Draw a refrigerator with two doors."""
    rng = canvas.rng
    pen = Pen(canvas, "refrigerator", x, z)
    colour = palette.WALLS[2] if rng.random() < 0.5 else pick(rng, palette.METALS[[0, 2]])
    body = metal(colour) if rng.random() < 0.7 else metal(pick(rng, palette.PAINTS))
    tall, split = rng.uniform(1.6, 1.9), rng.uniform(0.55, 1.2)
    pen.shadow(0.45, 0.4, dz=0.3)
    pen.box(body, (-0.34, 0.34), (0.03, tall), (0.0, 0.62), part="body")
    pen.draw(body.times(0.6), rectangle(-0.34, 0.34, split, split + 0.02), part="door", dz=-0.01)
    pen.draw(
        metal(palette.METALS[1]),
        rectangle(0.24, 0.28, split + 0.1, split + 0.4),
        rectangle(0.24, 0.28, split - 0.3, split - 0.08),
        part="handle",
        dz=-0.02,
    )


def sink(canvas: Canvas, x: float, z: float) -> None:
    """Set a sink with a tap into a worktop."""
    pen = Pen(canvas, "sink", x, z)
    pen.level(metal(palette.METALS[0]), rectangle(-0.27, 0.27, 0.1, 0.48), 0.905)
    pen.level(metal(palette.METALS[1]), rectangle(-0.23, 0.23, 0.14, 0.44), 0.907)
    tap = (rectangle(-0.02, 0.02, 0.9, 1.18), rectangle(-0.02, 0.15, 1.15, 1.18), rectangle(0.12, 0.15, 1.09, 1.18))
    pen.draw(metal(palette.METALS[2]), *tap, part="handle", dz=0.5)


def hood(canvas: Canvas, x: float, z: float, ceiling: float) -> None:
    """Hang an extractor hood over a stove."""
    pen = Pen(canvas, "hood", x, z)
    skin = metal(palette.METALS[2])
    pen.draw(skin.times(0.92), rectangle(-0.14, 0.14, 1.75, ceiling), part="column", dz=0.3)
    pen.draw(skin, np.array([(-0.36, 1.52), (0.36, 1.52), (0.15, 1.8), (-0.15, 1.8)]), part="body", dz=0.15)

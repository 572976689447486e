"""Household goods: lamps, plants, vases, tableware, computers, rugs, towels."""

import numpy as np

from scenes import palette
from scenes.canvas import Canvas
from scenes.palette import BLACK, LAMPLIGHT, WHITE, mix, pick
from scenes.pen import Pen, bar, disc, rectangle, strut
from scenes.skins import Skin, fabric, leaves, metal, wood
from scenes.things.materials import cloth


def lamp(canvas: Canvas, x: float, z: float, y: float, height: float, hanging: bool = False) -> None:
    """Draw a lamp on a foot, or one that hangs from `y` + `height` down to `y`; at night it is on, else sometimes."""
    rng, light = canvas.rng, canvas.light
    pen = Pen(canvas, "lamp", x, z, y)
    on = light.lamps or rng.random() < 0.3
    shade = Skin(pick(rng, palette.WALLS[[0, 2, 4, 6]]), "fabric", glow=0.95 if on else 0.0, shade=0.12)
    size = 0.24 if height > 1.0 or hanging else 0.17
    rod = metal(palette.METALS[3]) if rng.random() < 0.6 else wood(pick(rng, palette.WOODS))
    low = height - 1.5 * size
    if hanging:
        low = 0.0
        pen.draw(rod, rectangle(-0.012, 0.012, 1.2 * size, height), part="column")
    else:
        pen.shadow(size, size * 0.8)
        pen.draw(rod, rectangle(-0.02, 0.02, 0.0, low), disc(0.0, 0.02, 0.7 * size, 0.035), part="column")
    top = 0.55 if rng.random() < 0.7 else 0.95
    cone = np.array([(-size, low), (size, low), (size * top, low + 1.45 * size), (-size * top, low + 1.45 * size)])
    pen.draw(shade, cone, part="lampshade")
    if on:
        pen.shine(0.0, low + 0.6 * size, 1.3 if light.lamps else 0.8, LAMPLIGHT, 0.5 if light.lamps else 0.25)


def plant(canvas: Canvas, x: float, z: float, y: float, height: float) -> None:
    """Draw a potted plant with long or with round leaves."""
    rng = canvas.rng
    pen = Pen(canvas, "plant", x, z, y, scale=height)
    pen.shadow(0.25, 0.2)
    pot = Skin(pick(rng, palette.BRICKS if rng.random() < 0.6 else palette.PASTELS), "ceramic", shade=0.22)
    colour = pick(rng, palette.FOLIAGE)
    slim = rng.random() < 0.5
    for tone in (0.78, 1.08):
        blades = []
        for turn in np.linspace(0.35, np.pi - 0.35, 7) + rng.normal(0, 0.12, 7):
            tip = np.array([0.0, 0.34]) + rng.uniform(0.4, 0.66) * np.array([0.62 * np.cos(turn), np.sin(turn)])
            stem = strut(np.array([0.0, 0.3]), tip, 0.05 if slim else 0.02, 0.01)
            blades.append(stem)
            if not slim:
                blades.append(disc(tip[0], tip[1], 0.1, 0.08))
        pen.draw(leaves(colour * tone), *blades, part="foliage")
    pen.draw(pot, np.array([(-0.13, 0.0), (0.13, 0.0), (0.18, 0.34), (-0.18, 0.34)]), part="pot")


def vase(canvas: Canvas, x: float, z: float, y: float, height: float = 0.3) -> None:
    """Stand a vase with flowers or without."""
    rng = canvas.rng
    pen = Pen(canvas, "vase", x, z, y, scale=height)
    if rng.random() < 0.7:
        tips = [(rng.normal(0, 0.3), rng.uniform(1.1, 1.6)) for _ in range(6)]
        flower = pen.moved(item="flower")
        flower.draw(leaves(pick(rng, palette.FOLIAGE)), *[bar(0, 0.8, *tip, 0.06) for tip in tips], part="foliage")
        flower.draw(Skin(pick(rng, palette.PETALS), "foliage"), *[disc(*tip, 0.17) for tip in tips])
    body = np.array(
        [(-0.16, 0), (0.16, 0), (0.3, 0.4), (0.13, 0.85), (0.18, 1.0), (-0.18, 1.0), (-0.13, 0.85), (-0.3, 0.4)]
    )
    pen.draw(Skin(pick(rng, palette.PAINTS), "ceramic", shade=0.25), body)


def tableware(canvas: Canvas, x: float, z: float, y: float) -> None:
    """Set down a plate, a bowl or a bottle."""
    rng = canvas.rng
    kind = rng.integers(3)
    if kind == 0:
        Pen(canvas, "plate", x, z, y).level(Skin(WHITE * 0.96, "ceramic", shade=0.05), disc(0, 0.1, 0.14), 0.01)
    elif kind == 1:
        pen = Pen(canvas, "bowl", x, z, y)
        pen.draw(Skin(pick(rng, palette.PETALS), "ceramic"), *[disc(a, 0.11, 0.05) for a in (-0.06, 0.0, 0.07)])
        pen.draw(
            Skin(pick(rng, palette.PAINTS), "ceramic", shade=0.2),
            np.array([(-0.15, 0.1), (0.15, 0.1), (0.07, 0), (-0.07, 0)]),
        )
    else:
        pen = Pen(canvas, "bottle", x, z, y)
        green = Skin(pick(rng, palette.CONIFER), "glass", shade=0.3)
        pen.draw(green, rectangle(-0.045, 0.045, 0, 0.2), rectangle(-0.018, 0.018, 0.2, 0.31))


def computer(canvas: Canvas, x: float, z: float, y: float) -> None:
    """Stand a computer with its keyboard on a desk."""
    rng = canvas.rng
    pen = Pen(canvas, "computer", x, z, y)
    case = Skin(palette.METALS[3] if rng.random() < 0.6 else WHITE * 0.9, "plastic")
    pen.draw(case, rectangle(-0.03, 0.03, 0, 0.15), rectangle(-0.12, 0.12, 0, 0.02), part="post")
    pen.draw(case, rectangle(-0.29, 0.29, 0.11, 0.48), part="frame")
    on = rng.random() < 0.6
    colour = mix(pick(rng, palette.GLASS), WHITE, 0.3) if on else BLACK
    pen.draw(
        Skin(colour, "glass", glow=0.8 if on else 0.0, shade=0.15), rectangle(-0.27, 0.27, 0.14, 0.46), part="screen"
    )
    if on and rng.random() < 0.6:
        lines = [rectangle(-0.22, -0.22 + rng.uniform(0.1, 0.4), 0.38 - 0.05 * i, 0.40 - 0.05 * i) for i in range(4)]
        pen.draw(Skin(WHITE, "glass", glow=0.8), *lines, part="screen")
    pen.level(case.times(1.1), rectangle(-0.2, 0.2, -0.3, -0.16), 0.015, part="keyboard")


def rug(canvas: Canvas, x: float, z: float, width: float, depth: float) -> None:
    """Lay a rug, round or with a border."""
    rng = canvas.rng
    pen = Pen(canvas, "rug", x, z)
    skin = cloth(rng, 0.3, 1.8)
    if rng.random() < 0.3:
        pen.level(skin, disc(0, 0, width / 2, depth / 2), 0.01)
        return
    a, b = width / 2, depth / 2
    pen.level(fabric(skin.colour * 0.7), rectangle(-a, a, -b, b), 0.01)
    pen.level(skin, rectangle(-a + 0.1, a - 0.1, -b + 0.1, b - 0.1), 0.012)


def towel(canvas: Canvas, x: float, z: float, y: float) -> None:
    """Hang a towel on a handle."""
    Pen(canvas, "towel", x, z, y).draw(cloth(canvas.rng, 0.2, 0.5), rectangle(-0.1, 0.1, -0.38, 0.0))

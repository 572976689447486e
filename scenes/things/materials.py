"""Random skins: façades, roofs and window panes, walls and floors of rooms, cloth."""

import numpy as np

from scenes import palette, skins
from scenes.canvas import Canvas
from scenes.palette import BLACK, LAMPLIGHT, WHITE, mix, pick
from scenes.skins import Skin, fabric, metal, painted, stone, wood


def facade_skin(rng: np.random.Generator) -> Skin:
    """Return a random skin for an outer wall: plaster, brick, boards or stone."""
    kind = rng.random()
    if kind < 0.45:
        return painted(pick(rng, palette.WALLS))
    if kind < 0.72:
        colour = pick(rng, palette.BRICKS)
        return Skin(colour, "brick", skins.bricks(mix(colour, WHITE, 0.35)), grain=0.06)
    if kind < 0.88:
        colour = pick(rng, palette.WALLS)
        return wood(colour, pattern=skins.planks(colour * 0.75, 0.3, across=rng.random() < 0.4, texture="grooved"))
    colour = pick(rng, palette.ROCK) * 1.15
    return stone(colour, pattern=skins.bricks(colour * 0.82, 0.9, 0.45))


def roof_skin(rng: np.random.Generator) -> Skin:
    """Return a random skin for a roof: tiles or metal."""
    colour = pick(rng, palette.ROOFS)
    if rng.random() < 0.7:
        return Skin(colour, "tile", skins.shingles(colour * 0.72, rng.uniform(0.35, 0.55)), grain=0.05)
    return metal(colour, pattern=skins.striped(colour * 0.8, 0.5, 0.15, "grooved"))


def glass(canvas: Canvas, lit: float = 0.5) -> Skin:
    """Return a random skin for a pane: at night lit from inside with probability `lit`, else reflecting the sky."""
    rng = canvas.rng
    if canvas.light.lamps and rng.random() < lit:
        return Skin(mix(LAMPLIGHT, palette.hexa("ff9d4d"), rng.uniform(0.0, 0.35)), "glass", grain=0.02, glow=0.95)
    return Skin(mix(pick(rng, palette.GLASS), canvas.light.low, 0.25) * 0.82, "glass", grain=0.02, shade=0.2)


def wall_skin(rng: np.random.Generator) -> Skin:
    """Return a random skin for the walls of a room: paint, wallpaper or bare brick."""
    colour = pick(rng, palette.PASTELS if rng.random() < 0.8 else palette.DEEP, 0.02)
    kind = rng.random()
    if kind < 0.62:
        return painted(colour, shade=0.05)
    if kind < 0.92:
        second = mix(colour, palette.DEEP[rng.integers(len(palette.DEEP))], rng.uniform(0.2, 0.45))
        return Skin(colour, "paper", any_pattern(rng, second, 1.5), shade=0.05)
    bricks = pick(rng, palette.BRICKS)
    return Skin(bricks, "brick", skins.bricks(mix(bricks, WHITE, 0.4), 0.26, 0.09), grain=0.06, shade=0.05)


def floor_skin(rng: np.random.Generator, tiled: float) -> Skin:
    """Return a random skin for a floor: tiles with probability `tiled`, else carpet or boards."""
    if rng.random() < tiled:
        colour = pick(rng, palette.PASTELS)
        if rng.random() < 0.5:
            pattern = skins.chequered(pick(rng, palette.DEEP), 0.9)
        else:
            pattern = skins.grid(colour * 0.75, 0.42, 0.09)
        return Skin(colour, "tile", pattern, shade=0.06)
    if rng.random() < 0.18:
        return fabric(pick(rng, palette.FABRICS), noise="leafy")
    colour = pick(rng, palette.WOODS)
    return wood(colour, pattern=skins.planks(colour * 0.7, 0.24, across=rng.random() < 0.75), shade=0.06)


def cloth(rng: np.random.Generator, plain: float = 0.5, scale: float = 1.0) -> Skin:
    """Return a random fabric, plain with probability `plain`."""
    skin = fabric(pick(rng, palette.FABRICS), shade=0.12)
    if rng.random() < plain:
        return skin
    return skin.with_pattern(any_pattern(rng, mix(skin.colour, WHITE if rng.random() < 0.7 else BLACK, 0.5), scale))


def any_pattern(rng: np.random.Generator, colour: np.ndarray, scale: float = 1.0) -> skins.Pattern:
    """Return a random pattern for cloth or paper; `colour` is its second colour."""
    kinds = (
        lambda: skins.striped(colour, 0.18 * scale),
        lambda: skins.banded(colour, 0.2 * scale),
        lambda: skins.chequered(colour, 0.28 * scale),
        lambda: skins.dotted(colour, 0.17 * scale),
        lambda: skins.zigzag(colour, 0.2 * scale),
        lambda: skins.waffle(colour, 0.2 * scale),
        lambda: skins.grid(colour, 0.22 * scale),
    )
    return kinds[rng.integers(len(kinds))]()

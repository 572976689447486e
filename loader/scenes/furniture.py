"""Rooms and what stands in them. Furniture faces the viewer; its base point is the middle of its front edge."""

from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from loader.scenes import palette, skins
from loader.scenes.canvas import Canvas, Mask, Plane
from loader.scenes.palette import BLACK, LAMPLIGHT, WHITE, mix, pick
from loader.scenes.pen import Pen, Range, bar, disc, rectangle, strut
from loader.scenes.skins import Skin, fabric, leaves, metal, painted, wood

_TURNED = (1.0, -1.0)


@dataclass(frozen=True)
class Room:
    """A room around the viewer: walls at X = ``left`` and ``right`` and at Z = ``depth``, in metres."""

    left: float
    right: float
    depth: float
    height: float


def any_pattern(rng: np.random.Generator, colour: np.ndarray, scale: float = 1.0) -> skins.Pattern:
    """Draw a pattern for cloth or paper in a colour."""
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


def cloth(rng: np.random.Generator, plain: float = 0.5, scale: float = 1.0) -> Skin:
    """Draw a fabric, plain with probability ``plain``."""
    skin = fabric(pick(rng, palette.FABRICS), shade=0.12)
    if rng.random() < plain:
        return skin
    return skin.with_pattern(any_pattern(rng, mix(skin.colour, WHITE if rng.random() < 0.7 else BLACK, 0.5), scale))


def room(canvas: Canvas, tiled: float = 0.15) -> Room:
    """Draw floor, walls and ceiling of an empty room; ``tiled`` is the probability of a tiled floor."""
    rng = canvas.rng
    shape = Room(-rng.uniform(1.8, 3.0), rng.uniform(1.8, 3.0), rng.uniform(3.4, 5.2), rng.uniform(2.5, 2.9))
    wall = _wall_skin(rng)
    pen = Pen(canvas, "ceiling", 0.0, 0.0)
    x0, x1, deep, high = shape.left, shape.right, shape.depth, shape.height
    pen.level(painted(palette.WALLS[2] * rng.uniform(0.9, 1.0)), rectangle(x0, x1, 0.0, deep), high)
    pen.moved(item="floor").level(_floor_skin(rng, tiled), rectangle(x0, x1, 0.0, deep), 0.0)
    pen = pen.moved(item="wall")
    accent = wall if rng.random() < 0.7 else painted(pick(rng, palette.DEEP))
    for at, lit in ((x0, -1), (x1, 1)):
        pen.side(wall.times(0.96 if lit != canvas.light.side else 0.84), at, rectangle(0.0, deep, 0.0, high))
    pen.draw(accent, rectangle(x0, x1, 0.0, high), dz=deep)
    if rng.random() < 0.7:
        pen.draw(painted(palette.WALLS[2]), rectangle(x0, x1, 0.0, 0.11), dz=deep)
    _soften_corners(canvas, shape)
    return shape


def _wall_skin(rng: np.random.Generator) -> Skin:
    colour = pick(rng, palette.PASTELS if rng.random() < 0.8 else palette.DEEP, 0.02)
    kind = rng.random()
    if kind < 0.62:
        return painted(colour, shade=0.05)
    if kind < 0.92:
        second = mix(colour, palette.DEEP[rng.integers(len(palette.DEEP))], rng.uniform(0.2, 0.45))
        return Skin(colour, "paper", any_pattern(rng, second, 1.5), shade=0.05)
    bricks = pick(rng, palette.BRICKS)
    return Skin(bricks, "brick", skins.bricks(mix(bricks, WHITE, 0.4), 0.26, 0.09), grain=0.06, shade=0.05)


def _floor_skin(rng: np.random.Generator, tiled: float) -> Skin:
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


def _soften_corners(canvas: Canvas, shape: Room) -> None:
    """Darken the room towards its edges, where less light comes in."""
    whole = (slice(None), slice(None))
    u, v, _ = canvas.coordinates(Plane(2, shape.depth), whole)
    on_back = (u > shape.left) & (u < shape.right) & (v > 0.0) & (v < shape.height)
    nearest = np.minimum(np.minimum(u - shape.left, shape.right - u), np.minimum(v, shape.height - v))
    ahead = canvas.rays[2] > 0.05
    alpha = np.where(on_back & ahead, np.exp(-np.maximum(nearest, 0.0) / 0.45), 0.0)
    canvas.darken(Mask(whole, alpha.astype(np.float32)), 0.22)
    others = np.where(on_back, 0.0, np.exp(-np.abs(np.minimum(nearest, 0.0)) / (0.8 * shape.depth)))
    canvas.darken(Mask(whole, others.astype(np.float32)), 0.16)


def window(canvas: Canvas, x: float, z: float, width: float, low: float, high: float, curtains: bool) -> None:
    """Draw a window in the back wall with a view of sky and hills, light that falls in, and curtains or none."""
    rng, light = canvas.rng, canvas.light
    pen = Pen(canvas, "window", x, z - 0.01)
    half = width / 2
    frame = painted(WHITE * 0.95) if rng.random() < 0.7 else wood(pick(rng, palette.WOODS))
    pen.draw(frame, rectangle(-half - 0.09, half + 0.09, low - 0.09, high + 0.09), part="frame")
    pane = rectangle(-half, half, low, high)
    pen.draw(Skin(mix(light.low, light.zenith, 0.4), "glass", grain=0.02, glow=1.0), pane, part="pane")
    if rng.random() < 0.8:
        u = np.linspace(-half, half, 12)
        crest = low + (high - low) * (
            0.28 + 0.12 * np.sin(u * rng.uniform(2, 5) + rng.uniform(0, 6)) + rng.uniform(0, 0.05, 12)
        )
        outside = {"night": 0.15, "dusk": 0.5}.get(light.name, 0.9)
        green = mix(pick(rng, palette.FOLIAGE), light.low, 0.3) * outside
        pen.draw(
            Skin(green, "glass", grain=0.1, noise="leafy", glow=1.0),
            np.concatenate([np.stack([u, crest], axis=1), [(half, low), (-half, low)]]),
            part="pane",
        )
    bars = [rectangle(a - 0.025, a + 0.025, low, high) for a in np.linspace(-half, half, 2 + round(width / 0.7))[1:-1]]
    pen.draw(
        frame,
        *bars,
        rectangle(-half, half, low + 0.6 * (high - low) - 0.02, low + 0.6 * (high - low) + 0.02),
        part="frame",
    )
    if not light.lamps:
        pen.shine(0.0, (low + high) / 2, 1.6 * width, mix(light.low, WHITE, 0.5), 0.22)
    if curtains:
        hanging = fabric(pick(rng, palette.FABRICS))
        hanging = hanging.with_pattern(skins.pleats(hanging.colour * 0.78, 0.14))
        reach, hem = rng.uniform(0.25, 0.45), 0.08 if rng.random() < 0.6 else low - 0.15
        drop = [
            np.array(
                [
                    (s * (half + 0.28), hem),
                    (s * (half - reach), hem),
                    (s * (half - reach * 0.8), high + 0.16),
                    (s * (half + 0.22), high + 0.16),
                ]
            )
            for s in (-1, 1)
        ]
        pen = pen.moved(item="curtain")
        pen.draw(hanging, *drop)
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
    """Hang a framed picture: a small landscape or plain shapes."""
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


def bed(canvas: Canvas, x: float, z: float, width: float, length: float = 2.0) -> None:
    """Draw a bed whose head stands ``length`` metres behind its foot."""
    rng = canvas.rng
    pen = Pen(canvas, "bed", x, z)
    a = width / 2
    pen.shadow(width * 0.62, length * 0.75, dz=length / 2, strength=0.8)
    frame = wood(pick(rng, palette.WOODS)) if rng.random() < 0.7 else fabric(pick(rng, palette.FABRICS))
    pen.box(frame, (-a - 0.05, a + 0.05), (0.0, rng.uniform(0.85, 1.25)), (length, length + 0.08), part="headboard")
    pen.box(frame, (-a, a), (0.12, 0.32), (0.0, length))
    pen.draw(
        frame.times(0.8),
        *[rectangle(s * (a - 0.06) - 0.05, s * (a - 0.06) + 0.05, 0, 0.14) for s in _TURNED],
        part="leg",
    )
    pen.box(fabric(WHITE * 0.95), (-a + 0.02, a - 0.02), (0.3, 0.5), (0.02, length))
    pillow = cloth(rng, 0.7) if rng.random() < 0.5 else fabric(WHITE * 0.93)
    count = 2 if width > 1.2 else 1
    for at in (np.arange(count) + 0.5) / count * width - a:
        half = 0.40 * width / count
        pen.draw(
            pillow,
            rectangle(at - half, at + half, 0.5, 0.72),
            disc(at, 0.7, half * 0.95, 0.12),
            disc(at - half, 0.6, 0.07, 0.1),
            disc(at + half, 0.6, 0.07, 0.1),
            part="pillow",
            dz=length - 0.4,
        )
    cover = cloth(rng, 0.35, 1.3)
    pen.box(cover, (-a - 0.03, a + 0.03), (0.22, 0.56), (-0.03, length * rng.uniform(0.55, 0.72)), part="blanket")


def chair(canvas: Canvas, x: float, z: float, away: bool = False) -> None:
    """Draw a chair that faces the viewer, or one seen from behind."""
    rng = canvas.rng
    pen = Pen(canvas, "chair", x, z)
    pen.shadow(0.36, 0.36, dz=0.2)
    frame = wood(pick(rng, palette.WOODS)) if rng.random() < 0.7 else painted(pick(rng, palette.PAINTS))
    seat = cloth(rng, 0.7) if rng.random() < 0.5 else frame
    legs = [rectangle(s * 0.19 - 0.022, s * 0.19 + 0.022, 0.0, 0.46) for s in _TURNED]
    rest = [rectangle(s * 0.19 - 0.022, s * 0.19 + 0.022, 0.44, 0.95) for s in _TURNED]
    if rng.random() < 0.5:
        rest += [rectangle(-0.2, 0.2, low, low + 0.07) for low in (0.6, 0.74, 0.88)]
    else:
        rest += [rectangle(-0.2, 0.2, 0.58, 0.95)]
    pen.draw(frame.times(0.7), *legs, part="leg", dz=0.42)
    if not away:
        pen.draw(frame, *rest, part="back", dz=0.42)
    pen.box(seat, (-0.22, 0.22), (0.43, 0.49), (0.0, 0.44), part="seat")
    pen.draw(frame, *legs, part="leg")
    if away:
        pen.draw(frame, *rest, part="back")


def table(
    canvas: Canvas, x: float, z: float, width: float, depth: float, height: float = 0.74, item: str = "table"
) -> None:
    """Draw a table, or a desk with a block of drawers."""
    rng = canvas.rng
    pen = Pen(canvas, item, x, z)
    a = width / 2
    pen.shadow(width * 0.6, depth * 0.9, dz=depth / 2, strength=0.8)
    skin = wood(pick(rng, palette.WOODS)) if rng.random() < 0.8 else painted(WHITE * 0.92)
    leg = [rectangle(s * (a - 0.07) - 0.035, s * (a - 0.07) + 0.035, 0.0, height - 0.04) for s in _TURNED]
    pen.draw(skin.times(0.6), *leg, part="leg", dz=depth - 0.05)
    if item == "desk":
        side = _TURNED[rng.integers(2)]
        _drawers(pen, skin, side * (a - 0.25), 0.42, 0.1, height - 0.06, (0.05, depth))
    pen.draw(skin.times(0.85), *leg, part="leg", dz=0.03)
    pen.box(skin, (-a, a), (height - 0.05, height), (0.0, depth), part="top")
    if item == "table" and rng.random() < 0.3:
        spread = cloth(rng, 0.2)
        pen.box(spread, (-a - 0.02, a + 0.02), (height - 0.22, height + 0.01), (-0.02, depth + 0.02), part="top")


def _drawers(pen: Pen, skin: Skin, x: float, width: float, low: float, high: float, z: Range, rows: int = 3) -> None:
    a = width / 2
    pen.box(skin.times(0.92), (x - a, x + a), (low, high), z, part="drawer")
    step = (high - low) / rows
    fronts = [
        rectangle(x - a + 0.02, x + a - 0.02, low + step * r + 0.015, low + step * (r + 1) - 0.015) for r in range(rows)
    ]
    pen.draw(skin, *fronts, part="drawer", dz=z[0] - 0.01)
    knobs = [disc(x, low + step * (r + 0.5), 0.025) for r in range(rows)]
    pen.draw(metal(palette.METALS[2]), *knobs, part="handle", dz=z[0] - 0.02)


def chest(canvas: Canvas, x: float, z: float, width: float, height: float, depth: float = 0.45) -> None:
    """Draw a chest of drawers or a bedside table."""
    skin = (
        wood(pick(canvas.rng, palette.WOODS)) if canvas.rng.random() < 0.7 else painted(pick(canvas.rng, palette.WALLS))
    )
    pen = Pen(canvas, "cabinet", x, z)
    pen.shadow(width * 0.6, depth, dz=depth / 2)
    _drawers(pen, skin, 0.0, width, 0.06, height, (0.0, depth), max(1, round(height / 0.3)))


def wardrobe(canvas: Canvas, x: float, z: float, width: float, height: float, depth: float = 0.55) -> None:
    """Draw a cupboard with two doors."""
    skin = (
        wood(pick(canvas.rng, palette.WOODS)) if canvas.rng.random() < 0.7 else painted(pick(canvas.rng, palette.WALLS))
    )
    pen = Pen(canvas, "cabinet", x, z)
    pen.shadow(width * 0.6, depth, dz=depth / 2)
    a = width / 2
    pen.box(skin.times(0.9), (-a, a), (0.0, height), (0.0, depth))
    pen.draw(
        skin,
        rectangle(-a + 0.03, -0.01, 0.1, height - 0.05),
        rectangle(0.01, a - 0.03, 0.1, height - 0.05),
        part="door",
        dz=-0.01,
    )
    pen.draw(
        metal(palette.METALS[2]), *[disc(s * 0.06, height * 0.5, 0.03, 0.05) for s in _TURNED], part="handle", dz=-0.02
    )


def bookcase(canvas: Canvas, x: float, z: float, width: float, height: float, depth: float = 0.32) -> None:
    """Draw a bookcase filled with books and a few vases."""
    rng = canvas.rng
    pen = Pen(canvas, "bookcase", x, z)
    skin = wood(pick(rng, palette.WOODS))
    a, rows = width / 2, max(2, round(height / 0.38))
    pen.shadow(width * 0.6, depth, dz=depth / 2)
    pen.box(skin, (-a, a), (0.0, height), (0.0, depth))
    step = (height - 0.06) / rows
    shelves = [rectangle(-a + 0.04, a - 0.04, 0.06 + step * r, 0.02 + step * (r + 1)) for r in range(rows)]
    pen.draw(skin.times(0.45), *shelves, part="back", dz=-0.002)
    spines: list[list] = [[] for _ in range(5)]
    for row in range(rows):
        at = -a + 0.05
        while at < a - 0.09:
            thick = rng.uniform(0.035, 0.075)
            if rng.random() < 0.85:
                low = 0.06 + step * row
                spines[rng.integers(5)].append(rectangle(at, at + thick, low, low + step * rng.uniform(0.55, 0.85)))
            at += thick
    books = pen.moved(item="book")
    for group in spines:
        if group:
            books.draw(Skin(pick(rng, palette.PAINTS), "paper", shade=0.03), *group, dz=-0.004)


def sofa(canvas: Canvas, x: float, z: float, width: float) -> None:
    """Draw a sofa or an armchair with cushions."""
    rng = canvas.rng
    pen = Pen(canvas, "sofa", x, z)
    a = width / 2
    pen.shadow(width * 0.6, 0.8, dz=0.4, strength=0.9)
    skin = cloth(rng, 0.75) if rng.random() < 0.8 else Skin(pick(rng, palette.WOODS) * 0.8, "leather", shade=0.15)
    pen.draw(
        wood(palette.WOODS[5]),
        *[rectangle(s * (a - 0.1) - 0.03, s * (a - 0.1) + 0.03, 0, 0.12) for s in _TURNED],
        part="leg",
    )
    pen.box(skin, (-a, a), (0.12, rng.uniform(0.78, 0.95)), (0.62, 0.85), part="back")
    pen.box(skin.times(0.97), (-a + 0.16, a - 0.16), (0.12, 0.44), (0.04, 0.66), part="seat")
    for side in _TURNED:
        x0, x1 = sorted((side * a, side * (a - 0.18)))
        pen.box(skin.times(1.03), (x0, x1), (0.12, 0.6), (0.0, 0.8), part="armrest")
    count = int(rng.integers(0, 3 if width > 1.3 else 2))
    for at in rng.uniform(-a + 0.4, a - 0.4, count) if width > 1.0 else ():
        pen.draw(cloth(rng, 0.3), rectangle(at - 0.2, at + 0.2, 0.45, 0.82), part="pillow", dz=0.5)


def lamp(canvas: Canvas, x: float, z: float, y: float = 0.0, height: float = 1.6, hanging: bool = False) -> None:
    """Draw a lamp on a foot, or one that hangs from ``y`` + ``height`` down; it glows when the room is lit by lamps."""
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


def plant(canvas: Canvas, x: float, z: float, y: float = 0.0, height: float = 0.9) -> None:
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


def counter(canvas: Canvas, x0: float, x1: float, z: float, depth: float = 0.6) -> None:
    """Draw a kitchen counter from ``x0`` to ``x1``: cupboards under a worktop."""
    rng = canvas.rng
    front = (
        painted(pick(rng, palette.WALLS if rng.random() < 0.6 else palette.DEEP))
        if rng.random() < 0.6
        else wood(pick(rng, palette.WOODS))
    )
    pen = Pen(canvas, "cabinet", 0.0, z)
    pen.box(front.times(0.9), (x0, x1), (0.0, 0.86), (0.0, depth))
    count = max(1, round((x1 - x0) / 0.55))
    edges = np.linspace(x0, x1, count + 1)
    doors = [rectangle(a + 0.02, b - 0.02, 0.1, 0.82) for a, b in pairwise(edges)]
    pen.draw(front, *doors, part="door", dz=-0.01)
    pen.draw(
        metal(palette.METALS[2]), *[rectangle(b - 0.1, b - 0.07, 0.6, 0.76) for b in edges[1:]], part="handle", dz=-0.02
    )
    colour = pick(rng, palette.ROCK if rng.random() < 0.5 else palette.WOODS)
    top = skins.stone(colour) if rng.random() < 0.5 else wood(colour)
    pen.box(top, (x0 - 0.02, x1 + 0.02), (0.86, 0.9), (-0.03, depth), part="top")


def wall_cupboards(canvas: Canvas, x0: float, x1: float, z: float, low: float = 1.5, high: float = 2.2) -> None:
    """Hang a row of cupboards on the back wall, their fronts at ``z``."""
    rng = canvas.rng
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
    """Let a sink with a tap into a worktop."""
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


def towel(canvas: Canvas, x: float, z: float, y: float) -> None:
    """Hang a towel on a handle."""
    Pen(canvas, "towel", x, z, y).draw(cloth(canvas.rng, 0.2, 0.5), rectangle(-0.1, 0.1, -0.38, 0.0))

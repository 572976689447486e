"""Furniture: beds, chairs, sofas, tables, chests, wardrobes, bookcases.

A piece faces the viewer; its base is the middle of its front edge.
"""

import numpy as np

from scenes import palette
from scenes.canvas import Canvas
from scenes.palette import WHITE, pick
from scenes.pen import Pen, Range, Size, disc, rectangle
from scenes.skins import Skin, fabric, metal, painted, wood
from scenes.things.materials import cloth

_SIDES = (1.0, -1.0)  # right, left


def bed(canvas: Canvas, x: float, z: float, width: float) -> None:
    """Draw a bed, 2 m long, with its foot towards the viewer."""
    rng = canvas.rng
    pen = Pen(canvas, "bed", x, z)
    a, length = width / 2, 2.0
    pen.shadow(width * 0.62, length * 0.75, dz=length / 2, strength=0.8)
    frame = wood(pick(rng, palette.WOODS)) if rng.random() < 0.7 else fabric(pick(rng, palette.FABRICS))
    pen.box(frame, (-a - 0.05, a + 0.05), (0.0, rng.uniform(0.85, 1.25)), (length, length + 0.08), part="headboard")
    pen.box(frame, (-a, a), (0.12, 0.32), (0.0, length))
    pen.draw(
        frame.times(0.8),
        *[rectangle(s * (a - 0.06) - 0.05, s * (a - 0.06) + 0.05, 0, 0.14) for s in _SIDES],
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
    legs = [rectangle(s * 0.19 - 0.022, s * 0.19 + 0.022, 0.0, 0.46) for s in _SIDES]
    rest = [rectangle(s * 0.19 - 0.022, s * 0.19 + 0.022, 0.44, 0.95) for s in _SIDES]
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


def sofa(canvas: Canvas, x: float, z: float, width: float) -> None:
    """Draw a sofa or an armchair with cushions."""
    rng = canvas.rng
    pen = Pen(canvas, "sofa", x, z)
    a = width / 2
    pen.shadow(width * 0.6, 0.8, dz=0.4, strength=0.9)
    skin = cloth(rng, 0.75) if rng.random() < 0.8 else Skin(pick(rng, palette.WOODS) * 0.8, "leather", shade=0.15)
    pen.draw(
        wood(palette.WOODS[5]),
        *[rectangle(s * (a - 0.1) - 0.03, s * (a - 0.1) + 0.03, 0, 0.12) for s in _SIDES],
        part="leg",
    )
    pen.box(skin, (-a, a), (0.12, rng.uniform(0.78, 0.95)), (0.62, 0.85), part="back")
    pen.box(skin.times(0.97), (-a + 0.16, a - 0.16), (0.12, 0.44), (0.04, 0.66), part="seat")
    for side in _SIDES:
        x0, x1 = sorted((side * a, side * (a - 0.18)))
        pen.box(skin.times(1.03), (x0, x1), (0.12, 0.6), (0.0, 0.8), part="armrest")
    count = int(rng.integers(0, 3 if width > 1.3 else 2))
    for at in rng.uniform(-a + 0.4, a - 0.4, count) if width > 1.0 else ():
        pen.draw(cloth(rng, 0.3), rectangle(at - 0.2, at + 0.2, 0.45, 0.82), part="pillow", dz=0.5)


def table(canvas: Canvas, x: float, z: float, size: Size, item: str = "table") -> None:
    """Draw a table, or a desk with a block of drawers."""
    rng = canvas.rng
    pen = Pen(canvas, item, x, z)
    a, depth, height = size.width / 2, size.depth, size.height
    pen.shadow(size.width * 0.6, depth * 0.9, dz=depth / 2, strength=0.8)
    skin = wood(pick(rng, palette.WOODS)) if rng.random() < 0.8 else painted(WHITE * 0.92)
    leg = [rectangle(s * (a - 0.07) - 0.035, s * (a - 0.07) + 0.035, 0.0, height - 0.04) for s in _SIDES]
    pen.draw(skin.times(0.6), *leg, part="leg", dz=depth - 0.05)
    if item == "desk":
        middle = _SIDES[rng.integers(2)] * (a - 0.25)
        _drawers(pen, skin, (middle - 0.21, middle + 0.21), (0.1, height - 0.06), (0.05, depth), 3)
    pen.draw(skin.times(0.85), *leg, part="leg", dz=0.03)
    pen.box(skin, (-a, a), (height - 0.05, height), (0.0, depth), part="top")
    if item == "table" and rng.random() < 0.3:
        spread = cloth(rng, 0.2)
        pen.box(spread, (-a - 0.02, a + 0.02), (height - 0.22, height + 0.01), (-0.02, depth + 0.02), part="top")


def chest(canvas: Canvas, x: float, z: float, size: Size) -> None:
    """Draw a chest of drawers or a bedside table."""
    skin = _case_skin(canvas.rng)
    pen = Pen(canvas, "cabinet", x, z)
    a, rows = size.width / 2, max(1, round(size.height / 0.3))
    pen.shadow(size.width * 0.6, size.depth, dz=size.depth / 2)
    _drawers(pen, skin, (-a, a), (0.06, size.height), (0.0, size.depth), rows)


def _case_skin(rng: np.random.Generator) -> Skin:
    return wood(pick(rng, palette.WOODS)) if rng.random() < 0.7 else painted(pick(rng, palette.WALLS))


def _drawers(pen: Pen, skin: Skin, x: Range, y: Range, z: Range, rows: int) -> None:
    """Draw a box with rows of drawers in front, each with a knob."""
    (left, right), (low, high), (front, _) = x, y, z
    pen.box(skin.times(0.92), x, y, z, part="drawer")
    step = (high - low) / rows
    fronts = [
        rectangle(left + 0.02, right - 0.02, low + step * row + 0.015, low + step * (row + 1) - 0.015)
        for row in range(rows)
    ]
    pen.draw(skin, *fronts, part="drawer", dz=front - 0.01)
    knobs = [disc((left + right) / 2, low + step * (row + 0.5), 0.025) for row in range(rows)]
    pen.draw(metal(palette.METALS[2]), *knobs, part="handle", dz=front - 0.02)


def wardrobe(canvas: Canvas, x: float, z: float, size: Size) -> None:
    """Draw a cupboard with two doors."""
    skin = _case_skin(canvas.rng)
    pen = Pen(canvas, "cabinet", x, z)
    a, height, depth = size.width / 2, size.height, size.depth
    pen.shadow(size.width * 0.6, depth, dz=depth / 2)
    pen.box(skin.times(0.9), (-a, a), (0.0, height), (0.0, depth))
    doors = (rectangle(-a + 0.03, -0.01, 0.1, height - 0.05), rectangle(0.01, a - 0.03, 0.1, height - 0.05))
    pen.draw(skin, *doors, part="door", dz=-0.01)
    handles = [disc(s * 0.06, height * 0.5, 0.03, 0.05) for s in _SIDES]
    pen.draw(metal(palette.METALS[2]), *handles, part="handle", dz=-0.02)


def bookcase(canvas: Canvas, x: float, z: float, size: Size) -> None:
    """Draw a bookcase filled with books."""
    rng = canvas.rng
    pen = Pen(canvas, "bookcase", x, z)
    skin = wood(pick(rng, palette.WOODS))
    a, height, depth = size.width / 2, size.height, size.depth
    rows = max(2, round(height / 0.38))
    pen.shadow(size.width * 0.6, depth, dz=depth / 2)
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

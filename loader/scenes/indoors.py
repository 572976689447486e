"""Compositions of the indoor scenes. Each draws a whole scene of its class and returns the canvas."""

from collections.abc import Callable

import numpy as np

from loader.scenes import furniture as f
from loader.scenes import movables
from loader.scenes.canvas import Canvas
from loader.scenes.furniture import Room
from loader.scenes.stage import Stage, indoor_canvas


def _begin(size: int, rng: np.random.Generator, tiled: float = 0.12) -> tuple[Stage, Room]:
    stage = Stage(indoor_canvas(size, rng))
    return stage, f.room(stage.canvas, tiled)


def _within(stage: Stage, room: Room, margin: float) -> float:
    """Draw an X at least ``margin`` metres from the side walls."""
    return float(stage.rng.uniform(room.left + margin, room.right - margin))


def _in_view(stage: Stage, room: Room, margin: float, z: float) -> float:
    """Draw an X for the main piece of a room: mostly near the middle of the picture, now and then anywhere."""
    if stage.chance(0.12):
        return _within(stage, room, margin)
    return float(np.clip(stage.across(stage.rng.uniform(-0.6, 0.6), z), room.left + margin, room.right - margin))


def _wall_decoration(
    stage: Stage, room: Room, windows: float = 0.75, low: float = 0.95, curtains: float = 0.65
) -> None:
    """Fill the back wall: a window, a door, pictures, a mirror, a clock, side by side."""
    canvas, rng = stage.canvas, stage.rng
    at = room.left + rng.uniform(0.3, 0.6)
    wanted = [
        ("window", windows),
        ("window", windows * 0.35),
        ("door", 0.22),
        ("painting", 0.6),
        ("painting", 0.3),
        ("mirror", 0.12),
        ("clock", 0.18),
    ]
    for kind, share in (wanted[place] for place in rng.permutation(len(wanted))):
        if not stage.chance(share):
            continue
        width = {
            "window": rng.uniform(0.9, 1.7),
            "door": 1.0,
            "painting": rng.uniform(0.4, 1.0),
            "mirror": 0.6,
            "clock": 0.4,
        }[kind]
        middle = at + width / 2
        if middle + width / 2 > room.right - 0.1:
            continue
        if kind == "window":
            f.window(canvas, middle, room.depth, width - 0.2, low, rng.uniform(2.0, 2.25), stage.chance(curtains))
        elif kind == "door":
            f.doorway(canvas, middle, room.depth)
        elif kind == "painting":
            f.painting(canvas, middle, rng.uniform(1.55, 1.8), room.depth, width, rng.uniform(0.35, 0.75))
        elif kind == "mirror":
            f.mirror(canvas, middle, 1.65, room.depth, 0.28)
        else:
            f.clock(canvas, middle, 1.95, room.depth)
        at = middle + width / 2 + rng.uniform(0.25, 0.6)


def _side_furniture(stage: Stage, room: Room, *kinds: Callable) -> None:
    """Put up to two pieces of the given kinds at the side walls."""
    rng = stage.rng
    for side in (room.left, room.right):
        if stage.chance(0.6):
            inward = 1.0 if side < 0 else -1.0
            z = rng.uniform(1.9, room.depth - 0.7)
            kinds[rng.integers(len(kinds))](stage, side + inward * 0.5, z)


def _shelf(stage: Stage, x: float, z: float) -> None:
    stage.add(z, f.bookcase, x, z, stage.rng.uniform(0.7, 0.95), stage.rng.uniform(1.2, 2.1))


def _cupboard(stage: Stage, x: float, z: float) -> None:
    stage.add(z, f.wardrobe, x, z, stage.rng.uniform(0.8, 1.0), stage.rng.uniform(1.5, 2.1))


def _drawers(stage: Stage, x: float, z: float) -> None:
    height = stage.rng.uniform(0.7, 1.05)
    stage.add(z, f.chest, x, z, 0.9, height)
    if stage.chance(0.5):
        stage.add(z - 1e-3, f.vase if stage.chance(0.5) else f.lamp, x, z + 0.2, height, stage.rng.uniform(0.3, 0.45))


def _greenery(stage: Stage, x: float, z: float) -> None:
    stage.add(z, f.plant, x, z, 0.0, stage.rng.uniform(0.7, 1.5))


def _standing_lamp(stage: Stage, x: float, z: float) -> None:
    stage.add(z, f.lamp, x, z, 0.0, stage.rng.uniform(1.4, 1.75))


def _armchair(stage: Stage, x: float, z: float) -> None:
    stage.add(z, f.sofa, x, z, 0.95)


def _seat(stage: Stage, x: float, z: float) -> None:
    stage.add(z, f.chair, x, z, stage.chance(0.3))


def _cool(stage: Stage, x: float, z: float) -> None:
    stage.add(z, f.refrigerator, x, z)


def _workplace(stage: Stage, x: float, z: float, width: float = 1.5, equipped: float = 0.85) -> None:
    """Put a desk with a computer, a lamp, books and a chair."""
    rng = stage.rng
    stage.add(z + 0.6, f.table, x, z, width, 0.7, 0.74, "desk")
    if stage.chance(equipped):
        stage.add(z + 0.3, f.computer, x + rng.uniform(-0.2, 0.2), z + 0.42, 0.74)
    if stage.chance(0.4):
        stage.add(z + 0.25, f.lamp, x - 0.35 * width, z + 0.45, 0.74, 0.5)
    if stage.chance(0.35):
        stage.add(z + 0.2, f.plant, x + 0.38 * width, z + 0.4, 0.74, 0.35)
    if stage.chance(0.75):
        stage.add(z - 0.3, f.chair, x + rng.uniform(-0.25, 0.25), z - 0.35, True)


def _set_table(stage: Stage, x: float, z: float, width: float, depth: float, chairs: int) -> None:
    """Put a table with things on it and chairs around it."""
    rng = stage.rng
    for at in np.linspace(-0.5, 0.5, max(1, (chairs + 1) // 2)) * (width - 0.6):
        stage.add(z + depth + 0.1, f.chair, x + at, z + depth - 0.1)
    stage.add(z + 0.5, f.table, x, z, width, depth)
    for _ in range(rng.integers(0, 6)):
        deep = rng.uniform(0.1, depth - 0.3)
        stage.add(z + 0.49 - 0.01 * deep, f.tableware, x + rng.uniform(-0.42, 0.42) * width, z + deep, 0.75)
    if stage.chance(0.5):
        stage.add(z + 0.47, f.vase, x + rng.uniform(-0.2, 0.2), z + depth / 2, 0.75)
    for at in np.linspace(-0.5, 0.5, max(1, chairs // 2)) * (width - 0.6) if chairs > 1 else ():
        stage.add(z - 0.3, f.chair, x + at, z - 0.35, True)


def _kitchen_row(stage: Stage, room: Room, x0: float, x1: float) -> None:
    """Draw a kitchen along the back wall between two X."""
    canvas, rng = stage.canvas, stage.rng
    z = room.depth - 0.6
    if stage.chance(0.7):
        f.backsplash(canvas, x0, x1, room.depth)
    stove = rng.uniform(x0 + 0.4, x1 - 0.4)
    if stage.chance(0.75):
        for a, b in ((x0, stove - 0.4), (stove + 0.4, x1)):
            if b - a > 0.45:
                f.wall_cupboards(canvas, a, b, room.depth - 0.35)
    f.counter(canvas, x0, x1, z)
    if stage.chance(0.8):
        f.stove(canvas, stove, z)
        if stage.chance(0.55):
            f.hood(canvas, stove, z, room.height)
    if x1 - x0 > 1.6 and stage.chance(0.7):
        f.sink(canvas, stove + (0.8 if stove < (x0 + x1) / 2 else -0.8), z)
    for _ in range(rng.integers(0, 5)):
        f.tableware(canvas, rng.uniform(x0 + 0.1, x1 - 0.1), z + rng.uniform(0.1, 0.4), 0.9)
    if stage.chance(0.3):
        f.towel(canvas, rng.uniform(x0 + 0.2, x1 - 0.2), z - 0.03, 0.8)


def _someone(stage: Stage, room: Room, share: float) -> None:
    if stage.chance(share):
        z = stage.rng.uniform(2.4, room.depth - 0.8)
        stage.add(z, movables.person, _within(stage, room, 0.6), z)


def bedroom(size: int, rng: np.random.Generator) -> Canvas:
    """A bed with its bedside tables, wardrobes and lamps."""
    stage, room = _begin(size, rng)
    canvas = stage.canvas
    _wall_decoration(stage, room)
    if stage.chance(0.5):
        f.rug(
            canvas,
            _within(stage, room, 0.8),
            rng.uniform(2.0, room.depth - 1.0),
            rng.uniform(1.4, 2.4),
            rng.uniform(0.9, 1.6),
        )
    width = rng.choice((0.95, 1.4, 1.7))
    foot = room.depth - 2.1
    x = _in_view(stage, room, 0.5 * width, foot + 1.0)
    if stage.chance(0.93):
        stage.add(foot + 1.0, f.bed, x, foot, width)
        for side in (-1, 1):
            at = x + side * (width / 2 + 0.35)
            if stage.chance(0.6) and room.left + 0.2 < at < room.right - 0.2:
                stage.add(room.depth - 0.4, f.chest, at, room.depth - 0.45, 0.48, 0.5, 0.4)
                if stage.chance(0.7):
                    stage.add(room.depth - 0.41, f.lamp, at, room.depth - 0.25, 0.5, 0.5)
    _side_furniture(stage, room, _cupboard, _cupboard, _drawers, _shelf, _armchair, _greenery, _standing_lamp, _seat)
    if stage.chance(0.15):
        _workplace(stage, room.right - 0.8, rng.uniform(2.2, 2.8), 1.1)
    if stage.chance(0.2):
        stage.add(room.depth - 1.0, f.lamp, _within(stage, room, 0.8), room.depth - 1.2, room.height - 0.6, 0.6, True)
    _someone(stage, room, 0.12)
    stage.paint()
    return canvas


def living_room(size: int, rng: np.random.Generator) -> Canvas:
    """Sofas around a low table, shelves, lamps and plants."""
    stage, room = _begin(size, rng)
    canvas = stage.canvas
    _wall_decoration(stage, room)
    if stage.chance(0.65):
        f.rug(
            canvas,
            _within(stage, room, 1.2),
            rng.uniform(2.2, room.depth - 1.0),
            rng.uniform(1.8, 2.8),
            rng.uniform(1.2, 1.8),
        )
    x = _in_view(stage, room, 1.0, room.depth - 1.2)
    if stage.chance(0.92):
        width = rng.uniform(1.6, 2.3)
        back = room.depth - rng.uniform(0.9, 1.5)
        stage.add(back, f.sofa, x, back, width)
        if stage.chance(0.6):
            stage.add(back - 0.8, f.table, x + rng.uniform(-0.3, 0.3), back - 1.1, rng.uniform(0.8, 1.2), 0.55, 0.42)
            if stage.chance(0.5):
                stage.add(back - 0.85, f.vase if stage.chance(0.5) else f.tableware, x, back - 0.9, 0.43)
    if stage.chance(0.3):
        at = _within(stage, room, 0.5)
        stage.add(room.depth - 0.3, f.bookcase, at, room.depth - 0.33, rng.uniform(0.8, 1.3), rng.uniform(1.2, 2.1))
    _side_furniture(stage, room, _shelf, _armchair, _armchair, _greenery, _standing_lamp, _drawers, _cupboard)
    if stage.chance(0.06):
        stage.add(room.depth - 1.0, f.bed, _within(stage, room, 0.6), room.depth - 2.1, 0.95)
    if stage.chance(0.12):
        _set_table(stage, _within(stage, room, 0.8), rng.uniform(1.9, 2.4), 1.2, 0.8, 3)
    if stage.chance(0.25):
        stage.add(room.depth - 1.0, f.lamp, _within(stage, room, 0.8), room.depth - 1.4, room.height - 0.7, 0.7, True)
    _someone(stage, room, 0.2)
    stage.paint()
    return canvas


def dining_room(size: int, rng: np.random.Generator) -> Canvas:
    """A set table with chairs under a hanging lamp."""
    stage, room = _begin(size, rng, 0.2)
    canvas = stage.canvas
    open_kitchen = stage.chance(0.15)
    if open_kitchen:
        _kitchen_row(stage, room, room.left, room.left + rng.uniform(1.4, 2.4))
    else:
        _wall_decoration(stage, room)
    z = rng.uniform(1.7, room.depth - 1.45)
    x = _in_view(stage, room, 1.0, z + 0.4)
    width, depth = rng.uniform(1.2, 2.0), rng.uniform(0.8, 1.0)
    if stage.chance(0.35):
        f.rug(canvas, x, z + depth / 2, width + 1.0, depth + 1.0)
    if stage.chance(0.95):
        _set_table(stage, x, z, width, depth, int(rng.integers(2, 7)))
    if stage.chance(0.65):
        stage.add(z + 0.4, f.lamp, x, z + depth / 2, rng.uniform(1.55, 1.8), room.height - 1.6, True)
    _side_furniture(stage, room, _cupboard, _drawers, _drawers, _greenery, _seat, _shelf, _armchair, _cool)
    if stage.chance(0.1):
        stage.add(room.depth - 0.8, f.sofa, _within(stage, room, 1.0), room.depth - 0.95, 1.8)
    _someone(stage, room, 0.2)
    stage.paint()
    return canvas


def kitchen(size: int, rng: np.random.Generator) -> Canvas:
    """A counter with stove and sink under cupboards, a refrigerator, sometimes a table."""
    stage, room = _begin(size, rng, 0.55)
    canvas = stage.canvas
    x0 = room.left + (rng.uniform(0.0, 0.9) if stage.chance(0.5) else 0.0)
    x1 = room.right - (rng.uniform(0.0, 1.2) if stage.chance(0.6) else 0.0)
    if stage.chance(0.55):
        middle = rng.uniform(x0 + 0.6, x1 - 0.6)
        f.window(canvas, middle, room.depth, rng.uniform(0.8, 1.2), 1.2, 2.1, stage.chance(0.3))
    if stage.chance(0.94):
        _kitchen_row(stage, room, x0, x1)
    else:
        _wall_decoration(stage, room)
    if stage.chance(0.65):
        at = room.right - 0.36 if stage.chance(0.5) else room.left + 0.36
        stage.add(room.depth - 0.65, f.refrigerator, at, room.depth - 0.68)
    if stage.chance(0.4):
        _set_table(
            stage,
            _within(stage, room, 0.9),
            rng.uniform(1.5, room.depth - 1.7),
            rng.uniform(0.8, 1.3),
            0.75,
            int(rng.integers(1, 5)),
        )
    if stage.chance(0.35):
        stage.add(2.5, f.lamp, _within(stage, room, 0.8), 2.5, room.height - 0.8, 0.8, True)
    if stage.chance(0.5):
        _side_furniture(stage, room, _cupboard, _seat, _greenery, _drawers, _cool)
    _someone(stage, room, 0.22)
    stage.paint()
    return canvas


def office(size: int, rng: np.random.Generator) -> Canvas:
    """Desks with computers, shelves and filing cabinets."""
    stage, room = _begin(size, rng)
    canvas = stage.canvas
    _wall_decoration(stage, room, 0.8, 0.95, 0.3)
    if stage.chance(0.25):
        f.rug(canvas, _within(stage, room, 1.0), rng.uniform(2.2, room.depth - 1.0), 2.0, 1.4)
    for _ in range(1 if stage.chance(0.6) else 2):
        if stage.chance(0.95):
            z = rng.uniform(2.0, room.depth - 0.8)
            _workplace(stage, _in_view(stage, room, 0.8, z), z, rng.uniform(1.2, 1.8))
    for _ in range(rng.integers(0, 3)):
        at = _within(stage, room, 0.5)
        stage.add(room.depth - 0.3, f.bookcase, at, room.depth - 0.33, rng.uniform(0.7, 1.3), rng.uniform(1.1, 2.1))
    _side_furniture(stage, room, _shelf, _drawers, _cupboard, _greenery, _seat, _armchair, _standing_lamp)
    if stage.chance(0.12):
        stage.add(room.depth - 0.8, f.sofa, _within(stage, room, 1.0), room.depth - 0.95, 1.7)
    if stage.chance(0.3):
        stage.add(room.depth - 1.0, f.lamp, _within(stage, room, 0.8), room.depth - 1.4, room.height - 0.5, 0.5, True)
    _someone(stage, room, 0.25)
    stage.paint()
    return canvas


COMPOSITIONS = {
    "bedroom": bedroom,
    "dining_room": dining_room,
    "kitchen": kitchen,
    "living_room": living_room,
    "office": office,
}

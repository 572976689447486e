"""Scenes indoors: bedroom, dining room, kitchen, living room, office."""

from collections.abc import Callable

import numpy as np

from scenes.canvas import Canvas
from scenes.pen import Range, Size
from scenes.stage import Stage, indoor_canvas
from scenes.things import furniture, household, kitchens, movables, rooms
from scenes.things.rooms import Room


def _begin(size: int, rng: np.random.Generator, tiled: float = 0.12) -> tuple[Stage, Room]:
    stage = Stage(indoor_canvas(size, rng))
    return stage, rooms.room(stage.canvas, tiled)


def _within(stage: Stage, room: Room, margin: float) -> float:
    """Return a random X at least `margin` metres from the side walls."""
    return float(stage.rng.uniform(room.left + margin, room.right - margin))


def _in_view(stage: Stage, room: Room, margin: float, z: float) -> float:
    """Return a random X for the main piece of a room: usually near the middle of the image, sometimes anywhere."""
    if stage.chance(0.12):
        return _within(stage, room, margin)
    return float(np.clip(stage.across(stage.rng.uniform(-0.6, 0.6), z), room.left + margin, room.right - margin))


def _wall_decoration(
    stage: Stage, room: Room, windows: float = 0.75, low: float = 0.95, curtains: float = 0.65
) -> None:
    """Fill the back wall from the left: windows, a door, paintings, a mirror, a clock, each or not."""
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
        # Both ranges are drawn from for every kind: dropping a draw would change the images.
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
            top = rng.uniform(2.0, 2.25)
            rooms.window(canvas, middle, room.depth, width - 0.2, (low, top), stage.chance(curtains))
        elif kind == "door":
            rooms.doorway(canvas, middle, room.depth)
        elif kind == "painting":
            rooms.painting(canvas, middle, rng.uniform(1.55, 1.8), room.depth, width, rng.uniform(0.35, 0.75))
        elif kind == "mirror":
            rooms.mirror(canvas, middle, 1.65, room.depth, 0.28)
        else:
            rooms.clock(canvas, middle, 1.95, room.depth)
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
    stage.add(z, furniture.bookcase, x, z, Size(stage.rng.uniform(0.7, 0.95), 0.32, stage.rng.uniform(1.2, 2.1)))


def _shelf_behind(stage: Stage, room: Room, width: Range, height: Range) -> None:
    """Put a bookcase at the back wall, its size drawn from ranges in metres."""
    x, size = _within(stage, room, 0.5), Size(stage.rng.uniform(*width), 0.32, stage.rng.uniform(*height))
    stage.add(room.depth - 0.3, furniture.bookcase, x, room.depth - 0.33, size)


def _cupboard(stage: Stage, x: float, z: float) -> None:
    stage.add(z, furniture.wardrobe, x, z, Size(stage.rng.uniform(0.8, 1.0), 0.55, stage.rng.uniform(1.5, 2.1)))


def _drawers(stage: Stage, x: float, z: float) -> None:
    height = stage.rng.uniform(0.7, 1.05)
    stage.add(z, furniture.chest, x, z, Size(0.9, 0.45, height))
    if stage.chance(0.5):
        thing = household.vase if stage.chance(0.5) else household.lamp
        stage.add(z - 1e-3, thing, x, z + 0.2, height, stage.rng.uniform(0.3, 0.45))


def _greenery(stage: Stage, x: float, z: float) -> None:
    stage.add(z, household.plant, x, z, 0.0, stage.rng.uniform(0.7, 1.5))


def _standing_lamp(stage: Stage, x: float, z: float) -> None:
    stage.add(z, household.lamp, x, z, 0.0, stage.rng.uniform(1.4, 1.75))


def _hanging_lamp(stage: Stage, room: Room, z: float, drop: float) -> None:
    """Hang a lamp `drop` metres below the ceiling, painted as if it were 1 m before the back wall."""
    x = _within(stage, room, 0.8)
    stage.add(room.depth - 1.0, household.lamp, x, z, room.height - drop, drop, True)


def _armchair(stage: Stage, x: float, z: float) -> None:
    stage.add(z, furniture.sofa, x, z, 0.95)


def _seat(stage: Stage, x: float, z: float) -> None:
    stage.add(z, furniture.chair, x, z, stage.chance(0.3))


def _cool(stage: Stage, x: float, z: float) -> None:
    stage.add(z, kitchens.refrigerator, x, z)


def _workplace(stage: Stage, x: float, z: float, width: float) -> None:
    """Put a desk with a computer, a lamp, a plant and a chair, each or not."""
    rng = stage.rng
    stage.add(z + 0.6, furniture.table, x, z, Size(width, 0.7, 0.74), "desk")
    if stage.chance(0.85):
        stage.add(z + 0.3, household.computer, x + rng.uniform(-0.2, 0.2), z + 0.42, 0.74)
    if stage.chance(0.4):
        stage.add(z + 0.25, household.lamp, x - 0.35 * width, z + 0.45, 0.74, 0.5)
    if stage.chance(0.35):
        stage.add(z + 0.2, household.plant, x + 0.38 * width, z + 0.4, 0.74, 0.35)
    if stage.chance(0.75):
        stage.add(z - 0.3, furniture.chair, x + rng.uniform(-0.25, 0.25), z - 0.35, True)


def _set_table(stage: Stage, x: float, z: float, width: float, depth: float, chairs: int) -> None:
    """Put a table with things on it and chairs around it."""
    rng = stage.rng
    for at in np.linspace(-0.5, 0.5, max(1, (chairs + 1) // 2)) * (width - 0.6):
        stage.add(z + depth + 0.1, furniture.chair, x + at, z + depth - 0.1)
    stage.add(z + 0.5, furniture.table, x, z, Size(width, depth, 0.74))
    for _ in range(rng.integers(0, 6)):
        deep = rng.uniform(0.1, depth - 0.3)
        stage.add(z + 0.49 - 0.01 * deep, household.tableware, x + rng.uniform(-0.42, 0.42) * width, z + deep, 0.75)
    if stage.chance(0.5):
        stage.add(z + 0.47, household.vase, x + rng.uniform(-0.2, 0.2), z + depth / 2, 0.75)
    for at in np.linspace(-0.5, 0.5, max(1, chairs // 2)) * (width - 0.6) if chairs > 1 else ():
        stage.add(z - 0.3, furniture.chair, x + at, z - 0.35, True)


def _kitchen_row(stage: Stage, room: Room, x0: float, x1: float) -> None:
    """Draw a kitchen along the back wall between two X."""
    canvas, rng = stage.canvas, stage.rng
    z = room.depth - 0.6
    if stage.chance(0.7):
        kitchens.backsplash(canvas, x0, x1, room.depth)
    stove = rng.uniform(x0 + 0.4, x1 - 0.4)
    if stage.chance(0.75):
        for a, b in ((x0, stove - 0.4), (stove + 0.4, x1)):
            if b - a > 0.45:
                kitchens.wall_cupboards(canvas, a, b, room.depth - 0.35)
    kitchens.counter(canvas, x0, x1, z)
    if stage.chance(0.8):
        kitchens.stove(canvas, stove, z)
        if stage.chance(0.55):
            kitchens.hood(canvas, stove, z, room.height)
    if x1 - x0 > 1.6 and stage.chance(0.7):
        kitchens.sink(canvas, stove + (0.8 if stove < (x0 + x1) / 2 else -0.8), z)
    for _ in range(rng.integers(0, 5)):
        household.tableware(canvas, rng.uniform(x0 + 0.1, x1 - 0.1), z + rng.uniform(0.1, 0.4), 0.9)
    if stage.chance(0.3):
        household.towel(canvas, rng.uniform(x0 + 0.2, x1 - 0.2), z - 0.03, 0.8)


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
        at, z = _within(stage, room, 0.8), rng.uniform(2.0, room.depth - 1.0)
        household.rug(canvas, at, z, rng.uniform(1.4, 2.4), rng.uniform(0.9, 1.6))
    width = rng.choice((0.95, 1.4, 1.7))
    foot = room.depth - 2.1
    x = _in_view(stage, room, 0.5 * width, foot + 1.0)
    if stage.chance(0.93):
        stage.add(foot + 1.0, furniture.bed, x, foot, width)
        for side in (-1, 1):
            at = x + side * (width / 2 + 0.35)
            if stage.chance(0.6) and room.left + 0.2 < at < room.right - 0.2:
                stage.add(room.depth - 0.4, furniture.chest, at, room.depth - 0.45, Size(0.48, 0.4, 0.5))
                if stage.chance(0.7):
                    stage.add(room.depth - 0.41, household.lamp, at, room.depth - 0.25, 0.5, 0.5)
    _side_furniture(stage, room, _cupboard, _cupboard, _drawers, _shelf, _armchair, _greenery, _standing_lamp, _seat)
    if stage.chance(0.15):
        _workplace(stage, room.right - 0.8, rng.uniform(2.2, 2.8), 1.1)
    if stage.chance(0.2):
        _hanging_lamp(stage, room, room.depth - 1.2, 0.6)
    _someone(stage, room, 0.12)
    stage.paint()
    return canvas


def living_room(size: int, rng: np.random.Generator) -> Canvas:
    """Sofas around a low table, shelves, lamps and plants."""
    stage, room = _begin(size, rng)
    canvas = stage.canvas
    _wall_decoration(stage, room)
    if stage.chance(0.65):
        at, z = _within(stage, room, 1.2), rng.uniform(2.2, room.depth - 1.0)
        household.rug(canvas, at, z, rng.uniform(1.8, 2.8), rng.uniform(1.2, 1.8))
    x = _in_view(stage, room, 1.0, room.depth - 1.2)
    if stage.chance(0.92):
        width = rng.uniform(1.6, 2.3)
        back = room.depth - rng.uniform(0.9, 1.5)
        stage.add(back, furniture.sofa, x, back, width)
        if stage.chance(0.6):
            at = x + rng.uniform(-0.3, 0.3)
            stage.add(back - 0.8, furniture.table, at, back - 1.1, Size(rng.uniform(0.8, 1.2), 0.55, 0.42))
            if stage.chance(0.5):
                thing = household.vase if stage.chance(0.5) else household.tableware
                stage.add(back - 0.85, thing, x, back - 0.9, 0.43)
    if stage.chance(0.3):
        _shelf_behind(stage, room, (0.8, 1.3), (1.2, 2.1))
    _side_furniture(stage, room, _shelf, _armchair, _armchair, _greenery, _standing_lamp, _drawers, _cupboard)
    if stage.chance(0.06):
        stage.add(room.depth - 1.0, furniture.bed, _within(stage, room, 0.6), room.depth - 2.1, 0.95)
    if stage.chance(0.12):
        _set_table(stage, _within(stage, room, 0.8), rng.uniform(1.9, 2.4), 1.2, 0.8, 3)
    if stage.chance(0.25):
        _hanging_lamp(stage, room, room.depth - 1.4, 0.7)
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
        household.rug(canvas, x, z + depth / 2, width + 1.0, depth + 1.0)
    if stage.chance(0.95):
        _set_table(stage, x, z, width, depth, int(rng.integers(2, 7)))
    if stage.chance(0.65):
        stage.add(z + 0.4, household.lamp, x, z + depth / 2, rng.uniform(1.55, 1.8), room.height - 1.6, True)
    _side_furniture(stage, room, _cupboard, _drawers, _drawers, _greenery, _seat, _shelf, _armchair, _cool)
    if stage.chance(0.1):
        stage.add(room.depth - 0.8, furniture.sofa, _within(stage, room, 1.0), room.depth - 0.95, 1.8)
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
        rooms.window(canvas, middle, room.depth, rng.uniform(0.8, 1.2), (1.2, 2.1), stage.chance(0.3))
    if stage.chance(0.94):
        _kitchen_row(stage, room, x0, x1)
    else:
        _wall_decoration(stage, room)
    if stage.chance(0.65):
        at = room.right - 0.36 if stage.chance(0.5) else room.left + 0.36
        stage.add(room.depth - 0.65, kitchens.refrigerator, at, room.depth - 0.68)
    if stage.chance(0.4):
        at, z, width = _within(stage, room, 0.9), rng.uniform(1.5, room.depth - 1.7), rng.uniform(0.8, 1.3)
        _set_table(stage, at, z, width, 0.75, int(rng.integers(1, 5)))
    if stage.chance(0.35):
        stage.add(2.5, household.lamp, _within(stage, room, 0.8), 2.5, room.height - 0.8, 0.8, True)
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
        household.rug(canvas, _within(stage, room, 1.0), rng.uniform(2.2, room.depth - 1.0), 2.0, 1.4)
    for _ in range(1 if stage.chance(0.6) else 2):
        if stage.chance(0.95):
            z = rng.uniform(2.0, room.depth - 0.8)
            _workplace(stage, _in_view(stage, room, 0.8, z), z, rng.uniform(1.2, 1.8))
    for _ in range(rng.integers(0, 3)):
        _shelf_behind(stage, room, (0.7, 1.3), (1.1, 2.1))
    _side_furniture(stage, room, _shelf, _drawers, _cupboard, _greenery, _seat, _armchair, _standing_lamp)
    if stage.chance(0.12):
        stage.add(room.depth - 0.8, furniture.sofa, _within(stage, room, 1.0), room.depth - 0.95, 1.7)
    if stage.chance(0.3):
        _hanging_lamp(stage, room, room.depth - 1.4, 0.5)
    _someone(stage, room, 0.25)
    stage.paint()
    return canvas

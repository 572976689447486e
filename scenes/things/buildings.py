"""Buildings: houses, town houses and towers, churches, lighthouses, windmills, barns."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from scenes import palette, skins
from scenes.canvas import Canvas
from scenes.palette import LAMPLIGHT, WHITE, mix, pick
from scenes.pen import Pen, Size, bar, disc, rectangle, strut
from scenes.skins import Skin, metal, painted, stone, wood
from scenes.things.materials import facade_skin, glass, roof_skin

COTTAGE = Size(8.0, 7.0, 3.2)  # a house, unless another size is given


def windows(
    pen: Pen,
    rects: Sequence[tuple[float, float, float, float]],
    frame: np.ndarray,
    shutters: np.ndarray | None = None,
    mullions: bool = True,
) -> None:
    """Draw windows at (x0, x1, y0, y1) with frames, panes, bars (`mullions`) and shutters, None for no shutters."""
    placed = np.array(rects, float).reshape(-1, 4)
    wide = placed[:, 1] - placed[:, 0]
    edge = 0.09
    if shutters is not None:
        leaves = [
            rectangle(r[side] - 0.32 * w * (side == 0), r[side] + 0.32 * w * side, r[2], r[3])
            for r, w in zip(placed, wide, strict=True)
            for side in (0, 1)
        ]
        pen.draw(wood(shutters), *leaves, part="window")
    outer = [rectangle(a - edge, b + edge, c - edge * 1.5, d + edge) for a, b, c, d in placed]
    pen.draw(painted(frame), *outer, part="window")
    shares = (placed[::2], placed[1::2]) if pen.light.lamps and len(placed) > 1 else (placed,)
    for share in shares:
        pen.draw(glass(pen.canvas), *[rectangle(*r) for r in share], part="window")
    if mullions and pen.pixels(0.1) > 0.7:
        bars = [rectangle((a + b) / 2 - 0.035, (a + b) / 2 + 0.035, c, d) for a, b, c, d in placed]
        bars += [rectangle(a, b, (c + 2 * d) / 3 - 0.035, (c + 2 * d) / 3 + 0.035) for a, b, c, d in placed]
        pen.draw(painted(frame), *bars, part="window")


def door(pen: Pen, x: float, width: float, height: float, colour: np.ndarray) -> None:
    """Draw a door of boards with a frame and a handle."""
    half = width / 2
    frame = painted(palette.WALLS[2] * 0.95)
    pen.draw(frame, rectangle(x - half - 0.1, x + half + 0.1, 0, height + 0.12), part="door")
    leaf = wood(colour, pattern=skins.planks(colour * 0.75, 0.25, texture=None))
    pen.draw(leaf, rectangle(x - half, x + half, 0, height), part="door")
    if pen.pixels(0.1) > 1.0:
        pen.draw(metal(palette.METALS[2]), disc(x + half * 0.7, height * 0.48, 0.06), part="door")


@dataclass(frozen=True)
class _Body:
    """The walls and the roof of a house; `ridge` is the height of the roof in metres."""

    size: Size
    ridge: float
    skin: Skin
    roof: Skin


def house(canvas: Canvas, x: float, z: float, size: Size = COTTAGE, y: float = 0.0, skin: Skin | None = None) -> None:
    """Draw a house with its gable or its eaves to the front, with windows, a door and usually a chimney."""
    rng = canvas.rng
    width, depth, eaves = size.width, size.depth, size.height
    skin, roof = skin or facade_skin(rng), roof_skin(rng)
    pen = Pen(canvas, "house", x - width / 2, z, y)
    pen.moved(x=width / 2).shadow(width * 0.62, 2.5)
    ridge = eaves + rng.uniform(0.35, 0.6) * min(width, depth)
    if rng.random() < 0.75:
        _chimney(pen, width * rng.uniform(0.2, 0.7), ridge, depth * 0.5)
    front = _gable_front if rng.random() < 0.5 else _eaves_front
    front(pen, _Body(size, ridge, skin, roof))
    _front_openings(pen, width, eaves)


def _chimney(pen: Pen, x: float, top: float, z: float) -> None:
    brick = Skin(pick(pen.rng, palette.BRICKS), "brick", grain=0.06)
    pen.box(brick, (x, x + 0.8), (top - 2.0, top + 0.7), (z, z + 0.7), part="chimney")


def _side_in_view(pen: Pen, width: float) -> float | None:
    """Return the X, 0 or `width`, of the side wall that the viewer sees; None if the front hides both."""
    # A church's scale ought to count here; counting it would change the images.
    if pen.origin[0] > 0:
        return 0.0
    return width if pen.origin[0] + width < 0 else None


def _side_wall(pen: Pen, body: _Body, shape: np.ndarray) -> None:
    """Draw the side wall in view, if any, as a shape (n, 2) in Z and Y."""
    at = _side_in_view(pen, body.size.width)
    if at is not None:
        lit = 0.94 if (-1 if at == 0.0 else 1) == pen.light.side else 0.72
        pen.side(body.skin.times(lit), at, shape, part="wall")


def _gable_front(pen: Pen, body: _Body) -> None:
    width, depth, eaves, ridge = body.size.width, body.size.depth, body.size.height, body.ridge
    middle, over = width / 2, 0.35
    low = eaves - over * (ridge - eaves) / middle
    _side_wall(pen, body, rectangle(0, depth, 0, eaves))
    for edge, side in ((-over, -1), (width + over, 1)):
        slope = [(edge, low, -over), (middle, ridge, -over), (middle, ridge, depth), (edge, low, depth)]
        pen.slab(body.roof.times(1.08 if side == pen.light.side else 0.82), slope, part="roof")
    gable = np.array([(0, 0), (width, 0), (width, eaves), (middle, ridge), (0, eaves)])
    pen.draw(body.skin, gable, part="wall")
    edges = [bar(-over, low, middle, ridge + 0.05, 0.3), bar(width + over, low, middle, ridge + 0.05, 0.3)]
    pen.draw(Skin(body.roof.colour * 0.8, body.roof.material), *edges, part="roof", dz=-over)
    if ridge - eaves > 2.0:
        windows(pen, [(middle - 0.45, middle + 0.45, eaves + 0.2, eaves + 1.2)], palette.WALLS[2])


def _eaves_front(pen: Pen, body: _Body) -> None:
    width, depth, eaves, ridge = body.size.width, body.size.depth, body.size.height, body.ridge
    over = 0.4
    _side_wall(pen, body, np.array([(0, 0), (depth, 0), (depth, eaves), (depth / 2, ridge), (0, eaves)]))
    pen.draw(body.skin, rectangle(0, width, 0, eaves), part="wall")
    low, back = eaves - 0.25, depth / 2
    slope = [(-over, low, -over), (width + over, low, -over), (width + over, ridge, back), (-over, ridge, back)]
    pen.slab(body.roof, slope, part="roof")
    gutter = Skin(body.roof.colour * 0.7, body.roof.material)
    pen.draw(gutter, rectangle(-over, width + over, low - 0.12, low + 0.06), part="roof", dz=-over)


def _front_openings(pen: Pen, width: float, eaves: float) -> None:
    """Draw a door in one of the bays, and windows in the others and on the upper floor."""
    rng = pen.rng
    frame = WHITE * 0.95 if rng.random() < 0.7 else palette.WOODS[1]
    shutters = pick(rng, palette.PAINTS) if rng.random() < 0.4 else None
    bays = max(2, int(width / 2.4))
    centres = (np.arange(bays) + 0.5) * width / bays
    doorway = rng.integers(bays)
    floors = 2 if eaves > 5.0 else 1
    rects = [
        (c - 0.5, c + 0.5, 1.0 + 2.8 * floor, 2.3 + 2.8 * floor)
        for floor in range(floors)
        for bay, c in enumerate(centres)
        if floor or bay != doorway
    ]
    windows(pen, rects, frame, shutters=shutters)
    door(pen, centres[doorway], 1.1, 2.1, pick(rng, palette.PAINTS))


def building(canvas: Canvas, x: float, z: float, size: Size, item: str = "building") -> None:
    """Draw a town house or a tower block: a box with rows of windows on the front and on the side in view."""
    rng = canvas.rng
    width, depth, height = size.width, size.depth, size.height
    glassy = item == "skyscraper" and rng.random() < 0.6
    if glassy:
        colour = mix(pick(rng, palette.GLASS), canvas.light.low, 0.3)
        skin = Skin(colour, "glass", skins.grid(colour * 0.72, rng.uniform(2.0, 4.0), 0.16), grain=0.02, shade=0.25)
    else:
        skin = facade_skin(rng)
    pen = Pen(canvas, item, x - width / 2, z)
    pen.moved(x=width / 2).shadow(width * 0.6, 2.0)
    pen.box(skin, (0, width), (0, height), (0, depth), part="wall")
    if not glassy:
        cornice = painted(pick(rng, palette.WALLS))
        pen.draw(cornice, rectangle(-0.2, width + 0.2, height - 0.5, height + 0.1), part="roof")
        _rows_of_windows(pen, size)
    elif rng.random() < 0.5:
        mast = rectangle(width * 0.48, width * 0.52, height, height * 1.18)
        pen.draw(metal(palette.METALS[0]), mast, dz=depth / 2)


def _rows_of_windows(pen: Pen, size: Size) -> None:
    """Draw the windows of all floors, and a door: from afar as one layer, nearby with frames."""
    canvas, width, storey = pen.canvas, size.width, 3.1
    bays, floors = max(2, int(width / 2.6)), max(1, int((size.height - 1.0) / storey))
    wide = 0.5 * width / bays
    middles = [(bay + 0.5) * width / bays for bay in range(bays)]
    rects = [
        (at - wide / 2, at + wide / 2, 0.9 + storey * floor, 2.5 + storey * floor)
        for floor in range(floors)
        for at in middles
    ]
    if pen.pixels(1.0) < 3.0:
        pen.draw(glass(canvas), *[rectangle(*r) for r in rects[:: 2 if canvas.light.lamps else 1]], part="window")
    else:
        windows(pen, rects[1:], WHITE * 0.92, mullions=pen.pixels(1.0) > 9)
        door(pen, rects[0][0] + wide / 2, min(1.4, wide * 1.1), 2.4, pick(pen.rng, palette.PAINTS))
    at_side = _side_in_view(pen, width)
    if at_side is not None:
        rows = max(1, int(size.depth / 3.0))
        panes = [
            rectangle(
                (row + 0.3) * size.depth / rows,
                (row + 0.7) * size.depth / rows,
                0.9 + storey * floor,
                2.5 + storey * floor,
            )
            for floor in range(floors)
            for row in range(rows)
        ]
        pen.side(glass(canvas).times(0.8), at_side, *panes, part="window")


def church(canvas: Canvas, x: float, z: float, scale: float = 1.0) -> None:
    """Draw a church: a nave and a tower with a spire and a cross."""
    rng = canvas.rng
    light_stone = rng.random() < 0.5
    colour = pick(rng, palette.WALLS[[0, 2, 9]]) if light_stone else pick(rng, palette.ROCK) * 1.2
    skin = painted(colour) if light_stone else stone(colour, pattern=skins.bricks(colour * 0.85, 1.0, 0.5))
    if rng.random() < 0.2:
        skin = Skin(pick(rng, palette.BRICKS), "brick", skins.bricks(palette.WALLS[0]), grain=0.06)
    roof = roof_skin(rng)
    pen = Pen(canvas, "church", x, z, scale=scale)
    side = -1 if rng.random() < 0.5 else 1
    pen.shadow(9.0, 4.0)
    nave = Pen(canvas, "church", x + (side * 6.0 - 5.5) * scale, z, scale=scale)
    body = _Body(Size(11.0, 8.0, 5.5), 9.5, skin, roof)
    if rng.random() < 0.6:
        _eaves_front(nave, body)
        arches = [_arch(a, 1.1, 1.5, 3.2) for a in (2.0, 4.4, 6.8, 9.2)]
    else:
        _gable_front(nave, body)
        arches = [_arch(a, 1.2, 1.5, 3.6) for a in (2.4, 8.6)]
    nave.draw(glass(canvas, 0.7), *arches, part="window")
    _steeple(pen, skin, roof)


def _arch(x: float, width: float, low: float, height: float) -> np.ndarray:
    turn = np.linspace(0.0, np.pi, 7)
    top = np.stack([x + width / 2 * np.cos(turn), low + height - width / 2 + width * 0.75 * np.sin(turn)], axis=1)
    return np.concatenate([[(x - width / 2, low), (x + width / 2, low)], top])


def _steeple(pen: Pen, skin: Skin, roof: Skin) -> None:
    rng = pen.rng
    height, half = rng.uniform(10.0, 14.0), 2.0
    spire = height + rng.uniform(3.0, 8.0)
    pen.box(skin, (-half, half), (0, height), (-0.5, 3.5), part="tower")
    pen.draw(roof, np.array([(-half - 0.3, height), (half + 0.3, height), (0.0, spire)]), part="roof", dz=-0.5)
    dark = np.array([(-half * pen.light.side - 0.3 * pen.light.side, height), (0.0, height), (0.0, spire)])
    pen.draw(roof.times(0.8), dark, part="roof", dz=-0.5)
    gold = metal(palette.hexa("caa64a"))
    cross = (rectangle(-0.1, 0.1, spire - 0.3, spire + 1.8), rectangle(-0.6, 0.6, spire + 0.9, spire + 1.15))
    if rng.random() < 0.85:
        pen.draw(gold, *cross, part="cross", dz=-0.5)
    pen.draw(glass(pen.canvas, 0.6), _arch(0.0, 1.2, height - 3.2, 2.2), part="window", dz=-0.5)
    if rng.random() < 0.5:
        pen.moved(item="clock").draw(painted(WHITE * 0.95), disc(0.0, height - 4.4, 0.75), dz=-0.5)
    leaf = wood(pick(rng, palette.WOODS))
    pen.draw(leaf, _arch(0.0, 1.8, 0.0, 2.6), part="door", dz=-0.5)


def lighthouse(canvas: Canvas, x: float, z: float, height: float, y: float = 0.0) -> None:
    """Draw a lighthouse: a tapering tower, often banded, with a balcony and a lantern."""
    rng = canvas.rng
    pen = Pen(canvas, "lighthouse", x, z, y, scale=height)
    pen.shadow(0.16, 0.1)
    wide, slim = rng.uniform(0.075, 0.12), rng.uniform(0.05, 0.065)
    white = palette.WALLS[2] * 1.02
    second = pick(rng, palette.PAINTS[[0, 1, 7, 0]])
    pattern = skins.banded(second, height * rng.uniform(0.24, 0.4)) if rng.random() < 0.65 else None
    if rng.random() < 0.15:
        white = pick(rng, palette.ROCK) * 1.2
    body = np.array([(-wide, 0.0), (wide, 0.0), (slim, 0.8), (-slim, 0.8)])
    pen.draw(painted(white, shade=0.26, pattern=pattern), body, part="tower")
    panes = [rectangle(-0.013, 0.013, low, low + 0.045) for low in (0.2, 0.42, 0.62)]
    pen.draw(glass(canvas), *panes, part="window")
    pen.draw(wood(pick(rng, palette.PAINTS)), rectangle(-0.025, 0.025, 0.0, 0.09), part="door")
    pen.draw(metal(palette.METALS[3]), rectangle(-slim * 1.5, slim * 1.5, 0.79, 0.81), part="balcony")
    rails = [rectangle(a - 0.003, a + 0.003, 0.81, 0.84) for a in np.linspace(-slim * 1.45, slim * 1.45, 7)]
    pen.draw(metal(palette.METALS[3]), *rails, bar(-slim * 1.5, 0.84, slim * 1.5, 0.84, 0.006), part="balcony")
    glow = 0.95 if canvas.light.lamps else 0.3
    pen.draw(Skin(LAMPLIGHT, "glass", glow=glow), rectangle(-slim * 0.7, slim * 0.7, 0.81, 0.90), part="lantern")
    posts = [rectangle(a - 0.003, a + 0.003, 0.81, 0.9) for a in (-slim * 0.65, -slim * 0.2, slim * 0.2, slim * 0.65)]
    pen.draw(metal(palette.METALS[3]), *posts, part="lantern")
    cap = np.array(
        [(-slim * 0.95, 0.9), (slim * 0.95, 0.9), (0.012, 0.97), (0.003, 1.0), (-0.003, 1.0), (-0.012, 0.97)]
    )
    pen.draw(metal(second if rng.random() < 0.7 else palette.METALS[3]), cap, part="roof")
    if canvas.light.lamps:
        pen.shine(0.0, 0.855, 0.35, LAMPLIGHT, 0.8)


def windmill(canvas: Canvas, x: float, z: float, height: float) -> None:
    """Draw a windmill: a tapering tower, a cap and four lattice blades."""
    rng = canvas.rng
    pen = Pen(canvas, "windmill", x, z, scale=height)
    pen.shadow(0.28, 0.14)
    wide, slim, top = rng.uniform(0.15, 0.22), rng.uniform(0.09, 0.12), 0.66
    skin = facade_skin(rng)
    pen.draw(
        Skin(skin.colour, skin.material, skin.pattern, 0.06, shade=0.26),
        np.array([(-wide, 0.0), (wide, 0.0), (slim, top), (-slim, top)]),
        part="tower",
    )
    if rng.random() < 0.4:
        pen.draw(wood(pick(rng, palette.WOODS)), rectangle(-wide * 1.15, wide * 1.15, 0.22, 0.25), part="balcony")
    pen.draw(glass(canvas), *[rectangle(-0.022, 0.022, low, low + 0.06) for low in (0.3, 0.48)], part="window")
    pen.draw(wood(pick(rng, palette.PAINTS)), rectangle(-0.04, 0.04, 0.0, 0.15), part="door")
    turn = np.linspace(0.0, np.pi, 9)
    cap = np.stack([slim * 1.2 * np.cos(turn), top + 0.14 * np.sin(turn) ** 0.8], axis=1)
    pen.draw(Skin(pick(rng, palette.ROOFS), "tile", shade=0.25, grain=0.05), cap, part="roof")
    start, reach = rng.uniform(0.0, np.pi / 2), rng.uniform(0.36, 0.46)
    arms, cloths = [], []
    for angle in start + np.arange(4) * np.pi / 2:
        along, across = np.array([np.cos(angle), np.sin(angle)]), np.array([-np.sin(angle), np.cos(angle)])
        hub = np.array([0.0, top + 0.04])
        tip = hub + along * reach
        arms.append(strut(hub, tip, 0.02, 0.012))
        inner = hub + along * reach * 0.22
        cloths.append(np.array([inner, tip, tip + across * 0.085, inner + across * 0.085]))
        arms += [
            strut(inner + (tip - inner) * s, inner + (tip - inner) * s + across * 0.085, 0.007)
            for s in (0, 0.33, 0.66, 1)
        ]
        arms.append(strut(inner + across * 0.085, tip + across * 0.085, 0.008))
    cloth = skins.fabric(pick(rng, palette.WALLS[[0, 2]]), shade=0.05)
    pen.draw(cloth, *cloths, part="blade", dz=-0.05)
    pen.draw(wood(pick(rng, palette.WOODS[[1, 3, 5]])), *arms, disc(0, top + 0.04, 0.025), part="blade", dz=-0.05)


def barn(canvas: Canvas, x: float, z: float, width: float = 10.0) -> None:
    """Draw a barn of boards with a gambrel roof, white trim and a big door; sometimes a silo beside it."""
    rng = canvas.rng
    colour = pick(rng, palette.family("a33b32", "8f3a30", "9a6a45", "7d7a74", "b8b2a4"))
    boards = wood(colour, pattern=skins.planks(colour * 0.72, 0.5, texture="grooved"))
    depth, eaves, knee, ridge = width * 1.4, width * 0.38, width * 0.62, width * 0.78
    pen = Pen(canvas, "barn", x - width / 2, z)
    pen.moved(x=width / 2).shadow(width * 0.65, 3.0)
    if rng.random() < 0.35:
        silo = width * (1.25 if rng.random() < 0.5 else -0.25)
        tall = width * rng.uniform(0.9, 1.2)
        pen.draw(
            metal(palette.METALS[2], pattern=skins.banded(palette.METALS[0], 1.6, 0.12, None)),
            rectangle(silo - 1.6, silo + 1.6, 0, tall),
            disc(silo, tall, 1.6, 1.1),
            part="tower",
            dz=3.0,
        )
    roof = metal(pick(rng, palette.METALS))
    at = _side_in_view(pen, width)
    if at is not None:
        inward = 1 if at == 0.0 else -1
        pen.side(boards.times(0.75), at, rectangle(0, depth, 0, eaves), part="wall")
        edge, middle = at - 0.3 * inward, at + 0.18 * width * inward
        pen.slab(
            roof.times(0.9),
            [(edge, eaves - 0.2, 0), (middle, knee, 0), (middle, knee, depth), (edge, eaves - 0.2, depth)],
            part="roof",
        )
    outline = np.array(
        [(0, 0), (width, 0), (width, eaves), (0.82 * width, knee), (width / 2, ridge), (0.18 * width, knee), (0, eaves)]
    )
    pen.draw(boards, outline, part="wall")
    trim = [strut(outline[i], outline[i + 1], 0.45) for i in (2, 3, 4, 5)]
    pen.draw(roof.times(0.85), *trim, part="roof")
    half, tall = width * 0.2, eaves * 0.85
    pen.draw(boards.times(0.85), rectangle(width / 2 - half, width / 2 + half, 0, tall), part="door")
    a, b = width / 2 - half, width / 2 + half
    white = [
        bar(a, 0, b, tall, 0.22),
        bar(a, tall, b, 0, 0.22),
        bar(a, 0, a, tall, 0.25),
        bar(b, 0, b, tall, 0.25),
        bar(a, tall, b, tall, 0.25),
    ]
    pen.draw(painted(WHITE * 0.93), *white, part="door")
    windows(pen, [(width / 2 - 0.6, width / 2 + 0.6, knee - 1.0, knee + 0.4)], WHITE * 0.93)

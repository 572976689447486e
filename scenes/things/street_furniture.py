"""Street furniture: fences, piers, street lights, benches, swings and slides."""

import numpy as np

from scenes import palette, skins
from scenes.canvas import Canvas
from scenes.palette import LAMPLIGHT, pick
from scenes.pen import Pen, Point, bar, rectangle
from scenes.skins import Skin, metal, painted, wood


def fence(
    canvas: Canvas,
    start: Point,
    end: Point,
    height: float = 1.1,
    step: float = 1.6,
    colour: np.ndarray | None = None,
) -> None:
    """Draw a fence of posts and two rails between two ground points (X, Z)."""
    colour = pick(canvas.rng, palette.WOODS) if colour is None else colour
    pen = Pen(canvas, "fence", 0.0, 0.0)
    first, last = np.array(start, float), np.array(end, float)
    count = int(np.clip(np.hypot(*(last - first)) / step, 2, 26))
    places = first + np.linspace(0.0, 1.0, count + 1)[:, None] * (last - first)
    skin = wood(colour, shade=0.05)
    rails = [
        [(*first, low), (*last, low), (*last, low + 0.12), (*first, low + 0.12)]
        for low in (height * 0.38, height * 0.74)
    ]
    pen.slab(skin.times(0.92), *(np.array(rail)[:, [0, 2, 1]] for rail in rails), part="post")
    posts = [
        np.array([(x - 0.08, 0, z), (x + 0.08, 0, z), (x + 0.08, height, z), (x - 0.08, height, z)]) for x, z in places
    ]
    pen.slab(skin, *posts, part="post")


def pier(canvas: Canvas, x: float, width: float, near: float, far: float) -> None:
    """Draw a wooden pier that leads away from the viewer."""
    height = 0.8
    colour = pick(canvas.rng, palette.WOODS[[0, 1, 2, 3]])
    pen = Pen(canvas, "pier", x, 0.0)
    posts = [
        np.array([(side, -0.5, z), (side + 0.25, -0.5, z), (side + 0.25, height + 0.5, z), (side, height + 0.5, z)])
        for z in np.linspace(far, near + 1.0, 6)
        for side in (-width / 2, width / 2 - 0.25)
    ]
    pen.slab(wood(colour * 0.6), *posts, part="post")
    boards = wood(colour, pattern=skins.planks(colour * 0.6, 0.45, across=False))
    pen.box(boards, (-width / 2, width / 2), (height - 0.35, height), (near, far))


def streetlight(canvas: Canvas, x: float, z: float, height: float = 5.0) -> None:
    """Draw a street light, old-fashioned or with an arm; it shines at night."""
    rng = canvas.rng
    pen = Pen(canvas, "streetlight", x, z)
    iron = metal(palette.METALS[3] * 0.9)
    pen.shadow(0.5, 0.4)
    glow = 0.95 if canvas.light.lamps else 0.2
    if rng.random() < 0.5:
        pen.draw(iron, bar(0, 0, 0, height, 0.16, 0.1), rectangle(-0.15, 0.15, 0, 0.5), part="post")
        lamp = np.array([(-0.18, height), (0.18, height), (0.3, height + 0.6), (-0.3, height + 0.6)])
        pen.draw(Skin(LAMPLIGHT, "glass", glow=glow), lamp, part="lantern")
        pen.draw(iron, np.array([(-0.36, height + 0.6), (0.36, height + 0.6), (0, height + 0.9)]), part="lantern")
        tip = (0.0, height + 0.3)
    else:
        reach = 1.3 * (-1 if x > 0 else 1)
        pen.draw(iron, bar(0, 0, 0, height, 0.16, 0.1), bar(0, height, reach, height + 0.4, 0.1, 0.08), part="post")
        lamp = np.array(
            [
                (reach - 0.4, height + 0.3),
                (reach + 0.4, height + 0.3),
                (reach + 0.3, height + 0.5),
                (reach - 0.3, height + 0.5),
            ]
        )
        pen.draw(Skin(LAMPLIGHT, "glass", glow=glow), lamp, part="lantern")
        tip = (reach, height + 0.3)
    if canvas.light.lamps:
        pen.shine(*tip, 2.4, LAMPLIGHT, 0.7)


def bench(canvas: Canvas, x: float, z: float) -> None:
    """Draw a park bench of slats on iron legs."""
    pen = Pen(canvas, "bench", x, z)
    pen.shadow(1.1, 0.5)
    slats = wood(pick(canvas.rng, palette.WOODS))
    pen.draw(metal(palette.METALS[3]), *[rectangle(a, a + 0.09, 0, 0.95) for a in (-0.8, 0.72)], part="leg", dz=0.3)
    pen.draw(slats, *[rectangle(-0.95, 0.95, low, low + 0.13) for low in (0.52, 0.70, 0.88)], part="back", dz=0.3)
    pen.box(slats, (-0.95, 0.95), (0.38, 0.46), (-0.15, 0.3), part="seat")
    pen.draw(metal(palette.METALS[3]), *[rectangle(a, a + 0.08, 0, 0.4) for a in (-0.8, 0.72)], part="leg", dz=-0.15)


def swing(canvas: Canvas, x: float, z: float) -> None:
    """Draw a swing set with two seats."""
    rng = canvas.rng
    pen = Pen(canvas, "swing", x, z)
    pen.shadow(2.2, 0.7)
    frame = metal(pick(rng, palette.PAINTS))
    legs = [bar(side * 2.3, 0, side * 1.8, 2.5, 0.12) for side in (-1, 1)]
    legs += [bar(side * 1.5, 0, side * 1.8, 2.5, 0.12) for side in (-1, 1)]
    pen.draw(frame, *legs, bar(-1.8, 2.5, 1.8, 2.5, 0.14), part="post")
    for centre in (-0.8, 0.8):
        drift = rng.normal(0.0, 0.2)
        ropes = [bar(centre + s, 2.5, centre + s + drift, 0.55, 0.045) for s in (-0.25, 0.25)]
        pen.draw(metal(palette.METALS[1]), *ropes, part="handle")
        pen.draw(
            wood(palette.WOODS[3]), rectangle(centre - 0.32 + drift, centre + 0.32 + drift, 0.46, 0.58), part="seat"
        )


def slide(canvas: Canvas, x: float, z: float) -> None:
    """Draw a playground slide with a ladder, sometimes with a little roof."""
    rng = canvas.rng
    pen = Pen(canvas, "slide", x, z)
    pen.shadow(1.8, 0.7)
    colour, frame = pick(rng, palette.PAINTS), wood(pick(rng, palette.WOODS))
    posts = [rectangle(a, a + 0.12, 0, 2.6) for a in (-1.5, -0.5)]
    pen.draw(frame, *posts, *[rectangle(-1.5, -0.4, low, low + 0.08) for low in (0.4, 0.8, 1.2)], part="post")
    pen.draw(frame, rectangle(-1.6, -0.35, 1.5, 1.65), part="top")
    if rng.random() < 0.6:
        pen.draw(painted(pick(rng, palette.PAINTS)), np.array([(-1.75, 2.5), (-0.2, 2.5), (-0.98, 3.2)]), part="roof")
    chute = np.array([(-0.4, 1.65), (1.5, 0.35), (2.1, 0.3), (2.1, 0.1), (1.4, 0.1), (-0.4, 1.4)])
    pen.draw(Skin(colour, "plastic", shade=0.2), chute, part="body")
    pen.draw(Skin(colour * 0.75, "plastic"), bar(-0.4, 1.7, 1.5, 0.4, 0.1), part="body")

"""Things that move through the scenes: people, cars, boats, animals, and the parasols that people sit under."""

import numpy as np

from scenes import palette, skins
from scenes.canvas import Canvas
from scenes.palette import LAMPLIGHT, WHITE, pick
from scenes.pen import Pen, bar, disc, rectangle
from scenes.skins import Skin, fabric, metal, painted, wood
from scenes.things.materials import glass


def person(canvas: Canvas, x: float, z: float, y: float = 0.0) -> None:
    """Draw a standing or walking person, sometimes with a hat or a long skirt."""
    rng = canvas.rng
    height = rng.choice((1.2, 1.65, 1.75, 1.8))
    pen = Pen(canvas, "person", x, z, y, scale=height)
    pen.shadow(0.22, 0.15)
    skin = Skin(pick(rng, palette.SKINS), "skin", shade=0.15)
    top, legs = fabric(pick(rng, palette.FABRICS), shade=0.2), fabric(pick(rng, palette.FABRICS) * 0.8, shade=0.2)
    if rng.random() < 0.35:
        top = top.with_pattern(skins.banded(WHITE * 0.92, 0.13, texture="striped"))
    stride = rng.uniform(0.0, 0.1)
    if rng.random() < 0.3:
        pen.draw(legs, np.array([(-0.08, 0.5), (0.08, 0.5), (0.15, 0.12), (-0.15, 0.12)]), part="leg")
    else:
        pen.draw(legs, *[bar(s * 0.045, 0.5, s * (0.05 + stride), 0.03, 0.085, 0.06) for s in (-1, 1)], part="leg")
    feet = [disc(s * (0.06 + stride), 0.02, 0.045, 0.02) for s in (-1, 1)]
    pen.draw(Skin(palette.HAIR[0], "leather"), *feet, part="leg")
    swing = rng.uniform(0.02, 0.12)
    pen.draw(skin, *[bar(s * 0.1, 0.8, s * (0.11 + swing), 0.47, 0.05, 0.04) for s in (-1, 1)], part="arm")
    torso = np.array([(-0.085, 0.46), (0.085, 0.46), (0.115, 0.8), (0.05, 0.845), (-0.05, 0.845), (-0.115, 0.8)])
    pen.draw(top, torso, *[bar(s * 0.1, 0.8, s * (0.108 + swing * 0.5), 0.64, 0.06) for s in (-1, 1)], part="torso")
    hair = Skin(pick(rng, palette.HAIR), "hair", grain=0.08)
    pen.draw(
        hair,
        disc(0.0, 0.93, 0.07, 0.078),
        *([rectangle(-0.065, 0.065, 0.82, 0.93)] * (rng.random() < 0.4)),
        part="head",
    )
    pen.draw(skin, disc(0.0, 0.91, 0.055, 0.066), rectangle(-0.025, 0.025, 0.83, 0.88), part="head")
    if rng.random() < 0.3:
        hat = fabric(pick(rng, palette.FABRICS))
        pen.draw(hat, rectangle(-0.11, 0.11, 0.955, 0.975), disc(0.0, 0.98, 0.065, 0.05), part="hat")


def car_from_side(canvas: Canvas, x: float, z: float) -> None:
    """Draw a car seen from its side."""
    rng = canvas.rng
    pen = Pen(canvas, "car", x, z)
    way = -1.0 if rng.random() < 0.5 else 1.0
    pen.shadow(2.3, 0.8, strength=1.4)
    paint = Skin(pick(rng, palette.PAINTS), "metal", grain=0.01, shade=0.16)
    tall = rng.uniform(1.4, 1.75)
    body = np.array([(-2.1, 0.3), (2.1, 0.3), (2.15, 0.62), (1.95, 0.82), (1.1, 0.92), (-1.9, 0.95), (-2.15, 0.7)])
    cabin = np.array([(-1.6, 0.9), (1.15, 0.9), (0.5, tall), (-1.15, tall)])
    pen.draw(paint, body * (way, 1), part="body")
    pen.draw(paint.times(0.92), cabin * (way, 1), part="body")
    panes = [
        np.array([(-1.4, 0.95), (-0.25, 0.95), (-0.25, tall - 0.1), (-1.08, tall - 0.1)]),
        np.array([(-0.15, 0.95), (0.95, 0.95), (0.45, tall - 0.1), (-0.15, tall - 0.1)]),
    ]
    pen.draw(glass(canvas, 0.0), *[pane * (way, 1) for pane in panes], part="window")
    pen.draw(Skin(palette.BLACK, "plastic"), *[disc(a, 0.33, 0.36) for a in (-1.25, 1.25)], part="wheel", dz=-0.05)
    pen.draw(metal(palette.METALS[2]), *[disc(a, 0.33, 0.18) for a in (-1.25, 1.25)], part="wheel", dz=-0.05)
    lamp = Skin(LAMPLIGHT, "glass", glow=0.9 if canvas.light.lamps else 0.3)
    pen.draw(lamp, disc(1.98 * way, 0.68, 0.12), part="headlight", dz=-0.05)


def car_from_front(canvas: Canvas, x: float, z: float) -> None:
    """Draw a car that drives towards the viewer or away."""
    rng = canvas.rng
    pen = Pen(canvas, "car", x, z)
    pen.shadow(1.2, 2.0, dz=1.0, strength=1.4)
    paint = Skin(pick(rng, palette.PAINTS), "metal", grain=0.01, shade=0.14)
    rubber = Skin(palette.BLACK, "plastic")
    pen.draw(rubber, *[rectangle(a, a + 0.26, 0, 0.5) for a in (-0.85, 0.59)], part="wheel")
    for low, high, half, z0, z1 in ((0.28, 0.85, 0.9, 0.0, 4.0), (0.85, 1.45, 0.72, 1.0, 3.2)):
        pen.box(paint, (-half, half), (low, high), (z0, z1), part="body")
    screen = np.array([(-0.64, 0.9), (0.64, 0.9), (0.6, 1.36), (-0.6, 1.36)])
    pen.draw(glass(canvas, 0.0), screen, part="window", dz=1.0)
    comes = rng.random() < 0.5
    colour = LAMPLIGHT if comes else palette.PAINTS[0]
    lamp = Skin(colour, "glass", glow=0.9 if canvas.light.lamps else 0.4)
    pen.draw(lamp, *[disc(s * 0.68, 0.62, 0.15, 0.11) for s in (-1, 1)], part="headlight")
    pen.draw(metal(palette.METALS[3]), rectangle(-0.42, 0.42, 0.42, 0.56), part="body")
    if canvas.light.lamps:
        for side in (-0.68, 0.68):
            pen.shine(side, 0.62, 0.6, colour, 0.6)


def boat(canvas: Canvas, x: float, z: float, kind: str | None = None) -> None:
    """Draw a sailing boat, a motor boat or a rowing boat, and darken the water beneath it."""
    rng = canvas.rng
    kind = kind or ("sail", "motor", "row")[int(rng.choice(3, p=(0.45, 0.35, 0.20)))]
    pen = Pen(canvas, "boat", x, z)
    pen.shadow(2.6, 1.6, dz=-0.8, strength=0.8)
    way = -1.0 if rng.random() < 0.5 else 1.0
    colour = pick(rng, palette.PAINTS)
    hull = np.array([(-2.6, 1.0), (2.9, 1.25), (2.2, 0.0), (-2.2, 0.0)])
    if kind == "row":
        hull = hull * (0.65, 0.6)
    if kind == "sail":
        _rigging(pen, way, rng)
    if kind == "motor":
        _cabin(pen, way, rng)
    planks = wood(colour, shade=0.2) if kind == "row" else painted(colour, shade=0.2)
    pen.draw(planks, hull * (way, 1), part="hull")
    stripe = [bar(hull[0, 0] * way, hull[0, 1], hull[1, 0] * way, hull[1, 1], 0.16)]
    pen.draw(painted(WHITE * 0.93), *stripe, part="hull")


def _rigging(pen: Pen, way: float, rng: np.random.Generator) -> None:
    tall = rng.uniform(6.5, 8.5)
    pen.draw(wood(pick(rng, palette.WOODS[[0, 1, 2]])), bar(0, 0.8, 0, tall, 0.16, 0.1), part="mast")
    cloth = fabric(pick(rng, palette.WALLS[[2, 2, 2, 3, 4]]), shade=0.12)
    if rng.random() < 0.25:
        cloth = cloth.with_pattern(skins.banded(pick(rng, palette.PAINTS), 1.6, texture="striped"))
    if rng.random() < 0.8:
        main = np.array([(-0.15, 1.6), (-0.15, tall - 0.2), (-1.2, 3.2), (-2.3, 1.5)])
        jib = np.array([(0.2, 1.5), (0.2, tall - 1.0), (1.3, 3.0), (2.5, 1.4)])
        pen.draw(cloth, main * (way, 1), part="sail")
        pen.draw(cloth.times(0.9), jib * (way, 1), part="sail")


def _cabin(pen: Pen, way: float, rng: np.random.Generator) -> None:
    skin = painted(pick(rng, palette.WALLS[[0, 2, 9]]), shade=0.18)
    pen.draw(skin, np.array([(-1.3, 0.8), (0.9, 0.8), (0.7, 2.4), (-1.2, 2.4)]) * (way, 1), part="body")
    pen.draw(painted(pick(rng, palette.PAINTS)), rectangle(-1.4, 1.0, 2.35, 2.55) * (way, 1), part="roof")
    panes = [rectangle(a, a + 0.5, 1.5, 2.1) * (way, 1) for a in (-1.0, -0.3, 0.25)]
    pen.draw(glass(pen.canvas), *panes, part="window")
    pen.draw(metal(palette.METALS[3]), bar(-0.8 * way, 2.5, -0.8 * way, 4.2, 0.09), part="mast")


def parasol(canvas: Canvas, x: float, z: float) -> None:
    """Draw a parasol with panels in two colours."""
    rng = canvas.rng
    pen = Pen(canvas, "umbrella", x, z)
    pen.shadow(1.4, 0.8)
    lean = rng.normal(0.0, 0.15)
    pen.draw(wood(palette.WOODS[4]), bar(0, 0, lean, 2.2, 0.07), part="post")
    turn = np.linspace(np.pi, 0.0, 9)
    rim = np.stack([lean + 1.5 * np.cos(turn), 1.75 + 0.12 * np.sin(turn * 8) ** 2], axis=1)
    tip = np.array([(lean, 2.75)])
    bulge = np.stack([lean + 1.05 * np.cos(turn), 2.35 + 0.15 * np.sin(turn)], axis=1)
    one, other = pick(rng, palette.PAINTS), pick(rng, palette.WALLS[[2, 0, 5]])
    for first, colour in ((0, one), (1, other)):
        panels = [
            np.concatenate([rim[i : i + 2], bulge[i : i + 2][::-1], tip])[[0, 1, 2, 4, 3]] for i in range(first, 8, 2)
        ]
        cloth = fabric(colour, shade=0.18, pattern=skins.Pattern(colour, lambda u, v: 0.0 * u, "striped"))
        pen.draw(cloth, *panels, part="top")


def cow(canvas: Canvas, x: float, z: float) -> None:
    """Draw a cow with two dark patches."""
    rng = canvas.rng
    pen = Pen(canvas, "cow", x, z)
    pen.shadow(1.2, 0.5)
    way = -1.0 if rng.random() < 0.5 else 1.0
    coat = Skin(pick(rng, palette.family("f0ece4", "8a5a3a", "3a322e", "c89a6a")), "hair", grain=0.05, shade=0.15)
    dark = Skin(pick(rng, palette.family("2e2a28", "6b4630")), "hair", grain=0.05, shade=0.15)
    pen.draw(coat.times(0.85), *[rectangle(a, a + 0.18, 0, 0.7) for a in (-0.85, -0.55, 0.45, 0.7)], part="leg")
    pen.draw(coat, disc(0.0, 0.95, 1.0, 0.42), part="torso")
    pen.draw(dark, disc(-0.35 * way, 1.05, 0.3, 0.24), disc(0.4 * way, 0.95, 0.22, 0.26), part="torso")
    grazing = rng.random() < 0.5
    head = disc(1.2 * way, 0.45 if grazing else 1.3, 0.3, 0.2)
    pen.draw(coat, bar(0.8 * way, 1.05, 1.15 * way, 0.5 if grazing else 1.3, 0.35, 0.25), head, part="head")

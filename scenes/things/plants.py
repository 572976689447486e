"""Plants: trees of several kinds, bushes, grass, flowers, cacti."""

import numpy as np

from scenes import palette
from scenes.canvas import Canvas
from scenes.palette import pick, vary
from scenes.pen import Pen, bar, disc, rectangle, strut
from scenes.skins import Skin, leaves, wood


def tree_line(canvas: Canvas, z: float, height: float, colour: np.ndarray) -> None:
    """Draw the edge of a distant wood as one band of crowns."""
    rng = canvas.rng
    half = 0.75 * z / canvas.camera.focal
    count = 46
    x = np.linspace(-half, half, count) + rng.normal(0.0, half / count, count)
    top = height * rng.uniform(0.45, 1.0, count)
    width = 2.2 * half / count
    pen = Pen(canvas, "tree", 0.0, z)
    crowns = [disc(cx, cy * 0.6, width, cy * 0.45) for cx, cy in zip(x, top, strict=True)]
    pen.draw(leaves(colour * 0.88), rectangle(-half, half, -0.5, 0.4 * height), *crowns, part="foliage")
    lit = [
        disc(cx + 0.3 * width * pen.light.side, cy * 0.72, width * 0.55, cy * 0.25)
        for cx, cy in zip(x, top, strict=True)
    ]
    pen.draw(leaves(colour * 1.08), *lit, part="foliage")


def any_tree(canvas: Canvas, x: float, z: float, height: float, colours: np.ndarray) -> None:
    """Draw a tree of a random kind."""
    kind = canvas.rng.random()
    if kind < 0.68:
        broad_tree(canvas, x, z, height, pick(canvas.rng, colours))
    elif kind < 0.86:
        conifer(canvas, x, z, height * 1.15, pick(canvas.rng, palette.CONIFER))
    else:
        poplar(canvas, x, z, height * 1.25, pick(canvas.rng, colours))


def broad_tree(canvas: Canvas, x: float, z: float, height: float, colour: np.ndarray) -> None:
    """Draw a broad-leaved tree: a forked trunk under a crown of lit blobs."""
    rng = canvas.rng
    pen = Pen(canvas, "tree", x, z, scale=height)
    pen.shadow(0.34, 0.22, strength=0.75)
    width = rng.uniform(0.04, 0.07)
    lean = rng.normal(0.0, 0.03)
    crotch = rng.uniform(0.26, 0.42)
    bark = wood(pick(rng, palette.WOODS[[1, 3, 5]]), shade=0.3)
    branches = [
        bar(lean * 0.5, crotch, lean + side * rng.uniform(0.1, 0.18), 0.62, width * 0.6, width * 0.3)
        for side in (-1, 1)
    ]
    pen.draw(bark, bar(0.0, -0.01, lean * 0.6, crotch + 0.05, width * 1.4, width * 0.9), *branches, part="trunk")
    spread = rng.uniform(0.26, 0.38)
    _crown(pen, colour, lean, 0.5 * (1.0 + crotch) + 0.02, spread, 0.5 * (1.0 - crotch))


def poplar(canvas: Canvas, x: float, z: float, height: float, colour: np.ndarray) -> None:
    """Draw a slender tree."""
    pen = Pen(canvas, "tree", x, z, scale=height)
    pen.shadow(0.14, 0.12)
    pen.draw(wood(palette.WOODS[3], shade=0.3), rectangle(-0.02, 0.02, -0.01, 0.3), part="trunk")
    _crown(pen, colour, 0.0, 0.58, 0.10, 0.42)


def _crown(pen: Pen, colour: np.ndarray, x: float, y: float, rx: float, ry: float) -> None:
    """Draw a crown: a dark mass, lit blobs towards the light, and bright dabs on top."""
    rng = pen.rng
    count = int(np.clip(pen.pixels(1.0) / 5.0, 5, 17))
    turn = rng.uniform(0.0, 2.0 * np.pi, count)
    out = np.sqrt(rng.uniform(0.15, 1.0, count)) * 0.8
    centres = np.stack([x + rx * out * np.cos(turn), y + ry * out * np.sin(turn)], axis=1)
    radii = rng.uniform(0.28, 0.46, count)
    dark = [disc(cx, cy, rx * r, ry * r) for (cx, cy), r in zip(centres, radii, strict=True)]
    pen.draw(leaves(colour * 0.80), disc(x, y, rx * 0.78, ry * 0.78), *dark, part="foliage")
    if count < 7:
        return
    shift = np.array([0.20 * rx * pen.light.side, 0.20 * ry])
    middle = [disc(cx, cy, rx * r * 0.72, ry * r * 0.66) for (cx, cy), r in zip(centres + shift, radii, strict=True)]
    pen.draw(leaves(colour), *middle, part="foliage")
    dabs = [
        disc(cx, cy, rx * r * 0.36, ry * r * 0.28)
        for (cx, cy), r in zip(centres[::2] + shift * 1.8, radii[::2], strict=True)
    ]
    pen.draw(leaves(np.minimum(colour * 1.2 + 0.02, 1.0)), *dabs, part="foliage")


def conifer(canvas: Canvas, x: float, z: float, height: float, colour: np.ndarray, snowy: bool = False) -> None:
    """Draw a fir of ragged tiers, snowy or not."""
    rng = canvas.rng
    pen = Pen(canvas, "tree", x, z, scale=height)
    pen.shadow(0.22, 0.16)
    pen.draw(wood(palette.WOODS[5], shade=0.3), rectangle(-0.025, 0.025, -0.01, 0.18), part="trunk")
    tiers = int(np.clip(pen.pixels(1.0) / 9.0, 3, 6))
    width = rng.uniform(0.19, 0.27)
    for tier in range(tiers):
        low = 0.12 + 0.74 * tier / tiers
        top = min(low + 1.5 * 0.8 / tiers, 1.0) if tier < tiers - 1 else 1.0
        half = width * (1.0 - 0.72 * tier / tiers)
        hem = np.linspace(-half, half, 9)
        drop = np.where(np.arange(9) % 2, 0.0, -0.035) + 0.05 * (1.0 - np.abs(hem / half))
        skirt = np.concatenate([np.stack([hem, low + drop - 0.02], axis=1), [(0.02, top), (-0.02, top)]])
        pen.draw(leaves(colour * (0.82 + 0.3 * tier / tiers)), skirt, part="foliage")
        if snowy:
            cap = np.array(
                [(-half * 0.75, low + 0.05), (0.0, low + 0.09), (half * 0.7, low + 0.045), (0.02, top), (-0.02, top)]
            )
            pen.draw(Skin(palette.SNOW, "snow", shade=0.1), cap, part="foliage")


def bare_tree(canvas: Canvas, x: float, z: float, height: float) -> None:
    """Draw a tree without leaves."""
    rng = canvas.rng
    pen = Pen(canvas, "tree", x, z, scale=height)
    pen.shadow(0.2, 0.12)
    limbs = [bar(0.0, -0.01, 0.0, 0.5, 0.06, 0.03)]
    for _ in range(11):
        start = rng.uniform(0.25, 0.5)
        end = np.array([rng.normal(0.0, 0.2), start + rng.uniform(0.15, 0.45)])
        limbs.append(strut(np.array([0.0, start]), end, 0.022, 0.008))
        tip = np.array([end[0] + rng.normal(0.0, 0.08), end[1] + 0.1])
        limbs.append(strut(end * (0.6, 1.0) - (0.0, 0.1), tip, 0.012, 0.005))
    pen.draw(wood(palette.WOODS[5] * 1.1, shade=0.25), *limbs, part="trunk")


def palm(canvas: Canvas, x: float, z: float, height: float) -> None:
    """Draw a palm: a bent trunk and a tuft of drooping leaves."""
    rng = canvas.rng
    pen = Pen(canvas, "palm", x, z, scale=height)
    pen.shadow(0.2, 0.12)
    lean = rng.normal(0.0, 0.12)
    t = np.linspace(0.0, 1.0, 9)
    middle = np.stack([lean * t**2, 0.82 * t], axis=1)
    half = 0.026 * (1.0 - 0.45 * t)[:, None] * (1.0, 0.0)
    bark = wood(pick(rng, palette.WOODS[[0, 2]]), shade=0.3)
    pen.draw(bark, np.concatenate([middle - half, (middle + half)[::-1]]), part="trunk")
    colour = pick(rng, palette.FOLIAGE)
    for tone, offset in ((0.75, 0.4), (1.05, 0.0)):
        fronds = [_frond(lean, 0.82, turn + offset, rng) for turn in np.linspace(-0.5, np.pi + 0.5, 6)]
        pen.draw(leaves(colour * tone), *fronds, part="foliage")


def _frond(x: float, y: float, turn: float, rng: np.random.Generator) -> np.ndarray:
    length = rng.uniform(0.24, 0.34)
    t = np.linspace(0.0, 1.0, 8)
    spine = np.stack(
        [x + length * np.cos(turn) * t, y + length * (0.55 * np.sin(turn) * t - 0.62 * t**2 + 0.1 * t)], axis=1
    )
    width = 0.042 * np.sin(np.pi * np.clip(t + 0.06, 0.0, 1.0))[:, None] * (0.35, 1.0)
    return np.concatenate([spine + width, (spine - width * 0.8)[::-1]])


def bush(
    canvas: Canvas, x: float, z: float, height: float, colour: np.ndarray, bloom: np.ndarray | None = None
) -> None:
    """Draw a round bush; its blossoms have the colour `bloom`, None for no blossoms."""
    rng = canvas.rng
    pen = Pen(canvas, "bush", x, z, scale=height)
    pen.shadow(0.8, 0.4)
    _crown(pen, colour, 0.0, 0.45, rng.uniform(0.6, 0.95), 0.5)
    if bloom is not None and pen.pixels(1.0) > 8:
        dots = [disc(px, py, 0.055) for px, py in rng.uniform((-0.6, 0.2), (0.6, 0.85), (16, 2))]
        pen.moved(item="flower").draw(Skin(bloom, "foliage", shade=0.0), *dots)


def tufts(canvas: Canvas, colour: np.ndarray) -> None:
    """Scatter blades of grass over the foreground."""
    rng = canvas.rng
    for z in np.sort(rng.uniform(2.0, 12.0, 4))[::-1]:
        half = 0.65 * z / canvas.camera.focal
        blades = []
        for x in rng.uniform(-half, half, 15):
            lean, tall = rng.normal(0.0, 0.06), 0.22 * rng.uniform(0.5, 1.2)
            blades.append(np.array([(x - 0.025, -0.02), (x + 0.025, -0.02), (x + lean, tall)]))
            blades.append(np.array([(x + 0.01, -0.02), (x + 0.06, -0.02), (x + 0.1 + lean, tall * 0.7)]))
        tone = vary(rng, colour * rng.uniform(0.82, 1.12), 0.02)
        Pen(canvas, "grass", 0.0, z).draw(Skin(tone, "grass", shade=0.05), *blades)


def flowers(canvas: Canvas, count: int = 40) -> None:
    """Scatter flowers over the foreground, in rows of one colour each."""
    rng = canvas.rng
    for z in np.sort(rng.uniform(2.5, 14.0, 3))[::-1]:
        half = 0.6 * z / canvas.camera.focal
        heads = [disc(x, rng.uniform(0.05, 0.3), 0.055) for x in rng.uniform(-half, half, count // 3)]
        Pen(canvas, "flower", 0.0, z).draw(Skin(pick(rng, palette.PETALS), "foliage", shade=0.0), *heads)


def cactus(canvas: Canvas, x: float, z: float, height: float) -> None:
    """Draw a columnar cactus with raised arms."""
    rng = canvas.rng
    pen = Pen(canvas, "cactus", x, z, scale=height)
    pen.shadow(0.25, 0.14)
    skin = Skin(pick(rng, palette.CONIFER) * 1.15, "foliage", grain=0.05, noise="fibres", shade=0.32)
    body = [rectangle(-0.07, 0.07, -0.02, 0.92), disc(0.0, 0.92, 0.07)]
    for side in (-1, 1):
        if rng.random() < 0.8:
            low, tall = rng.uniform(0.3, 0.5), rng.uniform(0.15, 0.3)
            out = side * 0.22
            body += [
                bar(0.0, low, out, low, 0.09),
                bar(out, low - 0.04, out, low + tall, 0.09),
                disc(out, low + tall, 0.045),
            ]
    pen.draw(skin, *body, part="trunk")

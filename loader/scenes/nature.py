"""Landscape: sky, water, ground, mountains, trees and other plants."""

from typing import SupportsIndex

import numpy as np
from numpy.typing import ArrayLike

from loader.scenes import noise, palette
from loader.scenes.canvas import Canvas, Mask, Plane
from loader.scenes.palette import WHITE, mix, pick, vary
from loader.scenes.pen import Pen, bar, disc, rectangle, strut
from loader.scenes.skins import Skin, leaves, wood

_FAR = 4000.0
_GROUND = Plane(1, 0.0)


def sky(canvas: Canvas) -> None:
    """Fill the whole picture with sky: a gradient, the sun or moon, stars, veils of cloud and heaps of cloud."""
    rng, light = canvas.rng, canvas.light
    across, up, ahead = canvas.rays
    share = np.clip(up / 0.62, 0.0, 1.0) ** np.float32(rng.uniform(0.55, 0.9))
    colours = light.low + share[..., None] * (light.zenith - light.low)
    whole = Mask((slice(None), slice(None)), np.ones(up.shape, np.float32))
    canvas.paint_field(whole, colours, "sky", "sky")
    if light.name == "night":
        stars = noise.crop("grain", rng, up.shape) > 2.35
        canvas.rgb[stars] += np.float32(0.35)
    if light.sun is not None and rng.random() < 0.7:
        _sun(canvas, light.sun)
    if light.name != "fog":
        _veils(canvas, across, up, ahead)
        if rng.random() < 0.55 and light.name in ("day", "morning", "sunset", "dusk"):
            _heaps(canvas)


def _sun(canvas: Canvas, colour: np.ndarray) -> None:
    rng, light = canvas.rng, canvas.light
    x = 0.5 + light.side * rng.uniform(0.08, 0.45)
    low = light.name in ("sunset", "morning")
    y = canvas.camera.horizon - (rng.uniform(0.02, 0.18) if low else rng.uniform(0.25, 0.6))
    radius = rng.uniform(0.022, 0.04)
    reach = rng.uniform(0.3, 0.6) if low else 0.2
    canvas.brighten(canvas.spot(x, y, reach, reach, 2.0), colour, 0.55 if low else 0.3)
    canvas.brighten(canvas.spot(x, y, radius, radius, 0.25), colour, 1.6)


def _veils(canvas: Canvas, across: np.ndarray, up: np.ndarray, ahead: np.ndarray) -> None:
    rng, light = canvas.rng, canvas.light
    height = 1.0 / (np.maximum(up, 0.0) + 0.10)
    left, top = rng.integers(0, noise.SIDE, 2)
    u, v = across * height * 55.0 + left, ahead * height * 55.0 + top
    density = noise.sample("clouds", u, v)
    cover = rng.uniform(-0.5, 0.7) if light.name == "overcast" else rng.uniform(0.3, 2.0)
    alpha = np.clip((density - np.float32(cover)) * 0.6, 0.0, 0.75) * np.clip(up * 14.0, 0.0, 1.0)
    lit = mix(mix(light.low, WHITE, 0.55) * light.ambient, light.haze, 0.25)
    tone = 1.0 - 0.10 * np.clip(noise.sample("clouds", u, v + 9) - density, -1.0, 1.0)
    canvas.rgb += alpha[..., None] * (lit * tone[..., None] - canvas.rgb)


def _heaps(canvas: Canvas) -> None:
    rng, light = canvas.rng, canvas.light
    lit = mix(light.low, WHITE, 0.7) * light.ambient
    dark = mix(light.zenith, lit, 0.62)
    for _ in range(rng.integers(1, 5)):
        size = rng.uniform(0.03, 0.11)
        x, y = rng.uniform(-0.05, 1.05), canvas.camera.horizon - rng.uniform(0.08, 0.5)
        puffs = rng.uniform((-1.8, 0.0), (1.8, 1.0), (9, 2))
        puffs[:, 1] *= 1.0 - 0.5 * np.abs(puffs[:, 0]) / 1.8
        radii = size * rng.uniform(0.35, 0.75, 9)
        for colour, lift, shrink in ((dark, 0.0, 1.0), (lit, 0.22, 0.86)):
            blobs = [
                disc(
                    x + px * size - 0.1 * lift * size * light.side,
                    y - (py + lift) * size * 0.7,
                    r * shrink,
                    r * shrink * 0.8,
                )
                for (px, py), r in zip(puffs, radii, strict=True)
            ]
            mask = canvas.mask(*blobs)
            if mask is not None:
                mask.alpha *= 0.85
                canvas.paint_field(mask, colour, "sky", "sky")


def ground(
    canvas: Canvas, item: str, material: str, colour: np.ndarray, rough: float = 0.10, far: float = 0.25
) -> None:
    """Cover the ground up to the horizon with grass, sand, snow or earth."""
    mask = canvas.mask(canvas.camera.project(np.array([(-9e3, 0, 0), (9e3, 0, 0), (9e3, 0, _FAR), (-9e3, 0, _FAR)])))
    lay(canvas, mask, item, material, colour, rough, far)


def lay(
    canvas: Canvas,
    mask: Mask | None,
    item: str,
    material: str,
    colour: np.ndarray,
    rough: float = 0.10,
    far: float = 0.25,
) -> None:
    """Paint a stretch of natural ground: patchy in the distance, grainy at the feet."""
    if mask is None:
        return
    rng = canvas.rng
    u, v, distance = canvas.coordinates(_GROUND, mask.box)
    left, top = rng.integers(0, noise.SIDE, 2)
    patches = noise.sample("soft", u * 7.0 + left, v * 7.0 + top) * np.clip(60.0 / (distance + 20.0), 0.1, 1.0)
    nearness = np.clip(7.0 / (distance + 1.0), 0.0, 1.0)
    blades = noise.crop("turf", rng, distance.shape) * (0.4 + 0.6 * nearness)
    tone = 1.0 + np.float32(rough) * (0.65 * patches + 0.45 * blades) - 0.08 * nearness
    lighter = mix(colour, canvas.light.low, far)
    base = colour + (1.0 - nearness)[..., None] * (lighter - colour) * 0.6
    colours = base * tone[..., None] * canvas.light.ambient
    canvas.paint_field(mask, canvas.in_air(colours, distance), item, material)


def water(canvas: Canvas, mask: Mask | None, item: str, colour: np.ndarray, choppy: float = 1.0) -> None:
    """Paint a stretch of water that mirrors the sky in the distance, with waves and glitter."""
    if mask is None:
        return
    rng, light = canvas.rng, canvas.light
    u, v, distance = canvas.coordinates(_GROUND, mask.box)
    left, top = rng.integers(0, noise.SIDE, 2)
    mirror = np.clip(distance / (distance + 45.0), 0.0, 1.0)[..., None]
    waves = noise.crop("streaks", rng, distance.shape)
    swell = noise.sample("streaks", u * 14.0 + left, v * 26.0 + top) * np.clip(14.0 / (distance + 1.0), 0.0, 1.0)
    tone = 1.0 + np.float32(0.055 * choppy) * (waves + 1.2 * swell)
    colours = colour * light.ambient * (1.0 - mirror) + mix(light.low, colour * light.ambient, 0.45) * mirror
    colours = colours * tone[..., None]
    if light.sun is not None:
        ahead = np.abs(canvas.rays[0][mask.box] - 0.3 * light.side)
        glitter = np.clip(waves + 0.8 * swell - 0.9, 0.0, 1.0) * np.clip(1.0 - ahead * 4.5, 0.0, 1.0)
        colours = colours + (glitter * np.float32(0.7))[..., None] * light.sun
    crests = np.clip(swell * choppy - 1.25, 0.0, 0.6)[..., None]
    colours = colours + crests * (light.ambient - colours)
    canvas.paint_field(mask, canvas.in_air(colours, distance), item, "water")


def area(canvas: Canvas, points: ArrayLike) -> Mask | None:
    """Return the mask of a polygon of (X, Z) points on the ground."""
    x, z = np.asarray(points, float).T
    return canvas.mask(canvas.camera.project(np.stack([x, np.zeros(len(x)), z], axis=1)))


def shore(rng: np.random.Generator, near: float, far: float, slope: float = 0.0, wobble: float = 1.5) -> np.ndarray:
    """Return a wavy line of (X, Z) points across the view, from ``near`` metres at the middle, rising by ``slope``."""
    x = np.linspace(-3.0 * far, 3.0 * far, 90)
    wave = np.interp(x, np.linspace(x[0], x[-1], 60), rng.normal(0.0, wobble, 60))
    return np.stack([x, np.maximum(near + slope * x + wave, 0.3)], axis=1)


def wet_edge(canvas: Canvas, line: np.ndarray, width: float) -> None:
    """Draw the foam of a shore: a bright ragged ribbon along a line of (X, Z) points."""
    ragged = line + np.stack([np.zeros(len(line)), -width * canvas.rng.uniform(0.3, 1.0, len(line))], axis=1)
    mask = area(canvas, np.concatenate([line, ragged[::-1]]))
    if mask is not None:
        mask.alpha *= np.clip(0.75 + 0.2 * noise.crop("streaks", canvas.rng, mask.alpha.shape), 0.0, 1.0)
        canvas.paint_field(mask, mix(WHITE * canvas.light.ambient, canvas.light.low, 0.2), "sea", "water")


def mountains(
    canvas: Canvas, z: float, height: float, colour: np.ndarray, peaks: SupportsIndex = 4, snow: float = 2.0
) -> None:
    """Draw a range of mountains ``z`` metres away; ``snow`` is the share of the height where the snow begins."""
    rng, light = canvas.rng, canvas.light
    half = 0.85 * z / canvas.camera.focal
    centres = rng.uniform(-half, half, peaks)
    tops = height * rng.uniform(0.45, 1.0, peaks)
    slopes = rng.uniform(0.55, 1.15, peaks)
    x = np.linspace(-half * 1.3, half * 1.3, 150)
    flanks = tops[None, :] - np.abs(x[:, None] - centres[None, :]) * slopes[None, :]
    jagged = np.interp(x, np.linspace(x[0], x[-1], 70), rng.normal(0.0, 0.035, 70)) + rng.normal(0.0, 0.010, 150)
    ridge = np.maximum(flanks.max(axis=1), height * 0.16) + jagged * height
    pen = Pen(canvas, "mountain", 0.0, z)
    mask = pen.outline(np.concatenate([np.stack([x, ridge], axis=1), [(x[-1], -10.0), (x[0], -10.0)]]))
    if mask is None:
        return
    u, v, _ = canvas.coordinates(Plane(2, z), mask.box)
    bumps = noise.crop("soft", rng, u.shape)
    u = u + bumps * np.float32(0.05 * height)
    profiles = tops - np.abs(u[..., None] - centres.astype(np.float32)) * slopes.astype(np.float32)
    facing = np.sign(u - centres.astype(np.float32)[profiles.argmax(axis=2)]) * light.side
    tone = 0.98 + 0.17 * facing + 0.10 * light.side * noise.crop("relief", rng, u.shape)
    distance = np.float32(0.3 * z)
    base = mix(colour, palette.FOLIAGE[4], 0.25 if snow < 1.0 else 0.1) * light.ambient
    canvas.paint_field(mask, canvas.in_air(base * tone[..., None], distance), "mountain", "rock")
    line = height * (snow + 0.06 * bumps + 0.05 * facing)
    covered = np.clip((v - line) / (0.03 * height) + 0.5, 0.0, 1.0).astype(np.float32)
    white = palette.SNOW * light.ambient * (0.93 + 0.10 * facing + 0.04 * bumps)[..., None]
    canvas.paint_field(Mask(mask.box, mask.alpha * covered), canvas.in_air(white, distance), "mountain", "snow")
    mist = np.clip(1.0 - v / (0.45 * height), 0.0, 1.0).astype(np.float32) * mask.alpha * 0.45
    region = canvas.rgb[mask.box]
    region += mist[..., None] * (light.haze - region)


def hills(
    canvas: Canvas, z: float, height: float, colour: np.ndarray, material: str = "grass", item: str = "hill"
) -> None:
    """Draw a smooth line of hills or dunes ``z`` metres away."""
    rng = canvas.rng
    half = 0.9 * z / canvas.camera.focal
    x = np.linspace(-half, half, 60)
    waves = sum(
        share * np.sin(x / half * rng.uniform(2.0, 3.5) * octave + rng.uniform(0.0, 6.3))
        for octave, share in ((1, 0.5), (2, 0.28), (4, 0.1))
    )
    ridge = height * np.maximum(0.55 + 0.5 * waves, 0.02)
    skin = Skin(colour, material, grain=0.10 if material == "foliage" else 0.05, noise="leafy", shade=0.14)
    if material == "foliage":
        ridge = ridge + height * rng.uniform(0.0, 0.12, 60)
    Pen(canvas, item, 0.0, z).draw(skin, np.concatenate([np.stack([x, ridge], axis=1), [(half, -9.0), (-half, -9.0)]]))


def tree_line(canvas: Canvas, z: float, height: float, colour: np.ndarray) -> None:
    """Draw the edge of a wood far away, as one band of crowns."""
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


def any_tree(canvas: Canvas, x: float, z: float, height: float, colours: np.ndarray = palette.FOLIAGE) -> None:
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
    """Draw a fir of ragged tiers, with snow on them or not."""
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
        pen.draw(
            leaves(
                colour * (0.82 + 0.3 * tier / tiers),
            ),
            skirt,
            part="foliage",
        )
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
    """Draw a round bush, with blossoms of the colour ``bloom`` or none."""
    rng = canvas.rng
    pen = Pen(canvas, "bush", x, z, scale=height)
    pen.shadow(0.8, 0.4)
    _crown(pen, colour, 0.0, 0.45, rng.uniform(0.6, 0.95), 0.5)
    if bloom is not None and pen.pixels(1.0) > 8:
        dots = [disc(px, py, 0.055) for px, py in rng.uniform((-0.6, 0.2), (0.6, 0.85), (16, 2))]
        pen.moved(item="flower").draw(Skin(bloom, "foliage", shade=0.0), *dots)


def tufts(
    canvas: Canvas, colour: np.ndarray, count: int = 60, near: float = 2.0, far: float = 12.0, height: float = 0.22
) -> None:
    """Scatter blades of grass over the foreground."""
    rng = canvas.rng
    for z in np.sort(rng.uniform(near, far, 4))[::-1]:
        half = 0.65 * z / canvas.camera.focal
        blades = []
        for x in rng.uniform(-half, half, count // 4):
            lean, tall = rng.normal(0.0, 0.06), height * rng.uniform(0.5, 1.2)
            blades.append(np.array([(x - 0.025, -0.02), (x + 0.025, -0.02), (x + lean, tall)]))
            blades.append(np.array([(x + 0.01, -0.02), (x + 0.06, -0.02), (x + 0.1 + lean, tall * 0.7)]))
        tone = vary(rng, colour * rng.uniform(0.82, 1.12), 0.02)
        Pen(canvas, "grass", 0.0, z).draw(Skin(tone, "grass", shade=0.05), *blades)


def flowers(canvas: Canvas, count: int = 40, near: float = 2.5, far: float = 14.0) -> None:
    """Scatter flowers over the ground, in drifts of one colour each."""
    rng = canvas.rng
    for z in np.sort(rng.uniform(near, far, 3))[::-1]:
        half = 0.6 * z / canvas.camera.focal
        heads = [disc(x, rng.uniform(0.05, 0.3), 0.055) for x in rng.uniform(-half, half, count // 3)]
        Pen(canvas, "flower", 0.0, z).draw(Skin(pick(rng, palette.PETALS), "foliage", shade=0.0), *heads)


def rock(canvas: Canvas, x: float, z: float, size: float, colour: np.ndarray, y: float = 0.0) -> None:
    """Draw a boulder with a light and a dark face."""
    rng = canvas.rng
    pen = Pen(canvas, "rock", x, z, y, scale=size)
    pen.shadow(0.75, 0.4)
    turn = np.linspace(0.0, np.pi, 8)
    reach = rng.uniform(0.75, 1.1, 8)[:, None]
    outline = np.stack([0.7 * np.cos(turn), 0.62 * np.sin(turn)], axis=1) * reach
    outline = np.concatenate([outline, [(-0.68, -0.05), (0.68, -0.05)]])
    skin = Skin(colour, "rock", grain=0.11, noise="relief", shade=0.3)
    pen.draw(skin, outline)
    side = pen.light.side
    facet = np.array([(0.05 * side, 0.6), (0.55 * side, 0.25), (0.5 * side, 0.02), (0.12 * side, 0.1)]) * (
        1,
        float(reach.min()),
    )
    pen.draw(skin.times(1.16), facet)


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

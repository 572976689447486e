"""Terrain: sky, water, ground, hills, mountains and rocks."""

from collections.abc import Sequence
from typing import SupportsIndex

import numpy as np
from numpy.typing import ArrayLike

from scenes import noise, palette
from scenes.canvas import Canvas, Mask, Plane
from scenes.palette import WHITE, mix
from scenes.pen import Pen, disc
from scenes.skins import Skin

_GROUND = Plane(1, 0.0)


def sky(canvas: Canvas) -> None:
    """Fill the whole image with sky: a gradient, the sun or moon, stars, thin clouds and cumulus."""
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
        _thin_clouds(canvas, across, up, ahead)
        if rng.random() < 0.55 and light.name in ("day", "morning", "sunset", "dusk"):
            _cumulus(canvas)


def _sun(canvas: Canvas, colour: np.ndarray) -> None:
    rng, light = canvas.rng, canvas.light
    x = 0.5 + light.side * rng.uniform(0.08, 0.45)
    low = light.name in ("sunset", "morning")
    y = canvas.camera.horizon - (rng.uniform(0.02, 0.18) if low else rng.uniform(0.25, 0.6))
    radius = rng.uniform(0.022, 0.04)
    reach = rng.uniform(0.3, 0.6) if low else 0.2
    canvas.brighten(canvas.spot(x, y, reach, reach, 2.0), colour, 0.55 if low else 0.3)
    canvas.brighten(canvas.spot(x, y, radius, radius, 0.25), colour, 1.6)


def _thin_clouds(canvas: Canvas, across: np.ndarray, up: np.ndarray, ahead: np.ndarray) -> None:
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


def _cumulus(canvas: Canvas) -> None:
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


def ground(canvas: Canvas, item: str, material: str, colour: np.ndarray, rough: float = 0.10) -> None:
    """Cover the ground up to the horizon with grass, sand, snow or stone: patchy far away, grainy nearby."""
    mask = whole_ground(canvas)
    if mask is None:
        return
    rng = canvas.rng
    u, v, distance = canvas.coordinates(_GROUND, mask.box)
    left, top = rng.integers(0, noise.SIDE, 2)
    patches = noise.sample("soft", u * 7.0 + left, v * 7.0 + top) * np.clip(60.0 / (distance + 20.0), 0.1, 1.0)
    nearness = np.clip(7.0 / (distance + 1.0), 0.0, 1.0)
    blades = noise.crop("turf", rng, distance.shape) * (0.4 + 0.6 * nearness)
    tone = 1.0 + np.float32(rough) * (0.65 * patches + 0.45 * blades) - 0.08 * nearness
    lighter = mix(colour, canvas.light.low, 0.25)
    base = colour + (1.0 - nearness)[..., None] * (lighter - colour) * 0.6
    colours = base * tone[..., None] * canvas.light.ambient
    canvas.paint_field(mask, canvas.in_air(colours, distance), item, material)


def whole_ground(canvas: Canvas) -> Mask | None:
    """Return the mask of the ground up to the horizon."""
    return area(canvas, [(-9e3, 0.0), (9e3, 0.0), (9e3, 4e3), (-9e3, 4e3)])


def strip(canvas: Canvas, item: str, skin: Skin, edges: Sequence[tuple[float, float, float]]) -> None:
    """Lay a road, a path or a field; `edges` are (Z, left X, right X) from near to far."""
    left = [(a, z) for z, a, _ in edges]
    right = [(b, z) for z, _, b in edges]
    Pen(canvas, item, 0.0, 0.0).level(skin, np.array(left + right[::-1]))


def water(canvas: Canvas, mask: Mask | None, item: str, colour: np.ndarray, choppy: float) -> None:
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


def shore(rng: np.random.Generator, near: float, far: float, slope: float, wobble: float) -> np.ndarray:
    """Return a wavy line (90, 2) of (X, Z) points across the view, `near` metres away in the middle.

    Its distance grows by `slope` metres per metre of X; `wobble` is the waves' standard deviation in metres.
    """
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
    canvas: Canvas, z: float, height: float, colour: np.ndarray, peaks: SupportsIndex, snow: float = 2.0
) -> None:
    """Draw a range of mountains `z` metres away; snow lies above the share `snow` of their height."""
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


def hills(canvas: Canvas, z: float, height: float, colour: np.ndarray, material: str = "grass") -> None:
    """Draw a smooth line of hills or dunes `z` metres away."""
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
    outline = np.concatenate([np.stack([x, ridge], axis=1), [(half, -9.0), (-half, -9.0)]])
    Pen(canvas, "hill", 0.0, z).draw(skin, outline)


def rock(canvas: Canvas, x: float, z: float, size: float, colour: np.ndarray) -> None:
    """Draw a boulder with a light and a dark face."""
    rng = canvas.rng
    pen = Pen(canvas, "rock", x, z, scale=size)
    pen.shadow(0.75, 0.4)
    turn = np.linspace(0.0, np.pi, 8)
    reach = rng.uniform(0.75, 1.1, 8)[:, None]
    outline = np.stack([0.7 * np.cos(turn), 0.62 * np.sin(turn)], axis=1) * reach
    outline = np.concatenate([outline, [(-0.68, -0.05), (0.68, -0.05)]])
    skin = Skin(colour, "rock", grain=0.11, noise="relief", shade=0.3)
    pen.draw(skin, outline)
    side = pen.light.side
    facet = np.array([(0.05 * side, 0.6), (0.55 * side, 0.25), (0.5 * side, 0.02), (0.12 * side, 0.1)])
    pen.draw(skin.times(1.16), facet * (1, float(reach.min())))

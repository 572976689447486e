"""Parts that outdoor scenes share: backdrops, meadows, trees, paths, fields, coasts, fences."""

from typing import Any, SupportsIndex

import numpy as np

from scenes import palette, skins
from scenes.palette import pick
from scenes.pen import Pen
from scenes.skins import Skin
from scenes.stage import Draw, Stage
from scenes.things import movables, plants, street_furniture, terrain


def backdrop(stage: Stage, mountains: float, hills: float, woods: float) -> None:
    """Draw what closes the view, each kind with its probability: mountains, hills and the edge of a wood."""
    canvas, rng = stage.canvas, stage.rng
    if stage.chance(mountains):
        z = rng.uniform(900, 1800)
        terrain.mountains(
            canvas, z, z * rng.uniform(0.10, 0.26), pick(rng, palette.ROCK), rng.integers(3, 7), rng.uniform(0.5, 1.4)
        )
    for _ in range(rng.integers(1, 3) if stage.chance(hills) else 0):
        z = rng.uniform(250, 600)
        material = "foliage" if stage.chance(0.5) else "grass"
        tall, colours = z * rng.uniform(0.04, 0.11), palette.FOLIAGE if material == "foliage" else palette.GRASS
        terrain.hills(canvas, z, tall, pick(rng, colours), material)
    if stage.chance(woods):
        plants.tree_line(canvas, rng.uniform(110, 180), rng.uniform(9, 16), pick(rng, palette.FOLIAGE))


def meadow(stage: Stage, winter: float) -> bool:
    """Cover the ground with grass, or with snow with probability `winter`; return whether it is winter."""
    canvas, rng = stage.canvas, stage.rng
    if stage.chance(winter):
        terrain.ground(canvas, "snow", "snow", palette.SNOW * 0.95, rough=0.04)
        return True
    colours = palette.DRY_GRASS if stage.chance(0.15) else palette.GRASS
    colour = pick(rng, colours)
    terrain.ground(canvas, "grass", "grass", colour, rough=0.15)
    if stage.chance(0.6):
        plants.tufts(canvas, colour * 0.93)
    return False


def trees(
    stage: Stage,
    count: SupportsIndex,
    near: float,
    far: float,
    winter: bool = False,
    spread: float = 1.1,
) -> None:
    """Scatter trees: of mixed kinds, sometimes all in autumn colours; bare or snowy in winter."""
    rng = stage.rng
    colours = palette.AUTUMN if stage.chance(0.15) else palette.FOLIAGE
    for _ in range(count):
        tall = rng.uniform(6.0, 11.0)
        if not winter:
            stage.scatter(plants.any_tree, 1, near, far, tall, colours, spread=spread)
        elif stage.chance(0.5):
            stage.scatter(plants.bare_tree, 1, near, far, tall, spread=spread)
        else:
            stage.scatter(plants.conifer, 1, near, far, tall, pick(rng, palette.CONIFER), snowy=True, spread=spread)


def people(stage: Stage, count: SupportsIndex, near: float, far: float) -> None:
    """Scatter people between `near` and `far` metres."""
    stage.scatter(movables.person, count, near, far, spread=0.95)


def path(stage: Stage, item: str, width: float, far: float, bend: float = 1.0, skin: Skin | None = None) -> None:
    """Lay a winding path or road that leads from the viewer into the distance."""
    canvas, rng = stage.canvas, stage.rng
    skin = skin or Skin(pick(rng, palette.EARTH) * 1.15, "earth", grain=0.10, noise="leafy", shade=0.0)
    z = np.geomspace(1.0, far, 26)
    start, phase = rng.uniform(-1.5, 1.5), rng.uniform(0, 6.3)
    middle = start + bend * (np.sin(np.log(z) * 2.1 + phase) - np.sin(phase)) * z * 0.16
    terrain.strip(canvas, item, skin, [(a, m - width / 2, m + width / 2) for a, m in zip(z, middle, strict=True)])


def field_rows(stage: Stage) -> None:
    """Lay a field of crops in rows that run into the distance."""
    canvas, rng = stage.canvas, stage.rng
    near, far = rng.uniform(5, 16), rng.uniform(50, 130)
    crop, earth = pick(rng, palette.CROPS), pick(rng, palette.EARTH)
    lean = rng.uniform(-0.5, 0.5)
    left = stage.across(rng.uniform(-2.2, -0.4), near)
    right = stage.across(rng.uniform(0.4, 2.2), near)
    pattern = skins.striped(crop, rng.uniform(0.9, 1.6), 0.66)
    skewed = skins.Pattern(crop, lambda u, v: pattern.weight(u - lean * v, v), "striped")
    skin = Skin(earth, "earth", skewed, grain=0.12, noise="leafy", shade=0.0)
    terrain.strip(canvas, "field", skin, [(near, left, right), (far, left + lean * far, right * 2.5 + lean * far)])


def headland(stage: Stage, z: float, side: float, height: float, width: float) -> None:
    """Draw a rocky headland with grass on top, `side` of the image across (see `Stage.across`)."""
    canvas, rng = stage.canvas, stage.rng
    pen = Pen(canvas, "rock", stage.across(side, z), z)
    x = np.linspace(-width, width, 24)
    top = height * np.clip(1.25 - (np.abs(x) / width) ** 2 * 1.3, 0.0, 1.0) + rng.normal(0, 0.05 * height, 24)
    top = np.maximum(top, 0.05)
    colour = pick(rng, palette.ROCK)
    strata = skins.banded(pick(rng, palette.ROCK) * 0.8, height * 0.3, 0.4, "stratified")
    cliff = Skin(colour, "rock", strata, grain=0.14, noise="relief", shade=0.2)
    pen.draw(cliff, np.concatenate([np.stack([x, top], axis=1), [(width, -0.3), (-width, -0.3)]]))
    crown = np.stack([x, top], axis=1)[4:-4]
    under = crown * (1, 1) - np.stack([np.zeros(16), rng.uniform(0.15, 0.4, 16) * height], axis=1)
    turf = Skin(pick(rng, palette.GRASS), "grass", noise="leafy", grain=0.1)
    pen.moved(item="grass").draw(turf, np.concatenate([crown + np.array((0.0, 0.04 * height)), under[::-1]]))


def coast(stage: Stage, near: float, slope: float, wobble: float) -> np.ndarray:
    """Draw the sea beyond a shore with foam; return the shore, a line (n, 2) of (X, Z) points."""
    canvas, rng = stage.canvas, stage.rng
    line = terrain.shore(rng, near, 60.0, slope, wobble)
    beyond = np.concatenate([line, [(9e3, 4000.0), (-9e3, 4000.0)]])
    wet = np.concatenate([line, line[::-1] - (0.0, 1.6)])
    canvas.darken(terrain.area(canvas, wet), 0.16)
    terrain.water(canvas, terrain.area(canvas, beyond), "sea", pick(rng, palette.SEA), rng.uniform(0.6, 1.8))
    terrain.wet_edge(canvas, line, rng.uniform(0.3, 1.2))
    return line


def ashore(
    stage: Stage,
    line: np.ndarray,
    draw: Draw,
    count: SupportsIndex,
    near: float,
    far: float,
    *args: Any,
    **kwargs: Any,
) -> None:
    """Scatter things on this side of a shore; those that would stand in the sea are left out."""
    for _ in range(count):
        z = stage.rng.uniform(near, far)
        x = stage.across(stage.rng.uniform(-0.95, 0.95), z)
        if z < np.interp(x, line[:, 0], line[:, 1]) - 0.5:
            stage.add(z, draw, x, z, *args, **kwargs)


def open_sea(stage: Stage) -> None:
    """Draw water up to the horizon."""
    canvas, rng = stage.canvas, stage.rng
    terrain.water(canvas, terrain.whole_ground(canvas), "sea", pick(rng, palette.SEA), rng.uniform(0.5, 1.8))


def far_coast(stage: Stage, share: float) -> None:
    """Draw hills or mountains beyond the sea, with probability `share`."""
    canvas, rng = stage.canvas, stage.rng
    if not stage.chance(share):
        return
    if stage.chance(0.5):
        terrain.hills(canvas, 900, rng.uniform(20, 90), pick(rng, palette.FOLIAGE), "foliage")
    else:
        terrain.mountains(canvas, 1600, rng.uniform(90, 260), pick(rng, palette.ROCK), 5, rng.uniform(0.8, 1.5))


def fence_across(stage: Stage, z: float, drift: float = 0.0, *args: Any) -> None:
    """Put a fence across the whole view, `z` metres away at the left and `z` + `drift` at the right."""
    stage.add(z, street_furniture.fence, (stage.across(-1.3, z), z), (stage.across(1.3, z), z + drift), *args)
